"""What an iteration is counted to cost: equal to a real iteration of every family, to published counts of full-size
models, and of use when memory runs out."""

import inspect
from dataclasses import replace
from functools import cache, partial

import pytest
import safetensors
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

import miniatures
from fakes import FakePolicy, make_parts, make_recipe
from stepcredit import build
from stepcredit.build import build_parts
from stepcredit.costs import memory
from stepcredit.costs.count import Costs, Need, count_costs, fitting_micro_batch
from stepcredit.costs.dry_run import show
from stepcredit.costs.meter import metered
from stepcredit.costs.sketch import decode, encode, gradient, sketch, velocity
from stepcredit.costs.weights import weigh
from stepcredit.errors import MemoryNeeded, WeightsError, during, phase_of
from stepcredit.policies.text import TextCache
from stepcredit.recipe.load import validate
from stepcredit.recipe.recipe import Training
from stepcredit.rollout import decoding, engine
from stepcredit.training import update
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


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Networks this small take twice the time on two threads, most of it waiting for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """Each miniature saved once, in a folder of its own."""
    place = tmp_path_factory.mktemp("miniatures")

    @cache
    def save(family):
        build_miniature, _ = FAMILIES[family]
        build_miniature().save_pretrained(place / family)
        return place / family

    return save


@pytest.fixture(scope="module")
def recipe_of(folder_of):
    def make(family, *, rollout_batch=6, update_batch=12, **settings):
        _, policy = FAMILIES[family]
        return validate(
            {
                "policy": {
                    "weights": str(folder_of(family)),
                    "resolution": 16,
                    "device": "cpu",
                    **policy,
                    **settings,
                },
                "prompts": {"type": "list", "prompts": PROMPTS},
                "rollout": {"prompts": 2, "group_size": 3, "steps": 4, "micro_batch": rollout_batch},
                "method": {"type": "ddpo" if policy["type"] == "sd" else "flow_grpo", "objective": {"kl_weight": 0.01}},
                "rewards": [{"type": "custom", "path": "test_costs:brightness"}],
                "training": {"micro_batch": update_batch, "updates": 2},
            }
        )

    return make


@pytest.fixture(scope="module")
def plain_flux(recipe_of):
    """The costs of the smallest FLUX with a LoRA, counted once."""
    return count_costs(recipe_of("flux", surface=SURFACES["lora"]))


def really(recipe):
    """FLOPs of a real iteration; PyTorch's counter knows the attention of GPUs only."""
    aten = torch.ops.aten
    known = {
        aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *a, **n: sdpa_flop_count(q, k, v),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: (
            lambda g, q, k, v, *a, **n: sdpa_backward_flop_count(g, q, k, v)
        ),
    }
    parts, _ = build_parts(recipe)
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        done = step(parts, 0)
    assert done.report.metrics["update/skipped_pairs"] == 0
    return counter.get_total_flops()


def measure(call):
    """The meter of one call."""
    with metered() as meter:
        call()
    return meter


def test_the_meter_counts_products_and_what_lives():
    before = torch.empty(10, 10, device="meta")
    with metered() as meter:
        product = before @ before
        view = product.T
        summed = [view + before]
        assert meter.live == 800
        del product, view
        assert meter.live == 400
        summed.append(torch.cat([*summed, before]))
    assert meter.flops == 2 * 10**3
    assert meter.peak == 1200
    del summed


def test_attention_is_never_a_whole_matrix():
    query = torch.empty(1, 2, 1000, 8, device="meta")
    mask = torch.ones(1, 1, 1, 1000, dtype=torch.bool, device="meta")
    attend = torch.nn.functional.scaled_dot_product_attention
    for arguments in ({}, {"attn_mask": mask}):
        with metered() as meter:
            torch.nn.functional.scaled_dot_product_attention(query, query, query, **arguments)
        assert meter.flops == 4 * 2 * 1000 * 1000 * 8
        assert meter.peak < 1000 * 1000
    assert torch.nn.functional.scaled_dot_product_attention is attend


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "flux"])
def test_an_iteration_is_counted_as_it_runs(family, recipe_of):
    recipe = recipe_of(family, surface=SURFACES["lora"])
    assert count_costs(recipe).flops == pytest.approx(really(recipe), rel=0.03)


def test_an_iteration_of_flux_is_counted_as_it_runs(recipe_of, plain_flux):
    assert plain_flux.flops == pytest.approx(really(recipe_of("flux", surface=SURFACES["lora"])), rel=0.03)


@pytest.mark.parametrize("family", ["flux", "wan of two experts"])
def test_an_iteration_of_full_training_is_counted_as_it_runs_in_batches_that_leave_a_rest(family, recipe_of):
    recipe = recipe_of(family, surface=SURFACES["full"], rollout_batch=4, update_batch=7)
    assert count_costs(recipe).flops == pytest.approx(really(recipe), rel=0.03)


