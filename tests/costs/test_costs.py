"""What an iteration is counted to cost: equal to a real iteration of every family, to published counts of full-size
models, and of use when memory runs out."""

from dataclasses import replace
from functools import cache, partial

import pytest
import safetensors
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

import miniatures
from fakes import FakePolicy, make_parts, make_recipe
from stepcredit.build import build_parts
from stepcredit.costs import count as costs
from stepcredit.costs import memory
from stepcredit.costs.count import Costs, Need, count_costs, fitting_micro_batch, measure
from stepcredit.costs.dry_run import show
from stepcredit.errors import MemoryNeeded, WeightsError
from stepcredit.recipe.load import validate
from stepcredit.training.step import step

FAMILIES = {
    "flux": (miniatures.flux, {"type": "flux", "max_tokens": 16}),
    "sd3": (miniatures.sd3, {"type": "sd3", "max_tokens": 16, "guidance": 3.0}),
    "wan": (miniatures.wan, {"type": "wan", "max_tokens": 16, "guidance": 3.0, "frames": 5}),
    "wan of two experts": (
        partial(miniatures.wan, experts=2),
        {"type": "wan", "max_tokens": 16, "guidance": 3.0, "frames": 5, "experts": "high_noise"},
    ),
    "qwen_image": (miniatures.qwen_image, {"type": "qwen_image", "max_tokens": 16, "guidance": 3.0}),
    "sd": (miniatures.sd, {"type": "sd", "guidance": 3.0}),
}
SURFACES = {"lora": {"type": "lora", "rank": 4}, "full": {"type": "full"}}
PROMPTS = ["a red circle", "a white triangle left of a blue square"]
GIB = 2**30


def brightness(media, prompts):
    """A reward that tells samples apart."""
    return [float(item.mean()) for item in media]


def recipe_of(folder, policy, **sections):
    kind = "ddpo" if policy["type"] == "sd" else "flow_grpo"
    return validate(
        {
            "policy": {"weights": str(folder), "resolution": 16, "device": "cpu", **policy},
            "prompts": {"type": "list", "prompts": PROMPTS},
            "rollout": {"prompts": 2, "group_size": 3, "steps": 4, "micro_batch": 4},
            "method": {"type": kind, "kl_weight": 0.01},
            "rewards": [{"type": "custom", "path": "test_costs:brightness"}],
            "training": {"micro_batch": 5, "updates": 2},
            **sections,
        }
    )


def really(recipe):
    """FLOPs of a real iteration; PyTorch's counter knows the attention of GPUs only."""
    aten = torch.ops.aten
    known = {
        aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *a, **n: sdpa_flop_count(q, k, v),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: (
            lambda g, q, k, v, *a, **n: sdpa_backward_flop_count(g, q, k, v)
        ),
    }
    trainer, _ = build_parts(recipe)
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        done = step(trainer, 0)
    assert done.report.metrics["update/skipped_pairs"] == 0
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("family", "surface"),
    [*((family, "lora") for family in FAMILIES), ("flux", "full"), ("wan of two experts", "full")],
)
def test_an_iteration_is_counted_as_it_runs(family, surface, tmp_path):
    build, policy = FAMILIES[family]
    build().save_pretrained(tmp_path)
    recipe = recipe_of(tmp_path, {**policy, "surface": SURFACES[surface]})
    assert count_costs(recipe).flops == pytest.approx(really(recipe), rel=0.03)


def test_checkpointing_counts_what_is_computed_again(tmp_path):
    build, policy = FAMILIES["flux"]
    build().save_pretrained(tmp_path)
    plain, again = (recipe_of(tmp_path, policy | {"gradient_checkpointing": flag}) for flag in (False, True))
    counted = count_costs(again)
    assert counted.flops == pytest.approx(really(again), rel=0.03)
    assert counted.needs["update"].each < count_costs(plain).needs["update"].each
    assert counted.work["update, backward"] > 1.5 * count_costs(plain).work["update, backward"]


@pytest.mark.parametrize("family", ["flux", "wan", "sd"])
def test_two_samples_cost_twice_one(family, tmp_path):
    build, policy = FAMILIES[family]
    build().save_pretrained(tmp_path)
    policy = costs.sketch(recipe_of(tmp_path, policy))
    _, told = costs.encode(policy, PROMPTS)
    name = next(iter(policy.family.networks()))
    costs.gradient(policy, told, name)  # from now on there are gradients, which are not counted with activations
    one, two, three = (measure(partial(costs.gradient, policy, told, name, count)) for count in (1, 2, 3))
    assert two.flops == pytest.approx(2 * one.flops, rel=0.001)
    assert three.peak - two.peak == pytest.approx(two.peak - one.peak, rel=0.02)
    assert two.peak <= 2 * one.peak


