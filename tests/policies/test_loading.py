"""Bad input to generators: what is said, and that it says what to do."""

import json
import re
import shutil
import warnings
from contextlib import nullcontext
from typing import Any

import huggingface_hub
import pytest
import torch
from diffusers import FluxPipeline
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors.torch import load_file, save_file

import miniatures
from stepcredit.build import build_rewards, open_generator
from stepcredit.cli import app as cli
from stepcredit.errors import RecipeError, WeightsError
from stepcredit.policies import loading
from stepcredit.policies.families import family_of
from stepcredit.policies.families.flux import Flux
from stepcredit.policies.families.qwen_image import QwenImage
from stepcredit.policies.families.sd import SD
from stepcredit.policies.families.sd3 import SD3
from stepcredit.policies.families.wan import Wan
from stepcredit.policies.generator import Generator
from stepcredit.policies.loading import explain
from stepcredit.policies.text import TextCache
from stepcredit.rewards import clip
from stepcredit.settings.policies import Full, LoRA
from stepcredit.settings.rewards import HPS, Aesthetic, ClipT


@pytest.fixture(scope="module")
def wan_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wan")
    miniatures.wan().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sd_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sd")
    miniatures.sd().save_pretrained(folder)
    return folder


def wan(folder, **keys):
    return open_generator(Wan(**{"weights": str(folder), "resolution": 16, "frames": 5, "max_tokens": 16, **keys}))


@pytest.mark.parametrize("settings", [Flux, SD3, QwenImage, SD])
def test_a_folder_of_another_family_names_the_right_one(settings, wan_folder):
    with pytest.raises(WeightsError, match=r"is a WanPipeline, wanted a .*Pipeline; use policy\.type wan"):
        open_generator(settings(weights=str(wan_folder)))


def test_a_folder_of_no_known_family_is_refused(wan_folder, tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "AudioLDMPipeline"}))
    with pytest.raises(WeightsError, match="is a AudioLDMPipeline, wanted a WanPipeline; this library has no family"):
        wan(tmp_path)


def test_a_missing_component_is_named(sd_folder, tmp_path):
    miniatures.sd().save_pretrained(tmp_path)
    for file in (tmp_path / "unet").iterdir():
        file.unlink()
    (tmp_path / "unet").rmdir()
    with pytest.raises(WeightsError, match="lacks unet"):
        open_generator(SD(weights=str(tmp_path), resolution=16))


@pytest.mark.parametrize("name", ["dreamy.safetensors", "old.ckpt", "flux1-dev-Q4_K_S.gguf"])
def test_a_single_file_is_told_how_it_becomes_a_folder(name, tmp_path):
    (tmp_path / name).write_bytes(b"GGUF" + bytes(64))
    wanted = (
        "quantised weights of one network" if name.endswith("gguf") else r"StableDiffusionPipeline\.from_single_file"
    )
    with pytest.raises(WeightsError, match=wanted):
        open_generator(SD(weights=str(tmp_path / name)))


@pytest.fixture(scope="module")
def sd3_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sd3")
    miniatures.sd3().save_pretrained(folder)
    return folder


def without_t5(sd3_folder, target, *parts):
    """A copy of the folder whose index says that these parts are not there."""
    shutil.copytree(sd3_folder, target)
    index = json.loads((target / "model_index.json").read_text())
    (target / "model_index.json").write_text(json.dumps({**index, **{part: [None, None] for part in parts}}))
    shutil.rmtree(target / "text_encoder_3")
    return SD3(weights=str(target), resolution=16, max_tokens=16, surface=LoRA(rank=2))


