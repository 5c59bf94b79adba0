"""LoRAs of other programs: the same change of every weight as in plain diffusers, or refused by the format's name."""

import json

import pytest
import torch
from safetensors.torch import save_file

import miniatures
from stepcredit.build import open_generator
from stepcredit.errors import WeightsError
from stepcredit.policies import generator, lora_file
from stepcredit.policies.families.flux import Flux, FluxFamily
from stepcredit.policies.families.qwen_image import QwenImageFamily
from stepcredit.policies.families.sd import SDFamily
from stepcredit.policies.families.sd3 import SD3Family
from stepcredit.policies.families.wan import WanFamily
from stepcredit.policies.lora_formats import FORMATS, format_of
from stepcredit.settings.policies import LoRA

ALPHA = 3.0
RANK = 2
MUSUBI = {f"lora_unet_blocks_{i}_{a}_attn_{o}": (48, 48) for i in (0, 1) for a in ("self", "cross") for o in "qkvo"}
MUSUBI |= {f"lora_unet_blocks_{i}_ffn_0": (96, 48) for i in (0, 1)}
MUSUBI |= {f"lora_unet_blocks_{i}_ffn_2": (48, 96) for i in (0, 1)}
UNET = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0"


def written(path, modules, down="lora_down", up="lora_up", *, alpha: float | None = ALPHA):
    """A file with the matrices of these modules, `[out, in]` each, drawn from a seed."""
    random = torch.Generator().manual_seed(0)
    tensors = {}
    for name, (outputs, inputs) in modules.items():
        tensors[f"{name}.{down}.weight"] = torch.randn(RANK, inputs, generator=random)
        tensors[f"{name}.{up}.weight"] = torch.randn(outputs, RANK, generator=random)
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(alpha)
    path.parent.mkdir(exist_ok=True)
    save_file(tensors, path)
    return tensors


def ours(family, start):
    """What is added to each weight, from the files at a start."""
    converter = family.pipeline_class
    surface = LoRA(rank=RANK, start=str(start))
    starts = lora_file.starts(surface, family.lora_files, family.lora_prefix(), lambda: converter().lora_state_dict)
    return {name: matrices.change() for name, matrices in next(iter(starts.values())).modules.items()}


@torch.no_grad()
def theirs(network):
    """What diffusers adds to each weight after `load_lora_weights`."""
    layers = {name: layer for name, layer in network.named_modules() if getattr(layer, "lora_A", None)}
    changes = {}
    for name, layer in layers.items():
        (adapter,) = layer.lora_A
        changes[name] = layer.scaling[adapter] * layer.lora_B[adapter].weight @ layer.lora_A[adapter].weight
    return changes


def product(tensors, module, down="lora_down", up="lora_up", alpha=ALPHA):
    return alpha / RANK * tensors[f"{module}.{up}.weight"] @ tensors[f"{module}.{down}.weight"]


@pytest.mark.parametrize(
    ("build", "family", "modules", "module", "source"),
    [
        (
            miniatures.sd,
            SDFamily,
            {f"{UNET}_attn1_to_q": (16, 16), f"{UNET}_attn1_to_out_0": (16, 16), f"{UNET}_ff_net_2": (16, 64)},
            "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
            f"{UNET}_attn1_to_q",
        ),
        (
            miniatures.flux,
            FluxFamily,
            {"lora_unet_double_blocks_0_img_attn_qkv": (96, 32), "lora_unet_double_blocks_0_img_attn_proj": (32, 32)},
            "transformer_blocks.0.attn.to_out.0",
            "lora_unet_double_blocks_0_img_attn_proj",
        ),
        (
            miniatures.flux,
            FluxFamily,
            {"lora_transformer_transformer_blocks_0_attn_to_q": (32, 32)},
            "transformer_blocks.0.attn.to_q",
            "lora_transformer_transformer_blocks_0_attn_to_q",
        ),
        (
            miniatures.flux,
            FluxFamily,
            {"diffusion_model.double_blocks.0.img_attn.proj": (32, 32)},
            "transformer_blocks.0.attn.to_out.0",
            "diffusion_model.double_blocks.0.img_attn.proj",
        ),
        (
            miniatures.wan,
            WanFamily,
            {"diffusion_model.blocks.0.self_attn.q": (48, 48), "diffusion_model.blocks.1.ffn.0": (96, 48)},
            "blocks.0.attn1.to_q",
            "diffusion_model.blocks.0.self_attn.q",
        ),
        (miniatures.wan, WanFamily, MUSUBI, "blocks.1.attn2.to_k", "lora_unet_blocks_1_cross_attn_k"),
        (
            miniatures.qwen_image,
            QwenImageFamily,
            {"lora_unet_transformer_blocks_0_attn_to_q": (32, 32)},
            "transformer_blocks.0.attn.to_q",
            "lora_unet_transformer_blocks_0_attn_to_q",
        ),
    ],
    ids=["sd-kohya", "flux-kohya", "flux-kohya-own", "flux-comfyui", "wan-comfyui", "wan-musubi", "qwen-kohya"],
)
def test_a_converted_lora_changes_what_it_does_in_diffusers(build, family, modules, module, source, tmp_path):
    path = tmp_path / "lora.safetensors"
    tensors = written(path, modules)
    changes = ours(family, path)
    # by hand as well: a converter that forgot alpha would forget it on both sides
    torch.testing.assert_close(changes[module], product(tensors, source), rtol=0, atol=1e-5)
    pipe = build()
    pipe.load_lora_weights(str(path))
    wanted = theirs(getattr(pipe, family.network_names[0]))
    assert changes.keys() == wanted.keys()
    for name, change in wanted.items():
        torch.testing.assert_close(changes[name], change, rtol=0, atol=1e-6)


