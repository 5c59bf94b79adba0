"""Implicit reward guidance: fine-tunes followed as far as one likes."""

import numpy as np
import pytest
import torch

from stepcredit import api
from stepcredit.build import build_policy
from stepcredit.cli.app import main
from stepcredit.errors import RunError
from stepcredit.evaluation.held_out import draw, shown
from stepcredit.policies.guided import Guided
from stepcredit.recipe.load import load_recipe
from stepcredit.training import checkpoint

CAPTIONS = ["a red circle", "two green squares"]


@pytest.fixture
def asked(lora_policy):
    """A policy, its trained values, and one question: latents, levels, condition."""
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, *lora_policy.latent_shape(), generator=generator)
    values = [parameter.detach().clone() for parameter in lora_policy.parameters()]
    return lora_policy, values, (latents, torch.tensor([0.9, 0.4]), lora_policy.encode(CAPTIONS))


@torch.no_grad()
def test_strength_1_is_the_fine_tune_and_0_the_base(asked):
    policy, values, question = asked
    tuned = policy.velocity(*question)
    with policy.reference():
        base = policy.velocity(*question)
    assert (tuned - base).abs().max() > 1e-3, "the fine-tune must do something for this to mean anything"
    torch.testing.assert_close(Guided(policy, [(values, 1.0)]).velocity(*question), tuned, rtol=0, atol=1e-5)
    torch.testing.assert_close(Guided(policy, [(values, 0.0)]).velocity(*question), base, rtol=0, atol=0)


@torch.no_grad()
def test_fine_tunes_add_up_from_the_base(asked):
    policy, values, question = asked
    other = [-2 * value for value in values]
    tuned = policy.velocity(*question)
    with policy.reference():
        base = policy.velocity(*question)
    for parameter, value in zip(policy.parameters(), other, strict=True):
        parameter.data.copy_(value)
    second = policy.velocity(*question)
    expected = base + 1.5 * (tuned - base) - 0.25 * (second - base)
    got = Guided(policy, [(values, 1.5), (other, -0.25)]).velocity(*question)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_scaling_the_adapter_is_something_else(asked):
    """The network is not linear in its weights: that is why the velocities are combined."""
    policy, values, question = asked
    guided = Guided(policy, [(values, 4.0)]).velocity(*question)
    with torch.no_grad():
        for parameter, value in zip(policy.parameters(), values, strict=True):
            parameter.data.copy_(2 * value)  # B A grows by 4
        scaled = policy.velocity(*question)
    assert (guided - scaled).abs().max() > 1e-2


def test_it_draws_pictures_like_any_policy(asked):
    policy, values, _ = asked
    settings = {"members": 2, "steps": 2, "shift": None, "seed": 3, "micro_batch": 3}
    guided = shown(draw(Guided(policy, [(values, 1.0)]), CAPTIONS, **settings))
    plain = shown(draw(policy, CAPTIONS, **settings))
    assert abs(guided.astype(int) - plain.astype(int)).max() <= 1  # rounding


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two short runs of one base, and one of another surface."""
    folder = tmp_path_factory.mktemp("guided")
    short = {
        "threads": 1,
        "rollout.prompts": 1,
        "rollout.group_size": 2,
        "rollout.steps": 2,
        "training.iterations": 1,
        "evaluation.count": 4,
        "evaluation.watch": 4,
        "evaluation.steps": 2,
        "output.report": False,
        "optimiser.learning_rate": 0.05,  # one step that shows in the pictures
    }
    kinds = {"a": {"seed": 0}, "b": {"seed": 1}, "other": {"policy.surface.rank": 4}}
    return {
        name: api.train(**{**short, **own, "output.folder": str(folder / name)}).folder for name, own in kinds.items()
    }


def test_sample_follows_and_composes(runs, tmp_path, capsys):
    out = tmp_path / "picture.png"
    words = ["sample", str(runs["a"]), "--prompt", "a red circle", "--count", "2", "--reward-guidance", "1.5"]
    with pytest.raises(SystemExit) as end:
        main([*words, "--also", f"{runs['b']}=0.5", "--out", str(out)])
    assert end.value.code == 0
    assert out.is_file()
    assert "picture.png" in capsys.readouterr().out


@pytest.mark.parametrize("guidance", [1.0, 1.5])
def test_sample_draws_what_was_trained_beside_its_base(runs, guidance, monkeypatch, tmp_path):
    sides = {}
    keep = lambda path, captions, base, tuned, **_: sides.update(base=base, tuned=tuned)  # noqa: E731
    monkeypatch.setattr(api, "before_after", keep)
    api.sample(runs["a"], CAPTIONS, count=2, seed=5, reward_guidance=guidance, out=tmp_path / "unused.png")
    recipe = load_recipe(runs["a"] / "run.yaml")
    policy = build_policy(recipe)
    settings = {"members": 2, "steps": 2, "shift": None, "seed": 5, "micro_batch": 96}
    assert np.array_equal(sides["base"], shown(draw(policy, CAPTIONS, **settings)))
    checkpoint.restore_weights(checkpoint.newest(runs["a"] / "checkpoints")[0], policy)
    tuned = shown(draw(policy, CAPTIONS, **settings))
    apart = np.abs(tuned.astype(int) - sides["base"].astype(int)).mean()
    assert apart > 1, "the fine-tune must show for this to mean anything"
    if guidance == 1:
        assert np.array_equal(sides["tuned"], tuned)
    else:
        assert np.abs(sides["tuned"].astype(int) - sides["base"].astype(int)).mean() > apart


def test_another_surface_cannot_be_composed(runs):
    with pytest.raises(RunError, match=r"differs in policy\.surface\.rank; wanted the same base and surface"):
        api.sample(runs["a"], ["a red circle"], count=1, also={str(runs["other"]): 1.0})


@pytest.mark.parametrize("text", ["runs/b", "runs/b=", "runs/b=much"])
def test_a_strength_that_is_no_number_is_refused(runs, text, capsys):
    with pytest.raises(SystemExit) as end:
        main(["sample", str(runs["a"]), "--prompt", "x", "--also", text])
    assert end.value.code == 2
    assert "wanted FOLDER=STRENGTH" in capsys.readouterr().err
