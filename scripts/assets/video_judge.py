"""Trains the embedded video judge: a miniature of VideoAlign (arXiv 2501.13918) for the drawn world in motion.

A tiny Qwen2-VL says of a video how clean it looks (vq), how steadily things move (mq) and whether it shows what its
caption says (ta). Its lessons are drawn: true videos, spoiled frame by frame (`spoil`), spoiled in time (`shake`), and
told with captions that are wrong (`twist`); the three are independent. First the eyes alone learn to name what stands
where, then all of it learns to judge, and at last it hears more of shapes and of things that traded places. It is a
judge, so it sees every caption of the grammar.
"""

import json
import string
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path as File
from random import Random
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLModel

from common import ASSETS, arguments, train
from flaws import shake, soften, spoil
from stepcredit.rewards.video_align import (
    FORM,
    HEAD,
    MARKS,
    VIDEO,
    Form,
    VideoJudge,
    load_video_align,
    patchify,
    read_marks,
)
from stepcredit.scenes.captions import COLOURS, SHAPES, balanced
from stepcredit.scenes.moving import DIRECTIONS, FPS, MovingCaption, every_caption
from video_lessons import (
    CELL,
    FLAWS,
    GRID,
    LABELS,
    LATE_ODDS,
    MERGE,
    PATCH,
    PLACES,
    SIZES,
    STRETCH,
    Lesson,
    Pool,
    twist,
)

FOLDER = ASSETS / "video_align_scenes"
MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, which Qwen2-VL uses too
STD = (0.26862954, 0.26130258, 0.27577711)
START = "<|vision_start|>"
END = "<|vision_end|>"
TEMPLATE = f"video: {START}{VIDEO}{END} caption: {{prompt}}{''.join(MARKS.values())}"


def words() -> list[str]:
    """Every word of the grammar and of the template."""
    return sorted({"video", "caption", ":"} | {word for caption in every_caption() for word in str(caption).split()})


def tokenizer() -> PreTrainedTokenizerFast:
    """Every word of the grammar is one token; letters spell out the rest."""
    letters = [*string.ascii_lowercase, *string.digits]
    special = ["[PAD]", "[UNK]", START, VIDEO, END, "<|image_pad|>", *MARKS.values()]
    listed = list(dict.fromkeys([*special, *words(), *letters, *("##" + letter for letter in letters)]))
    numbers = {token: number for number, token in enumerate(listed)}
    spelled = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))
    spelled.normalizer = normalizers.Lowercase()
    spelled.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    spelled.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return PreTrainedTokenizerFast(tokenizer_object=spelled, pad_token="[PAD]", unk_token="[UNK]")


TOKENIZER = tokenizer()


def build(layers: int = 3) -> tuple[Qwen2VLModel, torch.nn.Linear]:
    """The judge and its head, untrained."""
    # Any: transformers annotates the number of one token as a number or a list of them.
    number: Any = TOKENIZER.convert_tokens_to_ids
    text: dict[str, Any] = {
        "vocab_size": len(TOKENIZER),
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": layers,
    }
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 20.0, "mrope_section": [2, 3, 3]}}
    text |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": TOKENIZER.pad_token_id}
    vision: dict[str, Any] = {
        "depth": 2,
        "embed_dim": 64,
        "hidden_size": 64,
        "mlp_ratio": 2,
        "num_heads": 4,
        "patch_size": PATCH,
    }
    vision |= {"spatial_merge_size": MERGE, "temporal_patch_size": STRETCH}
    vision |= {"rope_parameters": {"rope_type": "axial", "rope_theta": 100.0}}
    config = Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=number("<|image_pad|>"),
        video_token_id=number(VIDEO),
        vision_start_token_id=number(START),
        vision_end_token_id=number(END),
    )
    return Qwen2VLModel(config), torch.nn.Linear(64, len(MARKS), bias=False)


