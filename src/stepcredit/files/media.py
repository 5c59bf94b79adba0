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
        found = []
        for at in range(getattr(image, "n_frames", 1)):
            image.seek(at)
            image.load()
            stays = max(1, round(image.info.get("duration", 1000 / fps) * fps / 1000))
            found += [np.asarray(image.convert("RGB"))] * stays
        found += found[-1:] * (frames - len(found))
        return np.stack(found)


def webp(video: UInt8[np.ndarray, "F H W 3"], fps: float, *, side: int | None = None) -> bytes:
    """An endless animation; `side` is the longest side that it may have."""
    frames, buffer = [Image.fromarray(frame) for frame in video], io.BytesIO()
    if side is not None:
        for frame in frames:
            frame.thumbnail((side, side))
    exact = max(frames[0].size) <= _EXACT
    starts = [round(at * 1000 / fps) for at in range(len(frames) + 1)]
    durations = [after - before for before, after in pairwise(starts)]
    settings = {"lossless": True} if exact else {"quality": 80}
    frames[0].save(
        buffer, "WEBP", save_all=True, append_images=frames[1:], duration=durations, loop=0, method=4, **settings
    )
    return buffer.getvalue()


def data_uri(medium: Medium, fps: float | None, *, side: int) -> str:
    """For a page: exactly where it is small, else scaled to the longest side `side`."""
    if fps is not None:
        return _uri("webp", webp(medium, fps, side=side))
    if max(medium.shape[:2]) <= _EXACT:
        return _uri("png", _png(medium))
    image, buffer = Image.fromarray(medium), io.BytesIO()
    image.thumbnail((side, side))
    image.save(buffer, "WEBP", quality=80)
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
