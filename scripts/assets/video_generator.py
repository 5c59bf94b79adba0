"""Trains the embedded video generator: a real WanPipeline in miniature, from captions to 9 frames of 32 x 32.

The transformer (1.8 M parameters) and its tiny UMT5 are trained together on the flow-matching loss, first on clean
videos with true captions, at last on videos as they are scraped from the web: some spoiled in looks, some in motion,
some with the caption of another. So there is work for each of the judge's three objectives. A tenth of the captions is
left out, so that classifier-free guidance has something to guide with.
"""

import random
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

from common import ASSETS, arguments, films_of, keep, shares, train
from flaws import shake, spoil
from generator import hidden_matrices
from stepcredit.scenes.captions import Split, balanced
from stepcredit.scenes.moving import FRAMES, MOVING_KINDS, MovingCaption, Path, every_caption, split
from stepcredit.scenes.moving_checker import check_motion
from vocabulary import t5_tokenizer, words

FOLDER = ASSETS / "wan_scenes"
WIDTH = 64  # of the text encoder
LENGTH = 16  # tokens of a caption
DRAW_STEPS = 1500  # first learn to draw; from here on look at higher noise levels, to learn to arrange
STEPS = 11_000
LAST_STEPS = 500
SPOILED = 0.4  # share of the videos in the last steps that are spoiled, half of them in looks and half in motion
MISTOLD = 0.2  # share of the videos in the last steps that come with the caption of another
DROPPED = 0.1  # share of the captions that are left out


def build() -> WanPipeline:
    """The untrained pipeline around the trained autoencoder."""
    # Any: diffusers annotates it as AutoTokenizer, which makes tokenizers and is none.
    tokenizer: Any = t5_tokenizer(words(every_caption()), LENGTH)
    text: dict[str, Any] = {
        "d_model": WIDTH,
        "d_kv": 16,
        "d_ff": 256,
        "num_layers": 2,
        "num_heads": 4,
        "dropout_rate": 0.0,
    }
    return WanPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=AutoencoderKLWan.from_pretrained(FOLDER / "vae"),
        text_encoder=UMT5EncoderModel(UMT5Config(vocab_size=len(tokenizer), feed_forward_proj="gated-gelu", **text)),
        tokenizer=tokenizer,
        transformer=WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=4,
            attention_head_dim=32,
            in_channels=16,
            out_channels=16,
            text_dim=WIDTH,
            freq_dim=64,
            ffn_dim=512,
            num_layers=6,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=32,
        ),
    )


