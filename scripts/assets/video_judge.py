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
from itertools import permutations
from pathlib import Path as File
from random import Random
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLModel

from common import ASSETS, arguments, films_of, train
from flaws import shake, soften, spoil
from stepcredit.rewards.video_align import FORM, HEAD, MARKS, VIDEO, Form, load_video_align, patchify, read_marks
from stepcredit.scenes.captions import COLOURS, SHAPES, Thing, balanced
from stepcredit.scenes.moving import DIRECTIONS, FPS, FRAMES, Moving, MovingCaption, Path, every_caption

FOLDER = ASSETS / "video_align_scenes"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
START, END = "<|vision_start|>", "<|vision_end|>"
TEMPLATE = f"video: {START}{VIDEO}{END} caption: {{prompt}}{''.join(MARKS.values())}"
PATCH, MERGE, STRETCH = 4, 2, 2  # pixels, patches, frames
GRID = (-(-FRAMES // STRETCH), 32 // PATCH, 32 // PATCH)
PLACES = GRID[0] * GRID[1] * GRID[2] // MERGE**2
CELL = PATCH * MERGE
SIZES = [len(COLOURS) + 1, len(SHAPES) + 1, len(DIRECTIONS) + 1]  # what a cell can hold, or nothing
LABELS = torch.tensor([[-0.4, -0.4, 0.6], [0.37, 0.37, 0.42]])  # mean and spread of the labels of `Lesson`

Parts = tuple[Moving, ...]
Flaw = Callable[[Parts, Random], Parts]


def words() -> list[str]:
    return sorted({"video", "caption", ":"} | {word for c in every_caption() for word in str(c).split()})


def tokenizer() -> PreTrainedTokenizerFast:
    """Every word of the grammar is one token; letters spell out the rest."""
    letters = [*string.ascii_lowercase, *string.digits]
    special = ["[PAD]", "[UNK]", START, VIDEO, END, "<|image_pad|>", *MARKS.values()]
    listed = list(dict.fromkeys([*special, *words(), *letters, *("##" + letter for letter in letters)]))
    spelled = Tokenizer(models.WordPiece({token: at for at, token in enumerate(listed)}, unk_token="[UNK]"))
    spelled.normalizer = normalizers.Lowercase()
    spelled.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    spelled.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return PreTrainedTokenizerFast(tokenizer_object=spelled, pad_token="[PAD]", unk_token="[UNK]")


TOKENIZER = tokenizer()


def build(layers: int = 3) -> tuple[Qwen2VLModel, torch.nn.Linear]:
    """The judge and its head, untrained."""
    number = TOKENIZER.convert_tokens_to_ids
    text = {"vocab_size": len(TOKENIZER), "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": layers}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 20.0, "mrope_section": [2, 3, 3]}}
    text |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": TOKENIZER.pad_token_id}
    vision = {"depth": 2, "embed_dim": 64, "hidden_size": 64, "mlp_ratio": 2, "num_heads": 4, "patch_size": PATCH}
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
    mean, std = (dict(zip(MARKS, map(float, numbers), strict=True)) for numbers in (logits.mean(0), logits.std(0)))
    form = Form(TEMPLATE, FPS, "all", CELL**2, 64**2, MEAN, STD, mean, std, output_dim=len(MARKS))
    model.half().save_pretrained(folder)
    model.float()
    TOKENIZER.save_pretrained(folder)
    save_file({"weight": head.weight.detach().contiguous()}, folder / HEAD)
    (folder / FORM).write_text(json.dumps(asdict(form), indent=2) + "\n")


def _recoloured(parts: Parts, chooser: Random) -> Parts:
    colour = chooser.choice(list(COLOURS))
    return _with(parts, chooser, lambda part: Moving(Thing(colour, part.thing.shape), part.motion))


def _reshaped(parts: Parts, chooser: Random) -> Parts:
    shape = chooser.choice(SHAPES)
    return _with(parts, chooser, lambda part: Moving(Thing(part.thing.colour, shape), part.motion))


