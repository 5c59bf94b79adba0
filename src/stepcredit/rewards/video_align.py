"""VideoAlign (arXiv 2501.13918): a Qwen2-VL with a reward head that judges a video's visual quality (vq), motion
quality (mq) and text alignment (ta) in one forward.

A folder holds a transformers Qwen2VLModel with its tokenizer, `rm_head.safetensors` (`weight`, `[1 or 3, D]`) and
`video_align.json`, whose keys are those of `Form`. Everything from frames to patches is tensors: no AutoProcessor.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import transformers
from jaxtyping import Float, Int, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoTokenizer, Qwen2VLModel

from stepcredit.errors import RewardError, WeightsError
from stepcredit.files.folders import check_local
from stepcredit.files.whole import load_whole
from stepcredit.records import Problem, RewardBatch, RewardOutput
from stepcredit.settings.rewards import Output

MARKS = {"vq": "<|VQ_reward|>", "mq": "<|MQ_reward|>", "ta": "<|TA_reward|>"}
VIDEO = "<|video_pad|>"
FORM = "video_align.json"
HEAD = "rm_head.safetensors"
_MIN_FRAMES = 4  # both bounds are Qwen2-VL's own
_MAX_FRAMES = 768


@dataclass(frozen=True)
class Form:
    """How a video and its prompt are put to the model, and what its logits are worth.

    `template` is the whole text: chat marks, one `<|video_pad|>` where the video goes, `{prompt}`, and the three
    `<|.._reward|>` tokens. `fps` frames per second are shown, or every frame with `frames="all"`. Pixel bounds are for
    one frame; `mean` and `std` are those of the logits, by name.

    For example `fps=2.0, frames=None, min_pixels=3136, max_pixels=200704, output_dim=3, mean={"vq": 3.7, ...}`.
    """

    template: str
    fps: float | None
    frames: Literal["all"] | None
    min_pixels: int
    max_pixels: int
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    mean: dict[str, float]
    std: dict[str, float]
    output_dim: int

    def text(self, prompt: str, places: int) -> str:
        """The text for one prompt and a video that takes this many places."""
        return self.template.replace(VIDEO, VIDEO * places).replace("{prompt}", prompt)


class VideoJudge:
    """The model with its tokenizer and preprocessing. Computes in float32, on accelerators in the bfloat16 of a
    checkpoint that is stored so; the head is always float32."""

    def __init__(self, folder: str, device: str) -> None:
        self.folder = _check(folder)
        self.form = read_form(self.folder / FORM)
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
            stored = str(json.loads((self.folder / "config.json").read_text()).get("dtype", ""))
            # CPUs have bfloat16 too, but most compute it slowly, and the embedded judge was tested in float32.
            self.dtype = torch.bfloat16 if "bfloat16" in stored and device != "cpu" else torch.float32
            model: Any = load_whole(Qwen2VLModel, self.folder, dtype=self.dtype)
        except WeightsError:
            raise
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise WeightsError(f"{folder} could not be loaded as a Qwen2-VL model: {error}") from error
        self.model = model.eval().requires_grad_(False).to(device)
        width = self.model.config.text_config.hidden_size
        self.head = _read_head(self.folder / HEAD, self.form.output_dim, width).to(device)
        reserved = _check_marks(folder, self.tokenizer, self.model.config.video_token_id)
        self.reserved = tuple(sorted(reserved))
        self._marks = torch.tensor([reserved[mark] for mark in MARKS.values()], device=device)

    @torch.no_grad()
    def logits(
        self, videos: UInt8[np.ndarray, "B F H W 3"], prompts: Sequence[str], fps: float
    ) -> Float[Tensor, "B 3"]:
        """Raw vq, mq and ta of each video with its own prompt; the prompts hold no reserved token."""
        pixels, grid = self.patches(videos, fps)
        ids, mask = self.tokens(prompts, places=math.prod(grid) // self._vision.spatial_merge_size**2)
        hidden = self.model(
            input_ids=ids,
            attention_mask=mask,
            pixel_values_videos=pixels.flatten(0, 1).to(self.dtype),
            video_grid_thw=torch.tensor(grid, device=ids.device).expand(len(ids), 3),
            # 0 text, 1 picture, 2 video: transformers 5 counts places in time, height and width by it.
            mm_token_type_ids=2 * (ids == self.model.config.video_token_id).int(),
            use_cache=False,
        ).last_hidden_state
        return read_marks(hidden, ids, self._marks, self.head).cpu()

    def normalised(self, logits: Float[Tensor, "B 3"]) -> dict[str, Float[np.ndarray, " B"]]:
        """Every output by name, each with mean 0 and deviation 1 over the videos that VideoAlign was trained on."""
        scores = {
            name: ((logits[:, column] - self.form.mean[name]) / self.form.std[name]).double().numpy()
            for column, name in enumerate(MARKS)
        }
        # As published: the sum is taken after each is normalised, so that no output outweighs the others.
        return {**scores, "overall": np.sum(list(scores.values()), axis=0)}

    def patches(
        self, videos: UInt8[np.ndarray, "B F H W 3"], fps: float
    ) -> tuple[Float[Tensor, "B N D"], tuple[int, int, int]]:
        """Choose frames, resize, normalise, cut; with the grid of patches (time, height, width)."""
        if self.form.frames is None:
            videos = videos[:, chosen_frames(videos.shape[1], fps, self.form.fps or 0.0)]
        vision = self._vision
        form = self.form
        frames = torch.from_numpy(np.ascontiguousarray(videos)).to(self.model.device).permute(0, 1, 4, 2, 3).float()
        factor = vision.patch_size * vision.spatial_merge_size
        height, width = frames.shape[-2:]
        size = fitted(height, width, factor, form.min_pixels, form.max_pixels)
        if size != (height, width):
            flat = F.interpolate(frames.flatten(0, 1), size, mode="bicubic", antialias=True, align_corners=False)
            # To whole grey levels, and clamped: the published code resizes frames of uint8.
            frames = flat.clamp(0, 255).round().unflatten(0, frames.shape[:2])
        mean = torch.tensor(form.image_mean, device=frames.device)[:, None, None]
        std = torch.tensor(form.image_std, device=frames.device)[:, None, None]
        return patchify(
            (frames / 255 - mean) / std, vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
        )

    def tokens(self, prompts: Sequence[str], places: int) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
        """Token ids padded on the right, and the mask of what is not padding."""
        texts = [self.form.text(prompt, places) for prompt in prompts]
        rows = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        # On the right: attention is causal, so what stands before the padding does not see it.
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row)
            mask[index, : len(row)] = 1
        return ids.to(self.model.device), mask.to(self.model.device)

    def fingerprint(self) -> dict[str, str]:
        weights = hashlib.sha256()
        for file in sorted(self.folder.glob("*.safetensors")):
            weights.update(file.read_bytes())
        return {
            "weights": weights.hexdigest()[:16],
            "form": hashlib.sha256((self.folder / FORM).read_bytes()).hexdigest()[:16],
            "preprocessing": "torch bicubic antialias to whole grey levels",
            "transformers": transformers.__version__,
            "precision": str(self.dtype).removeprefix("torch."),
        }

    @property
    def _vision(self) -> Any:
        return self.model.config.vision_config


@cache
def load_video_align(folder: str, device: str = "cpu") -> VideoJudge:
    """Scorers that stand on the same folder share one model."""
    return VideoJudge(folder, device)


class VideoAlign:
    """Normalised scores, about -2 to 2; `overall` is the sum of the three. NaN, with the reason, for a prompt that
    holds one of the tokenizer's own marks. Names are `vq` and so on, or `<prefix>.vq`; `batch` bounds a forward."""

    def __init__(
        self, model: VideoJudge, *, outputs: Sequence[str] = tuple(MARKS), prefix: str = "", batch: int = 64
    ) -> None:
        unknown = sorted(set(outputs).difference(get_args(Output)))
        if unknown or not outputs:
            raise RewardError(f"VideoAlign has no output {unknown}; it has {', '.join(get_args(Output))}")
        self._names = {name: f"{prefix}.{name}" if prefix else name for name in outputs}
        self.outputs = tuple(self._names.values())
        self._model = model
        self._batch = batch

    def score(self, batch: RewardBatch) -> RewardOutput:
        videos = batch.videos
        fps = batch.fps
        assert fps is not None  # else `videos` has raised
        unreadable = self._unreadable(batch.texts)
        rows = [row for row in range(len(videos)) if row not in unreadable]
        logits = torch.full((len(videos), len(MARKS)), torch.nan)
        for start in range(0, len(rows), self._batch):
            part = rows[start : start + self._batch]
            logits[part] = self._model.logits(videos[part], [batch.texts[row] for row in part], fps)
        scores = self._model.normalised(logits)
        return RewardOutput(
            {label: scores[name] for name, label in self._names.items()},
            Problem.by_reason("+".join(self.outputs), unreadable),
        )

    def _unreadable(self, texts: Sequence[str]) -> dict[int, str]:
        """The rows whose prompt holds marks of the tokenizer, and why they cannot be scored."""
        reasons = {}
        for row, text in enumerate(texts):
            # A mark in a prompt would be read as the video's place, or as the place where a score is read off.
            marks = [mark for mark in self._model.reserved if mark in text]
            if marks:
                reasons[row] = f'the prompt "{text}" holds {", ".join(marks)}, which the judge reads as its own mark'
        return reasons

    def fingerprint(self) -> dict[str, str]:
        return self._model.fingerprint()


