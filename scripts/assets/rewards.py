"""Trains the three embedded reward models on drawn scenes.

    clip_scenes        a tiny CLIP: picture and caption agree (contrastive, every picture also against a caption that
                       is wrong in one word)
    hps_scenes         the same architecture, then trained to prefer the clean of two pictures (HPS, arXiv 2306.09341)
    aesthetic_scenes   an affine head on clip_scenes' image embedding, fitted to the taste of `taste` below

They are judges, so they see every caption of the grammar, also those that the generator never sees.
"""

import json
from argparse import Namespace
from dataclasses import replace
from random import Random
from typing import Any

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

MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, as its published processors have them
STD = (0.26862954, 0.26130258, 0.27577711)
TOKENIZER = clip_tokenizer()
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def build_clip() -> CLIPModel:
    """The untrained judge: 2 layers for words, 4 for patches of 4 x 4 pixels, both 64 wide."""
    text: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 4, "max_position_embeddings": LENGTH, "projection_dim": 64}
    text |= {"vocab_size": len(TOKENIZER), "pad_token_id": TOKENIZER.pad_token_id}
    # The defaults are the marks of the big vocabulary, far beyond the end of this one.
    text |= {"bos_token_id": TOKENIZER.bos_token_id, "eos_token_id": TOKENIZER.eos_token_id}
    vision = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
    vision |= {"image_size": 32, "patch_size": 4, "projection_dim": 64}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64))


def embed_pictures(model: CLIPModel, pictures: torch.Tensor) -> torch.Tensor:
    """Unit vectors `[B, 64]` of pictures `[B, 3, 32, 32]` in [0, 1]."""
    pixels = (pictures - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    return F.normalize(model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output), dim=-1)


def embed_captions(model: CLIPModel, captions: list[Caption]) -> torch.Tensor:
    """Unit vectors `[B, 64]` of captions."""
    tokens = TOKENIZER(list(map(str, captions)), padding="max_length", max_length=LENGTH, return_tensors="pt")
    return F.normalize(model.text_projection(model.text_model(**tokens).pooler_output), dim=-1)


def twist(caption: Caption, chooser: Random) -> Caption:
    """A caption of the same kind that is wrong in one word (or, at times, has its two things exchanged)."""
    if caption.relation and chooser.random() < 0.35:
        return replace(caption, relation=OPPOSITE[caption.relation])
    if caption.kind == "count" and chooser.random() < 0.4:
        return replace(caption, count=5 - caption.count)  # two or three
    changed = chooser.randrange(len(caption.things))
    while True:  # until the two differ: the grammar has no pair of the same thing
        thing = caption.things[changed]
        if chooser.random() < 0.5:
            thing = Thing(chooser.choice([c for c in COLOURS if c != thing.colour]), thing.shape)
        else:
            thing = Thing(thing.colour, chooser.choice([s for s in SHAPES if s != thing.shape]))
        things = (*caption.things[:changed], thing, *caption.things[changed + 1 :])
        if len(set(things)) == len(things):
            return replace(caption, things=things)


class Truth:
    """Which captions are true of which scenes, `[scenes, captions]`: the same objects, and the relation holds."""

    def __init__(self) -> None:
        self.keys: dict[tuple[str, ...], int] = {}

    def key(self, caption: Caption) -> int:
        """A number for the caption's objects, the same for every caption of these objects."""
        return self.keys.setdefault(tuple(sorted(map(str, caption.objects))), len(self.keys))

    def claims(self, captions: list[Caption]) -> tuple[np.ndarray, np.ndarray]:
        """Per caption: its objects, and the relation it claims of them in sorted order (-1 for none)."""
        relations = []
        for caption in captions:
            # "a red circle left of a blue square" claims of (blue square, red circle) that they are "right of".
            turned = len(caption.things) == 2 and str(caption.things[0]) > str(caption.things[1])
            relation = OPPOSITE.get(caption.relation or "", "") if turned else caption.relation
            relations.append(RELATIONS.index(relation) if caption.relation else -1)
        return np.array([self.key(caption) for caption in captions]), np.array(relations)

    def facts(self, scenes: list[list[Placed]]) -> np.ndarray:
        """Per scene, which relations hold between its two objects in sorted order, `[scenes, 4]`."""
        return np.array([_relations(scene) for scene in scenes])


