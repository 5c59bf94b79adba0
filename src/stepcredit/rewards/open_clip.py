"""CLIP checkpoints of open_clip, HPSv2's among them, by the names that transformers gives the same tensors.

Both libraries hold the same network. open_clip keeps queries, keys and values in one tensor, and the two projections
transposed; everything else is only called otherwise.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from stepcredit.errors import WeightsError

_ENDS = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",  # spelt so in transformers
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "logit_scale": "logit_scale",
}
"""What stands before and after the layers."""
_PROJECTIONS = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
_LAYER = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)")
_IN_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_JOINT = re.compile(r"attn\.in_proj_(weight|bias)")


def is_open_clip(names: Iterable[str]) -> bool:
    """Whether a file with tensors of these names is a whole CLIP of open_clip."""
    return {"visual.conv1.weight", "token_embedding.weight"} <= set(names)


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an open_clip checkpoint by transformers' names; an error where one has no counterpart."""
    by_name: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, tensor in tensors.items():
        layer = _LAYER.fullmatch(name)
        if name in _ENDS:
            by_name[_ENDS[name]] = tensor
        elif name in _PROJECTIONS:
            by_name[_PROJECTIONS[name]] = tensor.T.contiguous()
        elif layer is None:
            unknown.append(name)
        else:
            tower = "vision_model" if layer[1] else "text_model"
            inside = _inside(layer[3], tensor)
            unknown += [] if inside else [name]
            by_name |= {f"{tower}.encoder.layers.{layer[2]}.{end}": part for end, part in inside.items()}
    if unknown:
        raise WeightsError(
            f"an open_clip checkpoint has {unknown[0]}, which no CLIP of transformers has; wanted a plain CLIP of two "
            "transformers, such as ViT-H-14"
        )
    return by_name


def _inside(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """One tensor of a layer by its name there: three where queries, keys and values are one; empty where unknown."""
    joint = _JOINT.fullmatch(name)
    if joint is not None:
        # clones: three views of one tensor would keep it whole
        return {
            f"self_attn.{letter}_proj.{joint[1]}": part.clone()
            for letter, part in zip("qkv", tensor.chunk(3), strict=True)
        }
    module, _, end = name.rpartition(".")
    return {f"{_IN_LAYER[module]}.{end}": tensor} if module in _IN_LAYER else {}
