"""Finished latents to pictures, and which of them can be used: said here, once, for training and for looks alike."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from stepcredit.errors import NumericsError, during
from stepcredit.protocols import Policy
from stepcredit.records import Rollout

SAMPLER = "the latent is not finite (sampler)"
DECODER = "the picture is not finite (decoder)"


@dataclass(frozen=True)
class Decoded:
    """Pictures or videos of final latents, 0 to 255, and which of them nobody may score.

    media       black where a sample is not usable, as a whole: half a picture would look like one
    fps         frames per second of videos; None for pictures
    sampler     samples with a latent that is NaN or infinite
    decoder     samples of finite latents whose picture is NaN or infinite somewhere

    Example: four pictures of which the decoder lost the last:
    `Decoded(np.zeros((4, 32, 32, 3), np.uint8), None, np.zeros(4, bool), np.array([False, False, False, True]))`.
    """

    media: UInt8[np.ndarray, "B *frames H W 3"]
    fps: float | None
    sampler: Bool[np.ndarray, " B"]
    decoder: Bool[np.ndarray, " B"]

    @property
    def unusable(self) -> dict[int, str]:
        """The reason of each row that nobody may score."""
        reasons = dict.fromkeys(np.flatnonzero(self.sampler).tolist(), SAMPLER)
        reasons |= dict.fromkeys(np.flatnonzero(self.decoder).tolist(), DECODER)
        return dict(sorted(reasons.items()))


@during("decode")
@torch.no_grad()
def decode(policy: Policy, latents: Tensor, micro_batch: int, *, alive: Bool[Tensor, " B"] | None = None) -> Decoded:
    """Pictures or videos of final latents; `alive` says whose whole path is finite, where there is a path."""
    whole = latents.flatten(1).isfinite().all(1).cpu()
    whole = whole if alive is None else whole & alive
    media: list[Tensor] = []
    finite: list[Tensor] = []
    for part in latents.split(micro_batch):
        # Bytes at once: floats of a batch of videos would need four times the memory.
        pictures, usable = _bytes(policy.decode(part))
        media.append(pictures)
        finite.append(usable)
    sampler = ~whole
    decoder = whole & ~torch.cat(finite)
    pictures = torch.cat(media)
    pictures[sampler | decoder] = 0
    return Decoded(pictures.movedim(-3, -1).numpy(), policy.fps, sampler.numpy(), decoder.numpy())


def finished(policy: Policy, rollout: Rollout, micro_batch: int) -> Decoded:
    """The pictures of a rollout, prompt by prompt. If none of them is usable there is nothing to learn: an error."""
    decoded = decode(policy, rollout.final.flatten(0, 1), micro_batch, alive=rollout.alive.flatten())
    if decoded.sampler.all():
        raise NumericsError(
            "every sample of the rollout holds NaN or infinity; lower the learning rate or the noise level, "
            "or use policy.dtype float32"
        )
    if (decoded.sampler | decoded.decoder).all():
        raise NumericsError(
            "no picture of the rollout is finite, though latents are: the autoencoder overflowed; "
            "use policy.vae_dtype float32"
        )
    return decoded


def _bytes(media: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures in [0, 1] as 0 to 255, and which of them are finite, both in main memory."""
    finite = media.flatten(1).isfinite().all(1)
    shape = (-1, *(1,) * (media.ndim - 1))
    scaled = (torch.where(finite.view(shape), media, 0) * 255).round()
    # A byte of -1 or of 256 would be another colour; a policy that forgot to scale would be scored on such pictures.
    if len(scaled) and not (scaled.amin() >= 0 and scaled.amax() <= 255):
        raise NumericsError(
            f"the policy decoded numbers from {float(scaled.amin() / 255):.3g} to {float(scaled.amax() / 255):.3g}, "
            "wanted pictures in [0, 1]; scale and clamp them in its `decode`"
        )
    return scaled.byte().cpu(), finite.cpu()