def test_encoding_texts_has_its_peak_too(tmp_path):
    build, policy = FAMILIES["qwen_image"]
    build().save_pretrained(tmp_path)
    waits = count_costs(recipe_of(tmp_path, {**policy, "device": None}))
    stays = count_costs(recipe_of(tmp_path, {**policy, "device": None, "offload": []}))
    assert waits.needs["text"].fixed == waits.waiting["text encoders"] > 0
    assert stays.needs["text"].fixed == 0
    assert waits.needs["text"].each == stays.needs["text"].each > 0


FULL = {
    "flux 512": ("black-forest-labs/FLUX.1-dev", {"type": "flux", "max_tokens": 512}, 11.90, 21.50),
    "flux 512, short text": ("black-forest-labs/FLUX.1-dev", {"type": "flux", "max_tokens": 128}, 11.90, 15.81),
    "flux 720": ("black-forest-labs/FLUX.1-dev", {"type": "flux", "resolution": 720}, 11.90, 37.28),
    "flux 1024": ("black-forest-labs/FLUX.1-dev", {"type": "flux", "resolution": 1024}, 11.90, 74.38),
    "sd3.5 512": ("stabilityai/stable-diffusion-3.5-medium", {"type": "sd3", "max_tokens": 256}, 2.24, 2.443),
    "sd3.5 512, short text": (
        "stabilityai/stable-diffusion-3.5-medium",
        {"type": "sd3", "max_tokens": 128},
        2.24,
        2.224,
    ),
    "sd3.5 1024": ("stabilityai/stable-diffusion-3.5-medium", {"type": "sd3", "resolution": 1024}, 2.24, 11.25),
    "wan 1.3B 240": ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", {"type": "wan"}, 1.42, 19.82),
    "wan 1.3B 480": ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", {"type": "wan", "resolution": (480, 832)}, 1.42, 144.8),
    "wan 14B 240": ("Wan-AI/Wan2.1-T2V-14B-Diffusers", {"type": "wan"}, 14.29, 159.5),
    "qwen 512": ("Qwen/Qwen-Image", {"type": "qwen_image", "max_tokens": 64}, 20.43, 15.67),
}
LONG = " ".join(["word"] * 600)


@cache
def full_size(name):
    """The generator of a published model without weights, and what it is told of a long prompt."""
    weights, policy, *_ = FULL[name]
    size = (240, 416) if policy["type"] == "wan" else 512
    surface = {"type": "full", "modules": ["proj_out"]}  # quicker to set up than a LoRA; no forward depends on it
    policy = {"weights": weights, "resolution": size, "guidance": 1.0, "surface": surface, **policy}
    found = costs.sketch(make_recipe(policy=policy))
    return found, costs.encode(found, [LONG])[1]


@pytest.mark.parametrize("name", FULL)
def test_full_sizes_equal_the_published_counts(name):
    *_, billions, teraflops = FULL[name]
    policy, told = full_size(name)
    count = sum(weight.numel() for weight in policy.family.networks()["transformer"].parameters())
    assert count / 1e9 == pytest.approx(billions, rel=0.005)
    forward = measure(partial(costs.velocity, policy, told, "transformer"))
    assert forward.flops / 1e12 == pytest.approx(teraflops, rel=0.01)


@pytest.mark.parametrize(("name", "gib"), [("flux 512", 7.3), ("wan 1.3B 240", 12.7)])
def test_activations_equal_those_published_for_an_adapter_in_the_dtype_of_the_network(name, gib):
    surface = {"type": "lora", "rank": 64, "targets": "attention"}
    weights, policy, *_ = FULL[name]
    size = (240, 416) if policy["type"] == "wan" else 512
    policy = {
        "weights": weights,
        "resolution": size,
        "guidance": 1.0,
        "dtype": "bfloat16",
        "surface": surface,
        **policy,
    }
    found = costs.sketch(make_recipe(policy=policy))
    told = costs.encode(found, [LONG])[1]
    exact = measure(partial(costs.gradient, found, told, "transformer")).peak
    for parameter in found.parameters():  # as in the published numbers; ours keep float32 inputs of every adapter
        parameter.grad = None
        parameter.data = parameter.data.to(torch.bfloat16)
    assert measure(partial(costs.gradient, found, told, "transformer")).peak / GIB == pytest.approx(gib, rel=0.1)
    assert exact > 1.2 * gib * GIB