def chosen_frames(total: int, fps: float, wanted: float) -> list[int]:
    """Which of `total` frames at `fps` are shown for about `wanted` per second: an even number, evenly spread."""
    most = min(_MAX_FRAMES, total) // 2 * 2  # even: two frames make one patch in time
    if most < 2:
        raise RewardError(f"got a video of {total} frame; VideoAlign wants two or more")
    count = round(min(max(total / fps * wanted, _MIN_FRAMES), most) / 2) * 2
    # Python and torch both round halves to even, as the published sampling does.
    return torch.linspace(0, total - 1, count).round().long().tolist()


def fitted(height: int, width: int, factor: int, least: int, most: int) -> tuple[int, int]:
    """The size nearest to this shape with sides that are multiples of `factor` and `least` to `most` pixels."""
    nearest = (_multiple(height, factor), _multiple(width, factor))
    if math.prod(nearest) > most:
        scale = math.sqrt(height * width / most)
        # Rounded down to stay below `most`, but never to nothing: a very narrow video keeps one patch across.
        rows = max(factor, math.floor(height / scale / factor) * factor)
        columns = max(factor, math.floor(width / scale / factor) * factor)
        return rows, columns
    if math.prod(nearest) < least:
        scale = math.sqrt(least / (height * width))
        return math.ceil(height * scale / factor) * factor, math.ceil(width * scale / factor) * factor
    return nearest


