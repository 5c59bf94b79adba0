"""FLUX.1 (and its miniature inside the package) over diffusers' FluxPipeline.

The pipeline supplies modules, tokenizers and packing; the denoising loop is ours. A latent is packed,
`[tokens, channels]`: 2 x 2 places of the autoencoder's grid make one token.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline
from jaxtyping import Float
from peft.utils import get_peft_model_state_dict
from torch import Tensor

from stepcredit.config.policies import Flux, LoRA
from stepcredit.errors import RecipeError, WeightsError
from stepcredit.flow import schedules
from stepcredit.folders import check_local, resolve
from stepcredit.policies.surface import Surface
from stepcredit.records import Condition

LORA_TARGETS = [
    *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
    *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
    *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2", "proj_mlp", "proj_out"),
]
_PARTS = ("transformer", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")


class FluxPolicy:
    """Implements `protocols.Policy`."""

    def __init__(self, settings: Flux, *, seed: int = 0) -> None:
        self.settings = settings
        self.device = torch.device(settings.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        folder = resolve(settings.weights, "flux_scenes")
        check_local(folder, index="model_index.json", parts=_PARTS)
        try:
            self.pipe: Any = FluxPipeline.from_pretrained(
                folder, dtype=getattr(torch, settings.dtype), use_safetensors=True
            )
        except (OSError, ValueError, KeyError) as error:
            raise WeightsError(f"{folder} could not be loaded as a FluxPipeline: {error}") from error
        self.pipe.to(self.device)
        self._multiple = 2 * self.pipe.vae_scale_factor
        if settings.resolution % self._multiple:
            below = settings.resolution // self._multiple * self._multiple
            raise RecipeError(
                f"policy.resolution is {settings.resolution}; this autoencoder needs a multiple of {self._multiple}, "
                f"the nearest are {below or self._multiple} and {below + self._multiple}"
            )
        for part in (self.pipe.vae, self.pipe.text_encoder, self.pipe.text_encoder_2):
            part.requires_grad_(False)
        self.surface = Surface(self.pipe.transformer, settings.surface, _targets(self.pipe.transformer), seed=seed)
        self._network: torch.nn.Module = self.pipe.transformer
        side = settings.resolution // self._multiple
        self._image_ids = self.pipe._prepare_latent_image_ids(1, side, side, self.device, torch.float32)

    @property
    def dtype(self) -> torch.dtype:
        return self.pipe.transformer.dtype

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        embeddings, pooled, _ = self.pipe.encode_prompt(list(prompts), max_sequence_length=self.settings.max_tokens)
        return Condition({"encoder_hidden_states": embeddings, "pooled_projections": pooled})

    def latent_shape(self) -> tuple[int, ...]:
        return len(self._image_ids), self.pipe.transformer.config.in_channels

    def levels(self, steps: int, shift: float | None) -> Float[Tensor, " L"]:
        if shift is not None:
            return schedules.shifted(steps, shift=shift)
        config = self.pipe.scheduler.config
        if not config.use_dynamic_shifting:
            return schedules.shifted(steps, shift=config.shift)
        return schedules.resolution_shifted(
            steps,
            tokens=len(self._image_ids),
            base_tokens=config.base_image_seq_len,
            max_tokens=config.max_image_seq_len,
            base_shift=config.base_shift,
            max_shift=config.max_shift,
        )

    def velocity(
        self, latents: Float[Tensor, "B *latent"], level: Float[Tensor, " B"], condition: Condition
    ) -> Float[Tensor, "B *latent"]:
        network, dtype = self._network, self.dtype
        guidance = None
        if self.pipe.transformer.config.guidance_embeds:
            guidance = torch.full((len(latents),), self.settings.guidance, device=self.device)
        text = condition.tensors["encoder_hidden_states"]
        return network(
            hidden_states=latents.to(dtype),
            timestep=level.to(dtype),
            guidance=guidance,
            txt_ids=torch.zeros(text.shape[1], 3, device=self.device),
            img_ids=self._image_ids,
            return_dict=False,
            **condition.tensors,
        )[0].to(latents.dtype)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "B *latent"]) -> Float[Tensor, "B 3 H W"]:
        side, vae = self.settings.resolution, self.pipe.vae
        unpacked = self.pipe._unpack_latents(latents, side, side, self.pipe.vae_scale_factor)
        unpacked = unpacked / vae.config.scaling_factor + vae.config.shift_factor
        return (vae.decode(unpacked.to(vae.dtype), return_dict=False)[0].float() / 2 + 0.5).clamp(0, 1)

    def parameters(self) -> list[torch.nn.Parameter]:
        return self.surface.parameters()

    @contextmanager
    def reference(self) -> Iterator[None]:
        with self.surface.reference() as network:
            self._network = network
            try:
                yield
            finally:
                self._network = self.pipe.transformer

    def save(self, folder: Path) -> None:
        """A LoRA that `FluxPipeline.load_lora_weights` reads, or the transformer as a diffusers folder."""
        if isinstance(self.settings.surface, LoRA):
            layers: dict[str, Any] = get_peft_model_state_dict(self.pipe.transformer)
            notes = self.pipe.transformer.peft_config["default"].to_dict()
            notes["target_modules"] = sorted(notes["target_modules"])  # a set, whose order is chance
            FluxPipeline.save_lora_weights(
                folder,
                transformer_lora_layers=layers,
                transformer_lora_adapter_metadata=notes,
                safe_serialization=True,
            )
        else:
            self.pipe.transformer.save_pretrained(folder / "transformer", safe_serialization=True)


def _targets(network: torch.nn.Module) -> list[str]:
    """The full names of the linear layers of attention and feed-forward blocks; modulation and embedders stay."""
    names = [name for name, module in network.named_modules() if isinstance(module, torch.nn.Linear)]
    blocks = [name for name in names if "transformer_blocks." in name]
    return [name for name in blocks if name.endswith(tuple(LORA_TARGETS))]
