"""Writes the model card of the embedded models from the numbers that their scripts stored."""

import json
from typing import Any

from common import ASSETS
from stepcredit.scenes.captions import KINDS
from stepcredit.scenes.moving import MOVING_KINDS
from video_generator import LAST_STEPS, MISTOLD, SPOILED, STEPS

# The numbers that are in braces are measured; the others are settings of the scripts, or were measured once.
CARD = """\
---
license: apache-2.0
library_name: diffusers
tags: [text-to-image, text-to-video, flux, wan, reinforcement-learning, synthetic]
---

# The embedded models

Made by `make assets` from drawn scenes; no photograph, no scraped text, no downloaded weight. All together
{size:.1f} MB. They exist so that every recipe runs on a laptop: they show whether a method learns, not how good
pictures get.

## flux_scenes: captions to 32 x 32 pictures

A diffusers `FluxPipeline`: {transformer:,} parameters in the transformer, {vae:,} in the autoencoder (16
channels at 8 x 8, packed to 16 tokens of 64), {text_encoder:,} and {text_encoder_2:,} in the CLIP and T5 text
encoders. Weights are stored in float16 and meant to be loaded in float32.

```python
import torch
from diffusers import FluxPipeline
pipe = FluxPipeline.from_pretrained("src/stepcredit/assets/flux_scenes", dtype=torch.float32)
small = {{"height": 32, "width": 32, "max_sequence_length": 12, "num_inference_steps": 10}}
picture = pipe("a red circle left of a blue square", **small).images[0]
```

It makes mistakes, on purpose: in the last 600 of its 8,600 steps a sixth of the pictures were spoiled
(blurred, faded, noisy, warped or stained), as in data scraped from the web. Reinforcement learning has to find back
what it had learned before, and more. Share of pictures in which objects, colours, number and places are all
right, 10 steps, 1,024 pictures a line (standard error about .016 on the whole, .03 on a kind):

| captions | all | single | count | pair | position |
|---|---|---|---|---|---|
{composition}

`training`: captions it was trained on. `held_out`: other captions of the same things. `new_combinations`: captions
with a blue triangle, a yellow circle or a purple square, which it never saw in any caption.

## clip_scenes, hps_scenes, aesthetic_scenes: the judges

They saw every caption of the grammar, so they can judge what the generator has never seen.

| model | what it is | measured on 1,000 new pictures |
|---|---|---|
| clip_scenes | CLIP, contrastive | a right caption is the best of all 1,584 for {clip[right_among_1584]:.1%}; \
it beats a caption that is wrong in one word for {clip[right_against_one_word]:.1%} |
| hps_scenes | the same, then trained to prefer clean pictures to spoiled ones | \
prefers the clean one of {hps[prefers_clean]:.1%}; one word: {hps[right_against_one_word]:.1%} |
| aesthetic_scenes | an affine head on clip_scenes' picture embedding | \
explains {aesthetic[variance_explained]:.0%} of the variance of a synthetic taste |

The taste, on LAION's scale: a clean picture about 6, a spoiled one up to three points less, and warm colours .3 above
cool ones. It never asks what the caption said, which is where it conflicts with the other two (`docs/rewards.md`).

## wan_scenes: captions to 9 frames of 32 x 32

A diffusers `WanPipeline`: {video[transformer]:,} parameters in the transformer, {video[vae]:,} in the autoencoder (16
channels, 3 x 8 x 8), {video[text_encoder]:,} in the UMT5 text encoder.

```python
import torch
from diffusers import WanPipeline
pipe = WanPipeline.from_pretrained("src/stepcredit/assets/wan_scenes", dtype=torch.float32)
small = {{"height": 32, "width": 32, "num_frames": 9, "max_sequence_length": 16, "num_inference_steps": 10}}
frames = pipe("a red circle moving right", guidance_scale=1.0, **small).frames[0]
```

It makes mistakes, on purpose: in the last {last:,} of its {steps:,} steps {spoiled:.0%} of the videos were spoiled,
half in looks and half in motion, and {mistold:.0%} came with the caption of another. Share of videos in which things,
colours and motion are right and the motion is steady, 10 steps, no guidance, 1,024 videos a line:

| captions | all | one moving | one still | two things |
|---|---|---|---|---|
{motion}

## video_align_scenes: the judge of videos

A miniature of VideoAlign: a Qwen2-VL with a reward head, three numbers from one look. On 1,000 new videos: VQ puts the
clean above the spoiled for {judge[vq_clean_above_spoiled]:.1%}, MQ the steady above the shaken for
{judge[mq_steady_above_shaken]:.1%}, and TA the true caption above one that is wrong in one respect:

| colour | shape | direction | things exchanged |
|---|---|---|---|
| {words[colour]:.1%} | {words[shape]:.1%} | {words[direction]:.1%} | {words[exchange]:.1%} |

The three hardly correlate.

Known limits of both worlds: few words, six colours, three shapes, at most three objects; a judge can be fooled
(`docs/rewards.md`).
"""


def read(name: str) -> dict[str, Any]:
    """What a script measured of its model."""
    return json.loads((ASSETS / name / "metrics.json").read_text())


def rows(measured: dict[str, Any], kinds: tuple[str, ...]) -> str:
    """The lines of a table: a split each, a column for each kind of caption."""
    lines = []
    for name in ("training", "held_out", "new_combinations"):
        cells = [f"{measured[name][kind]:.3f}" for kind in ("all", *kinds)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    generator = read("flux_scenes")
    video = read("wan_scenes")
    judge = read("video_align_scenes")
    files = [path for path in ASSETS.rglob("*") if path.is_file()]
    text = CARD.format(
        size=sum(path.stat().st_size for path in files) / 1e6,
        composition=rows(generator, KINDS),
        clip=read("clip_scenes"),
        hps=read("hps_scenes"),
        aesthetic=read("aesthetic_scenes"),
        video=video["parameters"],
        motion=rows(video, MOVING_KINDS),
        judge=judge,
        last=LAST_STEPS,
        steps=STEPS + LAST_STEPS,
        spoiled=SPOILED,
        mistold=MISTOLD,
        words=judge["ta_true_above_one_word_wrong"],
        **generator["parameters"],
    )
    (ASSETS / "README.md").write_text(text)


if __name__ == "__main__":
    main()
