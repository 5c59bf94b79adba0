"""Every tensor of a part comes from its files, or the part is refused."""

import json
import re

import pytest
import torch
from diffusers import AutoencoderKL, WanTransformer3DModel
from safetensors.torch import load_file, save_file
from transformers import T5EncoderModel

import miniatures
from stepcredit.errors import WeightsError
from stepcredit.files import whole
from stepcredit.files.whole import HARMLESS, load_whole

KINDS = {"text_encoder_2": T5EncoderModel, "vae": AutoencoderKL, "transformer": WanTransformer3DModel}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """One part of each library, and a network that keeps layers in float32."""
    folder = tmp_path_factory.mktemp("parts")
    flux = miniatures.flux()
    flux.text_encoder_2.save_pretrained(folder / "text_encoder_2")
    flux.vae.save_pretrained(folder / "vae")
    miniatures.wan().transformer.save_pretrained(folder / "transformer")
    return folder


def copied(parts, name, target, change):
    """A copy of a part whose tensors went through `change`."""
    (target / name).mkdir()
    (file,) = (parts / name).glob("*.safetensors")
    tensors = load_file(file)
    (target / name / "config.json").write_text((parts / name / "config.json").read_text())
    save_file({key: value.contiguous() for key, value in change(tensors).items()}, target / name / file.name)
    return target / name


def lacking(tensors):
    return {name: tensor for name, tensor in tensors.items() if ".1." not in name}


def surplus(tensors):
    return {**tensors, "adapter.weight": torch.ones(2)}


def reshaped(tensors):
    name = max(tensors)
    return {**tensors, name: torch.ones(7, 7)}


@pytest.mark.parametrize("name", ["text_encoder_2", "vae", "transformer"])
@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lacking, r"lacks \w+.*\.1\.\S+"),
        (surplus, r"no place for adapter\.weight"),
        (reshaped, r"\(7, 7\)|\[7, 7\]"),
    ],
)
def test_what_is_missing_left_over_or_of_another_shape_is_refused(name, change, wanted, parts, tmp_path):
    folder = copied(parts, name, tmp_path, change)
    with pytest.raises(WeightsError, match=wanted) as caught:
        load_whole(KINDS[name], folder, dtype=torch.float32)
    assert str(folder) in str(caught.value)
    assert "ignore_mismatched_sizes" not in str(caught.value)


@pytest.mark.parametrize("name", ["text_encoder_2", "vae", "transformer"])
@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod."])
def test_a_wrapper_s_prefix_changes_nothing(name, prefix, parts, tmp_path):
    folder = copied(parts, name, tmp_path, lambda tensors: {f"{prefix}{key}": t for key, t in tensors.items()})
    plain = load_whole(KINDS[name], parts / name, dtype=torch.bfloat16).state_dict()
    wrapped = load_whole(KINDS[name], folder, dtype=torch.bfloat16).state_dict()
    assert wrapped.keys() == plain.keys()
    for key, tensor in plain.items():
        assert wrapped[key].dtype == tensor.dtype
        assert torch.equal(wrapped[key], tensor)


def test_a_prefix_before_half_a_network_is_refused(parts, tmp_path):
    folder = copied(
        parts, "vae", tmp_path, lambda tensors: {f"_orig_mod.{key}": t for key, t in lacking(tensors).items()}
    )
    with pytest.raises(WeightsError, match=r"it lacks \S+\.1\."):
        load_whole(AutoencoderKL, folder, dtype=torch.float32)


def test_what_older_releases_stored_is_harmless(parts, tmp_path):
    position_ids = torch.arange(4)[None]
    folder = copied(parts, "text_encoder_2", tmp_path, lambda tensors: {**tensors, "x.position_ids": position_ids})
    plain = load_whole(T5EncoderModel, parts / "text_encoder_2", dtype=torch.float32).state_dict()
    loaded = load_whole(T5EncoderModel, folder, dtype=torch.float32).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in plain.items())


def test_every_harmless_name_has_a_reason():
    assert all(re.compile(name) and len(reason) > 20 for name, reason in HARMLESS.items())


def test_a_library_that_does_not_do_the_dtype_that_it_is_asked_is_told_of(parts, monkeypatch):
    load = AutoencoderKL.from_pretrained
    monkeypatch.setattr(
        AutoencoderKL, "from_pretrained", lambda folder, **options: load(folder, **{**options, "dtype": torch.float16})
    )
    with pytest.raises(WeightsError, match="was loaded in float16, wanted float32"):
        load_whole(AutoencoderKL, parts / "vae", dtype=torch.float32)


def test_a_configuration_of_another_network_is_refused(parts, tmp_path):
    folder = copied(parts, "vae", tmp_path, lambda tensors: tensors)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "latent_channels": 4}))
    with pytest.raises(WeightsError, match="could not be loaded as AutoencoderKL"):
        load_whole(AutoencoderKL, folder, dtype=torch.float32)


def test_a_report_of_nothing_is_no_error():
    whole.refuse_partial("here", whole.Report())
