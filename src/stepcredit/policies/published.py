"""The configurations of published models, for counting without their files: what a hub id's `config.json`s say.

Only what differs from the defaults of diffusers' and transformers' classes is written down; `_class_name` names the
class. Tokenizers are not here: what is counted is the length of a text.
"""

from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any]

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
CLIP_L_PROJECTED = CLIP_L | {"_class_name": "CLIPTextModelWithProjection"}
CLIP_BIG_G = CLIP_L_PROJECTED | {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
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
UMT5_XXL = T5_XXL | {"_class_name": "UMT5EncoderModel", "vocab_size": 256384}
QWEN_25_VL_7B = {
    "_class_name": "Qwen2_5_VLForConditionalGeneration",
    "tie_word_embeddings": False,
    "text_config": {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 128000,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    },
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
    },
}


def _image_vae(**settings: Any) -> Config:
    return {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        **settings,
    }


UNQUANTISED = {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
SD3_VAE = _image_vae(**UNQUANTISED, scaling_factor=1.5305, shift_factor=0.0609)
WAN_VAE = {"_class_name": "AutoencoderKLWan"}
WAN_SCHEDULER = {
    "_class_name": "UniPCMultistepScheduler",
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "flow_shift": 3.0,
}
FLOW_MATCHING = {"_class_name": "FlowMatchEulerDiscreteScheduler"}

FLUX_DEV = {
    "transformer": {"_class_name": "FluxTransformer2DModel", "guidance_embeds": True},
    "vae": _image_vae(**UNQUANTISED, scaling_factor=0.3611, shift_factor=0.1159),
    "text_encoder": CLIP_L,
    "text_encoder_2": T5_XXL,
    "scheduler": FLOW_MATCHING
    | {
        "shift": 3.0,
        "use_dynamic_shifting": True,
        "base_shift": 0.5,
        "max_shift": 1.15,
        "base_image_seq_len": 256,
        "max_image_seq_len": 4096,
    },
}
SD3_TRANSFORMER = {
    "_class_name": "SD3Transformer2DModel",
    "sample_size": 128,
    "num_layers": 24,
    "num_attention_heads": 24,
    "attention_head_dim": 64,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}
SD3_MEDIUM = {
    "transformer": SD3_TRANSFORMER,
    "vae": SD3_VAE,
    "text_encoder": CLIP_L_PROJECTED,
    "text_encoder_2": CLIP_BIG_G,
    "text_encoder_3": T5_XXL,
    "scheduler": FLOW_MATCHING | {"shift": 3.0},
}
SD35_MEDIUM = SD3_MEDIUM | {
    "transformer": SD3_TRANSFORMER
    | {"pos_embed_max_size": 384, "qk_norm": "rms_norm", "dual_attention_layers": tuple(range(13))},
}
SD35_LARGE = SD3_MEDIUM | {
    "transformer": SD3_TRANSFORMER
    | {"num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432, "qk_norm": "rms_norm"},
}
WAN_14B = {
    "transformer": {"_class_name": "WanTransformer3DModel"},
    "vae": WAN_VAE,
    "text_encoder": UMT5_XXL,
    "scheduler": WAN_SCHEDULER,
}
WAN_1B = WAN_14B | {
    "transformer": {
        "_class_name": "WanTransformer3DModel",
        "num_attention_heads": 12,
        "ffn_dim": 8960,
        "num_layers": 30,
    },
}
QWEN_IMAGE = {
    "transformer": {"_class_name": "QwenImageTransformer2DModel"},
    "vae": {"_class_name": "AutoencoderKLQwenImage"},
    "text_encoder": QWEN_25_VL_7B,
    "scheduler": FLOW_MATCHING
    | {
        "use_dynamic_shifting": True,
        "base_shift": 0.5,
        "max_shift": 0.9,
        "base_image_seq_len": 256,
        "max_image_seq_len": 8192,
        "shift_terminal": 0.02,
        "time_shift_type": "exponential",
    },
}
SD_15 = {
    "unet": {"_class_name": "UNet2DConditionModel", "sample_size": 64, "cross_attention_dim": 768},
    "vae": _image_vae(latent_channels=4, sample_size=512),
    "text_encoder": CLIP_L,
    "scheduler": {
        "_class_name": "PNDMScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "skip_prk_steps": True,
        "steps_offset": 1,
    },
}

PUBLISHED: Mapping[str, Mapping[str, Config]] = {
    "black-forest-labs/FLUX.1-dev": FLUX_DEV,
    "stabilityai/stable-diffusion-3-medium-diffusers": SD3_MEDIUM,
    "stabilityai/stable-diffusion-3.5-medium": SD35_MEDIUM,
    "stabilityai/stable-diffusion-3.5-large": SD35_LARGE,
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": WAN_1B,
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": WAN_14B,
    "Wan-AI/Wan2.2-T2V-A14B-Diffusers": WAN_14B | {"transformer_2": WAN_14B["transformer"]},
    "Qwen/Qwen-Image": QWEN_IMAGE,
    "stable-diffusion-v1-5/stable-diffusion-v1-5": SD_15,
}
"""Parts by hub id; `unet`, `transformer` and so on are called as in the pipeline's folder."""

PIPELINE_SETTINGS: Mapping[str, Config] = {"Wan-AI/Wan2.2-T2V-A14B-Diffusers": {"boundary_ratio": 0.875}}
"""What the pipeline itself is told, beside its parts."""