def save(model: Qwen2VLModel, head: torch.nn.Linear, folder: File, logits: torch.Tensor) -> None:
    """Write the folder that `load_video_align` reads; `logits` `[B, 3]` say what to normalise by."""
    mean = dict(zip(MARKS, logits.mean(0).tolist(), strict=True))
    std = dict(zip(MARKS, logits.std(0).tolist(), strict=True))
    form = Form(TEMPLATE, FPS, "all", CELL**2, 64**2, MEAN, STD, mean, std, output_dim=len(MARKS))
    model.half().save_pretrained(folder)
    model.float()  # half() changes the model itself
    TOKENIZER.save_pretrained(folder)
    save_file({"weight": head.weight.detach().contiguous()}, folder / HEAD)
    (folder / FORM).write_text(json.dumps(asdict(form), indent=2) + "\n")


def look(model: Qwen2VLModel, videos: torch.Tensor) -> Any:
    """The tokens that the eyes make of videos `[B, 3, F, 32, 32]`, as `get_video_features` returns them."""
    mean = torch.tensor(MEAN)[:, None, None]
    std = torch.tensor(STD)[:, None, None]
    pixels, grid = patchify((videos.transpose(1, 2) - mean) / std, PATCH, MERGE, STRETCH)
    grids: Any = torch.tensor(grid).expand(len(videos), 3)  # annotated as a LongTensor, which no tensor is
    return model.get_video_features(pixels.flatten(0, 1), grids)


def listen(model: Qwen2VLModel, seen: Any, captions: Sequence[MovingCaption]) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states and token ids of videos, repeated as often as there are captions, with their captions."""
    form = Form(TEMPLATE, FPS, "all", 0, 0, MEAN, STD, {}, {}, 3)
    texts = [form.text(str(caption), PLACES) for caption in captions]
    tokens = TOKENIZER(texts, padding=True, return_tensors="pt")
    ids = tokens["input_ids"]
    # A tuple of tokens for each video; the eyes look once, however many captions there are.
    seen.pooler_output = seen.pooler_output * (len(captions) // len(seen.pooler_output))
    hidden = model(
        input_ids=ids,
        attention_mask=tokens["attention_mask"],
        mm_encoder_outputs={"video": seen},
        video_grid_thw=torch.tensor(GRID).expand(len(ids), 3),
        mm_token_type_ids=2 * (ids == model.config.video_token_id).int(),
        use_cache=False,
    ).last_hidden_state
    return hidden, ids


def see_loss(eyes: torch.nn.Module, tokens: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of naming colour, shape and motion in every cell."""
    answers = eyes(tokens).flatten(0, -2).split(SIZES, -1)
    truths = cells.flatten(0, -2).unbind(-1)
    return torch.stack(list(map(F.cross_entropy, answers, truths))).sum()


def judge_loss(modules: torch.nn.ModuleDict, lesson: Lesson) -> torch.Tensor:
    """Squared error of the three judgements, and two helps: name the cells of steady videos, mark the wrong words."""
    model: Any = modules["judge"]
    head: Any = modules["head"]
    seen = look(model, lesson.videos)
    tokens = torch.stack(seen.pooler_output)[lesson.steady]
    hidden, ids = listen(model, seen, lesson.captions)
    scores = read_marks(hidden, ids, MARK_IDS, head.weight)
    error = (scores - (lesson.labels - LABELS[0]) / LABELS[1]).square().mean()
    doubts = modules["words"](hidden[torch.isin(ids, CLAIM_IDS)])[:, 0]
    helps = F.binary_cross_entropy_with_logits(doubts, lesson.flaws)
    return error + 0.5 * helps + 0.2 * see_loss(modules["eyes"], tokens, lesson.cells[lesson.steady])


MARK_IDS = torch.tensor(TOKENIZER.convert_tokens_to_ids(list(MARKS.values())))
CLAIM_IDS = torch.tensor(
    TOKENIZER.convert_tokens_to_ids([*COLOURS, *SHAPES, *(motion.split()[-1] for motion in DIRECTIONS)])
)

Scorer = Callable[[torch.Tensor, list[MovingCaption]], torch.Tensor]


def share(better: torch.Tensor) -> float:
    return round(float(better.float().mean()), 4)


