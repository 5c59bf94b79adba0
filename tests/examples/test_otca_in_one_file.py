"""The one file of OTCA is the library's OTCA, bit for bit."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from stepcredit.build import build_parts
from stepcredit.recipe.load import load_recipe
from stepcredit.training.step import step

FILE = str(Path(__file__).parents[2] / "examples" / "otca_in_one_file.py")


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(FILE)


@pytest.mark.parametrize(("seed", "prompts", "group_size"), [(0, 2, 4), (3, 3, 3)])
def test_its_weights_rewards_and_credit_are_those_of_the_recipe(example, seed, prompts, group_size):
    settings = {"seed": seed, "rollout.prompts": prompts, "rollout.group_size": group_size}
    # The file computes every sample by itself; what siblings share is the same, but for the rounding of other batches.
    settings["rollout.share_states"] = False
    parts, _ = build_parts(load_recipe("recipes/scenes/otca.yaml", settings))
    steps = [step(parts, iteration) for iteration in range(3)]

    pipe = example["load_generator"](seed)
    own = list(example["train"](pipe, seed=seed, iterations=3, prompts=prompts, group_size=group_size))

    for done, (rewards, credit) in zip(steps, own, strict=True):
        assert torch.equal(done.rewards.scores, rewards)
        assert torch.equal(done.credit.per_step, credit)
        assert done.report.metrics["update/steps"] == 2, "the weights did move"
    lora = [parameter for parameter in pipe.transformer.parameters() if parameter.requires_grad]
    for of_library, of_file in zip(parts.policy.parameters(), lora, strict=True):
        assert torch.equal(of_library, of_file)


def test_it_runs_from_the_command_line(tmp_path, monkeypatch, capsys):
    out = tmp_path / "picture.png"
    words = [FILE, "--seed", "1", "--iterations", "2", "--prompts", "1", "--group-size", "2", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(FILE, run_name="__main__")
    assert Image.open(out).width > 800
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [["0", "clip_t"], ["1", "clip_t"]]