def test_sd3_without_its_t5_is_told_zeros_in_its_place(sd3_folder, tmp_path):
    whole = open_generator(SD3(weights=str(sd3_folder), resolution=16, max_tokens=16, surface=LoRA(rank=2)))
    policy = open_generator(without_t5(sd3_folder, tmp_path / "model", "text_encoder_3", "tokenizer_3"))
    words, all_words = (p.encode(["a red circle"]).tensors["encoder_hidden_states"] for p in (policy, whole))
    clips = all_words.shape[1] - 16  # T5's words stand behind those of the CLIPs
    assert torch.equal(words[:, :clips], all_words[:, :clips])
    assert not words[:, clips:].any()
    assert all_words[:, clips:].any()
    assert policy.family.token_limit()[1] == policy.pipe.tokenizer_max_length


@pytest.mark.parametrize(
    ("parts", "wanted"),
    [
        (
            (),
            r"lacks text_encoder_3, which its model_index\.json.*text_encoder_3 and tokenizer_3 to \[null, null\]",
        ),
        (("tokenizer_3",), "has text_encoder_3 and no tokenizer_3, which go together"),
    ],
)
def test_a_part_that_may_be_left_out_is_left_out_on_purpose_only(parts, wanted, sd3_folder, tmp_path):
    with pytest.raises(WeightsError, match=wanted):
        open_generator(without_t5(sd3_folder, tmp_path / "model", *parts))


def test_a_part_that_is_not_whole_is_named_before_the_first_one_is_loaded(sd_folder, monkeypatch, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(sd_folder, folder)
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    monkeypatch.setattr(loading, "load_whole", lambda *_, **__: pytest.fail("a part was loaded"))
    with pytest.raises(WeightsError, match=r"vae.*speaks of"):
        open_generator(SD(weights=str(folder), resolution=16))


def test_a_text_encoder_that_lacks_tensors_ends_the_command_with_a_sentence(sd_folder, tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(sd_folder, folder)
    file = folder / "text_encoder" / "model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(file).items() if ".layers.1." not in name}
    save_file(tensors, file, metadata={"format": "pt"})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"policy: {{type: sd, weights: {folder}, resolution: 16}}\nprompts: {{type: scenes}}\n"
        f"rewards: [{{type: clip_t}}]\nmethod: {{type: dance_grpo}}\noutput: {{folder: {tmp_path / 'run'}}}\n"
    )
    with pytest.raises(SystemExit, match="2"):
        cli.main(["train", str(recipe)])
    shown = " ".join(capsys.readouterr().err.split())
    assert "text_encoder does not hold the weights of this network: it lacks" in shown
    assert "layers.1." in shown


def test_a_variant_that_no_part_has_is_refused(sd_folder):
    with pytest.raises(WeightsError, match=r"no part of .* has files of the variant fp16; remove policy\.variant"):
        open_generator(SD(weights=str(sd_folder), resolution=16, variant="fp16"))


def test_a_negative_prompt_that_is_cut_is_told_and_counted(wan_folder):
    policy = wan(wan_folder, negative_prompt="blurred, " * 20)
    with pytest.warns(UserWarning, match=r"policy\.negative_prompt is longer than 16 tokens and is cut: \"blurred"):
        policy.encode(["a red circle"])
    assert policy.cut_prompts == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wan(wan_folder, negative_prompt="blurred, " * 20, guidance=1.0).encode(["a red circle"])  # it is not asked


def test_a_hub_that_cannot_be_reached_says_how_to_go_without(monkeypatch):
    # The environment was read long ago: set there now, the hub would be tried, again and again, until time is out.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"cannot be reached.*hf download nobody/nothing --local-dir") as caught:
        open_generator(SD3(weights="nobody/nothing"))
    assert caught.value.__cause__ is not None


class Answer:
    """As much of a response as the hub's errors look at."""

    headers: dict[str, Any] = {}  # noqa: RUF012
    request = None
    status_code = 403


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (GatedRepoError, r"is gated: accept its licence at https://huggingface\.co/a/b, then `hf auth login`"),
        (RepositoryNotFoundError, r"no model a/b, or it is private"),
        (RevisionNotFoundError, r'no revision "v9"'),
    ],
)
def test_errors_of_the_hub_are_told_apart(error, wanted):
    wrapped = OSError("diffusers wraps it")
    wrapped.__cause__ = error("no", response=Answer())
    assert re.search(wanted, explain(Flux(weights="a/b", revision="v9"), wrapped))


