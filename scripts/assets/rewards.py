"""Trains the three embedded reward models on drawn scenes.

    clip_scenes        a tiny CLIP: picture and caption agree (contrastive, every picture also against a caption that
                       is wrong in one word)
    hps_scenes         the same architecture, then trained to prefer the clean of two pictures (HPS, arXiv 2306.09341)
    aesthetic_scenes   an affine head on clip_scenes' image embedding, fitted to the taste of `taste` below

They are judges, so they see every caption of the grammar, also those that the generator never sees.
"""

import json
from dataclasses import replace
from random import Random

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel

from common import ASSETS, WORK, arguments, scenes_of, train
from flaws import corrupt
from stepcredit.scenes.captions import COLOURS, RELATIONS, SHAPES, Caption, Thing, balanced, every_caption
from stepcredit.scenes.renderer import Placed, relation_holds
from vocabulary import LENGTH, clip_tokenizer

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
TOKENIZER = clip_tokenizer()
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def build_clip() -> CLIPModel:
    marks = {
        "bos_token_id": TOKENIZER.bos_token_id,
        "eos_token_id": TOKENIZER.eos_token_id,
        "pad_token_id": TOKENIZER.pad_token_id,
    }
    text = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
    text |= {"vocab_size": len(TOKENIZER), "max_position_embeddings": LENGTH, "projection_dim": 64, **marks}
    vision |= {"image_size": 32, "patch_size": 4, "projection_dim": 64}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64))


def embed_pictures(model: CLIPModel, pictures: torch.Tensor) -> torch.Tensor:
    pixels = (pictures - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    return F.normalize(model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output), dim=-1)


def embed_captions(model: CLIPModel, captions: list[Caption]) -> torch.Tensor:
    tokens = TOKENIZER([str(c) for c in captions], padding="max_length", max_length=LENGTH, return_tensors="pt")
    return F.normalize(model.text_projection(model.text_model(**tokens).pooler_output), dim=-1)


def twist(caption: Caption, chooser: Random) -> Caption:
    """A caption of the same kind that is wrong in one word (or, at times, has its two things exchanged)."""
    if caption.relation and chooser.random() < 0.35:
        return replace(caption, relation=OPPOSITE[caption.relation])
    if caption.kind == "count" and chooser.random() < 0.4:
        return replace(caption, count=5 - caption.count)
    at = chooser.randrange(len(caption.things))
    while True:
        thing = caption.things[at]
        if chooser.random() < 0.5:
            thing = Thing(chooser.choice([c for c in COLOURS if c != thing.colour]), thing.shape)
        else:
            thing = Thing(thing.colour, chooser.choice([s for s in SHAPES if s != thing.shape]))
        things = tuple(thing if index == at else other for index, other in enumerate(caption.things))
        if len(set(things)) == len(things):
            return replace(caption, things=things)


class Truth:
    """Which captions are true of which scenes, `[scenes, captions]`: the same objects, and the relation holds."""

    def __init__(self) -> None:
        self.keys: dict[tuple[str, ...], int] = {}

    def key(self, caption: Caption) -> int:
        return self.keys.setdefault(tuple(sorted(map(str, caption.objects))), len(self.keys))

    def claims(self, captions: list[Caption]) -> tuple[np.ndarray, np.ndarray]:
        """Per caption: its objects, and the relation it claims of them in sorted order (-1 for none)."""
        relations = []
        for caption in captions:
            turned = len(caption.things) == 2 and str(caption.things[0]) > str(caption.things[1])
            relation = OPPOSITE.get(caption.relation or "", "") if turned else caption.relation
            relations.append(RELATIONS.index(relation) if caption.relation else -1)
        return np.array([self.key(c) for c in captions]), np.array(relations)

    def facts(self, scenes: list[list[Placed]]) -> np.ndarray:
        """Per scene, which relations hold between its two objects in sorted order, `[scenes, 4]`."""
        ordered = [sorted(scene, key=lambda placed: str(placed.thing)) for scene in scenes]
        return np.array([[len(s) == 2 and relation_holds(r, *s) for r in RELATIONS] for s in ordered])


class Pool:
    """Scenes drawn once, with everything that batches need."""

    def __init__(self, captions: list[Caption], seed: int) -> None:
        self.captions, self.truth = captions, Truth()
        self.scenes, self.pictures = scenes_of(captions, seed)
        self.objects, _ = self.truth.claims(captions)
        self.facts = self.truth.facts(self.scenes)

    def is_true(self, at: np.ndarray, captions: list[Caption]) -> torch.Tensor:
        objects, relations = self.truth.claims(captions)
        same = self.objects[at][:, None] == objects[None]
        holds = np.where(relations[None] < 0, True, self.facts[at][:, relations.clip(0)])
        return torch.from_numpy(same & holds)


def contrastive_loss(model: CLIPModel, pool: Pool, at: np.ndarray, chooser: Random) -> torch.Tensor:
    """InfoNCE both ways; captions that happen to be true of another picture of the batch count as right answers."""
    own = [pool.captions[index] for index in at]
    captions = own + [twist(caption, chooser) for caption in own]
    true = pool.is_true(at, captions)
    logits = embed_pictures(model, pool.pictures[at]) @ embed_captions(model, captions).T * model.logit_scale.exp()
    right = logits.masked_fill(~true, -torch.inf)
    pictures = logits.logsumexp(1) - right.logsumexp(1)
    texts = (logits.logsumexp(0) - right.logsumexp(0))[: len(own)]
    return (pictures.mean() + texts.mean()) / 2