@pytest.mark.parametrize(("name", "teraflops"), [("flux 512", 2.51), ("wan 1.3B 240", 45.0)])
def test_decoding_equals_the_published_counts(name, teraflops):
    policy, _ = full_size(name)
    latent = torch.empty(1, *policy.latent_shape(), device="meta")
    assert measure(partial(policy.decode, latent)).flops / 1e12 == pytest.approx(teraflops, rel=0.01)


def test_published_models_are_counted_without_a_connection_or_weights(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("weights were loaded")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(safetensors, "safe_open", refuse)
    monkeypatch.setattr("safetensors.torch.load_file", refuse)
    console = Console(record=True, width=120)
    policy = {"weights": "Qwen/Qwen-Image", "type": "qwen_image", "resolution": 256}
    show(make_recipe(policy=policy), console, peak_tflops=790.0, utilisation=0.5)
    shown = console.export_text()
    assert "update, backward" in shown
    assert "50% of 790 TFLOP/s" in shown
    assert "guessed" in shown


def test_an_unknown_model_that_cannot_be_reached_is_refused(monkeypatch):
    monkeypatch.setattr("stepcredit.policies.blueprint.snapshot_download", _unreachable)
    with pytest.raises(WeightsError, match=r"hf download nobody/nothing --local-dir .* counted without it only for"):
        count_costs(make_recipe(policy={"type": "flux", "weights": "nobody/nothing"}))


def _unreachable(*_, **__):
    raise ConnectionError("no connection")


SOME = Costs(
    work={"rollout": 10},
    resident={"network": 5 * GIB, "gradients": GIB},
    waiting={},
    needs={"rollout": Need(0, GIB, 8), "decode": Need(GIB, GIB, 2), "update": Need(2 * GIB, 3 * GIB, 8)},
    pairs=6,
    guessed_texts=False,
)


@pytest.mark.parametrize(("gib", "fits"), [(5, 0), (10.9, 0), (11, 1), (13.9, 1), (14, 2), (38, 10)])
def test_the_largest_micro_batch_that_fits(gib, fits):
    assert fitting_micro_batch(SOME, int(gib * GIB)) == fits


def test_the_peak_is_that_of_the_hungriest_phase():
    assert SOME.peak == (6 + 2 + 24) * GIB
    assert replace(SOME, work={"a": 2 * 10**12}).seconds(peak_tflops=4.0, utilisation=0.5) == 1


class Greedy(FakePolicy):
    """Runs out of memory with more rows than it can."""

    def __init__(self, rows, gradient, error):
        super().__init__()
        self.rows, self.gradient, self.error = rows, gradient, error

    def velocity(self, latents, level, condition):
        if len(latents) > self.rows and torch.is_grad_enabled() == self.gradient:
            raise self.error
        return super().velocity(latents, level, condition)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")])
@pytest.mark.parametrize(("gradient", "flag"), [(False, "rollout.micro_batch"), (True, "training.micro_batch")])
def test_running_out_of_memory_names_the_batch_and_what_fits(error, gradient, flag, monkeypatch):
    monkeypatch.setattr(memory, "count_costs", lambda recipe: SOME)
    monkeypatch.setattr(memory, "available", lambda device: 12 * GIB)
    trainer = make_parts(policy=Greedy(3, gradient, error))
    explained = memory.explained(trainer.recipe, trainer.policy.device)
    with pytest.raises(MemoryNeeded, match=rf"{flag} 8.*--{flag} \d") as caught, explained:
        step(trainer, 0)
    assert caught.value.__cause__ is error
    fits = 6 if flag == "rollout.micro_batch" else 1
    assert f"{fits} would fit: --{flag} {fits}" in str(caught.value)
    assert ("--policy.gradient_checkpointing true" in str(caught.value)) == gradient


def test_other_errors_pass():
    recipe = make_recipe()
    with pytest.raises(RuntimeError, match="something else"), memory.explained(recipe, torch.device("cpu")):
        raise RuntimeError("something else")
