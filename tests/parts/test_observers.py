"""Who watches a rollout: only those that are asked for, each once, and what they leave is the mathematics."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch

import composing
from fakes import PROMPTS, SHAPE, FakePolicy, make_parts, make_recipe
from stepcredit.build import build_roll_out
from stepcredit.credit.temporal import similarity_to_final
from stepcredit.flow.convert import velocity_to_data
from stepcredit.methods import names
from stepcredit.parts.observers import CleanSimilarity, Similarity, similarities
from stepcredit.records import Evidence, Key, Move, Prompt

WATCHING = {
    "coca": {"clean_similarity"},
    "otca": {"similarity"},
    "tcd": {"similarity"},
    "moca": {"similarity"},
}
"""Rules that look at more than scores, and who watches for them."""


class Recording:
    """Writes down what it hears, and leaves the number of moves."""

    def __init__(self, name="recording"):
        self.name = name
        self.heard = []

    def begin(self):
        self.heard.append("begin")

    def see(self, move):
        self.heard.append((move.step, len(move.x)))

    def leave(self, final):
        self.heard.append("leave")
        return {self.name: torch.full((len(final),), float(len(self.heard)))}


def rolled_out(observers=None, *, micro_batch=8, **method):
    """A rollout of 2 x 4 samples and 4 steps; `observers` instead of those that the recipe asks for."""
    parts = make_parts(method={"type": "dance_grpo", **method}, rollout={"micro_batch": micro_batch})
    roll_out = parts.roll_out if observers is None else replace(parts.roll_out, observers=observers)
    return roll_out(Prompt.listed(PROMPTS[:2]), Key(seed=0, iteration=0))


@pytest.mark.parametrize("name", names())
def test_a_rule_is_watched_for_by_those_that_it_reads(name):
    assert {observer.name for observer in composing.method(name).rule.observers()} == WATCHING.get(name, set())


@pytest.mark.parametrize("name", ["otca", "tcd"])
def test_clean_predictions_are_watched_where_they_are_compared(name):
    method = composing.method(name, compared="predictions")
    assert [observer.name for observer in method.rule.observers()] == ["clean_similarity"]


@pytest.mark.parametrize(
    ("method", "seen"),
    [
        ({"type": "dance_grpo"}, {"similarity"}),  # the one that people look at
        ({"type": "otca"}, {"similarity"}),
        ({"type": "coca"}, {"similarity", "clean_similarity"}),
        ({"type": "otca", "compared": "predictions"}, {"similarity", "clean_similarity"}),
    ],
    ids=["dance_grpo", "otca", "coca", "otca, predictions"],
)
def test_only_observers_that_are_asked_for_are_run(method, seen):
    rollout = rolled_out(**method)
    assert set(rollout.seen) == seen


def test_nobody_watches_where_nobody_is_asked():
    assert rolled_out([]).seen == {}


def test_an_observer_that_two_ask_for_watches_once():
    recipe = make_recipe(method={"type": "otca"})
    roll_out = build_roll_out(recipe, FakePolicy(), [Similarity(), Recording()])
    assert [observer.name for observer in roll_out.observers] == ["similarity", "recording"]


@pytest.mark.parametrize(("micro_batch", "rows"), [(8, [8]), (3, [3, 3, 2]), (1, [1] * 8)])
def test_an_observer_hears_every_move_of_every_micro_batch_in_order(micro_batch, rows):
    observer = Recording()
    rollout = rolled_out([observer], micro_batch=micro_batch)
    expected = []
    for count in rows:
        expected += ["begin", *((step, count) for step in range(4)), "leave"]
    assert observer.heard == expected
    heard_by_then = [6.0 * (number + 1) for number, count in enumerate(rows) for _ in range(count)]
    assert rollout.seen["recording"].flatten().tolist() == heard_by_then


# What they leave


@pytest.mark.parametrize("final_state", ["x0", "x_N"])
@pytest.mark.parametrize("micro_batch", [8, 3, 1])
def test_similarity_is_that_of_whole_trajectories(micro_batch, final_state):
    rollout = rolled_out([Similarity()], micro_batch=micro_batch, final_state=final_state)
    expected = similarity_to_final(rollout.latents.flatten(0, 1), rollout.final.flatten(0, 1)).unflatten(0, (2, 4))
    assert rollout.seen["similarity"].shape == (2, 4, 5)
    torch.testing.assert_close(rollout.seen["similarity"], expected, rtol=0, atol=1e-6)
    assert (rollout.seen["similarity"][..., 1] != rollout.seen["similarity"][:, :1, 1]).any()  # siblings do part


@pytest.mark.parametrize("final_state", ["x0", "x_N"])
@pytest.mark.parametrize("micro_batch", [8, 3, 1])
def test_clean_similarity_is_that_of_the_predictions_before_every_move(micro_batch, final_state):
    rollout = rolled_out([CleanSimilarity()], micro_batch=micro_batch, final_state=final_state)
    start = rollout.sampler.levels[:-1].to(rollout.latents).view(-1, 1, 1)
    clean = rollout.latents[:, :, :-1] - start * rollout.velocities
    expected = similarity_to_final(clean.flatten(0, 1), rollout.final.flatten(0, 1)).unflatten(0, (2, 4))
    assert rollout.seen["clean_similarity"].shape == (2, 4, 4)
    torch.testing.assert_close(rollout.seen["clean_similarity"], expected, rtol=0, atol=1e-6)
    if final_state == "x0":  # what is decoded is the last prediction
        torch.testing.assert_close(rollout.seen["clean_similarity"][..., -1], torch.ones(2, 4), rtol=0, atol=1e-6)


def a_move(seed):
    generator = torch.Generator().manual_seed(seed)
    x, velocity, y = torch.randn(3, 2, *SHAPE, generator=generator).unbind()
    return Move(0, torch.tensor(0.75), torch.tensor(0.5), x, velocity, y)


@pytest.mark.parametrize("observer", [Similarity(), CleanSimilarity()], ids=lambda observer: observer.name)
def test_nothing_is_remembered_of_earlier_rows(observer):
    """Neither of rows that were left in the middle, nor of rows that ended: their latents are let go."""
    observer.begin()
    observer.see(a_move(seed=1))  # an interrupted rollout never leaves
    observer.begin()
    move = a_move(seed=2)
    observer.see(move)
    left = observer.leave(move.y)[observer.name]
    states = {
        "similarity": torch.stack([move.x, move.y], dim=1),
        "clean_similarity": velocity_to_data(move.x, move.velocity, move.level)[:, None],
    }
    torch.testing.assert_close(left, similarity_to_final(states[observer.name], move.y))
    latent = weakref.ref(move.x)
    del move, states
    gc.collect()
    assert latent() is None


def test_predictions_stand_in_the_place_of_latents():
    """S of the prediction before move n stands for x_n, and the end is similar to itself."""
    rollout = rolled_out([Similarity(), CleanSimilarity()])
    rewards = torch.zeros(2, 4, 1)
    evidence = Evidence(rewards, torch.ones(1), rollout.plan.trained, rollout.sampler.transitions, rollout.seen)
    assert torch.equal(similarities(evidence, "latents"), rollout.seen["similarity"])
    of_predictions = similarities(evidence, "predictions")
    assert torch.equal(of_predictions[..., :-1], rollout.seen["clean_similarity"])
    assert (of_predictions[..., -1] == 1).all()
