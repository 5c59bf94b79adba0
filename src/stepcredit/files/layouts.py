"""How weights were written, told by their names: the true cause where they do not fit, before anything is loaded.

Names are all that is looked at, and the types: one pattern a layout, each with what to do about it. No torch.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from stepcredit.files.headers import Header

WRAPPERS = ("_orig_mod.", "module.")
"""What torch.compile and DistributedDataParallel put before every name: without it the names are the network's own."""
_EIGHT_BITS = ("F8_", "I8", "U8")  # how safetensors' names of such types begin
_SAVE_AGAIN = "load it where it was trained"


@dataclass(frozen=True)
class Layout:
    """Names of one kind, e.g. `Layout("^double_blocks", "FLUX in its authors' own layout", "make a folder of it")`."""

    names: str
    """A pattern that is searched for in the names."""
    kind: str
    """What has such names."""
    advice: str
    """What to do, in the imperative."""


_SINGLE_FILE = (
    "make a folder of the single file with diffusers: PIPELINE.from_single_file(FILE).save_pretrained(FOLDER)"
)
LAYOUTS = (
    Layout(
        r"\.(absmax|quant_map|nested_absmax|SCB)$|\.quant_state\.",
        "quantised by bitsandbytes",
        "take the weights that it was made from, in bfloat16 or float32",
    ),
    Layout(r"\.(qweight|qzeros|g_idx)$", "quantised (GPTQ or AWQ)", "take the weights that it was made from"),
    Layout(
        r"\.(scale_weight|weight_scale|scale_input|input_scale)$|^scaled_fp8$",
        "stored in 8 bits with scales (fp8)",
        "take the weights that it was made from, in bfloat16 or float32",
    ),
    Layout(
        r"\.base_layer\.|\.lora_[AB]\.|\.lora_(down|up)\.|\.lora_magnitude_vector",
        "a network with adapters in it",
        f"{_SAVE_AGAIN}, put the adapters into the weights (peft: merge_and_unload(); diffusers: fuse_lora() and "
        "unload_lora_weights()) and save_pretrained again. A LoRA alone goes under policy.surface.start",
    ),
    Layout(
        r"\.attn\d?\.(to_qkv|to_kv|to_added_qkv)\.",
        "a network with fused attention projections",
        f"{_SAVE_AGAIN}, call unfuse_qkv_projections() and save_pretrained again",
    ),
    Layout(
        r"^(model\.diffusion_model|first_stage_model|cond_stage_model)\.",
        "a single-file checkpoint (ComfyUI, A1111)",
        _SINGLE_FILE,
    ),
    Layout(r"^(double|single)_blocks\.", "FLUX in Black Forest Labs' own layout (ComfyUI's too)", _SINGLE_FILE),
    Layout(r"^joint_blocks\.", "Stable Diffusion 3 in Stability's own layout (ComfyUI's too)", _SINGLE_FILE),
    Layout(r"^blocks\.\d+\.(self|cross)_attn\.", "Wan in its authors' own layout (ComfyUI's too)", _SINGLE_FILE),
    Layout(
        r"^(visual\.)?transformer\.resblocks\.",
        "an open_clip checkpoint",
        "give it as a reward with the configuration and tokenizer of its CLIP beside it (docs/rewards.md)",
    ),
)


def wrapper(names: Iterable[str]) -> str:
    """What wrappers put before every one of these names, `module._orig_mod.` for one in another; empty where none."""
    names = list(names)
    prefix = ""
    while names:
        fitting = [word for word in WRAPPERS if _all_begin_with(prefix + word, names)]
        if not fitting:
            break
        prefix += fitting[0]
    return prefix


def _all_begin_with(prefix: str, names: Iterable[str]) -> bool:
    return all(name.startswith(prefix) for name in names)


def foreign_layout(headers: Mapping[str, Header]) -> Layout | None:
    """Which of the layouts has such names; None where they look like those of diffusers or transformers."""
    for layout in LAYOUTS:
        if any(re.search(layout.names, name) for name in headers):
            return layout
    narrow = sorted({header.dtype for header in headers.values() if header.dtype.startswith(_EIGHT_BITS)})
    if narrow:
        advice = "take the weights that it was made from, in bfloat16 or float32"
        return Layout("", f"stored in 8 bits ({', '.join(narrow)})", advice)
    return None
