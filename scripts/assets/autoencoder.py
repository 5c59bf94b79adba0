"""Trains the tiny AutoencoderKL of the embedded generator: 32 x 32 pixels <-> 8 x 8 latents of 16 channels.

Sixteen channels that pack 2 x 2 into 64, as in FLUX.1; the decoder also learns to read slightly noisy latents, so
that a sampler's small errors stay invisible.
"""

from typing import Any

import torch
from diffusers import AutoencoderKL

from common import ASSETS, arguments, scenes_of, train
from stepcredit.scenes.captions import balanced, every_caption

FOLDER = ASSETS / "flux_scenes" / "vae"


def main() -> None:
    options = arguments(__doc__ or "")
    torch.manual_seed(options.seed)
    # Any, twice: diffusers annotates tuples of any length as tuple[str] and its output objects as tensors.
    blocks: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "block_out_channels": (16, 32, 64),
    }
    vae: Any = AutoencoderKL(
        **blocks,
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=8,
        sample_size=32,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
        scaling_factor=1.0,  # this and the shift are measured at the end
        shift_factor=0.0,
        force_upcast=False,
    )
    captions = every_caption()

    def batch(step: int) -> torch.Tensor:
        return scenes_of(balanced(captions, 32, step), seed=options.seed * 10**6 + step)[1] * 2 - 1

    def loss_of(step: int) -> torch.Tensor:
        pictures = batch(step)
        law = vae.encode(pictures).latent_dist
        noise = torch.randn(law.mean.shape, generator=torch.Generator().manual_seed(step))
        # The encoder's own noise, and a sampler's errors: another picture's noise at a tenth of the latents' spread.
        latents = law.mean + law.std * noise + 0.1 * noise.flip(0) * law.mean.detach().std()
        error = vae.decode(latents).sample - pictures
        return error.abs().mean() + 2 * error.square().mean() + 1e-4 * law.kl().mean() / law.mean[0].numel()

    @torch.no_grad()
    def report(step: int) -> str:
        pictures = scenes_of(balanced(captions, 256, 1), seed=10**9)[1] * 2 - 1  # a seed that no batch reaches
        law = vae.encode(pictures).latent_dist
        error = (vae.decode(law.mean).sample.clamp(-1, 1) - pictures) * 127.5
        return f"PSNR {20 * torch.log10(255 / error.square().mean().sqrt()):.1f} dB, latents std {law.mean.std():.2f}"

    train("vae", {"vae": vae}, loss_of, steps=options.steps or 4000, learning_rate=2e-3, average=0.995, report=report)
    with torch.no_grad():
        means = vae.encode(scenes_of(balanced(captions, 1024, 2), seed=10**9 + 1)[1] * 2 - 1).latent_dist.mean
    vae.register_to_config(scaling_factor=float(1 / means.std()), shift_factor=float(means.mean()))
    vae.save_pretrained(FOLDER)


if __name__ == "__main__":
    main()