def test_checkpointing_counts_what_is_computed_again(recipe_of, plain_flux):
    recipe = recipe_of("flux", surface=SURFACES["lora"], gradient_checkpointing=True)
    counted = count_costs(recipe)
    assert counted.flops == pytest.approx(really(recipe), rel=0.03)
    assert counted.needs["update"].each < plain_flux.needs["update"].each
    assert counted.work["update, backward"] > 1.5 * plain_flux.work["update, backward"]


@pytest.mark.parametrize("family", ["flux", "wan", "sd"])
def test_two_samples_cost_twice_one(family, recipe_of):
    policy = sketch(recipe_of(family))
    _, condition = encode(policy, PROMPTS)
    name = next(iter(policy.family.networks()))
    gradient(policy, condition, name)  # from now on there are gradients, which are not counted with activations
    one, two, three = (measure(partial(gradient, policy, condition, name, count)) for count in (1, 2, 3))
    assert two.flops == pytest.approx(2 * one.flops, rel=0.001)
    assert three.peak - two.peak == pytest.approx(two.peak - one.peak, rel=0.02)
    assert two.peak <= 2 * one.peak


def test_full_training_keeps_a_reference_an_average_and_copies_in_the_dtype_of_the_network(recipe_of):
    recipe = recipe_of("flux", surface=SURFACES["full"], dtype="bfloat16", device=None)
    policy = sketch(recipe)
    count = sum(weight.numel() for weight in policy.family.networks()["transformer"].parameters())
    encoders = [policy.pipe.text_encoder, policy.pipe.text_encoder_2]
    weights = weigh(recipe.model_copy(update={"training": Training(ema=0.9)}), policy, reference=True)
    assert weights.resident == {
        "autoencoder": 2 * sum(weight.numel() for weight in policy.pipe.vae.parameters()),
        "trained weights": 4 * count,
        "gradients": 4 * count,
        "moments of AdamW": 8 * count,
        "moving average": 4 * count,
        "reference": 4 * count,
    }
    assert weights.copies == 2 * count
    assert weights.waiting == {"text encoders": 2 * sum(w.numel() for part in encoders for w in part.parameters())}


def test_encoding_texts_has_its_peak_too(recipe_of):
    waits = count_costs(recipe_of("qwen_image", device=None))
    stays = count_costs(recipe_of("qwen_image", device=None, offload=[]))
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
    """The generator of a published model without weights, and the condition of a long prompt."""
    weights, policy, *_ = FULL[name]
    size = (240, 416) if policy["type"] == "wan" else 512
    surface = {"type": "full", "modules": ["proj_out"]}  # quicker to set up than a LoRA; no forward depends on it
    policy = {"weights": weights, "resolution": size, "guidance": 1.0, "surface": surface, **policy}
    generator = sketch(make_recipe(policy=policy))
    return generator, encode(generator, [LONG])[1]


@pytest.mark.parametrize("name", FULL)
def test_full_sizes_equal_the_published_counts(name):
    *_, billions, teraflops = FULL[name]
    policy, condition = full_size(name)
    count = sum(weight.numel() for weight in policy.family.networks()["transformer"].parameters())
    assert count / 1e9 == pytest.approx(billions, rel=0.005)
    forward = measure(partial(velocity, policy, condition, "transformer"))
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
    generator = sketch(make_recipe(policy=policy))
    _, condition = encode(generator, [LONG])
    exact = measure(partial(gradient, generator, condition, "transformer")).peak
    for parameter in generator.parameters():  # as in the published numbers; ours keep float32 inputs of every adapter
        parameter.grad = None
        parameter.data = parameter.data.to(torch.bfloat16)
    assert measure(partial(gradient, generator, condition, "transformer")).peak / GIB == pytest.approx(gib, rel=0.1)
    assert exact > 1.2 * gib * GIB


@pytest.mark.parametrize(("name", "teraflops"), [("flux 512", 2.51), ("wan 1.3B 240", 45.0)])
def test_decoding_equals_the_published_counts(name, teraflops):
    policy, _ = full_size(name)
    decoding, _ = decode(policy)
    assert decoding.flops / 1e12 == pytest.approx(teraflops, rel=0.01)


