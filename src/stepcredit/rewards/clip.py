"""A CLIP model with its tokenizer and preprocessing: what clip_t, hps and aesthetic stand on."""

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from huggingface_hub import snapshot_download
from jaxtyping import Float, UInt8
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from stepcredit.errors import WeightsError
from stepcredit.files.folders import check_local
from stepcredit.files.headers import read_headers, weight_files
from stepcredit.files.whole import Report, load_whole, refuse_partial
from stepcredit.rewards.open_clip import is_open_clip, renamed

Pictures = UInt8[np.ndarray, "B H W 3"]
_BATCH = 256  # pictures in one forward; a rollout may have thousands


class Clip:
    """Embeds pictures and texts with unit length, in float32, without gradient."""

    def __init__(self, folder: str, device: str) -> None:
        check_local(folder, index="config.json", parts=())
        try:
            here = _on_this_machine(folder)
            model = _load(here)
            self.tokenizer = CLIPTokenizer.from_pretrained(here)
        except WeightsError:
            raise
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise WeightsError(f"{folder} could not be loaded as a CLIP model: {error}") from error
        self.folder = folder
        self.model = model.eval().requires_grad_(False).to(device)
        # Only the colours are taken: a processor resizes with Pillow or with torch, by the version of transformers.
        processor = json.loads(_file(here, "preprocessor_config.json").read_text())
        self.width: int = self.model.config.projection_dim
        """Numbers in an embedding."""
        self.side = self.model.config.vision_config.image_size
        self.mean = torch.tensor(processor["image_mean"])
        self.std = torch.tensor(processor["image_std"])

    @torch.no_grad()
    def pictures(self, images: Pictures, *, letterbox: bool = False) -> Float[Tensor, "B D"]:
        """Embed pictures; `letterbox` pads to a square (HPS) where CLIP would crop."""
        parts = []
        for start in range(0, len(images), _BATCH):
            part = images[start : start + _BATCH]
            pixels = letterboxed(part, self.side) if letterbox else cropped(part, self.side)
            pixels = (pixels - self.mean[:, None, None]) / self.std[:, None, None]
            features = self.model.get_image_features(pixel_values=pixels.to(self.model.device))
            # transformers 5 answers with an output object, versions before it with the tensor itself.
            parts.append(F.normalize(getattr(features, "pooler_output", features), dim=-1).cpu())
        return torch.cat(parts)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Float[Tensor, "B D"]:
        """Embed texts; siblings share their prompt, so each distinct one is embedded once."""
        distinct = list(dict.fromkeys(texts))
        # Filled up to the full length, as OpenAI's CLIP does, whatever the other texts of the batch are.
        length = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(
            distinct, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).to(self.model.device)
        features = self.model.get_text_features(**tokens)
        embedded = F.normalize(getattr(features, "pooler_output", features), dim=-1).cpu()
        return embedded[[distinct.index(text) for text in texts]]

    def agreement(self, images: Pictures, texts: Sequence[str], *, letterbox: bool = False) -> Float[np.ndarray, " B"]:
        """Cosine of each picture with its own text."""
        return (self.pictures(images, letterbox=letterbox) * self.texts(texts)).sum(-1).numpy()

    def fingerprint(self) -> dict[str, str]:
        weights = Path(self.folder) / "model.safetensors"
        identity = hashlib.sha256(weights.read_bytes()).hexdigest()[:16] if weights.is_file() else self.folder
        return {"weights": identity, "transformers": transformers.__version__, "precision": "float32"}


@cache
def load_clip(folder: str, device: str = "cpu") -> Clip:
    """Scorers that stand on the same folder share one model."""
    return Clip(folder, device)


def cropped(images: Pictures, side: int) -> Float[Tensor, "B 3 side side"]:
    """OpenAI's preprocessing: Pillow's bicubic to the short side, centre crop; in [0, 1]."""
    height, width = images.shape[1:3]
    if (height, width) != (side, side):
        scale = side / min(height, width)
        size = (round(width * scale), round(height * scale))  # Pillow counts width first
        # Pillow's bicubic smooths when it shrinks and rounds to whole grey levels; torch's differs from it by a level.
        resized = [np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)) for image in images]
        top = (size[1] - side) // 2
        left = (size[0] - side) // 2
        images = np.stack(resized)[:, top : top + side, left : left + side]
    return _to_float(images)


def letterboxed(images: Pictures, side: int) -> Float[Tensor, "B 3 side side"]:
    """HPS's preprocessing: bicubic with anti-aliasing to the long side, on floats and without clamping, then zeros
    (not the mean colour) around it; in about [0, 1]."""
    pixels = _to_float(images)
    height, width = pixels.shape[2:]
    if max(height, width) != side:
        scale = side / max(height, width)
        size = (round(height * scale), round(width * scale))
        pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False)
    vertical = side - pixels.shape[2]
    horizontal = side - pixels.shape[3]
    top = vertical // 2
    left = horizontal // 2
    return F.pad(pixels, (left, horizontal - left, top, vertical - top))


def _to_float(images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255


def _on_this_machine(folder: str) -> Path:
    """A local folder, or the files of a hub id that a CLIP needs."""
    if Path(folder).is_dir():
        return Path(folder)
    return Path(snapshot_download(folder, allow_patterns=["*.json", "*.txt", "model*.safetensors"]))


def _load(folder: Path) -> Any:
    """The whole model in float32, from transformers' layout or open_clip's."""
    headers = read_headers(weight_files(folder))
    if not is_open_clip(headers):
        return load_whole(CLIPModel, folder, dtype=torch.float32)
    tensors = {name: tensor.float() for file in weight_files(folder) for name, tensor in load_file(file).items()}
    config = CLIPConfig.from_pretrained(folder)
    loaded: Any = CLIPModel.from_pretrained(
        None, config=config, state_dict=renamed(tensors), output_loading_info=True, ignore_mismatched_sizes=True
    )
    model, report = loaded
    refuse_partial(folder, Report.of(report))
    return model


def _file(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise WeightsError(f"{folder} has no {name}; the folder is partial, copy or download it again")
    return folder / name