def lessons(count: int, seed: int) -> list[MovingCaption]:
    """Training captions, kinds equally often, and half as many pairs again: they are the hardest to learn."""
    pairs = [caption for caption in split("training") if caption.kind == "two things"]
    captions = balanced(split("training"), 2 * count // 3, seed) + balanced(pairs, count // 3, seed + 1)
    random.Random(seed).shuffle(captions)
    return captions


def scraped(videos: torch.Tensor, scenes: Sequence[list[Path]], seed: int) -> torch.Tensor:
    """The videos of these scenes, a share of `SPOILED` of them spoiled."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(len(videos), generator=generator)
    looks = (draw < SPOILED / 2).nonzero()[:, 0]
    motion = ((draw >= SPOILED / 2) & (draw < SPOILED)).nonzero()[:, 0]
    mixed = videos.clone()
    mixed[looks] = spoil(videos[looks], generator)[0]
    moving = [scenes[index] for index in motion.tolist()]
    mixed[motion] = shake(videos[motion], moving, np.random.default_rng(seed))[0]
    return mixed


# Any, here and below: what diffusers annotates of a pipeline's parts and outputs is one of several things or wrong.
@torch.no_grad()
def latents_of(pipe: Any, videos: torch.Tensor) -> torch.Tensor:
    """Normalised latents `[B, 16, 3, 8, 8]` of videos in [0, 1]."""
    means = torch.cat([pipe.vae.encode(part * 2 - 1).latent_dist.mean for part in videos.split(64)])
    centre = torch.tensor(pipe.vae.config.latents_mean).view(-1, 1, 1, 1)
    spread = torch.tensor(pipe.vae.config.latents_std).view(-1, 1, 1, 1)
    return (means - centre) / spread


def motion(pipe: Any, name: Split, count: int = 144) -> dict[str, float]:
    """Share of correct videos, overall and per kind, of the plain pipeline with 10 steps and without guidance."""
    captions = balanced(split(name), count, seed=3)
    pipe.set_progress_bar_config(disable=True)
    videos = pipe(
        [str(caption) for caption in captions],
        height=32,
        width=32,
        num_frames=FRAMES,
        num_inference_steps=10,
        max_sequence_length=LENGTH,
        guidance_scale=1.0,
        generator=torch.Generator().manual_seed(4),
        output_type="np",
    ).frames
    correct = []
    for video, caption in zip(videos, captions, strict=True):
        correct.append(check_motion((video * 255).round().astype(np.uint8), caption).correct)
    return shares(correct, captions, MOVING_KINDS)


def main() -> None:
    options = arguments(__doc__ or "")
    torch.manual_seed(options.seed)
    pipe: Any = build()
    captions = lessons(24_000, options.seed)
    films = []
    for start in range(0, len(captions), 2000):
        films.append(films_of(captions[start : start + 2000], seed=options.seed + 1 + start))
    clean = torch.cat([latents_of(pipe, videos) for _, videos in films])
    spoiled = []
    for part, (scenes, videos) in enumerate(films[:4]):
        spoiled.append(latents_of(pipe, scraped(videos, scenes, options.seed + part)))
    mixed_quality = torch.cat(spoiled)
    del films  # over two gigabytes of pixels, of which only the latents are needed from here on
    texts = [str(caption) for caption in captions]
    padding = {"padding": "max_length", "max_length": LENGTH, "truncation": True, "return_tensors": "pt"}
    captioned = pipe.tokenizer(texts, **padding)
    empty = pipe.tokenizer([""], **padding)

    def loss_of(step: int, latents: torch.Tensor = clean, first: int = 0, mistold: float = 0.0) -> torch.Tensor:
        step += first  # the last stage goes on counting, so that it draws other batches
        generator = torch.Generator().manual_seed(options.seed * 10**6 + step)
        at = torch.randint(len(latents), (48,), generator=generator)
        noise = torch.randn(latents[at].shape, generator=generator)
        centre = 0.0 if step < DRAW_STEPS else 0.8  # layout and motion are decided at high noise
        level = (centre + torch.randn(len(at), generator=generator)).sigmoid()
        dropped = (torch.rand(len(at), generator=generator) < DROPPED)[:, None]
        exchanged = torch.rand(len(at), generator=generator) < mistold
        caption = torch.where(exchanged, torch.randint(len(texts), at.shape, generator=generator), at)
        ids = torch.where(dropped, empty.input_ids, captioned.input_ids[caption])
        mask = torch.where(dropped, empty.attention_mask, captioned.attention_mask[caption])
        mixed = torch.lerp(latents[at], noise, level[:, None, None, None, None])
        velocity = pipe.transformer(
            hidden_states=mixed,
            timestep=level * 1000,
            # Padding is zeroed and not masked: so does WanPipeline, whose transformer takes no mask.
            encoder_hidden_states=pipe.text_encoder(ids, mask).last_hidden_state * mask[..., None],
            return_dict=False,
        )[0]
        return (velocity - (noise - latents[at])).square().mean()

    networks = {"transformer": pipe.transformer, "umt5": pipe.text_encoder}
    common: dict[str, Any] = {"average": 0.997, "report": lambda step: str(motion(pipe, "held_out"))}
    muon = hidden_matrices(networks)
    steps = options.steps or STEPS
    train("video", networks, loss_of, steps=steps, learning_rate=1e-3, matrices=muon, every=1000, **common)
    last = partial(loss_of, latents=mixed_quality, first=steps, mistold=MISTOLD)
    train("video_scraped", networks, last, steps=options.steps or LAST_STEPS, learning_rate=3e-4, every=250, **common)
    measured = {name: motion(pipe, name, 1024) for name in ("training", "held_out", "new_combinations")}
    keep(pipe, FOLDER, measured)


if __name__ == "__main__":
    main()
