"""Models on the hub, as far as they are known without their files: licence, and configurations for counting.

Each family lists its own models; here is the record, and the parts that several families share. Of a configuration
only what differs from the defaults of diffusers' and transformers' classes is written down; `_class_name` names the
class. Tokenizers are not here: what is counted is the length of a text.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Published:
    """A model on the hub.

    Example: `Published("apache-2.0", parts={"vae": {"_class_name": "AutoencoderKLWan"}, ...})`.
    """

    licence: str = "other"
    """As model cards on the hub spell it; `other` where it is one of its own."""
    parts: Mapping[str, Config] = field(default_factory=dict)
    """Configurations by the names that the parts have in the pipeline's folder; empty where they are not known."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """What the pipeline itself is given beside its parts, e.g. `{"boundary_ratio": 0.875}`."""


CLIP_L = {
    "_class_name": "CLIPTextModel",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}
T5_XXL = {
    "_class_name": "T5EncoderModel",
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
    "is_encoder_decoder": False,
}
FLOW_MATCHING = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
# autoencoders of 16 channels have no 1 x 1 convolutions on both sides of the latents
UNQUANTISED = {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}


def image_vae(**settings: Any) -> Config:
    """Stable Diffusion's autoencoder, which all later ones of pictures keep in form."""
    return {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        **settings,
    }
