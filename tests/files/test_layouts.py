"""Folders and files that are no weights of a part: the true cause is said, from names alone."""

import json

import pytest
import torch
from safetensors.torch import save_file

from stepcredit.errors import WeightsError
from stepcredit.files.folders import check_local, resolve
from stepcredit.files.headers import Header, has_variant, read_header, read_headers, weight_files
from stepcredit.files.layouts import foreign_layout, wrapper
from stepcredit.files.whole import check_part

FLOAT = Header((2, 2), "BF16")


def part(folder, names, *, dtype=torch.float32, file="model.safetensors"):
    folder.mkdir(exist_ok=True)
    save_file({name: torch.zeros(2, 2).to(dtype) for name in names}, folder / file)
    return folder


def test_a_header_says_what_the_tensors_are_without_reading_them(tmp_path):
    save_file({"a": torch.zeros(3, 4, dtype=torch.float16)}, tmp_path / "a.safetensors", metadata={"format": "pt"})
    assert read_header(tmp_path / "a.safetensors") == {"a": Header((3, 4), "F16")}


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"", "not a whole safetensors file"),
        (b"not safetensors at all", "does not begin with a header"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "pointer of Git LFS: `git lfs pull`"),
        (b"<html>404</html>", "does not begin with a header"),
        (b"\x02\0\0\0\0\0\0\0[]", "not a whole safetensors file"),
    ],
)
def test_what_is_no_safetensors_file_is_told_so(content, wanted, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match=wanted):
        check_part(tmp_path)


def test_a_file_that_was_cut_is_told_by_its_size(tmp_path):
    path = part(tmp_path, ["a"]) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(WeightsError, match=r"has \d+ bytes and its header speaks of \d+"):
        check_part(tmp_path)


def test_the_files_of_an_index_are_read_together_and_a_lost_one_is_named(tmp_path):
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    part(tmp_path, ["a"], file="model-1.safetensors")
    with pytest.raises(WeightsError, match=r"lacks model-2\.safetensors, which model\.safetensors\.index\.json lists"):
        check_part(tmp_path)
    part(tmp_path, ["b"], file="model-2.safetensors")
    assert check_part(tmp_path).keys() == {"a", "b"}
    (tmp_path / "model.safetensors.index.json").write_text("{")
    with pytest.raises(WeightsError, match="cannot be read"):
        check_part(tmp_path)


def test_a_variant_is_taken_where_there_is_one(tmp_path):
    part(tmp_path, ["whole"])
    assert not has_variant(tmp_path, "fp16")
    part(tmp_path, ["half"], file="model.fp16.safetensors")
    assert has_variant(tmp_path, "fp16")
    assert read_headers(weight_files(tmp_path, "fp16")).keys() == {"half"}
    assert read_headers(weight_files(tmp_path)).keys() == {"whole"}


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (["_orig_mod.a", "_orig_mod.b"], "_orig_mod."),
        (["module._orig_mod.a"], "module._orig_mod."),
        (["module.a", "b"], ""),
        (["a.module.b"], ""),
        ([], ""),
    ],
)
def test_a_wrapper_is_what_stands_before_every_name(names, prefix):
    assert wrapper(names) == prefix


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("blocks.0.to_q.base_layer.weight", "adapters"),
        ("blocks.0.to_q.lora_A.default.weight", "adapters"),
        ("blocks.0.attn1.to_qkv.weight", "fused attention"),
        ("transformer_blocks.0.attn.to_added_qkv.weight", "fused attention"),
        ("model.diffusion_model.input_blocks.0.weight", "single-file"),
        ("double_blocks.0.img_attn.qkv.weight", "Black Forest Labs"),
        ("joint_blocks.0.x_block.attn.qkv.weight", "Stability"),
        ("blocks.0.self_attn.q.weight", "Wan in its authors'"),
        ("visual.transformer.resblocks.0.ln_1.weight", "open_clip"),
        ("blocks.0.to_q.weight.absmax", "bitsandbytes"),
        ("layers.0.q_proj.qweight", "GPTQ"),
        ("blocks.0.to_q.scale_weight", "fp8"),
    ],
)
def test_layouts_of_others_are_called_by_their_name(name, kind):
    layout = foreign_layout({"proj_out.weight": FLOAT, name: FLOAT})
    assert layout is not None
    assert kind in layout.kind