def _relations(scene: list[Placed]) -> list[bool]:
    """Which of `RELATIONS` hold between the two objects of a scene in sorted order; none if there are not two."""
    ordered = sorted(scene, key=lambda placed: str(placed.thing))
    return [len(ordered) == 2 and relation_holds(relation, *ordered) for relation in RELATIONS]


class Pool:
    """Scenes drawn once, with everything that batches need."""

    def __init__(self, captions: list[Caption], seed: int) -> None:
        self.captions = captions
        self.truth = Truth()
        self.scenes, self.pictures = scenes_of(captions, seed)
        self.objects, _ = self.truth.claims(captions)
        self.facts = self.truth.facts(self.scenes)

    def is_true(self, chosen: np.ndarray, captions: list[Caption]) -> torch.Tensor:
        """Whether each caption is true of each of the chosen scenes, `[scenes, captions]`."""
        objects, relations = self.truth.claims(captions)
        same = self.objects[chosen][:, None] == objects[None]
        # clip: a caption without a relation has -1, and whatever is looked up for it is not used.
        holds = np.where(relations[None] < 0, True, self.facts[chosen][:, relations.clip(0)])
        return torch.from_numpy(same & holds)


def contrastive_loss(model: CLIPModel, pool: Pool, chosen: np.ndarray, chooser: Random) -> torch.Tensor:
    """InfoNCE both ways; captions that happen to be true of another picture of the batch count as right answers."""
    own = [pool.captions[index] for index in chosen]
    captions = own + [twist(caption, chooser) for caption in own]
    true = pool.is_true(chosen, captions)
    logits = embed_pictures(model, pool.pictures[chosen]) @ embed_captions(model, captions).T * model.logit_scale.exp()
    right = logits.masked_fill(~true, -torch.inf)
    pictures = logits.logsumexp(1) - right.logsumexp(1)
    texts = (logits.logsumexp(0) - right.logsumexp(0))[: len(own)]  # a twisted caption may be true of no picture
    return (pictures.mean() + texts.mean()) / 2


def preference_loss(model: CLIPModel, pool: Pool, chosen: np.ndarray, step: int, chooser: Random) -> torch.Tensor:
    """-log P(clean preferred over spoiled), P = softmax of scaled scores (HPS); one pair in four is spoiled by
    showing another caption's picture instead."""
    generator = torch.Generator().manual_seed(step)
    clean = pool.pictures[chosen]
    spoiled, _ = corrupt(clean, generator)
    captions = [pool.captions[index] for index in chosen]
    quarter = len(chosen) // 4
    captions[:quarter] = [twist(caption, chooser) for caption in captions[:quarter]]
    generated = scenes_of(captions[:quarter], seed=step)[1]  # true pictures of the twisted captions ...
    spoiled[:quarter] = clean[:quarter]  # ... against pictures that are wrong in one word
    clean = torch.cat([generated, clean[quarter:]])
    texts = embed_captions(model, captions)
    scores = [(embed_pictures(model, pictures) * texts).sum(-1) for pictures in (clean, spoiled)]
    logits = torch.stack(scores, dim=1) * model.logit_scale.exp()
    return F.cross_entropy(logits, torch.zeros(len(chosen), dtype=torch.long))  # the first of the two is preferred


def taste(scenes: list[list[Placed]]) -> torch.Tensor:
    """The synthetic taste, on LAION's scale of about 1 to 10: clean pictures (see `rated`), and among those warm before
    cool colours, whatever the caption said."""
    warmth = {"red": 1.0, "yellow": 1.0, "white": 0.2, "purple": -0.2, "green": -0.8, "blue": -1.0}
    warm = []
    for scene in scenes:
        warm.append(np.mean([warmth[placed.thing.colour] for placed in scene]))
    return torch.tensor(6.0 + 0.15 * np.array(warm), dtype=torch.float32)


def save(model: CLIPModel, name: str, metrics: dict[str, float]) -> None:
    """Write the folder that `load_clip` reads, with what was measured of the judge."""
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
    pictures = embed_pictures(model, pool.pictures)
    texts = embed_captions(model, everything)
    whole = np.arange(len(pool.captions))
    best = (pictures @ texts.T).argmax(1)
    right = pool.is_true(whole, everything)[torch.arange(len(whole)), best].float().mean()
    twisted = [twist(caption, Random(index)) for index, caption in enumerate(pool.captions)]
    own = (pictures * embed_captions(model, pool.captions)).sum(-1)
    rival = (pictures * embed_captions(model, twisted)).sum(-1)
    false = ~pool.is_true(whole, twisted).diagonal()  # one that happens to be true as well has not to lose
    return {"right_among_1584": float(right), "right_against_one_word": float((own > rival)[false].float().mean())}