def _multiple(side: int, factor: int) -> int:
    """The multiple of `factor` nearest to a side; Qwen2-VL's own rounds halves to even."""
    return max(factor, round(side / factor) * factor)


def patchify(
    frames: Float[Tensor, "B F 3 H W"], patch: int, merge: int, temporal: int
) -> tuple[Float[Tensor, "B N D"], tuple[int, int, int]]:
    """Cut into patches of `temporal` frames, in Qwen2-VL's order: the `merge` x `merge` patches that become one token
    stand together. An incomplete last stretch repeats its last frame."""
    missing = -frames.shape[1] % temporal
    if missing:
        frames = torch.cat([frames, frames[:, -1:].expand(-1, missing, -1, -1, -1)], dim=1)
    batch, count, channels, height, width = frames.shape
    t = count // temporal
    h = height // patch
    w = width // patch
    parts = frames.reshape(batch, t, temporal, channels, h // merge, merge, patch, w // merge, merge, patch)
    # To (batch, t, big row, big column, row, column, channel, frame, y, x): merged patches first, then what is inside.
    return parts.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9).reshape(batch, t * h * w, -1), (t, h, w)


def read_marks(
    hidden: Float[Tensor, "B T D"], ids: Int[Tensor, "B T"], marks: Int[Tensor, " 3"], head: Float[Tensor, "O D"]
) -> Float[Tensor, "B 3"]:
    """The head's answer at each mark; a head with three rows has one for each mark."""
    # argmax takes the first place; there is exactly one, the template and the prompts were checked for it.
    places = (ids[:, None] == marks[:, None]).int().argmax(-1)  # [B, 3]
    states = hidden.take_along_dim(places[..., None], dim=1).float()
    answers = states @ head.T  # [B, 3, O]
    return answers.diagonal(dim1=1, dim2=2) if len(head) == len(marks) else answers[..., 0]


