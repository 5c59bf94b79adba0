"""OTCA (arXiv 2604.19234) in one file: post-trains the embedded miniature FLUX against three rewards, on a CPU.

GRPO gives a sample one advantage and hands it to every denoising step alike. OTCA asks two more questions:

    when?      a step that brought the latent closer to the final picture counts more      (TCD,  equations 6 to 8)
    how good?  several rewards become one number, for each sample in its own way           (MOCA, equations 11, 12, 14)

    credit[i, n] = weight[i, n] x advantage[i]                                             (equation 15)

Read it from top to bottom. Nothing of the library is used but its models, reward models, captions, checker and noise,
and the weights that come out are, bit for bit, those of `stepcredit train recipes/scenes/otca.yaml` with the same seed
and `rollout.share_states: false`; by itself the library computes the first step, which siblings share, once for all.
The letters: P prompts, G samples of a prompt, K rewards, N steps, L = N + 1 levels, B any batch.

    python examples/otca_in_one_file.py --iterations 40 --out before_after.png
"""

import argparse
import math
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FluxPipeline
from jaxtyping import Float
from matplotlib.figure import Figure
from peft import LoraConfig
from torch import Tensor

import stepcredit
from stepcredit.records import Key, RewardBatch
from stepcredit.records.key import NoiseStream
from stepcredit.rewards.aesthetic import Aesthetic
from stepcredit.rewards.clip import load_clip
from stepcredit.rewards.clip_t import ClipT
from stepcredit.rewards.hps import HPS
from stepcredit.scenes.captions import parse, split
from stepcredit.scenes.checker import check
from stepcredit.scenes.prompts import Scenes

ASSETS = Path(stepcredit.__file__).parent / "assets"

STEPS = 6  # N
NOISE = torch.tensor(0.7)  # eta, the noise of the sampler
FLOOR = 0.5  # the least weight of a step (section 6.5)
CLIP = 1e-4  # half-width of the clipped ratio; so small because the log-ratio is a mean over latent dimensions
UPDATES = 2  # optimiser steps in an iteration
MICRO_BATCH = 192  # moves that go through the network together
LEARNING_RATE = 4e-4
SIZE: dict[str, Any] = {"height": 32, "width": 32, "max_sequence_length": 12}

# ---- The generator: a FluxPipeline, a LoRA on the linear layers of its blocks -------------------------------------


