"""LAION's aesthetic score: an affine function of the normalised CLIP embedding of the picture."""

import hashlib
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from stepcredit.errors import WeightsError
from stepcredit.files.whole import Report, refuse_partial
from stepcredit.records import RewardBatch, RewardOutput
from stepcredit.rewards.clip import Clip


class Aesthetic:
    """Score of about 1 to 10. The caption is not asked."""

    def __init__(self, clip: Clip, head: Path, *, name: str = "aesthetic") -> None:
        self.outputs = (name,)
        self._clip = clip
        self._head = head
        self._weight, self._bias = read_head(head)
        width = clip.width
        shapes = (tuple(self._weight.shape), tuple(self._bias.shape))
        if shapes != ((1, width), (1,)):
            raise WeightsError(
                f"{head} has weight {shapes[0]} and bias {shapes[1]}, wanted {(1, width)} and (1,): it belongs to "
                "another CLIP; check `weights` and `head`"
            )

    def score(self, batch: RewardBatch) -> RewardOutput:
        features = self._clip.pictures(batch.images)  # of unit length, which the published head was trained on
        return RewardOutput({self.outputs[0]: (features @ self._weight.T + self._bias)[:, 0].numpy()})

    def fingerprint(self) -> dict[str, str]:
        return {"head": hashlib.sha256(self._head.read_bytes()).hexdigest()[:16], **self._clip.fingerprint()}


def read_head(path: Path) -> tuple[Float[Tensor, "1 D"], Float[Tensor, " 1"]]:
    """One affine map. The published head is five linear layers without activations, which are multiplied out."""
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path} is not a safetensors file; a pickle can run code, convert it to safetensors first")
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise WeightsError(f"there is no aesthetic head {path}; check `head`") from None
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a whole safetensors file: {error}") from None
    if {"weight", "bias"} == tensors.keys():
        return tensors["weight"].float(), tensors["bias"].float()
    return _multiplied_out(path, tensors)


def _multiplied_out(path: Path, tensors: dict[str, Tensor]) -> tuple[Float[Tensor, "1 D"], Float[Tensor, " 1"]]:
    """The layers `layers.N` of the published head as one affine map."""
    # The numbers N have gaps: dropout stood between the layers, and does nothing at inference.
    layers = sorted({int(name.split(".")[1]) for name in tensors if name.startswith("layers.")})
    if not layers:
        raise WeightsError(
            f"{path} holds {sorted(tensors)}; wanted `weight` and `bias`, or `layers.N.weight` and so on"
        )
    names = [f"layers.{layer}.{part}" for layer in layers for part in ("weight", "bias")]
    refuse_partial(path, Report(missing=sorted({*names} - {*tensors}), unexpected=sorted({*tensors} - {*names})))
    # In float64: five products in float32 would differ from running the layers in the fifth digit.
    weight = torch.eye(tensors[f"layers.{layers[0]}.weight"].shape[1], dtype=torch.float64)
    bias = torch.zeros(weight.shape[0], dtype=torch.float64)
    for layer in layers:
        layer_weight = tensors[f"layers.{layer}.weight"].double()
        weight = layer_weight @ weight
        bias = layer_weight @ bias + tensors[f"layers.{layer}.bias"].double()
    return weight.float(), bias.float()