def read_form(path: Path) -> Form:
    """Read `video_align.json` and say what is wrong with it."""
    try:
        form = _parsed(path, json.loads(path.read_text()))
    except (ValueError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} could not be read: {error}") from None
    required = (VIDEO, "{prompt}", *MARKS.values())
    not_once = [part for part in required if form.template.count(part) != 1]
    if not_once:
        raise WeightsError(f"{path}: the template must hold {', '.join(not_once)} exactly once")
    if form.frames != "all" and (form.frames or not form.fps):
        raise WeightsError(f'{path}: got fps {form.fps} and frames {form.frames}; wanted an fps, or frames "all"')
    if form.output_dim not in (1, len(MARKS)) or not form.mean.keys() & form.std.keys() >= MARKS.keys():
        raise WeightsError(f"{path}: wanted output_dim 1 or 3, and mean and std of {', '.join(MARKS)}")
    return form


def _parsed(path: Path, stored: Any) -> Form:
    """The types of `Form` from what a JSON file holds; whatever is of another kind raises."""
    lacking = [item.name for item in fields(Form) if item.name not in stored]
    if lacking:
        raise WeightsError(f"{path} lacks {', '.join(lacking)}")
    return Form(
        template=str(stored["template"]),
        fps=stored["fps"] and float(stored["fps"]),  # null stays null: every frame is shown
        frames=stored["frames"],
        min_pixels=int(stored["min_pixels"]),
        max_pixels=int(stored["max_pixels"]),
        image_mean=_colour(stored["image_mean"]),
        image_std=_colour(stored["image_std"]),
        mean={name: float(value) for name, value in stored["mean"].items()},
        std={name: float(value) for name, value in stored["std"].items()},
        output_dim=int(stored["output_dim"]),
    )


def _colour(numbers: Sequence[Any]) -> tuple[float, float, float]:
    red, green, blue = map(float, numbers)
    return red, green, blue


def _check(folder: str) -> Path:
    path = Path(folder)
    if not path.is_dir():
        raise WeightsError(f"there is no folder {folder}; VideoAlign is read from a folder with {FORM}")
    check_local(folder, index="config.json", parts=())
    sharded = (path / "model.safetensors.index.json").is_file()
    names = (*(() if sharded else ("model.safetensors",)), "tokenizer.json", FORM, HEAD)
    missing = [name for name in names if not (path / name).is_file()]
    if missing:
        raise WeightsError(f"{folder} lacks {', '.join(missing)}; the folder is partial, copy or convert it again")
    return path


def _check_marks(folder: str, tokenizer: Any, video_token_id: int) -> dict[str, int]:
    """The tokenizer's own marks with their tokens, after a check that those of VideoAlign are among them."""
    reserved = tokenizer.get_added_vocab()
    lacking = [mark for mark in (VIDEO, *MARKS.values()) if mark not in reserved]
    if lacking:
        raise WeightsError(f"{folder}: the tokenizer does not know {', '.join(lacking)}; add them as special tokens")
    if reserved[VIDEO] != video_token_id:
        raise WeightsError(f"{folder}: {VIDEO} is token {reserved[VIDEO]}, config.json says {video_token_id}")
    return reserved


def _read_head(path: Path, outputs: int, width: int) -> Float[Tensor, "O D"]:
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a whole safetensors file: {error}") from None
    if set(tensors) != {"weight"}:
        raise WeightsError(f"{path} holds {', '.join(sorted(tensors)) or 'nothing'}; wanted one tensor `weight`")
    weight = tensors["weight"].float()
    if weight.shape != (outputs, width):
        raise WeightsError(f"{path}: weight is {tuple(weight.shape)}, wanted {(outputs, width)}")
    return weight
