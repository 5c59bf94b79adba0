"""A CLIP in open_clip's layout gives what it gives there; another network in that layout is refused."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from stepcredit.errors import WeightsError
from stepcredit.files.folders import resolve
from stepcredit.rewards.clip import Clip, cropped
from stepcredit.rewards.open_clip import renamed

EMBEDDED = resolve("scenes", "clip_scenes")
PICTURES = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def config():
    with open(f"{EMBEDDED}/config.json") as file:
        return json.load(file)


def drawn(config):
    """A random checkpoint of the embedded CLIP's shape, by open_clip's names."""
    random = torch.Generator().manual_seed(0)

    def tensor(*shape):
        return torch.randn(shape, generator=random) / 4

    text, vision, joint = config["text_config"], config["vision_config"], config["projection_dim"]
    side = vision["image_size"] // vision["patch_size"]
    tensors = {
        "token_embedding.weight": tensor(text["vocab_size"], text["hidden_size"]),
        "positional_embedding": tensor(text["max_position_embeddings"], text["hidden_size"]),
        "text_projection": tensor(text["hidden_size"], joint),
        "visual.class_embedding": tensor(vision["hidden_size"]),
        "visual.conv1.weight": tensor(vision["hidden_size"], 3, vision["patch_size"], vision["patch_size"]),
        "visual.positional_embedding": tensor(side**2 + 1, vision["hidden_size"]),
        "visual.proj": tensor(vision["hidden_size"], joint),
        "logit_scale": tensor(),
    }
    norms = {"ln_final": text, "visual.ln_pre": vision, "visual.ln_post": vision}
    for prefix, tower in (("", text), ("visual.", vision)):
        width, inner = tower["hidden_size"], tower["intermediate_size"]
        for layer in range(tower["num_hidden_layers"]):
            place = f"{prefix}transformer.resblocks.{layer}"
            norms |= {f"{place}.ln_1": tower, f"{place}.ln_2": tower}
            tensors[f"{place}.attn.in_proj_weight"] = tensor(3 * width, width)
            tensors[f"{place}.attn.in_proj_bias"] = tensor(3 * width)
            for name, (outputs, inputs) in {
                "attn.out_proj": (width, width),
                "mlp.c_fc": (inner, width),
                "mlp.c_proj": (width, inner),
            }.items():
                tensors[f"{place}.{name}.weight"] = tensor(outputs, inputs)
                tensors[f"{place}.{name}.bias"] = tensor(outputs)
    for name, tower in norms.items():
        tensors[f"{name}.weight"] = 1 + tensor(tower["hidden_size"])
        tensors[f"{name}.bias"] = tensor(tower["hidden_size"])
    return tensors


@pytest.fixture(scope="module")
def tensors(config):
    return drawn(config)


def folder_of(tensors, target):
    shutil.copytree(EMBEDDED, target)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, target / "model.safetensors")
    return str(target)


def activation(x, name):
    return x * torch.sigmoid(1.702 * x) if name == "quick_gelu" else F.gelu(x)


def norm(x, tensors, name):
    return F.layer_norm(x, x.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"])


def tower_of(x, tensors, prefix, tower, *, causal):
    """open_clip's residual blocks, written out."""
    for layer in range(tower["num_hidden_layers"]):
        place = f"{prefix}transformer.resblocks.{layer}"
        normed = norm(x, tensors, f"{place}.ln_1")
        joint = normed @ tensors[f"{place}.attn.in_proj_weight"].T + tensors[f"{place}.attn.in_proj_bias"]
        heads = [part.unflatten(-1, (tower["num_attention_heads"], -1)).transpose(1, 2) for part in joint.chunk(3, -1)]
        attended = F.scaled_dot_product_attention(*heads, is_causal=causal).transpose(1, 2).flatten(2)
        x = x + F.linear(attended, tensors[f"{place}.attn.out_proj.weight"], tensors[f"{place}.attn.out_proj.bias"])
        inner = F.linear(
            norm(x, tensors, f"{place}.ln_2"), tensors[f"{place}.mlp.c_fc.weight"], tensors[f"{place}.mlp.c_fc.bias"]
        )
        x = x + F.linear(
            activation(inner, tower["hidden_act"]),
            tensors[f"{place}.mlp.c_proj.weight"],
            tensors[f"{place}.mlp.c_proj.bias"],
        )
    return x