def preference_loss(model: CLIPModel, pool: Pool, at: np.ndarray, step: int, chooser: Random) -> torch.Tensor:
    """-log P(clean preferred over spoiled), P = softmax of scaled scores (HPS); one pair in four is spoiled by
    showing another caption's picture instead."""
    generator = torch.Generator().manual_seed(step)
    clean = pool.pictures[at]
    spoiled, _ = corrupt(clean, generator)
    captions = [pool.captions[index] for index in at]
    quarter = len(at) // 4
    captions[:quarter] = [twist(caption, chooser) for caption in captions[:quarter]]
    generated = scenes_of(captions[:quarter], seed=step)[1]  # true pictures of the twisted captions ...
    spoiled[:quarter] = clean[:quarter]  # ... against pictures that are wrong in one word
    clean = torch.cat([generated, clean[quarter:]])
    texts = embed_captions(model, captions)
    scores = torch.stack([(embed_pictures(model, p) * texts).sum(-1) for p in (clean, spoiled)], dim=1)
    return F.cross_entropy(scores * model.logit_scale.exp(), torch.zeros(len(at), dtype=torch.long))


def taste(scenes: list[list[Placed]]) -> torch.Tensor:
    """The synthetic taste, on LAION's scale of about 1 to 10: clean pictures (see `main`), and among those warm before
    cool colours, whatever the caption said."""
    warmth = {"red": 1.0, "yellow": 1.0, "white": 0.2, "purple": -0.2, "green": -0.8, "blue": -1.0}
    warm = [np.mean([warmth[p.thing.colour] for p in scene]) for scene in scenes]
    return torch.tensor(6.0 + 0.15 * np.array(warm), dtype=torch.float32)


def save(model: CLIPModel, name: str, metrics: dict) -> None:
    folder = ASSETS / name
    model.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    processor = {"size": 32, "resample": "bicubic", "image_mean": MEAN, "image_std": STD}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")


@torch.no_grad()
def picks(model: CLIPModel, pool: Pool) -> dict[str, float]:
    """How often the right caption wins: against all captions, and against one that is wrong in one word."""
    everything = list(every_caption())
    pictures, texts = embed_pictures(model, pool.pictures), embed_captions(model, everything)
    at = np.arange(len(pool.captions))
    best = (pictures @ texts.T).argmax(1)
    right = pool.is_true(at, everything)[torch.arange(len(at)), best].float().mean()
    twisted = [twist(caption, Random(index)) for index, caption in enumerate(pool.captions)]
    own = (pictures * embed_captions(model, pool.captions)).sum(-1)
    other = (pictures * embed_captions(model, twisted)).sum(-1)
    wrong = ~pool.is_true(at, twisted).diagonal()
    return {"right_among_1584": float(right), "right_against_one_word": float((own > other)[wrong].float().mean())}


def main() -> None:
    options = arguments(__doc__ or "")
    torch.manual_seed(options.seed)
    pool = Pool(balanced(every_caption(), 24_000, seed=1), seed=options.seed)
    check = Pool(balanced(every_caption(), 1_000, seed=2), seed=10**9)

    def batch(step: int) -> tuple[np.ndarray, Random]:
        return np.random.default_rng((options.seed, step)).choice(len(pool.captions), 96, replace=False), Random(step)

    clip = build_clip()
    train(
        "clip_scenes",
        {"clip": clip},
        lambda step: contrastive_loss(clip, pool, *batch(step)),
        steps=options.steps or 2500,
        learning_rate=1e-3,
        average=0.995,
        report=lambda step: str(picks(clip, check)),
    )
    save(clip, "clip_scenes", picks(clip, check))

    hps = build_clip()
    hps.load_state_dict(clip.state_dict())

    def hps_loss(step: int) -> torch.Tensor:
        at, chooser = batch(step + 10**6)
        return preference_loss(hps, pool, at, step, chooser) + 0.3 * contrastive_loss(hps, pool, at[:48], chooser)

    @torch.no_grad()
    def preferred(step: int) -> dict[str, float]:
        spoiled, _ = corrupt(check.pictures, torch.Generator().manual_seed(-1))
        texts = embed_captions(hps, check.captions)
        clean, bad = ((embed_pictures(hps, p) * texts).sum(-1) for p in (check.pictures, spoiled))
        return {"prefers_clean": float((clean > bad).float().mean()), **picks(hps, check)}

    train(
        "hps_scenes",
        {"hps": hps},
        hps_loss,
        steps=options.steps or 1500,
        learning_rate=5e-4,
        average=0.995,
        report=lambda step: str(preferred(step)),
    )
    save(hps, "hps_scenes", preferred(0))

    def examples(source: Pool) -> tuple[torch.Tensor, torch.Tensor]:
        """Clean scenes with their taste, and spoiled ones that lose up to three points."""
        spoiled, strength = corrupt(source.pictures, torch.Generator().manual_seed(5))
        liked = taste(source.scenes)
        with torch.no_grad():
            parts = [*source.pictures.split(500), *spoiled.split(500)]
            features = torch.cat([embed_pictures(clip, part) for part in parts])
        return features, torch.cat([liked, liked - 3 * strength])

    features, targets = examples(pool)
    centre, middle = features.mean(0), targets.mean()
    gram = (features - centre).T @ (features - centre) + 1e-2 * torch.eye(features.shape[1])
    weight = torch.linalg.solve(gram, (features - centre).T @ (targets - middle))
    bias = middle - centre @ weight
    unseen, wanted = examples(check)
    explained = 1 - (unseen @ weight + bias - wanted).var() / wanted.var()
    folder = ASSETS / "aesthetic_scenes"
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"weight": weight[None].contiguous(), "bias": bias[None]}, folder / "head.safetensors")
    (folder / "metrics.json").write_text(json.dumps({"variance_explained": float(explained)}, indent=2) + "\n")


if __name__ == "__main__":
    WORK.mkdir(parents=True, exist_ok=True)
    main()