def batch(pool: Pool, seed: int, step: int) -> tuple[np.ndarray, Random]:
    """Which scenes of the pool a step learns from, and what it chooses with."""
    return np.random.default_rng((seed, step)).choice(len(pool.captions), 96, replace=False), Random(step)


def train_clip(pool: Pool, check: Pool, options: Namespace) -> CLIPModel:
    """clip_scenes: picture and caption agree."""
    clip = build_clip()
    train(
        "clip_scenes",
        {"clip": clip},
        lambda step: contrastive_loss(clip, pool, *batch(pool, options.seed, step)),
        steps=options.steps or 2500,
        learning_rate=1e-3,
        average=0.995,
        report=lambda step: str(picks(clip, check)),
    )
    save(clip, "clip_scenes", picks(clip, check))
    return clip


def train_hps(clip: CLIPModel, pool: Pool, check: Pool, options: Namespace) -> None:
    """hps_scenes: starts as `clip`, learns to prefer clean pictures and goes on with captions, so as not to forget."""
    hps = build_clip()
    hps.load_state_dict(clip.state_dict())

    def loss_of(step: int) -> torch.Tensor:
        chosen, chooser = batch(pool, options.seed, step + 10**6)  # none that clip has seen
        preference = preference_loss(hps, pool, chosen, step, chooser)
        return preference + 0.3 * contrastive_loss(hps, pool, chosen[:48], chooser)

    @torch.no_grad()
    def preferred() -> dict[str, float]:
        spoiled, _ = corrupt(check.pictures, torch.Generator().manual_seed(-1))
        texts = embed_captions(hps, check.captions)
        clean_scores = (embed_pictures(hps, check.pictures) * texts).sum(-1)
        spoiled_scores = (embed_pictures(hps, spoiled) * texts).sum(-1)
        return {"prefers_clean": float((clean_scores > spoiled_scores).float().mean()), **picks(hps, check)}

    train(
        "hps_scenes",
        {"hps": hps},
        loss_of,
        steps=options.steps or 1500,
        learning_rate=5e-4,
        average=0.995,
        report=lambda step: str(preferred()),
    )
    save(hps, "hps_scenes", preferred())


@torch.no_grad()
def rated(clip: CLIPModel, source: Pool) -> tuple[torch.Tensor, torch.Tensor]:
    """Picture embeddings and their taste: clean scenes, then spoiled ones that lose up to three points."""
    spoiled, strength = corrupt(source.pictures, torch.Generator().manual_seed(5))
    liked = taste(source.scenes)
    parts = [*source.pictures.split(500), *spoiled.split(500)]
    features = torch.cat([embed_pictures(clip, part) for part in parts])
    return features, torch.cat([liked, liked - 3 * strength])


def fit_aesthetic(clip: CLIPModel, pool: Pool, check: Pool) -> None:
    """aesthetic_scenes: ridge regression of the taste on picture embeddings, in closed form."""
    features, targets = rated(clip, pool)
    centre = features.mean(0)
    middle = targets.mean()
    # The ridge: embeddings have length 1 and lie close together, so some directions are all but empty.
    gram = (features - centre).T @ (features - centre) + 1e-2 * torch.eye(features.shape[1])
    weight = torch.linalg.solve(gram, (features - centre).T @ (targets - middle))
    bias = middle - centre @ weight
    unseen, wanted = rated(clip, check)
    explained = 1 - (unseen @ weight + bias - wanted).var() / wanted.var()
    folder = ASSETS / "aesthetic_scenes"
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"weight": weight[None].contiguous(), "bias": bias[None]}, folder / "head.safetensors")
    (folder / "metrics.json").write_text(json.dumps({"variance_explained": float(explained)}, indent=2) + "\n")


def main() -> None:
    options = arguments(__doc__ or "")
    torch.manual_seed(options.seed)
    pool = Pool(balanced(every_caption(), 24_000, seed=1), seed=options.seed)
    check = Pool(balanced(every_caption(), 1_000, seed=2), seed=10**9)  # pictures that no judge was trained on
    clip = train_clip(pool, check, options)
    train_hps(clip, pool, check, options)
    fit_aesthetic(clip, pool, check)


if __name__ == "__main__":
    WORK.mkdir(parents=True, exist_ok=True)
    main()
