"""What of a generator is trainable: low-rank adapters, or weights themselves; always in float32."""

import copy
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig

from stepcredit.errors import RecipeError
from stepcredit.settings.policies import Full, LoRA, SurfaceChoice

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


class Surface:
    """The trainable parameters of one or two networks, and a way back to the networks before training.

    `feed_forward` are the name endings of the family's feed-forward layers; attention layers are called alike in all.
    """

    def __init__(
        self, networks: Mapping[str, Any], settings: SurfaceChoice, feed_forward: Sequence[str], *, seed: int
    ) -> None:
        self.networks = networks  # diffusers models; their adapter methods are untyped
        self.settings = settings
        self._reference: dict[str, torch.nn.Module] = {}
        for network in networks.values():
            network.requires_grad_(False)
            if isinstance(settings, LoRA):
                _adapt(network, settings, feed_forward, seed)
            else:
                _choose(network, settings.modules)
        # small steps vanish in bfloat16: near 1 its numbers are 0.008 apart, and a step of AdamW is about 1e-5
        for parameter in self.parameters():
            parameter.data = parameter.data.float()

    def parameters(self) -> list[torch.nn.Parameter]:
        """In an order that checkpoints rely on: network by network, as the modules list them."""
        return [p for network in self.networks.values() for p in network.parameters() if p.requires_grad]

    def keep_reference(self) -> None:
        """Full training: copy the networks now, so that `reference` has something to go back to."""
        if isinstance(self.settings, Full) and not self._reference:
            self._reference = {
                name: copy.deepcopy(network).requires_grad_(False) for name, network in self.networks.items()
            }

    @contextmanager
    def reference(self) -> Generator[Mapping[str, Any]]:
        """The networks before training: adapters switched off, or the copies made by `keep_reference`."""
        if self._reference:
            yield self._reference
        elif isinstance(self.settings, LoRA):
            for network in self.networks.values():
                network.disable_adapters()
            try:
                yield self.networks
            finally:
                for network in self.networks.values():
                    network.enable_adapters()
        else:
            raise RuntimeError("the reference of a fully trained network was not kept; call keep_reference() first")


def targets(network: torch.nn.Module, wanted: str | list[str], feed_forward: Sequence[str]) -> list[str]:
    """The full names of the adapted linear layers; modulation and embedders are none of the presets'."""
    linear = [name for name, module in network.named_modules() if isinstance(module, torch.nn.Linear)]
    if isinstance(wanted, str):
        presets = {"attention": ATTENTION, "blocks": (*ATTENTION, *feed_forward)}
        # with the dot, so that a block's "proj_out" is taken and the network's own last layer of that name is not
        endings = tuple(f".{ending}" for ending in presets[wanted])
        return [name for name in linear if "blocks." in name and name.endswith(endings)]
    matched = {ending for ending in wanted for name in linear if name.endswith(ending)}
    useless = [ending for ending in wanted if ending not in matched]
    if useless:
        known = sorted({_without_numbers(name) for name in linear})
        raise RecipeError(
            f"policy.surface.targets: no linear layer ends in {', '.join(useless)}; there are: {', '.join(known)}"
        )
    return [name for name in linear if name.endswith(tuple(wanted))]


def _without_numbers(name: str) -> str:
    """`blocks.3.attn.to_q` as `blocks.attn.to_q`: one name for the same layer of all blocks."""
    return ".".join(part for part in name.split(".") if not part.isdigit())


def _adapt(network: Any, settings: LoRA, feed_forward: Sequence[str], seed: int) -> None:
    """Give the network fresh adapters, which change nothing yet."""
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha or 2 * settings.rank,
        target_modules=targets(network, settings.targets, feed_forward),
        init_lora_weights="gaussian",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # peft initialises from the global generator
        network.add_adapter(config)


def _choose(network: torch.nn.Module, words: list[str] | None) -> None:
    """Make those parameters trainable that have one of the words in their name."""
    names = [name for name, _ in network.named_parameters()]
    matched = {word for word in words or () for name in names if word in name}
    useless = [word for word in words or () if word not in matched]
    if useless:
        known = sorted({name.split(".")[0] for name in names})
        raise RecipeError(
            f"policy.surface.modules: no parameter has {', '.join(useless)} in its name; they begin with: "
            f"{', '.join(known)}"
        )
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(words is None or any(word in name for word in words))