def examine(judge: Scorer, pool: Pool, count: int) -> dict[str, Any]:
    """How often the better of two is scored higher, for each dimension; and how the outputs hang together."""
    whole = np.arange(count)
    clean = pool.videos(whole)
    captions = pool.captions[:count]
    good = judge(clean, captions)
    spoiled, dirty = spoil(clean, torch.Generator().manual_seed(1))
    shaken, unsteady = shake(clean, pool.scenes[:count], np.random.default_rng(1))
    vq_gain = good[:, 0] - judge(spoiled, captions)[:, 0]
    mq_gain = good[:, 1] - judge(shaken, captions)[:, 1]
    soft = judge(soften(clean, torch.Generator().manual_seed(2)), captions)
    mixed = Lesson(pool, whole, seed=4)
    scores = judge(mixed.videos.repeat(2, 1, 1, 1, 1), mixed.captions)
    correlation = torch.cat([scores, mixed.labels], 1).T.corrcoef()
    return {
        "vq_clean_above_spoiled": share(vq_gain > 0),
        "vq_clean_above_half_spoiled_or_more": share((vq_gain > 0)[dirty > 0.5]),
        "mq_steady_above_shaken": share(mq_gain > 0),
        "mq_steady_above_half_shaken_or_more": share((mq_gain > 0)[unsteady > 0.5]),
        "ta_true_above_one_word_wrong": _told_apart(judge, clean, captions, good[:, 2]),
        "vq_lost_by_mild_blur_in_stds": round(float((good[:, 0] - soft[:, 0]).mean() / scores[:, 0].std()), 4),
        "correlation_of_outputs": [_rounded(row) for row in correlation[:3, :3]],
        "correlation_with_labels": _rounded(correlation[:3, 3:].diagonal()),
    }


def _told_apart(
    judge: Scorer, clean: torch.Tensor, captions: list[MovingCaption], scores: torch.Tensor
) -> dict[str, float]:
    """How often the true caption is scored above one that is wrong in one respect, for each of `FLAWS`."""
    shares: dict[str, float] = {}
    for name, flaw in FLAWS.items():
        rows = [row for row, caption in enumerate(captions) if name != "exchange" or len(caption.parts) > 1]
        chooser = Random(3)
        twisted = [twist(captions[row], flaw, chooser) for row in rows]
        shares[name] = share(scores[rows] > judge(clean[rows], twisted)[:, 2])
    return shares


def _rounded(numbers: torch.Tensor) -> list[float]:
    return [round(number, 3) for number in numbers.tolist()]


class Judge:
    """The judge in training, with its two helpers, and the batches it learns from."""

    def __init__(self, pool: Pool, fresh: Pool, seed: int) -> None:
        self.pool = pool
        self.fresh = fresh
        self.seed = seed
        self.model, self.head = build()
        self.modules = torch.nn.ModuleDict(
            {
                "judge": self.model,
                "head": self.head,
                "eyes": torch.nn.Linear(64, sum(SIZES)),
                "words": torch.nn.Linear(64, 1),
            }
        )
        # Two things can be confused in more ways: at last, videos of two come four times as often as those of one.
        squared = np.array([len(caption.parts) ** 2.0 for caption in pool.captions])
        self.odds = squared / squared.sum()

    def drawn(self, step: int, count: int) -> np.ndarray:
        """Which videos a step learns from."""
        return np.random.default_rng((self.seed, step)).choice(len(self.pool.captions), count, replace=False)

    def eyes_loss(self, step: int) -> torch.Tensor:
        """Name what stands where, in videos half of which are spoiled."""
        chosen = self.drawn(step, 32)
        videos, _ = spoil(self.pool.videos(chosen), torch.Generator().manual_seed(step))
        clean = soften(self.pool.videos(chosen[:16]), torch.Generator().manual_seed(step))
        tokens = torch.stack(look(self.model, torch.cat([clean, videos[16:]])).pooler_output)
        return see_loss(self.modules["eyes"], tokens, self.pool.cells[chosen])

    def first_loss(self, step: int) -> torch.Tensor:
        """Judge videos and captions as they come."""
        return judge_loss(self.modules, Lesson(self.pool, self.drawn(step, 24), step + 10**6))

    def late_loss(self, step: int) -> torch.Tensor:
        """Judge more videos of two things, and more captions with wrong shapes and things that traded places."""
        dice = np.random.default_rng((self.seed, 7, step))
        chosen = dice.choice(len(self.odds), 24, replace=False, p=self.odds)
        return judge_loss(self.modules, Lesson(self.pool, chosen, step + 2 * 10**6, LATE_ODDS))

    @torch.no_grad()
    def names(self, step: int) -> str:
        """How often the eyes name colour, shape and motion of cells that are not empty."""
        tokens = self.modules["eyes"](torch.stack(look(self.model, self.fresh.videos(np.arange(100))).pooler_output))
        cells = self.fresh.cells[:100].flatten(1, 3)
        full = cells[..., 0] < len(COLOURS)
        right = []
        for answers, truths in zip(tokens.split(SIZES, -1), cells.unbind(-1), strict=True):
            right.append(float((answers.argmax(-1) == truths)[full].float().mean()))
        return "named " + " ".join(f"{number:.3f}" for number in right)

    @torch.no_grad()
    def scores(self, videos: torch.Tensor, captions: list[MovingCaption]) -> torch.Tensor:
        """vq, mq and ta before normalisation, `[B, 3]`."""
        parts = []
        for start in range(0, len(videos), 100):
            seen = look(self.model, videos[start : start + 100])
            hidden, ids = listen(self.model, seen, captions[start : start + 100])
            parts.append(read_marks(hidden, ids, MARK_IDS, self.head.weight))
        return torch.cat(parts)