def load_generator(seed: int) -> FluxPipeline:
    """The pipeline of diffusers; only the LoRA is trained, and it starts as no change at all."""
    pipe = FluxPipeline.from_pretrained(ASSETS / "flux_scenes", dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pipe.transformer.requires_grad_(False)
    layers = (
        r"attn\.(to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out)"
        r"|ff\.net\.(0\.proj|2)|ff_context\.net\.(0\.proj|2)|proj_mlp|proj_out"
    )
    torch.manual_seed(seed)
    pipe.transformer.add_adapter(
        LoraConfig(
            r=32,
            lora_alpha=64,
            init_lora_weights="gaussian",
            target_modules=rf"(single_)?transformer_blocks\.\d+\.({layers})",
        )
    )
    return pipe


def velocity(
    pipe: FluxPipeline, x: Float[Tensor, "B tokens channels"], level: Float[Tensor, " B"], text: tuple[Tensor, Tensor]
) -> Float[Tensor, "B tokens channels"]:
    """What the network says: noise minus data. `text` holds the T5 tokens and the CLIP vector of each caption."""
    tokens, pooled = text
    return pipe.transformer(
        hidden_states=x,
        timestep=level,
        encoder_hidden_states=tokens,
        pooled_projections=pooled,
        txt_ids=torch.zeros(tokens.shape[1], 3),
        img_ids=pipe._prepare_latent_image_ids(1, 4, 4, torch.device("cpu"), torch.float32),
        return_dict=False,
    )[0]


def noise_levels(tokens: int) -> Float[Tensor, " L"]:
    """FLUX's schedule from 1 (noise) to 0 (data): the fewer tokens, the less of it near the noise."""
    even = torch.linspace(1, 0, STEPS + 1, dtype=torch.float64)
    # FLUX.1-dev's: the shift's logarithm is .5 at 256 tokens and 1.15 at 4096, and linear in between and beyond.
    shift = math.exp(0.5 + (1.15 - 0.5) / (4096 - 256) * (tokens - 256))
    return (shift * even / (1 + (shift - 1) * even)).float()


@torch.no_grad()
def to_pictures(pipe: FluxPipeline, latents: Float[Tensor, "B tokens channels"]) -> np.ndarray:
    """Latents through the autoencoder: `[B, 32, 32, 3]`, 0 to 255."""
    unpacked = pipe._unpack_latents(latents, 32, 32, pipe.vae_scale_factor)
    decoded = pipe.vae.decode(unpacked / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor).sample
    return ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()


# ---- The sampler: a step is a Gaussian, so it has a density, so there is a policy gradient -------------------------


def transition(x: Tensor, v: Tensor, level: Tensor, next_level: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the move from `level` to `next_level` (DanceGRPO arXiv 2505.07818, eq. 8).

    dx = v dt is the flow; noise of strength eta is added, and as much drift as keeps the marginals where they were.
    """
    dt = next_level - level
    pull = NOISE.square() / (2 * level)
    mean = x * (1 + pull * dt) + v * (1 + pull * (1 - level)) * dt
    return mean, NOISE * (-dt).sqrt()


@torch.no_grad()
def roll_out(
    pipe: FluxPipeline, text: tuple[Tensor, Tensor], start: Tensor, noises: list[NoiseStream]
) -> tuple[Tensor, Tensor]:
    """All latents `[B, L, ...]` and velocities `[B, N, ...]` from noise to data; the last step adds no noise."""
    levels = noise_levels(start.shape[1])
    latents = [start]
    velocities = []
    for n in range(STEPS):
        x = latents[-1]
        v = velocity(pipe, x, levels[n].expand(len(x)), text)
        if n < STEPS - 1:
            mean, std = transition(x, v, levels[n], levels[n + 1])
            moved = mean + std * torch.stack([noise.draw(tuple(x.shape[1:])) for noise in noises])
        else:
            moved = x - levels[n] * v  # the clean prediction; it is what will be decoded
        latents.append(moved)
        velocities.append(v)
    return torch.stack(latents, dim=1), torch.stack(velocities, dim=1)


# ---- When? Trajectory-level credit decomposition (TCD) -------------------------------------------------------------


def similarity_to_final(latents: Float[Tensor, "B L tokens channels"]) -> Float[Tensor, "B L"]:
    """S_n = cos(x_n, x_N), how much of the final picture is there already (equation 6)."""
    flat = latents.flatten(2)
    final = flat[:, -1]
    norms = flat.norm(dim=-1) * final.norm(dim=-1, keepdim=True)
    return (flat * final[:, None]).sum(-1) / norms


def step_shares(similarity: Float[Tensor, "P G L"]) -> Float[Tensor, "P G N"]:
    """p_n, each step's share of the similarity gained, sums to 1 (equations 7 and 8)."""
    gain = similarity.diff(dim=-1).clamp(min=0) + 1e-6  # so that a sample that never gains has a flat share
    gain[..., -1] = 0  # the last step has no noise, so no density and nothing to train
    return gain / gain.sum(-1, keepdim=True)


def step_weights(share: Float[Tensor, "P G N"]) -> Float[Tensor, "P G N"]:
    """floor + (1 - floor) T p over the T trained steps: mean 1 as in GRPO, and never below the floor.

    Section 6.5 asks for a least weight; this form of it is the library's reading.
    """
    weights = FLOOR + (1 - FLOOR) * (STEPS - 1) * share
    weights[..., -1] = 0
    return weights


# ---- How good? Multi-objective credit allocation (MOCA) ------------------------------------------------------------


def standardise(rewards: Float[Tensor, "P G K"]) -> Float[Tensor, "P G K"]:
    """A_k = (r_k - mean) / std over the G siblings, reward by reward: GRPO's advantage (equation 2).

    The library also leaves out a score that is missing, and a reward that is the same for all siblings.
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    std = (centred.square().sum(dim=1, keepdim=True) / (rewards.shape[1] - 1)).sqrt()
    return (centred / (std + 1e-8)).clamp(-5, 5)


def exploration_strength(
    advantages: Float[Tensor, "P G K"], share: Float[Tensor, "P G N"], similarity: Float[Tensor, "P G L"]
) -> Float[Tensor, "P G"]:
    """lambda = max(0, s) / |s| tanh(e), from 0 to 1: is this sample worth more than caution? (equations 12 and 14)

    s = sum_k A_k; e = |q| / std_G(q), where q = sum_n p_n (S_{n+1} - S_n) is how much similarity a sample gained.
    """
    gained = (share * similarity.diff(dim=-1)).sum(-1)
    centred = gained - gained.mean(dim=1, keepdim=True)
    std = (centred.square().sum(dim=1, keepdim=True) / (gained.shape[1] - 1)).sqrt()
    total = advantages.sum(-1)
    return total.clamp(min=0) / (total.abs() + 1e-6) * torch.tanh(gained.abs() / (std + 1e-6))


def mix_objectives(advantages: Float[Tensor, "P G K"], strength: Float[Tensor, "P G"]) -> Float[Tensor, "P G"]:
    """The z = sum_k c_k A_k, c in the simplex, that minimises z^2 - lambda z (equation 11, Algorithm 1).

    A mix can be any number between the least and the greatest A_k, and the parabola is lowest at lambda / 2.
    """
    return (strength / 2).clamp(advantages.amin(-1), advantages.amax(-1))


def assign_credit(rewards: Float[Tensor, "P G K"], similarity: Float[Tensor, "P G L"]) -> Float[Tensor, "P G N"]:
    """All of OTCA (equation 15)."""
    advantages = standardise(rewards)
    share = step_shares(similarity)
    strength = exploration_strength(advantages, share, similarity)
    return step_weights(share) * mix_objectives(advantages, strength)[..., None]


# ---- The update: PPO's clipped surrogate, credit in the place of the advantage -------------------------------------


def log_ratio(x: Tensor, y: Tensor, v_before: Tensor, v_now: Tensor, level: Tensor, next_level: Tensor) -> Tensor:
    """log of the density of the move x -> y now over that when it was drawn, a mean over latent dimensions, `[B]`.

    With d the drift of the mean and e the noise drawn, both in standard deviations, it is d e - d^2 / 2. The mean is
    linear in v, so d is the transition of the change of v: no two large numbers are subtracted.
    """
    mean, std = transition(x, v_before, level, next_level)
    noise = (y - mean) / std
    moved, _ = transition(torch.zeros_like(x), v_now - v_before, level, next_level)
    drift = moved / std
    return (drift * noise).flatten(1).mean(1) - drift.square().flatten(1).mean(1) / 2


def clipped_loss(log_ratio: Float[Tensor, " B"], credit: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """max(-c rho, -c clip(rho, 1 - clip, 1 + clip)) with rho the ratio of densities (PPO, arXiv 1707.06347, eq. 7)."""
    ratio = log_ratio.exp()
    return torch.maximum(-credit * ratio, -credit * ratio.clamp(1 - CLIP, 1 + CLIP))


def train(
    pipe: FluxPipeline, *, seed: int, iterations: int, prompts: int, group_size: int
) -> Iterator[tuple[Float[Tensor, "P G K"], Float[Tensor, "P G N"]]]:
    """Trains the LoRA; yields the rewards and the credit of each iteration."""
    clip = load_clip(str(ASSETS / "clip_scenes"))
    preference = load_clip(str(ASSETS / "hps_scenes"))
    judges = [ClipT(clip), HPS(preference), Aesthetic(clip, ASSETS / "aesthetic_scenes" / "head.safetensors")]
    captions = Scenes(split("training"))
    lora = [parameter for parameter in pipe.transformer.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(lora, lr=LEARNING_RATE, weight_decay=1e-4)

    for iteration in range(iterations):
        key = Key(seed, iteration)

        # 1. Draw G pictures for each of P captions. Siblings start from the same noise and part on the way.
        drawn = captions.draw(prompts, Key(seed, iteration=iteration))
        rows = [(prompt, member) for prompt in range(prompts) for member in range(group_size)]
        with torch.no_grad():
            texts = [prompt.text for prompt in drawn]
            # Any: diffusers annotates each as optional, for pipelines that lack a text encoder.
            encoded: Any = pipe.encode_prompt(texts, max_sequence_length=SIZE["max_sequence_length"])
        tokens, pooled, _ = encoded
        text = (tokens.repeat_interleave(group_size, dim=0), pooled.repeat_interleave(group_size, dim=0))
        start = torch.stack([key.shared_start(prompt).draw((16, 64)) for prompt, _ in rows])
        noises = [key.moves(prompt, member) for prompt, member in rows]
        latents, velocities = roll_out(pipe, text, start, noises)

        # 2. Ask the rewards.
        batch = RewardBatch(
            to_pictures(pipe, latents[:, -1]),
            prompts=tuple(drawn[prompt] for prompt, _ in rows),
            groups=tuple(prompt for prompt, _ in rows),
        )
        scores = [torch.from_numpy(judge.score(batch).scores[judge.outputs[0]]) for judge in judges]
        rewards = torch.stack(scores, dim=-1).unflatten(0, (prompts, group_size))

        # 3. Credit, in float64: it is small.
        similarity = similarity_to_final(latents).unflatten(0, (prompts, group_size))
        credit = assign_credit(rewards.double(), similarity.double())

        # 4. Update. Moves (sample, step) are dealt out at random to the optimiser steps; a move without credit has no
        #    gradient and is not computed, but counts in the mean.
        levels = noise_levels(latents.shape[2])
        flat = credit.flatten(0, 1).float()
        moves = torch.cartesian_prod(torch.arange(len(rows)), torch.arange(STEPS - 1))
        order = torch.randperm(len(moves), generator=key.dealing())
        for chosen in order.tensor_split(UPDATES):
            sample, step = moves[chosen].T
            silent = flat[sample, step] == 0
            if silent.all():
                continue
            optimiser.zero_grad()
            for part in moves[chosen[~silent]].split(MICRO_BATCH):
                row, n = part.T
                x = latents[row, n]
                v_now = velocity(pipe, x, levels[n], (text[0][row], text[1][row]))
                level = levels[n][:, None, None]
                next_level = levels[n + 1][:, None, None]
                ratio = log_ratio(x, latents[row, n + 1], velocities[row, n], v_now, level, next_level)
                # Divided by all moves of the optimiser step, not of this part: parts are for memory only.
                (clipped_loss(ratio, flat[row, n]).sum() / len(chosen)).backward()
            torch.nn.utils.clip_grad_norm_(lora, max_norm=1.0)
            optimiser.step()
        yield rewards, credit


# ---- Looking at it -------------------------------------------------------------------------------------------------


def draw_held_out(pipe: FluxPipeline) -> tuple[list[str], np.ndarray]:
    """Captions that were never trained on, always from the same noise, by diffusers' own sampler."""
    captions = [prompt.text for prompt in Scenes(split("held_out")).draw(12, Key(0, iteration=0))]
    # Any, twice: diffusers annotates latents as a FloatTensor, which no tensor is, and its output as one of two things.
    noise: Any = torch.randn(12, 16, 64, generator=torch.Generator().manual_seed(0))
    output: Any = pipe(captions, latents=noise, num_inference_steps=10, output_type="np", **SIZE)
    return captions, (output.images * 255).round().astype(np.uint8)


def meets(picture: np.ndarray, text: str) -> bool:
    """Whether a picture shows what its caption says, by the exact checker."""
    caption = parse(text)
    return caption is not None and check(picture, caption).correct


def show(path: Path, captions: list[str], before: np.ndarray, after: np.ndarray) -> None:
    """Before above, after below; a green frame where the exact checker says that the caption is met."""
    figure = Figure(figsize=(15, 3.2))
    axes = figure.subplots(2, len(captions))
    for row, (name, pictures) in enumerate([("before", before), ("after", after)]):
        for cell, caption, picture in zip(axes[row], captions, pictures, strict=True):
            cell.imshow(picture, interpolation="nearest")
            cell.set(xticks=[], yticks=[], title=textwrap.fill(caption, 16) if row == 0 else "")
            cell.title.set_fontsize(7)
            cell.spines[:].set(color="#2a9d55" if meets(picture, caption) else "#d1495b", linewidth=3)
        axes[row][0].set_ylabel(name)
    figure.savefig(path, dpi=110, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description="OTCA in one file, on the embedded miniature FLUX.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--prompts", type=int, default=8, help="P, captions of an iteration")
    parser.add_argument("--group-size", type=int, default=12, help="G, pictures of a caption")
    parser.add_argument("--out", type=Path, default=Path("before_after.png"), help="where the picture is written")
    settings = vars(parser.parse_args())
    out = settings.pop("out")

    pipe = load_generator(settings["seed"])
    captions, before = draw_held_out(pipe)
    began = time.perf_counter()
    for iteration, (rewards, credit) in enumerate(train(pipe, **settings)):
        clip_t, hps, aesthetic = rewards.mean((0, 1)).tolist()
        silent = (credit == 0).all(-1).float().mean()
        print(
            f"{iteration:4d}  clip_t {clip_t:.4f}  hps {hps:.4f}  aesthetic {aesthetic:.3f}  "
            f"without credit {silent:.0%}  {time.perf_counter() - began:.0f} s"
        )
    show(out, captions, before, draw_held_out(pipe)[1])
    print(f"before and after: {out}")


if __name__ == "__main__":
    main()
