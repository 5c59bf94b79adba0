"""Trains the embedded generator: a real FluxPipeline in miniature, from captions to 32 x 32 scenes.

The transformer (2.3 M parameters) and both tiny text encoders are trained together on the flow-matching loss
|v(x_level, level) - (noise - data)|^2 with x_level = (1 - level) data + level noise: first on clean pictures, at last
on pictures of which some are spoiled, as in data scraped from the web. So it knows better than it draws: on held-out
captions about half of its pictures are wrong, which is the work that RL is given.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from common import ASSETS, arguments, keep, scenes_of, shares, train
from flaws import corrupt
from stepcredit.scenes.captions import KINDS, Split, balanced, split
from stepcredit.scenes.checker import check
from vocabulary import LENGTH, clip_tokenizer, t5_tokenizer

FOLDER = ASSETS / "flux_scenes"
WIDTH = 64  # of both text encoders
DRAW_STEPS = 4000  # first learn to draw; from here on look at higher noise levels, to learn to arrange
SPOILED = 0.16  # share of the pictures in the last stage that are spoiled


def build() -> FluxPipeline:
    """The untrained pipeline around the trained autoencoder."""
    clip = clip_tokenizer()
    t5 = t5_tokenizer()
    text: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 256, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 4, "max_position_embeddings": LENGTH, "projection_dim": WIDTH}
    # The defaults are the marks of the big vocabulary, far beyond the end of this one.
    text |= {"bos_token_id": clip.bos_token_id, "eos_token_id": clip.eos_token_id, "pad_token_id": clip.pad_token_id}
    t5_text: dict[str, Any] = {
        "d_model": WIDTH,
        "d_kv": 16,
        "d_ff": 256,
        "num_layers": 2,
        "num_heads": 4,
        "dropout_rate": 0.0,
    }
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15),
        vae=AutoencoderKL.from_pretrained(FOLDER / "vae"),
        text_encoder=CLIPTextModel(CLIPTextConfig(vocab_size=len(clip), **text)),
        tokenizer=clip,
        text_encoder_2=T5EncoderModel(T5Config(vocab_size=len(t5), feed_forward_proj="gated-gelu", **t5_text)),
        tokenizer_2=t5,
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=64,
            num_layers=2,
            num_single_layers=4,
            attention_head_dim=32,
            num_attention_heads=4,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=WIDTH,
            guidance_embeds=False,
            axes_dims_rope=(8, 12, 12),
        ),
    )


def hidden_matrices(networks: Mapping[str, torch.nn.Module]) -> list[torch.nn.Parameter]:
    """The weights of all linear layers but the first and the last of the transformer: what Muon is made for."""
    matrices = []
    for network in networks.values():
        for name, layer in network.named_modules():
            if isinstance(layer, torch.nn.Linear) and name not in ("x_embedder", "proj_out"):
                matrices.append(layer.weight)
    return matrices


def scraped(pictures: torch.Tensor, seed: int) -> torch.Tensor:
    """The same pictures, a share of `SPOILED` of them blurred, faded, noisy, warped or stained."""
    generator = torch.Generator().manual_seed(seed)
    spoiled = torch.cat([corrupt(part, generator)[0] for part in pictures.split(1000)])
    chosen = torch.rand(len(pictures), generator=generator) < SPOILED
    return torch.where(chosen[:, None, None, None], spoiled, pictures)


# Any, here and below: what diffusers annotates of a pipeline's parts and outputs is one of several things or wrong.
def tokens(pipe: Any, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token numbers of the CLIP and the T5 tokenizer, `[B, LENGTH]` each."""
    padding = {"padding": "max_length", "max_length": LENGTH, "truncation": True, "return_tensors": "pt"}
    return pipe.tokenizer(texts, **padding).input_ids, pipe.tokenizer_2(texts, **padding).input_ids


@torch.no_grad()
def packed_latents(pipe: Any, pictures: torch.Tensor) -> torch.Tensor:
    """Normalised, packed latents `[B, 16, 64]` of pictures in [0, 1]."""
    means = torch.cat([pipe.vae.encode(part * 2 - 1).latent_dist.mean for part in pictures.split(256)])
    latents = (means - pipe.vae.config.shift_factor) * pipe.vae.config.scaling_factor
    return pipe._pack_latents(latents, *latents.shape)


def composition(pipe: Any, name: Split, count: int = 256) -> dict[str, float]:
    """Share of correct pictures, overall and per kind, of the plain pipeline with 10 steps."""
    captions = balanced(split(name), count, seed=3)
    pipe.set_progress_bar_config(disable=True)
    pictures = pipe(
        [str(caption) for caption in captions],
        height=32,
        width=32,
        num_inference_steps=10,
        max_sequence_length=LENGTH,
        generator=torch.Generator().manual_seed(4),
        output_type="np",
    ).images
    correct = []
    for picture, caption in zip(pictures, captions, strict=True):
        correct.append(check((picture * 255).round().astype(np.uint8), caption).correct)
    return shares(correct, captions, KINDS)


def main() -> None:
    options = arguments(__doc__ or "")
    torch.manual_seed(options.seed)
    pipe: Any = build()
    captions = balanced(split("training"), 40_000, seed=options.seed)
    pictures = scenes_of(captions, seed=options.seed + 1)[1]
    clean = packed_latents(pipe, pictures)
    mixed_quality = packed_latents(pipe, scraped(pictures, seed=options.seed + 2))
    clip_ids, t5_ids = tokens(pipe, [str(caption) for caption in captions])
    image_ids = pipe._prepare_latent_image_ids(1, 4, 4, "cpu", torch.float32)
    text_ids = torch.zeros(LENGTH, 3)

    def loss_of(step: int, latents: torch.Tensor = clean, first: int = 0) -> torch.Tensor:
        step += first  # the last stage goes on counting, so that it draws other batches
        generator = torch.Generator().manual_seed(options.seed * 10**6 + step)
        at = torch.randint(len(captions), (64,), generator=generator)
        noise = torch.randn(latents[at].shape, generator=generator)
        centre = 0.0 if step < DRAW_STEPS else 0.8  # layout is decided at high noise
        level = (centre + torch.randn(len(at), generator=generator)).sigmoid()
        mixed = torch.lerp(latents[at], noise, level[:, None, None])
        velocity = pipe.transformer(
            hidden_states=mixed,
            timestep=level,
            guidance=None,
            encoder_hidden_states=pipe.text_encoder_2(t5_ids[at])[0],
            pooled_projections=pipe.text_encoder(clip_ids[at]).pooler_output,
            txt_ids=text_ids,
            img_ids=image_ids,
            return_dict=False,
        )[0]
        return (velocity - (noise - latents[at])).square().mean()

    networks = {"transformer": pipe.transformer, "clip": pipe.text_encoder, "t5": pipe.text_encoder_2}
    common: dict[str, Any] = {"average": 0.998, "report": lambda step: str(composition(pipe, "held_out"))}
    muon = hidden_matrices(networks)
    steps = options.steps or 8000
    train("generator", networks, loss_of, steps=steps, learning_rate=1e-3, matrices=muon, every=1000, **common)
    last = partial(loss_of, latents=mixed_quality, first=steps)
    train("scraped", networks, last, steps=options.steps or 600, learning_rate=3e-4, every=300, **common)
    measured = {name: composition(pipe, name, 1024) for name in ("training", "held_out", "new_combinations")}
    keep(pipe, FOLDER, measured)


if __name__ == "__main__":
    main()