def test_what_is_only_not_cached_counts_as_unreachable():
    assert "cannot be reached" in explain(Flux(weights="a/b"), LocalEntryNotFoundError("not in the cache"))


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ({"resolution": 20}, r"policy\.resolution is 20; this model needs a multiple of 8, the nearest are 16 and 24"),
        ({"resolution": (16, 30)}, r"is 16 x 30; .* multiple of 8, the nearest are 16 x 24 and 16 x 32"),
        ({"frames": 7}, r"policy\.frames is 7; .* the nearest are 5 and 9"),
        ({"experts": "high_noise"}, r"policy\.experts is high_noise, but .* has one network; remove it"),
        ({"guidance_2": 2.0}, r"policy\.guidance_2 is 2\.0, but .* has one network; remove it"),
        ({"device": "abacus"}, r"policy\.device is abacus, which is not here"),
        ({"attention": "telepathy"}, r'policy\.attention "telepathy" cannot be used here'),
        ({"surface": LoRA(targets=["to_x"])}, r"no linear layer ends in to_x; there are: .*to_q"),
        ({"surface": Full(modules=["atn"])}, r"no parameter has atn in its name; they begin with: blocks"),
    ],
)
def test_settings_that_do_not_fit_name_what_would(keys, wanted, wan_folder):
    with pytest.raises(RecipeError, match=wanted):
        wan(wan_folder, **keys)


def test_two_experts_without_a_boundary_are_refused(tmp_path):
    pipe = miniatures.wan(experts=2)
    pipe.register_to_config(boundary_ratio=None)
    pipe.save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match="two experts and no boundary_ratio"):
        wan(tmp_path)


def test_a_model_that_is_also_told_a_picture_is_refused(wan_folder):
    pipe = miniatures.wan()
    pipe.transformer.register_to_config(in_channels=36)  # as Wan's image-to-video models
    settings = Wan(weights=str(wan_folder), resolution=16, frames=5)
    with pytest.raises(RecipeError, match=r"takes 36 channels and returns 16: it is also told a picture"):
        Generator(family_of(settings), settings, pipe=pipe)


