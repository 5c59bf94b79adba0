"""Pictures `[H, W, 3]` and videos `[F, H, W, 3]`, uint8, as files and in pages. Videos are animated WebP."""

import base64
import io
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

Medium = UInt8[np.ndarray, "*frames H W 3"]
_EXACT = 64  # up to this side videos are stored without loss, and both are embedded as they are
_QUALITY = 80  # of WebP, where larger ones lose something: artefacts are not seen beside those of the generator


def is_video(medium: Medium) -> bool:
    return medium.ndim == 4


def suffix(fps: float | None) -> str:
    """Of the files: pictures have no frames per second."""
    return ".png" if fps is None else ".webp"


def save(path: Path, medium: Medium, fps: float | None) -> None:
    """Write a picture as PNG, or a video as animated WebP."""
    path.write_bytes(_png(medium) if fps is None else webp(medium, fps))


def load(path: Path, fps: float | None, frames: int = 1) -> Medium:
    """What `save` wrote; `frames` is how many there were, since those that look alike are stored as one."""
    with Image.open(path) as image:
        if fps is None:
            return np.asarray(image.convert("RGB"))
        video = []
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            image.load()  # Pillow knows how long a frame stays only after it is decoded
            repeats = max(1, round(image.info.get("duration", 1000 / fps) * fps / 1000))
            video += [np.asarray(image.convert("RGB"))] * repeats
        # A video in which nothing moves is a still picture in the file, without any duration.
        video += video[-1:] * (frames - len(video))
        return np.stack(video)


def webp(video: UInt8[np.ndarray, "F H W 3"], fps: float, *, side: int | None = None) -> bytes:
    """An endless animation; `side` is the longest side that it may have."""
    frames = [Image.fromarray(frame) for frame in video]
    if side is not None:
        for frame in frames:
            frame.thumbnail((side, side))
    # WebP counts whole milliseconds: starts are rounded, not durations, so that no error adds up over the frames.
    starts = [round(index * 1000 / fps) for index in range(len(frames) + 1)]
    durations = [after - before for before, after in pairwise(starts)]
    loss = {"lossless": True} if max(frames[0].size) <= _EXACT else {"quality": _QUALITY}
    buffer = io.BytesIO()
    frames[0].save(
        buffer, "WEBP", save_all=True, append_images=frames[1:], duration=durations, loop=0, method=4, **loss
    )
    return buffer.getvalue()


def data_uri(medium: Medium, fps: float | None, *, side: int) -> str:
    """For a page: exactly where it is small, else scaled to the longest side `side`."""
    if fps is not None:
        return _uri("webp", webp(medium, fps, side=side))
    if max(medium.shape[:2]) <= _EXACT:
        return _uri("png", _png(medium))
    image = Image.fromarray(medium)
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=_QUALITY)
    return _uri("webp", buffer.getvalue())


def still(medium: Medium, *, frames: int = 4) -> UInt8[np.ndarray, "H shown 3"]:
    """A picture as it is; of a video some frames side by side, first to last, for those who show no motion."""
    if not is_video(medium):
        return medium
    chosen = np.linspace(0, len(medium) - 1, min(frames, len(medium))).round().astype(int)
    return np.concatenate(list(medium[chosen]), axis=1)


def _png(picture: UInt8[np.ndarray, "H W 3"]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