def test_published_models_are_counted_without_a_connection_or_weights(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("weights were loaded")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(safetensors, "safe_open", refuse)
    monkeypatch.setattr("safetensors.torch.load_file", refuse)
    console = Console(record=True, width=120)
    surface = {"type": "full", "modules": ["proj_out"]}  # quicker than a LoRA on sixty blocks
    policy = {
        "weights": "Qwen/Qwen-Image",
        "type": "qwen_image",
        "resolution": 256,
        "guidance": 1.0,
        "surface": surface,
    }
    show(make_recipe(policy=policy), console, peak_tflops=790.0, utilisation=0.5)
    page = console.export_text()
    assert "update, backward" in page
    assert "50% of 790 TFLOP/s" in page
    assert "guessed" in page


def test_an_unknown_model_that_cannot_be_reached_is_refused(monkeypatch):
    monkeypatch.setattr("stepcredit.costs.blueprint.snapshot_download", _unreachable)
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
    """Runs out of memory with more rows than it can, in one phase."""

    def __init__(self, phase, error, rows=3):
        super().__init__()
        self.phase = phase
        self.error = error
        self.rows = rows

    def velocity(self, latents, level, condition):
        self._refuse("update" if torch.is_grad_enabled() else "rollout", len(latents))
        return super().velocity(latents, level, condition)

    def decode(self, latents):
        self._refuse("decode", len(latents))
        return super().decode(latents)

    def _refuse(self, phase, rows):
        if phase == self.phase and rows > self.rows:
            raise self.error


def run_out(phase, error, monkeypatch, costs=SOME):
    """The message of an iteration that runs out of memory with 12 GiB."""
    monkeypatch.setattr(memory, "count_costs", lambda recipe: costs)
    monkeypatch.setattr(memory, "available", lambda device: 12 * GIB)
    parts = make_parts(policy=Greedy(phase, error))
    with pytest.raises(MemoryNeeded) as caught, memory.explained(make_recipe(), parts.policy.device):
        step(parts, 0)
    assert caught.value.__cause__ is error
    return str(caught.value)


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, RuntimeError])
@pytest.mark.parametrize(
    ("phase", "flag", "set_to", "fits"),
    [
        ("rollout", "rollout.micro_batch", 8, 6),
        ("decode", "policy.decode_batch", 16, None),
        ("update", "training.micro_batch", 8, 1),
    ],
)
def test_running_out_of_memory_names_the_batch_and_what_fits(kind, phase, flag, set_to, fits, monkeypatch):
    message = run_out(phase, kind("can't allocate memory"), monkeypatch)
    assert f"ran out of memory in the {phase} with {flag} {set_to}" in message
    if fits is None:
        assert f"should have fitted, but rewards and other programs are not counted: --{flag} 1" in message
    else:
        assert f"{fits} would fit: --{flag} {fits}" in message
    assert ("--policy.gradient_checkpointing true" in message) == (phase == "update")


def test_what_does_not_fit_at_all_is_told_what_else_to_change(monkeypatch):
    large = replace(SOME, resident={"network": 11 * GIB, "gradients": GIB})
    message = run_out("rollout", MemoryError(), monkeypatch, large)
    assert "Not even 1 fits: a smaller policy.resolution" in message
    assert "most goes to: network" in message


@pytest.mark.parametrize(
    ("phase", "module", "function"),
    [
        ("rollout", engine, engine.RollOut.__call__),
        ("decode", decoding, decoding.decode),
        ("update", update, update.Recompute.apply),
    ],
)
def test_a_phase_is_known_whatever_its_function_and_module_are_called(phase, module, function, monkeypatch):
    inner = inspect.unwrap(function)
    monkeypatch.setattr(inner, "__code__", inner.__code__.replace(co_name="renamed"))
    monkeypatch.setattr(module, "__name__", "stepcredit.moved")
    assert f"in the {phase}" in run_out(phase, MemoryError(), monkeypatch)


def exhausted(*_):
    raise MemoryError


def test_texts_and_rewards_are_phases_without_a_batch_of_their_own(monkeypatch):
    recipe = make_recipe()
    device = torch.device("cpu")
    monkeypatch.setattr(build, "build_reward", exhausted)
    where = {
        "in a text encoder": lambda: TextCache(exhausted, 0, metered)(["a red circle"]),
        "in a reward model": lambda: build.build_rewards(recipe.rewards, device),
        "as when weights are loaded": exhausted,
    }
    for words, call in where.items():
        message = rf"outside the generator's own batches .*, {words}; see"
        with pytest.raises(MemoryNeeded, match=message), memory.explained(recipe, device):
            call()


def raise_after_decoding():
    with during("decode"):
        pass
    raise ValueError("second")


def test_the_innermost_phase_is_that_of_an_error():
    with pytest.raises(ValueError, match="first") as inside, during("update"), during("decode"):
        raise ValueError("first")
    assert phase_of(inside.value) == "decode"
    with pytest.raises(ValueError, match="second") as outside, during("update"):
        raise_after_decoding()
    assert phase_of(outside.value) == "update"
    assert phase_of(ValueError()) is None


def test_other_errors_pass():
    recipe = make_recipe()
    with pytest.raises(RuntimeError, match="something else"), memory.explained(recipe, torch.device("cpu")):
        raise RuntimeError("something else")