@pytest.mark.parametrize(
    "name",
    # those of diffusers' own Wan autoencoder, UNet and language models
    ["decoder.mid_block.attentions.0.to_qkv.weight", "down_blocks.0.to_q.weight", "layers.0.self_attn.q_proj.weight"],
)
def test_names_of_these_libraries_are_no_foreign_layout(name):
    assert foreign_layout({name: FLOAT}) is None


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.uint8])
def test_eight_bits_are_refused(dtype, tmp_path):
    with pytest.raises(WeightsError, match="stored in 8 bits"):
        check_part(part(tmp_path, ["a.weight"], dtype=dtype))


def test_a_configuration_that_speaks_of_quantisation_is_refused(tmp_path):
    part(tmp_path, ["a.weight"])
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "bitsandbytes"}}')
    with pytest.raises(WeightsError, match="says that it is quantised"):
        check_part(tmp_path)


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("flux1-dev.safetensors", r"it holds flux1-dev\.safetensors"),
        ("flux1-Q4.gguf", r"it holds flux1-Q4\.gguf"),
        ("adapter_config.json", r"a peft adapter, which goes under policy\.surface\.start"),
        ("readme.txt", "copy or download it again"),
    ],
)
def test_a_part_without_weights_says_what_is_there(file, wanted, tmp_path):
    (tmp_path / file).write_bytes(b"")
    with pytest.raises(WeightsError, match=wanted):
        check_part(tmp_path)


def tree(root, *files):
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")


INDEX = "model_index.json"


@pytest.mark.parametrize(
    ("files", "folder", "wanted"),
    [
        ([f"snapshots/1a2b/{INDEX}"], "", r"the hub's cache of a model; give the commit in it, .*snapshots/1a2b"),
        (["snapshots/1a2b/refs"], "", "no commit in it is whole"),
        ([f"model/{INDEX}"], "", r"one level too high; give .*model"),
        ([INDEX, "transformer/config.json"], "transformer", "is a part of .*; give that folder"),
        (["run.yaml"], "", "is a run's folder; `stepcredit export"),
        (["checkpoints/000100/state.json", "checkpoints/000100/adapter/a"], "checkpoints/000100", "start: .*adapter"),
        (["adapter_config.json"], "", "it holds a LoRA, which goes under policy.surface.start"),
        (["pytorch_lora_weights.safetensors"], "", "it holds a LoRA"),
        (["models/checkpoints/a", "models/loras/b"], "", "ComfyUI's tree of single files"),
        (["dreamy.safetensors"], "", "the single file dreamy.safetensors"),
        ([], "", "it is empty"),
    ],
)
def test_a_folder_without_an_index_is_told_what_it_is(files, folder, wanted, tmp_path):
    tree(tmp_path, *files)
    with pytest.raises(WeightsError, match=f"has no {INDEX}; .*{wanted}"):
        check_local(str(tmp_path / folder), index=INDEX, parts=())


def test_a_single_network_and_a_whole_generator_are_told_apart(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "FluxTransformer2DModel"}')
    with pytest.raises(WeightsError, match="is a single FluxTransformer2DModel; wanted the folder of the whole"):
        check_local(str(tmp_path), index=INDEX, parts=())
    (tmp_path / "config.json").rename(tmp_path / INDEX)
    with pytest.raises(WeightsError, match="is a whole generator; wanted the folder of one model"):
        check_local(str(tmp_path), index="config.json", parts=())


@pytest.mark.parametrize(
    ("weights", "wanted"),
    [
        ("black forest/FLUX", "no hub id could be called so"),
        ("owner/name@main", "no hub id could be called so"),
        ("https://huggingface.co/owner/name", "is an address; give its last two words"),
        ("./nowhere", r"there is no folder \./nowhere"),
        ("", "no hub id could be called so"),
    ],
)
def test_what_is_neither_folder_nor_hub_id_is_refused(weights, wanted):
    with pytest.raises(WeightsError, match=wanted):
        resolve(weights, "flux_scenes")


def test_a_hub_id_stays_one():
    assert resolve("black-forest-labs/FLUX.1-dev", "x") == "black-forest-labs/FLUX.1-dev"
    assert resolve("gpt2", "x") == "gpt2"