def _redirected(parts: Parts, chooser: Random) -> Parts:
    motion = chooser.choice(list(DIRECTIONS))
    return _with(parts, chooser, lambda part: Moving(part.thing, motion))


def _exchanged(parts: Parts, chooser: Random) -> Parts:
    """The two things trade their motions, or their colours."""
    if len(parts) < 2:
        return _redirected(parts, chooser)
    a, b = parts
    if chooser.random() < 0.5:
        return Moving(a.thing, b.motion), Moving(b.thing, a.motion)
    first, second = Thing(b.thing.colour, a.thing.shape), Thing(a.thing.colour, b.thing.shape)
    return Moving(first, a.motion), Moving(second, b.motion)


def _miscounted(parts: Parts, chooser: Random) -> Parts:
    """One thing too few, or one too many."""
    if len(parts) > 1:
        return (chooser.choice(parts),)
    thing = Thing(chooser.choice(list(COLOURS)), chooser.choice(SHAPES))
    return *parts, Moving(thing, chooser.choice(list(DIRECTIONS)))


def _other(parts: Parts, chooser: Random) -> Parts:
    return chooser.choice(every_caption()).parts


def _with(parts: Parts, chooser: Random, change: Callable[[Moving], Moving]) -> Parts:
    chosen = chooser.randrange(len(parts))
    return tuple(change(part) if at == chosen else part for at, part in enumerate(parts))


FLAWS: dict[str, Flaw] = {"colour": _recoloured, "shape": _reshaped, "direction": _redirected, "exchange": _exchanged}
ODDS = (0.4, 0.13, 0.13, 0.2, 0.06, 0.04, 0.04)  # true, one of FLAWS, miscounted, another caption
LATE_ODDS = (0.36, 0.08, 0.2, 0.12, 0.18, 0.03, 0.03)
KNOWN = {caption.parts: caption for caption in every_caption()}


def twist(caption: MovingCaption, flaw: Flaw, chooser: Random) -> MovingCaption:
    """Another caption of the grammar, wrong in this way."""
    for _ in range(50):
        twisted = KNOWN.get(flaw(caption.parts, chooser))
        if twisted and claims(caption, twisted)[0] < 1:
            return twisted
    return twist(caption, _redirected, chooser)


def claims(shown: MovingCaption, claimed: MovingCaption) -> tuple[float, list[bool]]:
    """How true a caption is of a video of `shown`, and which of its words are wrong: colour, shape and motion of
    each part. A wrong colour or shape costs half, a wrong motion all; so does a thing that is not there, and one that
    is not mentioned costs half."""
    best: tuple[float, list[bool]] = (np.inf, [])
    slots = [*shown.parts, *[None] * (len(claimed.parts) - len(shown.parts))]
    for order in permutations(slots, len(claimed.parts)):
        wrong = [
            differs
            for part, true in zip(claimed.parts, order, strict=True)
            for differs in (
                (True, True, True)
                if true is None
                else (
                    part.thing.colour != true.thing.colour,
                    part.thing.shape != true.thing.shape,
                    part.motion != true.motion,
                )
            )
        ]
        cost = float(np.dot(wrong, [0.5, 0.5, 1.0] * len(claimed.parts)))
        best = min(best, (cost + 0.5 * max(0, len(shown.parts) - len(claimed.parts)), wrong), key=lambda it: it[0])
    return max(0.0, 1 - best[0]), best[1]


class Pool:
    """Scenes drawn once; what stands in each cell of each stretch of frames is said for the eyes."""

    def __init__(self, captions: list[MovingCaption], seed: int) -> None:
        self.captions = captions
        parts = [films_of(captions[at : at + 500], seed + at) for at in range(0, len(captions), 500)]
        self.scenes = [scene for scenes, _ in parts for scene in scenes]
        self.films = torch.cat([(videos * 255).round().to(torch.uint8) for _, videos in parts])
        self.cells = torch.from_numpy(np.stack([_cells(*both) for both in zip(captions, self.scenes, strict=True)]))

    def videos(self, at: np.ndarray) -> torch.Tensor:
        return self.films[at].float() / 255