def test_a_hub_id_of_another_family_is_told_by_its_index_before_anything_is_downloaded(monkeypatch, tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "WanPipeline"}')
    monkeypatch.setattr(loading, "hf_hub_download", lambda name, file, revision: str(tmp_path / file))
    monkeypatch.setattr(FluxPipeline, "from_pretrained", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(WeightsError, match=r"owner/model is a WanPipeline, wanted a FluxPipeline; use policy.type wan"):
        open_generator(Flux(weights="owner/model"))


def test_parts_that_wait_are_not_copied_back(wan_folder):
    policy = wan(wan_folder)
    encoder = policy.pipe.text_encoder
    encoder.register_buffer("table", torch.ones(3))
    before = {name: tensor.data_ptr() for name, tensor in encoder.state_dict().items()}
    policy.device = torch.device("meta")  # stands for an accelerator
    with policy._on_device("text_encoder"):
        assert all(tensor.is_meta for tensor in encoder.state_dict().values())
    assert {name: tensor.data_ptr() for name, tensor in encoder.state_dict().items()} == before
    assert all(not tensor.is_meta for tensor in encoder.state_dict().values())


@pytest.mark.parametrize("choice", [ClipT, HPS, Aesthetic])
def test_rewards_stand_where_the_generator_does_unless_they_say_otherwise(choice, monkeypatch):
    asked, load = [], clip.load_clip
    monkeypatch.setattr(clip, "load_clip", lambda folder, device: asked.append(device) or load(folder, "cpu"))
    build_rewards([choice()], torch.device("meta"))
    build_rewards([choice(device="cpu")], torch.device("meta"))
    assert asked == ["meta", "cpu"]
    with pytest.raises(RecipeError, match=r"device of the reward \w+ is abacus, which is not here"):
        build_rewards([choice(device="abacus")], torch.device("cpu"))


def test_a_shift_is_refused_where_levels_come_from_noise_prediction(sd_folder):
    policy = open_generator(SD(weights=str(sd_folder), resolution=16))
    with pytest.raises(RecipeError, match=r"rollout\.shift has no meaning"):
        policy.levels(4, 3.0)


def test_a_prompt_that_is_cut_is_told_once_and_counted(wan_folder):
    policy = wan(wan_folder)
    long = [" ".join(["circle"] * 30), " ".join(["square"] * 30)]
    with pytest.warns(UserWarning, match=r"longer than 16 tokens and is cut: \"circle circle") as told:
        policy.encode(["a red circle", *long])
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy.encode([*long, "triangle " * 30])
    assert policy.cut_prompts == 3


def test_every_distinct_prompt_is_encoded_once_and_the_cache_is_bounded(wan_folder):
    policy = wan(wan_folder, text_cache=2, guidance=1.0)
    first = policy.encode(["a red circle", "a blue square", "a red circle"])
    assert policy._text.encoded == 2
    again = policy.encode(["a blue square", "a red circle", "a white triangle"])
    assert policy._text.encoded == 3
    assert len(policy._text) == 2
    for name, tensor in first.tensors.items():
        assert torch.equal(tensor[0], tensor[2])
        assert torch.equal(tensor[0], again.tensors[name][1])


def test_the_cache_holds_rows_and_not_the_batches_that_they_came_in():
    cache = TextCache(lambda prompts: {"words": torch.ones(len(prompts), 5, 7)}, size=2, ready=nullcontext)
    cache(list("abcdefgh"))
    held = [tensor.untyped_storage().nbytes() for row in cache._rows.values() for tensor in row.values()]
    assert held == [5 * 7 * 4] * 2


def test_the_vae_decodes_in_slices_that_change_nothing(wan_folder):
    latents = torch.randn(3, *wan(wan_folder).latent_shape(), generator=torch.Generator().manual_seed(0))
    whole, sliced = (wan(wan_folder, decode_batch=size).decode(latents) for size in (8, 1))
    assert whole.shape == (3, 5, 3, 16, 16)
    assert torch.allclose(whole, sliced, atol=1e-5)


@pytest.mark.parametrize("surface", [LoRA(rank=2), Full()])
def test_what_is_trained_is_float32_over_a_bfloat16_network(surface, wan_folder):
    policy = wan(wan_folder, dtype="bfloat16", surface=surface)
    assert {parameter.dtype for parameter in policy.parameters()} == {torch.float32}
    assert policy.dtype == torch.bfloat16
    x = torch.randn(2, *policy.latent_shape(), generator=torch.Generator().manual_seed(0))
    found = policy.velocity(x, torch.tensor([0.9, 0.4]), policy.encode(["a red circle", "a blue square"]))
    assert found.dtype == torch.float32
    found.square().mean().backward()
    assert all(p.grad.dtype == torch.float32 for p in policy.parameters() if p.grad is not None)


def test_one_expert_is_trained_and_the_steps_of_the_other_are_not(tmp_path):
    miniatures.wan(experts=2).save_pretrained(tmp_path)
    high, low = (wan(tmp_path, experts=which) for which in ("high_noise", "low_noise"))
    levels = high.levels(6, None)
    assert high.trainable(levels).tolist() == [level >= 0.875 for level in levels[:-1].tolist()]
    assert torch.equal(high.trainable(levels), ~low.trainable(levels))
    assert high.trainable(levels).any()
    assert (~high.trainable(levels)).any()
    assert list(high.surface.networks) == ["transformer"]
    assert list(low.surface.networks) == ["transformer_2"]