def test_pictures_and_texts_are_embedded_as_open_clip_does(config, tensors, tmp_path):
    clip = Clip(folder_of(tensors, tmp_path / "clip"), "cpu")
    vision, text = config["vision_config"], config["text_config"]
    pixels = (cropped(PICTURES, clip.side) - clip.mean[:, None, None]) / clip.std[:, None, None]
    patches = F.conv2d(pixels, tensors["visual.conv1.weight"], stride=vision["patch_size"]).flatten(2).transpose(1, 2)
    x = torch.cat([tensors["visual.class_embedding"].expand(len(PICTURES), 1, -1), patches], 1)
    x = norm(x + tensors["visual.positional_embedding"], tensors, "visual.ln_pre")
    x = tower_of(x, tensors, "visual.", vision, causal=False)
    features = norm(x[:, 0], tensors, "visual.ln_post") @ tensors["visual.proj"]
    torch.testing.assert_close(clip.pictures(PICTURES), F.normalize(features, dim=-1), rtol=0, atol=1e-5)

    length = text["max_position_embeddings"]
    ids = clip.tokenizer(["a red circle"], padding="max_length", max_length=length, return_tensors="pt").input_ids
    x = tensors["token_embedding.weight"][ids] + tensors["positional_embedding"]
    x = norm(tower_of(x, tensors, "", text, causal=True), tensors, "ln_final")
    end = int((ids[0] == clip.model.config.text_config.eos_token_id).int().argmax())
    features = x[:, end] @ tensors["text_projection"]
    torch.testing.assert_close(clip.texts(["a red circle"]), F.normalize(features, dim=-1), rtol=0, atol=1e-5)
    assert math.isfinite(float(clip.agreement(PICTURES[:1], ["a red circle"])[0]))


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (
            lambda t: {**t, "visual.attnpool.c_proj.weight": torch.ones(2)},
            r"visual\.attnpool\.c_proj\.weight, which no",
        ),
        (lambda t: {name: x for name, x in t.items() if ".resblocks.1." not in name}, r"it lacks \S+layers\.1"),
        (lambda t: {**t, "visual.proj": torch.ones(3, 3)}, r"of another shape: visual_projection\.weight is \(3, 3\)"),
    ],
    ids=["another network", "partial", "another size"],
)
def test_an_open_clip_checkpoint_that_does_not_fit_is_refused(change, wanted, tensors, tmp_path):
    with pytest.raises(WeightsError, match=wanted):
        Clip(folder_of(change(tensors), tmp_path / "clip"), "cpu")


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda t: {f"backbone.{name}": x for name, x in t.items()}, "it lacks"),
        (lambda t: {name: x for name, x in t.items() if "text_model" not in name}, r"it lacks text_model"),
        (lambda t: {**t, "text_model.x.base_layer.weight": torch.ones(2)}, "a network with adapters in it"),
    ],
    ids=["other names", "half of it", "adapters"],
)
def test_a_clip_with_other_names_never_scores_with_a_random_tower(change, wanted, tmp_path):
    own = load_file(f"{EMBEDDED}/model.safetensors")
    with pytest.raises(WeightsError, match=wanted):
        Clip(folder_of(change(own), tmp_path / "clip"), "cpu")


def test_the_wrapper_of_a_compiled_clip_is_read_without_it(tmp_path):
    own = load_file(f"{EMBEDDED}/model.safetensors")
    clip = Clip(folder_of({f"_orig_mod.{name}": x for name, x in own.items()}, tmp_path / "clip"), "cpu")
    whole = Clip(EMBEDDED, "cpu")
    assert np.array_equal(clip.agreement(PICTURES, ["a", "b"]), whole.agreement(PICTURES, ["a", "b"]))


def test_every_tensor_gets_a_name_of_its_own(tensors):
    joint = sum(".in_proj_" in name for name in tensors)
    assert len(renamed(tensors)) == len(tensors) + 2 * joint