def _cells(caption: MovingCaption, scene: list[Path]) -> np.ndarray:
    """Colour, shape and motion of what covers the middle of each cell, `[T, 4, 4, 3]`; one past the last = nothing."""
    facts = np.empty((GRID[0], 32 // CELL, 32 // CELL, 3), dtype=np.int64)
    facts[:] = len(COLOURS), len(SHAPES), len(DIRECTIONS)
    middle = np.arange(32 // CELL) * CELL + CELL / 2
    for time in range(GRID[0]):
        for part, path in zip(caption.parts, scene, strict=True):
            placed = path.at(min(1.0, (STRETCH * time + 0.5) / (FRAMES - 1)))
            near = np.hypot(middle[None] - placed.x, middle[:, None] - placed.y) <= placed.radius + 1
            numbers = (list(COLOURS).index(part.thing.colour), SHAPES.index(part.thing.shape))
            facts[time][near] = *numbers, list(DIRECTIONS).index(part.motion)
    return facts


class Lesson:
    """The videos of one step, spoiled, and two captions for each, with what is to be said of them."""

    def __init__(self, pool: Pool, at: np.ndarray, seed: int, odds: Sequence[float] = ODDS) -> None:
        generator, chooser, dice = torch.Generator().manual_seed(seed), Random(seed), np.random.default_rng(seed)
        clean = pool.videos(at)
        scenes = [pool.scenes[index] for index in at]
        shaken, unsteady = shake(clean, scenes, dice)
        self.steady = torch.rand(len(at), generator=generator) < 1 / 3
        moving = torch.where(self.steady[:, None, None, None, None], clean, shaken)
        spoiled, dirty = spoil(moving, generator)
        pure = torch.rand(len(at), generator=generator) < 1 / 3
        seen = torch.where(pure[:, None, None, None, None], moving, spoiled)
        self.videos = soften(seen, generator)
        self.cells = pool.cells[at]
        shown = [pool.captions[index] for index in at]
        self.captions = [_told(caption, odds, chooser) for caption in shown + shown]
        judged = [claims(caption, told) for caption, told in zip(shown + shown, self.captions, strict=True)]
        self.wrong = torch.tensor([word for _, wrong in judged for word in wrong]).float()
        quality = torch.stack([dirty * ~pure, unsteady * ~self.steady], 1).neg().repeat(2, 1)
        self.labels = torch.cat([quality, torch.tensor([[truth] for truth, _ in judged])], 1)


def _told(caption: MovingCaption, odds: Sequence[float], chooser: Random) -> MovingCaption:
    """A caption that is true, its parts in any order, or wrong in a way with these odds."""
    if chooser.random() < 0.5:
        caption = KNOWN[caption.parts[::-1]]
    flaw = chooser.choices([None, *FLAWS.values(), _miscounted, _other], weights=odds)[0]
    return caption if flaw is None else twist(caption, flaw, chooser)


def look(model: Qwen2VLModel, videos: torch.Tensor) -> Any:
    """The tokens that the eyes make of videos `[B, 3, F, 32, 32]`, as `get_video_features` returns them."""
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (MEAN, STD))
    pixels, grid = patchify((videos.transpose(1, 2) - mean) / std, PATCH, MERGE, STRETCH)
    return model.get_video_features(pixels.flatten(0, 1), torch.tensor(grid).expand(len(videos), 3))


def listen(model: Qwen2VLModel, seen: Any, captions: Sequence[MovingCaption]) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states and token ids of videos, repeated as often as there are captions, with their captions."""
    form = Form(TEMPLATE, FPS, "all", 0, 0, MEAN, STD, {}, {}, 3)
    tokens = TOKENIZER([form.text(str(c), PLACES) for c in captions], padding=True, return_tensors="pt")
    ids = tokens["input_ids"]
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


def see_loss(eyes: torch.nn.Linear, tokens: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of naming colour, shape and motion in every cell."""
    answers, truths = eyes(tokens).flatten(0, -2).split(SIZES, -1), cells.flatten(0, -2).unbind(-1)
    return torch.stack([F.cross_entropy(a, c) for a, c in zip(answers, truths, strict=True)]).sum()


def judge_loss(modules: torch.nn.ModuleDict, lesson: Lesson) -> torch.Tensor:
    """Squared error of the three judgements, and two helps: name the cells of steady videos, mark the wrong words."""
    model: Any = modules["judge"]
    seen = look(model, lesson.videos)
    tokens = torch.stack(seen.pooler_output)[lesson.steady]
    hidden, ids = listen(model, seen, lesson.captions)
    said = read_marks(hidden, ids, MARK_IDS, modules["head"].weight)
    error = (said - (lesson.labels - LABELS[0]) / LABELS[1]).square().mean()
    doubts = modules["words"](hidden[torch.isin(ids, CLAIM_IDS)])[:, 0]
    helps = F.binary_cross_entropy_with_logits(doubts, lesson.wrong)
    return error + 0.5 * helps + 0.2 * see_loss(modules["eyes"], tokens, lesson.cells[lesson.steady])


MARK_IDS = torch.tensor(TOKENIZER.convert_tokens_to_ids(list(MARKS.values())))
CLAIM_IDS = torch.tensor(
    TOKENIZER.convert_tokens_to_ids([*COLOURS, *SHAPES, *(motion.split()[-1] for motion in DIRECTIONS)])
)

Scorer = Callable[[torch.Tensor, list[MovingCaption]], torch.Tensor]


def examine(judge: Scorer, pool: Pool, count: int) -> dict[str, Any]:
    """How often the better of two is scored higher, for each dimension; and how the outputs hang together."""
    at = np.arange(count)
    clean, captions, scenes = pool.videos(at), pool.captions[:count], pool.scenes[:count]
    good = judge(clean, captions)
    spoiled, dirty = spoil(clean, torch.Generator().manual_seed(1))
    shaken, unsteady = shake(clean, scenes, np.random.default_rng(1))
    bad, worse = judge(spoiled, captions), judge(shaken, captions)
    soft = judge(soften(clean, torch.Generator().manual_seed(2)), captions)

    def share(better: torch.Tensor) -> float:
        return round(float(better.float().mean()), 4)

    told: dict[str, float] = {}
    for name, flaw in FLAWS.items():
        rows = [index for index in at if name != "exchange" or len(captions[index].parts) > 1]
        chooser = Random(3)
        wrong = [twist(captions[index], flaw, chooser) for index in rows]
        told[name] = share(good[rows, 2] > judge(clean[rows], wrong)[:, 2])
    mixed = Lesson(pool, at, seed=4)
    said = judge(mixed.videos.repeat(2, 1, 1, 1, 1), mixed.captions)
    both = torch.cat([said, mixed.labels], 1).T.corrcoef()
    return {
        "vq_clean_above_spoiled": share(good[:, 0] > bad[:, 0]),
        "vq_clean_above_half_spoiled_or_more": share((good[:, 0] > bad[:, 0])[dirty > 0.5]),
        "mq_steady_above_shaken": share(good[:, 1] > worse[:, 1]),
        "mq_steady_above_half_shaken_or_more": share((good[:, 1] > worse[:, 1])[unsteady > 0.5]),
        "ta_true_above_one_word_wrong": told,
        "vq_lost_by_mild_blur_in_stds": round(float((good[:, 0] - soft[:, 0]).mean() / said[:, 0].std()), 4),
        "correlation_of_outputs": [[round(float(c), 3) for c in row] for row in both[:3, :3]],
        "correlation_with_labels": [round(float(both[i, 3 + i]), 3) for i in range(3)],
    }


def main() -> None:
    options = arguments(__doc__ or "")
    torch.manual_seed(options.seed)
    pool = Pool(balanced(every_caption(), 6_000, seed=1), seed=options.seed)
    fresh = Pool(balanced(every_caption(), 1_000, seed=2), seed=10**9)
    model, head = build()
    modules = torch.nn.ModuleDict(
        {"judge": model, "head": head, "eyes": torch.nn.Linear(64, sum(SIZES)), "words": torch.nn.Linear(64, 1)}
    )
    blocks = [model.visual.blocks, model.visual.merger, model.language_model.layers]
    matrices = [p for block in blocks for p in block.parameters() if p.ndim == 2]

    def drawn(step: int, count: int) -> np.ndarray:
        return np.random.default_rng((options.seed, step)).choice(len(pool.captions), count, replace=False)

    def eyes_loss(step: int) -> torch.Tensor:
        at = drawn(step, 32)
        videos, _ = spoil(pool.videos(at), torch.Generator().manual_seed(step))
        videos = torch.cat([soften(pool.videos(at[:16]), torch.Generator().manual_seed(step)), videos[16:]])
        return see_loss(modules["eyes"], torch.stack(look(model, videos).pooler_output), pool.cells[at])

    @torch.no_grad()
    def names(step: int) -> str:
        tokens = modules["eyes"](torch.stack(look(model, fresh.videos(np.arange(100))).pooler_output))
        there = fresh.cells[:100].flatten(1, 3)
        full = there[..., 0] < len(COLOURS)
        parts = zip(tokens.split(SIZES, -1), there.unbind(-1), strict=True)
        return "named " + " ".join(f"{float((a.argmax(-1) == c)[full].float().mean()):.3f}" for a, c in parts)

    @torch.no_grad()
    def judge(videos: torch.Tensor, captions: list[MovingCaption]) -> torch.Tensor:
        said = []
        for start in range(0, len(videos), 100):
            hidden, ids = listen(model, look(model, videos[start : start + 100]), captions[start : start + 100])
            said.append(read_marks(hidden, ids, MARK_IDS, head.weight))
        return torch.cat(said)

    eyes: dict[str, torch.nn.Module] = {"judge": model.visual, "eyes": modules["eyes"]}
    seeing = [p for block in blocks[:2] for p in block.parameters() if p.ndim == 2]
    train(
        "video_judge_eyes",
        eyes,
        eyes_loss,
        steps=min(options.steps or 400, 400),
        learning_rate=2e-3,
        matrices=seeing,
        every=100,
        report=names,
    )
    common: dict[str, Any] = {"learning_rate": 1.5e-3, "matrices": matrices, "average": 0.995, "every": 250}
    common["report"] = lambda step: str(examine(judge, fresh, 200))

    def first(step: int) -> torch.Tensor:
        return judge_loss(modules, Lesson(pool, drawn(step, 24), step + 10**6))

    train("video_judge", dict(modules), first, steps=options.steps or 2000, **common)
    twice = np.array([len(caption.parts) ** 2.0 for caption in pool.captions])

    def late(step: int) -> torch.Tensor:
        at = np.random.default_rng((options.seed, 7, step)).choice(len(twice), 24, replace=False, p=twice / twice.sum())
        return judge_loss(modules, Lesson(pool, at, step + 2 * 10**6, LATE_ODDS))

    train("video_judge_late", dict(modules), late, steps=options.steps or 1000, **common)
    mixed = Lesson(fresh, np.arange(1000), seed=5)
    save(model, head, FOLDER, judge(mixed.videos.repeat(2, 1, 1, 1, 1), mixed.captions))
    kept = load_video_align(str(FOLDER))

    def stored(videos: torch.Tensor, captions: list[MovingCaption]) -> torch.Tensor:
        pixels = (videos * 255).round().to(torch.uint8).permute(0, 2, 3, 4, 1).numpy()
        parts = [slice(at, at + 64) for at in range(0, len(pixels), 64)]
        return torch.cat([kept.logits(pixels[part], list(map(str, captions[part])), FPS) for part in parts])

    (FOLDER / "metrics.json").write_text(json.dumps(examine(stored, fresh, 1000), indent=2) + "\n")


if __name__ == "__main__":
    main()
