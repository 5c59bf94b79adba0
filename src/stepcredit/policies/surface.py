"""What of a network is trained: low-rank adapters or all weights; always in float32."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig

from stepcredit.config.policies import LoRA, SurfaceChoice


class Surface:
    """The trained parameters of one network, and a way back to the network before training."""

    def __init__(self, network: Any, settings: SurfaceChoice, preset: list[str], *, seed: int) -> None:
        self.network, self.settings = network, settings  # a diffusers model; its adapter methods are untyped
        self._reference: torch.nn.Module | None = None
        network.requires_grad_(False)
        if isinstance(settings, LoRA):
            config = LoraConfig(
                r=settings.rank,
                lora_alpha=settings.alpha or 2 * settings.rank,
                target_modules=settings.targets or preset,
                init_lora_weights="gaussian",
            )
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)  # peft initialises from the global generator
                network.add_adapter(config)
        else:
            network.requires_grad_(True)
        for parameter in self.parameters():
            parameter.data = parameter.data.float()

    def parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    def keep_reference(self) -> None:
        """Full training: copy the network now, so that `reference` has something to go back to."""
        if not isinstance(self.settings, LoRA) and self._reference is None:
            self._reference = copy.deepcopy(self.network).requires_grad_(False)

    @contextmanager
    def reference(self) -> Iterator[torch.nn.Module]:
        """The network before training: adapters switched off, or the copy made by `keep_reference`."""
        if self._reference is not None:
            yield self._reference
        elif isinstance(self.settings, LoRA):
            self.network.disable_adapters()
            try:
                yield self.network
            finally:
                self.network.enable_adapters()
        else:
            raise RuntimeError("the reference of a fully trained network was not kept; call keep_reference() first")