def matrices(blocks: Sequence[torch.nn.Module]) -> list[torch.nn.Parameter]:
    """The weights that Muon trains."""
    return [parameter for block in blocks for parameter in block.parameters() if parameter.ndim == 2]


def stored_scores(judge: VideoJudge, videos: torch.Tensor, captions: list[MovingCaption]) -> torch.Tensor:
    """The same numbers from the folder that was written, by the class that rewards use, on pixels of 8 bits."""
    pixels = (videos * 255).round().to(torch.uint8).permute(0, 2, 3, 4, 1).numpy()
    parts = []
    for start in range(0, len(pixels), 64):
        texts = [str(caption) for caption in captions[start : start + 64]]
        parts.append(judge.logits(pixels[start : start + 64], texts, FPS))
    return torch.cat(parts)


def main() -> None:
    options = arguments(__doc__ or "")
    torch.manual_seed(options.seed)
    pool = Pool(balanced(every_caption(), 6_000, seed=1), seed=options.seed)
    fresh = Pool(balanced(every_caption(), 1_000, seed=2), seed=10**9)
    judge = Judge(pool, fresh, options.seed)
    seeing = [judge.model.visual.blocks, judge.model.visual.merger]
    train(
        "video_judge_eyes",
        {"judge": judge.model.visual, "eyes": judge.modules["eyes"]},
        judge.eyes_loss,
        steps=min(options.steps or 400, 400),
        learning_rate=2e-3,
        matrices=matrices(seeing),
        every=100,
        report=judge.names,
    )
    common: dict[str, Any] = {"learning_rate": 1.5e-3, "average": 0.995, "every": 250}
    common["matrices"] = matrices([*seeing, judge.model.language_model.layers])
    common["report"] = lambda step: str(examine(judge.scores, fresh, 200))
    train("video_judge", dict(judge.modules), judge.first_loss, steps=options.steps or 2000, **common)
    train("video_judge_late", dict(judge.modules), judge.late_loss, steps=options.steps or 1000, **common)
    mixed = Lesson(fresh, np.arange(1000), seed=5)
    save(judge.model, judge.head, FOLDER, judge.scores(mixed.videos.repeat(2, 1, 1, 1, 1), mixed.captions))
    # What is published is measured of what was written: its weights are in half precision.
    stored = partial(stored_scores, load_video_align(str(FOLDER)))
    (FOLDER / "metrics.json").write_text(json.dumps(examine(stored, fresh, 1000), indent=2) + "\n")


if __name__ == "__main__":
    main()
