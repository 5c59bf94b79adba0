"""Equivalence classes of whole runs on the embedded generator, and what a run leaves behind.

The chain: same seed = same run, bit for bit, on one machine; another micro-batch = the same run up to float32 rounding
of differently shaped matrix products.
"""

import json

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from stepcredit.api import sample, train
from stepcredit.recipe.flags import laid_over
from stepcredit.recipe.load import load_recipe

SMALL = [
    *("--rollout.prompts", "2", "--rollout.group_size", "4", "--rollout.steps", "4"),
    *("--training.iterations", "2", "--evaluation.count", "8"),
]


def run(folder, *flags):
    recipe = load_recipe("recipes/scenes/otca.yaml", laid_over([*SMALL, "--output.folder", str(folder)], flags))
    return train(recipe, console=Console(quiet=True))


def metrics(result):
    """All but the seconds."""
    return [{name: value for name, value in line.items() if not name.startswith("time/")} for line in result.metrics()]


def weights(result):
    return load_file(result.folder / "checkpoints" / "000002" / "state.safetensors")


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return run(tmp_path_factory.mktemp("runs") / "first")


def test_the_same_seed_gives_the_same_run(first, tmp_path):
    again = run(tmp_path / "again")
    assert metrics(again) == metrics(first)
    assert all(torch.equal(tensor, weights(again)[name]) for name, tensor in weights(first).items())


def test_another_seed_gives_another_run(first, tmp_path):
    assert metrics(run(tmp_path / "other", "--seed", "1")) != metrics(first)


def test_the_micro_batch_does_not_matter(first, tmp_path):
    other = run(tmp_path / "other", "--rollout.micro_batch", "3", "--training.micro_batch", "5")
    for before, after in zip(first.metrics(), other.metrics(), strict=True):
        assert before["reward/clip_t"] == pytest.approx(after["reward/clip_t"], abs=2e-4)
        assert before["credit/mean_size"] == pytest.approx(after["credit/mean_size"], abs=2e-3)
    gap = max((weights(first)[f"trained.{i}"] - weights(other)[f"trained.{i}"]).abs().max() for i in range(10))
    assert gap < 2e-4  # Adam's first steps have the size of the learning rate, 1e-3, whatever the gradient


def test_a_run_folder_holds_what_it_promises(first):
    names = {path.relative_to(first.folder).as_posix() for path in first.folder.rglob("*") if path.is_file()}
    assert {
        "run.yaml",
        "environment.json",
        "metrics.jsonl",
        "result.json",
        "before_after.png",
        "credit/000000.safetensors",
        "checkpoints/000002/adapter/pytorch_lora_weights.safetensors",
        "checkpoints/000002/average/pytorch_lora_weights.safetensors",
        "checkpoints/000002/state.safetensors",
        "samples/000000/scores.jsonl",
        "samples/000002/look.json",
        "samples/000002/0000.png",
        "report.html",
    } <= names
    environment = json.loads((first.folder / "environment.json").read_text())
    assert set(environment["rewards"]) == {"clip_t", "hps", "aesthetic", "composition", "diversity"}
    credit = load_file(first.folder / "credit" / "000000.safetensors")
    assert credit["per_step"].shape == (2, 4, 4)
    assert (credit["per_step"][..., -1] == 0).all()
    assert torch.allclose(credit["per_step"], credit["weights"] * credit["mixed"][..., None], atol=1e-6)
    assert load_recipe(first.folder / "run.yaml").rollout.group_size == 4


def test_sample_draws_base_and_tuned(first, tmp_path):
    path = sample(first.folder, ["a red circle"], count=2, out=tmp_path / "drawn.png")
    assert path.stat().st_size > 1000


@pytest.mark.parametrize("method", ["otca", "tcd", "moca", "dance_grpo", "flow_grpo"])
@pytest.mark.parametrize("surface", ["lora", "full"])
def test_every_method_trains_every_surface(method, surface, tmp_path):
    flags = ["--method.type", method, "--policy.surface", f"{{type: {surface}}}", "--training.iterations", "1"]
    result = run(tmp_path / "run", *flags)
    (line,) = result.metrics()
    assert line["update/steps"] == 2
    assert line["update/ratio_deviation"] > 0
    assert {row.name for row in result.rows} == {"clip_t", "hps", "aesthetic", "composition", "diversity"}
