"""Generators that fail, in five ways: every number is right or missing with a reason, in training and at looks."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from fakes import PROMPTS, Brightness, Constant, FakePolicy, batch, make_parts_of, make_recipe
from stepcredit import api
from stepcredit.errors import NumericsError, RunError, WeightsError
from stepcredit.evaluation.held_out import answered, draw, shown
from stepcredit.files.seal import opened, sealed
from stepcredit.policies.family import to_unit
from stepcredit.prompts.sources import Listed
from stepcredit.rewards.diversity import Diversity
from stepcredit.rewards.suite import RewardSuite
from stepcredit.runs.looks import Look
from stepcredit.runs.reader import RunReader
from stepcredit.runs.silence import silences, silent_now
from stepcredit.training import checkpoint
from stepcredit.training.loop import Evaluator
from stepcredit.training.watch import Teaching

ROWS = 8  # of a rollout and of a look, in one micro-batch each


class Faulty(FakePolicy):
    """Some `rows` of every batch are lost: by the `sampler`, or by the `decoder`, to a `value`, at some `calls`."""

    def __init__(self, *, sampler=(), decoder=(), value=torch.nan, calls=range(99)):
        super().__init__()
        self.sampler, self.decoder, self.value, self.calls = list(sampler), list(decoder), value, calls
        self.decoded = 0

    def velocity(self, latents, level, condition):
        velocity = super().velocity(latents, level, condition)
        if torch.is_grad_enabled():  # an update asks rows in an order of its own
            return velocity
        lost = torch.zeros(len(latents), dtype=torch.bool)
        lost[self.sampler if len(latents) == ROWS else []] = True  # a noise that siblings share is asked once
        return velocity.masked_fill(lost[:, None, None], torch.nan)

    def decode(self, latents):
        pictures = super().decode(latents)
        if self.decoded in self.calls:
            pictures[self.decoder, :, 2:4] = self.value
        self.decoded += 1
        return pictures


def trained(monkeypatch, folder, policy, rewards=(Brightness,), damage=None, **sections):
    """A run of two iterations, with a look before, between and after; returns it and what the screen showed."""
    names = [name for reward in rewards for name in reward().outputs]
    evaluation = {"every": 1, "watch": ROWS, "count": ROWS}
    output = {"folder": str(folder), "checkpoint_every": 1, "report": True}
    recipe = make_recipe(
        names,
        held_out=[{"type": "diversity"}],
        **{"evaluation": evaluation, "output": output, "optimiser": {"learning_rate": 0.01}, **sections},
    )

    def build(recipe):
        parts = make_parts_of(recipe, [reward() for reward in rewards], policy=policy)
        if damage:
            parts.optimiser.register_step_post_hook(damage)
        return parts, Evaluator(Listed(PROMPTS), parts.rewards.joined(RewardSuite([Diversity()])))

    monkeypatch.setattr(api, "build_parts", build)
    monkeypatch.setattr(api, "build_trackers", lambda *_: [])
    console = Console(record=True, width=200, file=io.StringIO())
    api.train(recipe, console=console)
    return RunReader(folder), console.export_text()


LOST = {
    "sampler": ({"sampler": [1]}, "brightness: the latent is not finite (sampler)"),
    "decoder": ({"decoder": [1]}, "brightness: the picture is not finite (decoder)"),
    "overflow": ({"decoder": [1], "value": torch.inf}, "brightness: the picture is not finite (decoder)"),
}


@pytest.mark.parametrize("fault", LOST)
def test_a_sample_that_is_lost_is_no_picture_in_training_nor_at_looks(tmp_path, monkeypatch, fault):
    settings, reason = LOST[fault]
    run, said = trained(monkeypatch, tmp_path / "run", Faulty(**settings))
    sound, _ = trained(monkeypatch, tmp_path / "sound", Faulty())
    for line in run.metrics():
        assert line["rollout/unusable"] == 1
        assert line["rollout/unusable_decoded"] == (fault != "sampler")
        assert line["reward/brightness/missing"] == 1 / ROWS
    credit = run.credit(0)
    assert credit["per_step"][0, 1].tolist() == [0.0] * 4
    others = np.delete(np.arange(ROWS), 1)
    before, wanted = run.look(0), sound.look(0)
    assert np.isnan(before.scores[1]).all()
    np.testing.assert_array_equal(before.scores[others, 0], wanted.scores[others, 0])
    pixels = wanted.pictures[0] / 255.0, wanted.pictures[2] / 255.0, wanted.pictures[3] / 255.0
    distances = [np.sqrt(((pixels[0] - other) ** 2).mean()) for other in pixels[1:]]
    assert before.scores[0, 1] == pytest.approx(np.mean(distances))  # no black sibling among them
    assert not before.pictures[1].any()
    for row in run.result()["rows"]:
        assert (row["pictures"], row["total"], row["unscored_base"], row["unscored_tuned"]) == (7, 8, 1, 1)
    assert "7 of 8 pictures" in said
    assert reason in said
    assert [line["look"] for line in run.problems() if "look" in line] == [0, 1, 2]
    assert "7 of 8 pictures" in (run.path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"sampler": range(ROWS)}, "every sample of the rollout holds NaN or infinity"),
        ({"decoder": range(ROWS)}, "the autoencoder overflowed; use policy.vae_dtype float32"),
    ],
)
def test_a_generator_that_loses_everything_ends_the_run_with_a_look_of_no_numbers(
    tmp_path, monkeypatch, settings, wanted
):
    with pytest.raises(NumericsError, match=wanted):
        trained(monkeypatch, tmp_path / "run", Faulty(**settings))
    assert np.isnan(RunReader(tmp_path / "run").look(0).scores).all()
    assert len(RunReader(tmp_path / "run").problems()) == 1


def test_a_decoder_that_fails_at_the_last_look_alone_leaves_a_row_without_numbers(tmp_path, monkeypatch):
    run, said = trained(monkeypatch, tmp_path / "run", Faulty(decoder=range(ROWS), calls=[4]))  # look, 2 x train, look
    assert [row["difference"] for row in run.result()["rows"]] == [None, None]
    assert {row["reason"] for row in run.result()["rows"]} == {"the picture is not finite (decoder)"}
    assert said.count("could not be scored") >= 2
    assert "could not be scored" in (run.path / "report.html").read_text(encoding="utf-8")
    assert run.metrics()[-1]["rollout/unusable"] == 0


def test_weights_that_are_not_finite_after_a_step_are_never_kept(tmp_path, monkeypatch):
    steps = []

    def damage(optimiser, *_):
        steps.append(1)
        if len(steps) == 2:
            optimiser.param_groups[0]["params"][-1].data[0] = torch.nan

    with pytest.raises(NumericsError, match="steps of iteration 1 left weights that are not finite"):
        trained(monkeypatch, tmp_path / "run", Faulty(), damage=damage)
    path, passed = checkpoint.newest(tmp_path / "run" / "checkpoints")
    assert (path.name, passed) == ("000001", [])


def test_a_checkpoint_that_holds_nan_is_damaged_and_is_not_written(tmp_path, monkeypatch):
    policy = FakePolicy()
    descent = torch.optim.AdamW(policy.parameters())
    checkpoint.save(tmp_path, policy, descent, None, iteration=1)
    policy.parameters()[0].data[0] = torch.inf
    with pytest.raises(NumericsError, match="trained weights after 2 iterations hold NaN or infinity"):
        checkpoint.save(tmp_path, policy, descent, None, iteration=2)
    assert [path.name for path in tmp_path.iterdir()] == ["000001"]
    monkeypatch.setattr(checkpoint, "_refuse_not_finite", lambda *_: None)  # as versions wrote it before
    bad = checkpoint.save(tmp_path, policy, descent, None, iteration=2)
    state = opened(json.loads((bad / "state.json").read_text()))
    del state["finite"]
    (bad / "state.json").write_text(json.dumps(sealed(state)))
    path, passed = checkpoint.newest(tmp_path)
    assert (path.name, len(passed)) == ("000001", 1)
    assert "holds NaN or infinity" in passed[0]
    with pytest.raises(RunError, match="NaN or infinity"):
        checkpoint.numbered(tmp_path, 2)
    with pytest.raises(WeightsError, match="NaN or infinity"):
        checkpoint.restore_weights(bad, policy)
    with pytest.raises(WeightsError, match="NaN or infinity"):
        checkpoint.restore(bad, policy, descent, None)


def test_an_autoencoder_that_overflows_draws_no_white_picture():
    drawn = to_unit(torch.tensor([-3.0, 0.0, 1.0, torch.inf, -torch.inf, torch.nan]))
    assert drawn[:3].tolist() == [0.0, 0.5, 1.0]
    assert drawn[3:].isnan().all()


def test_the_best_checkpoint_is_chosen_among_looks_at_the_same_pictures():
    """Without its hard pictures a look has a higher mean."""
    scores = np.array([[0.9, np.nan], [0.1, 0.5]])
    base = Look(0, "base", ("a", "b"), (0, 1), ("x", "y"), scores, {})
    assert base.comparable_means(base) == {"a": 0.5, "b": 0.5}
    fewer = replace(base, scores=np.array([[0.9, np.nan], [np.nan, 0.6]]))
    assert fewer.comparable_means(base) == {"b": 0.6}
    assert fewer.unscored() == {"a": 1, "b": 1}


class Scaled(Brightness):
    """Brightness, moved and scaled."""

    factor, offset = 1.0, 0.0

    def numbers(self, batch):
        return super().numbers(batch) * self.factor + self.offset


def scaled(factor, offset=0.0):
    return type("Scaled", (Scaled,), {"factor": factor, "offset": offset})


@pytest.mark.parametrize("reward", [scaled(1e-6), scaled(1e-9), scaled(1.0, 1e9), scaled(1e30)])
def test_a_reward_in_another_unit_gives_the_same_credit(tmp_path, monkeypatch, reward):
    usual, _ = trained(monkeypatch, tmp_path / "usual", Faulty())
    other, said = trained(monkeypatch, tmp_path / "other", Faulty(), rewards=(reward,))
    np.testing.assert_allclose(other.credit(0)["per_step"], usual.credit(0)["per_step"], rtol=0.05, atol=1e-3)
    assert "taught nothing" not in said


SILENT = {
    "constant": (Constant, "score the same to within rounding (0.25), so there is nothing to compare"),
    "rounding": (scaled(1e-15, 1.0), "score the same to within rounding (1), so there is nothing to compare"),
}


@pytest.mark.parametrize("kind", SILENT)
def test_an_objective_that_never_speaks_is_told_of_at_once_and_at_the_end(tmp_path, monkeypatch, kind):
    reward, reason = SILENT[kind]
    longer = {"training": {"iterations": 4}, "evaluation": {"count": ROWS}}
    run, said = trained(monkeypatch, tmp_path / "run", Faulty(), rewards=(reward,), **longer)
    told = [line for line in run.problems() if "taught nothing in 3 iterations in a row" in line["reason"]]
    assert [line["iteration"] for line in told] == [2, 2]  # of the objective, and of the run as a whole
    assert "taught nothing in 4 of 4 iterations" in said
    assert reason in said
    assert len(run.result()["silent"]) == 2
    assert reason in json.dumps(run.result()["silent"])
    assert "taught nothing in 4 of 4 iterations" in (run.path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("numbers", "wanted"),
    [
        (
            {"reward/a/flat_groups": 2.0, "reward/a/spread": 3e-9},
            {"a": "differ by 3e-09 at 0.5, which may be rounding"},
        ),
        ({"reward/a/flat_groups": 1.0}, {}),
        ({"reward/a/flat_groups": 2.0, "reward/a/missing": 1.0}, {}),
        ({"credit/zero_share": 1.0}, {"+": "no sample had any credit"}),
        ({"credit/mean_size": 2e-6}, {"+": "credit is 2e-06 of a standard deviation"}),
        ({"credit/mean_size": None}, {}),
    ],
)
def test_what_teaches_nothing_is_read_off_the_metrics(numbers, wanted):
    line = {"reward/a": 0.5, "reward/a/missing": 0.0, "credit/mean_size": 0.4, "credit/zero_share": 0.1, **numbers}
    reasons = silent_now(line, ["a"], groups=2)
    assert reasons.keys() == wanted.keys()
    assert all(wanted[name] in reason for name, reason in reasons.items())


def test_a_run_that_went_on_says_it_once_a_streak():
    flat = {"reward/a": 0.5, "reward/a/missing": 0.0, "reward/a/flat_groups": 2.0, "reward/a/spread": 0.0}
    speaks = {**flat, "reward/a/flat_groups": 0.0}
    lines = [flat, flat, flat, flat, speaks, flat, flat, flat]
    whole = Teaching(["a"], 2)
    told = [bool(whole.see(line)) for line in lines]
    assert told == [False, False, True, False, False, False, False, True]
    resumed = Teaching(["a"], 2)
    resumed.resume(lines[:3])
    assert not resumed.see(lines[3])
    (silence,) = silences(lines, ["a"], 2)
    assert (silence.objective, silence.times, silence.iterations) == ("a", 7, 8)
    assert silences([flat, speaks, flat], ["a"], 2) == []


def test_scores_that_float32_does_not_know_are_no_scores(tmp_path, monkeypatch):
    with pytest.raises(Exception, match=r"could not score anything in 3 iterations.*beyond 3.4e\+38 for 8 of 8"):
        trained(monkeypatch, tmp_path / "run", Faulty(), rewards=(scaled(1e300),), training={"iterations": 4})
    assert np.isnan(RunReader(tmp_path / "run").look(0).scores[:, 0]).all()


def test_a_policy_that_forgot_to_scale_its_pictures_is_refused(tmp_path, monkeypatch):
    with pytest.raises(NumericsError, match=r"wanted pictures in \[0, 1\]"):
        trained(monkeypatch, tmp_path / "run", Faulty(decoder=[1], value=-0.5))


def test_pictures_for_people_are_drawn_black_with_a_word():
    settings = {"members": 4, "steps": 2, "shift": None, "seed": 0, "micro_batch": ROWS}
    with pytest.warns(UserWarning, match=r"1 of 8 pictures are drawn black: the picture is not finite \(decoder\)"):
        pictures = shown(draw(Faulty(decoder=[3]), PROMPTS[:2], **settings))
    assert [bool(picture.any()) for picture in pictures] == [True] * 3 + [False] + [True] * 4


def test_the_checker_is_not_asked_about_a_picture_that_is_lost():
    pictures = batch(np.zeros((2, 8, 8, 3), np.uint8))
    answers = answered(pictures, lambda picture, prompt: {"colour": True}, {1: "lost"})
    np.testing.assert_array_equal(answers["colour"], [1.0, np.nan])
