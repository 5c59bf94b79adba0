"""Trains the tiny AutoencoderKLWan of the embedded video generator: 9 x 32 x 32 pixels <-> 3 x 8 x 8 latents.

Sixteen channels, as in Wan 2.1; its causal convolutions take the first frame alone and then four at a time. First both
halves are trained, then the decoder alone, on what the encoder says by then. The decoder also learns to read slightly
noisy latents, so that a sampler's small errors stay invisible.
"""

from typing import Any

import torch
from diffusers import AutoencoderKLWan

from common import ASSETS, arguments, films_of, train
from stepcredit.scenes.captions import balanced
from stepcredit.scenes.moving import every_caption

FOLDER = ASSETS / "wan_scenes" / "vae"
CHANNELS = 16


def main() -> None:
    options = arguments(__doc__ or "")
    torch.manual_seed(options.seed)
    # Any: diffusers annotates its output objects as tensors.
    vae: Any = AutoencoderKLWan(
        base_dim=12,
        z_dim=CHANNELS,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        latents_mean=[0.0] * CHANNELS,  # this and the spread are measured at the end
        latents_std=[1.0] * CHANNELS,
        scale_factor_temporal=4,
        scale_factor_spatial=4,
    )
    captions = every_caption()

    def batch(step: int) -> torch.Tensor:
        return films_of(balanced(captions, 12, step), seed=options.seed * 10**6 + step)[1] * 2 - 1

    def loss_of(step: int) -> torch.Tensor:
        videos = batch(step)
        law = vae.encode(videos).latent_dist
        noise = torch.randn(law.mean.shape, generator=torch.Generator().manual_seed(step))
        # The encoder's own noise, and a sampler's errors: another video's noise at a tenth of the latents' spread.
        latents = law.mean + law.std * noise + 0.1 * noise.flip(0) * law.mean.detach().std()
        error = vae.decode(latents).sample - videos
        return error.abs().mean() + 2 * error.square().mean() + 1e-4 * law.kl().mean() / law.mean[0].numel()

    def decoder_loss_of(step: int) -> torch.Tensor:
        videos = batch(step + 10**5)
        with torch.no_grad():
            law = vae.encode(videos).latent_dist
        noise = torch.randn(law.mean.shape, generator=torch.Generator().manual_seed(step))
        error = vae.decode(law.mean + 0.07 * noise * law.mean.std()).sample - videos
        return error.abs().mean() + 2 * error.square().mean()

    @torch.no_grad()
    def report(step: int) -> str:
        videos = films_of(balanced(captions, 96, 1), seed=10**9)[1] * 2 - 1  # a seed that no batch reaches
        law = vae.encode(videos).latent_dist
        error = (vae.decode(law.mean).sample.clamp(-1, 1) - videos) * 127.5
        return f"PSNR {20 * torch.log10(255 / error.square().mean().sqrt()):.1f} dB, latents std {law.mean.std():.2f}"

    common: dict[str, Any] = {"average": 0.995, "every": 200, "report": report}
    train("video_vae", {"vae": vae}, loss_of, steps=options.steps or 1600, learning_rate=2e-3, **common)
    vae.requires_grad_(False)
    vae.decoder.requires_grad_(True)
    decoder = {"decoder": vae.decoder}
    train("video_decoder", decoder, decoder_loss_of, steps=options.steps or 1600, learning_rate=1e-3, **common)
    with torch.no_grad():
        videos = films_of(balanced(captions, 512, 2), seed=10**9 + 1)[1] * 2 - 1
        means = torch.cat([vae.encode(part).latent_dist.mean for part in videos.split(64)]).transpose(0, 1).flatten(1)
    vae.register_to_config(latents_mean=means.mean(1).tolist(), latents_std=means.std(1).tolist())
    vae.save_pretrained(FOLDER)


if __name__ == "__main__":
    main()