PEFT = "base_model.model.transformer_blocks.0.attn.to_q"


def peft(folder, *, middle="", **notes):
    """A folder as peft's `save_pretrained` writes it."""
    tensors = written(
        folder / "adapter_model.safetensors", {PEFT: (32, 32)}, f"lora_A{middle}", f"lora_B{middle}", alpha=None
    )
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "alpha_pattern": {}, **notes}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return product(tensors, PEFT, f"lora_A{middle}", f"lora_B{middle}")


@pytest.mark.parametrize("middle", ["", ".default"])
@pytest.mark.parametrize("start", ["", "adapter_model.safetensors"])
def test_a_folder_of_peft_is_taken_with_its_alpha(start, middle, tmp_path):
    change = peft(tmp_path, middle=middle)
    found = ours(FluxFamily, tmp_path / start)["transformer_blocks.0.attn.to_q"]
    torch.testing.assert_close(found, change, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("notes", "wanted"),
    [
        ({"use_rslora": True}, "use_rslora, which is not supported"),
        ({"use_dora": True}, "use_dora, which is not supported"),
        ({"alpha_pattern": {"to_q": 8}}, "alpha_pattern, which is not supported"),
        ({"peft_type": "LOKR"}, "says that it is LOKR; wanted a plain LoRA"),
    ],
)
def test_what_peft_has_beyond_a_plain_lora_is_refused(notes, wanted, tmp_path):
    peft(tmp_path, **notes)
    with pytest.raises(WeightsError, match=wanted):
        ours(FluxFamily, tmp_path)


def test_a_file_of_peft_without_its_notes_is_refused(tmp_path):
    peft(tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(WeightsError, match=r"in the format of peft and has no adapter_config\.json beside it"):
        ours(FluxFamily, tmp_path)


@pytest.mark.parametrize(
    ("family", "name", "wanted"),
    [
        (
            SD3Family,
            "lora_unet_joint_blocks_0_x_block_attn_qkv",
            r"kohya \(sd-scripts\), which diffusers does not convert",
        ),
        (SD3Family, "diffusion_model.joint_blocks.0.x_block.attn.qkv", "ComfyUI, which diffusers does not convert"),
        (WanFamily, "lora_unet_blocks_0_self_attn_q", r"kohya \(sd-scripts\), which diffusers does not convert"),
        (SDFamily, "lora_te_text_model_encoder_layers_0_self_attn_q_proj", r"also changes text encoders"),
        (FluxFamily, "text_encoder.text_model.encoder.layers.0.self_attn.q_proj", r"also changes text encoders|older"),
    ],
)
def test_a_format_that_is_not_converted_is_refused_by_its_name(family, name, wanted, tmp_path):
    written(tmp_path / "lora.safetensors", {name: (32, 32)})
    with pytest.raises(WeightsError, match=wanted) as caught:
        ours(family, tmp_path / "lora.safetensors")
    assert "another base" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("lycoris_blocks_0.lokr_w1", "LoKr"),
        ("lora_unet_blocks_0.hada_w1_a", "LoHa"),
        ("lora_unet_blocks_0.dora_scale", "DoRA"),
        ("transformer.blocks.0.to_q.lora_magnitude_vector", "DoRA"),
        ("diffusion_model.blocks.0.norm1.diff", "whole differences"),
    ],
)
def test_what_is_no_plain_lora_is_refused_by_its_name(name, kind, tmp_path):
    save_file({name: torch.ones(2, 2)}, tmp_path / "lora.safetensors")
    with pytest.raises(WeightsError, match=kind):
        ours(FluxFamily, tmp_path / "lora.safetensors")


def test_a_module_that_a_converter_leaves_out_is_no_small_matter(tmp_path):
    written(tmp_path / "lora.safetensors", {"lora_unet_a": (4, 4), "lora_unet_b": (4, 4)})

    class Pipeline:
        @staticmethod
        def lora_state_dict(tensors, **options):
            return {f"transformer.a.lora_{letter}.weight": torch.ones(2, 2) for letter in "AB"}

    with pytest.raises(WeightsError, match="1 of 2 modules have no place"):
        lora_file.starts(
            LoRA(rank=2, start=str(tmp_path / "lora.safetensors")),
            FluxFamily.lora_files,
            "transformer",
            lambda: Pipeline.lora_state_dict,
        )


def test_every_format_is_told_and_ours_is_none_of_them():
    assert (
        format_of({"transformer.blocks.0.to_q.lora_A.weight": 0, "transformer.blocks.0.to_q.alpha": 0}) == "diffusers"
    )
    assert format_of({"unet.down_blocks.0.to_q.lora.down.weight": 0}) == "an older diffusers release"
    assert format_of({"double_blocks.0.processor.qkv_lora1.down.weight": 0}) == "XLabs"
    assert len(FORMATS) == len(set(FORMATS.values()))


def test_a_start_is_judged_before_the_base_is_loaded(monkeypatch, tmp_path):
    monkeypatch.setattr(generator, "load_pipeline", lambda *_: pytest.fail("the base was loaded"))
    peft(tmp_path)
    for surface, wanted in (({"rank": 4}, r"has rank 2 and policy\.surface\.rank is 4"), ({"rank": 2}, "DoRA")):
        with pytest.raises(WeightsError, match=wanted):
            open_generator(Flux(surface=LoRA(start=str(tmp_path), **surface)))
        save_file({"a.dora_scale": torch.ones(2)}, tmp_path / "adapter_model.safetensors")
