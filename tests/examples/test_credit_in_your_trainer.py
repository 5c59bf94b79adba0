"""The foreign trainer learns with every rule of the example, and does not when credit goes to the wrong samples."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

FILE = str(Path(__file__).parents[2] / "examples" / "credit_in_your_trainer.py")
SEEDS = range(3)


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(FILE)


def risen(example, rule, loss="clipped"):
    """How much each reward has risen, the mean over three seeds; 1.5 is all there is to gain."""
    curves = torch.stack([example["train"](rule, loss, seed=seed) for seed in SEEDS])
    return (curves[:, -5:].mean((0, 1)) - curves[:, :3].mean((0, 1))).tolist()


@pytest.mark.parametrize(("name", "loss"), [("otca", "clipped"), ("dance_grpo", "clipped"), ("pcpo", "hinge")])
def test_both_rewards_rise(example, name, loss):
    assert min(risen(example, example["RULES"][name], loss)) > 0.8


def test_they_do_not_with_the_credit_of_other_samples(example):
    def shuffled(rewards, similarity):
        credit = example["RULES"]["otca"](rewards, similarity)
        return credit[torch.randperm(len(credit))]

    assert max(risen(example, shuffled)) < 0.4


def test_it_runs_from_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [FILE, "--rule", "pcpo"])
    runpy.run_path(FILE, run_name="__main__")
    assert len(capsys.readouterr().out.splitlines()) == 60
