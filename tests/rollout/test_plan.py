"""What each transition of each sample does: windows, fractions, the end; drawn from the seed and nothing else."""

from decimal import Decimal

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from composing import method
from stepcredit.errors import RecipeError
from stepcredit.parts.planning import Window
from stepcredit.records import Key

P, G, N = 5, 4, 8


def drawn(*, steps=N, prompts=P, group_size=G, seed=0, iteration=0, name="dance_grpo", **flat):
    chosen = method(name, **flat)
    return chosen.plan.draw(
        chosen.sampler, steps=steps, prompts=prompts, group_size=group_size, key=Key(seed, iteration)
    )


def steps_of(mask):
    """The steps that are marked in a mask `[N]`."""
    return tuple(mask.nonzero()[:, 0].tolist())


def starts(iterations=300, **flat):
    """Where the windows of many iterations begin, `[iterations, P]`, each checked to be one run of the right size."""
    found = []
    for iteration in range(iterations):
        plan = drawn(iteration=iteration, **flat)
        assert (plan.trained == plan.trained[:, :1]).all()  # siblings share their window
        marked = [steps_of(row) for row in plan.trained[:, 0]]
        size = flat["window"].size
        assert all(row == tuple(range(row[0], row[0] + size)) for row in marked)
        found.append([row[0] for row in marked])
    return torch.tensor(found)


# Without a window


@pytest.mark.parametrize(
    ("settings", "trained", "noisy"),
    [
        ({}, [1] * 7 + [0], [1] * 7 + [0]),
        ({"train_last": True}, [1] * 8, [1] * 8),
        ({"final_state": "x_N"}, [1] * 7 + [0], [1] * 8),
        ({"final_state": "x_N", "train_last": True}, [1] * 8, [1] * 8),
        ({"kernel": "cps"}, [1] * 7 + [0], [1] * 7 + [0]),
    ],
    ids=["plain", "train_last", "x_N", "both", "a kernel that ends without noise"],
)
def test_every_step_is_noisy_and_trained_but_perhaps_the_last(settings, trained, noisy):
    plan = drawn(**settings)
    assert plan.steps == N
    assert plan.trained.shape == plan.stochastic.shape == (P, G, N)
    assert (plan.trained == torch.tensor(trained).bool()).all()
    assert (plan.stochastic == torch.tensor(noisy).bool()).all()


# Windows


@pytest.mark.parametrize("per", ["rollout", "prompt"])
@pytest.mark.parametrize(
    ("room", "wanted"),
    [
        ({"size": 3}, range(5)),  # trained steps are 0 to 6
        ({"size": 1}, range(7)),
        ({"size": 7}, range(1)),
        ({"size": 2, "first": 2}, range(2, 6)),
        ({"size": 2, "end": 5}, range(4)),
        ({"size": 2, "first": 1, "end": 4}, range(1, 3)),
        ({"size": 3, "first": 1, "end": 4}, range(1, 2)),
    ],
)
def test_a_window_begins_wherever_it_fits_and_nowhere_else(per, room, wanted):
    assert set(starts(window=Window(per=per, **room)).flatten().tolist()) == set(wanted)


def test_a_window_may_hold_the_last_step_only_if_that_is_trained():
    assert starts(window=Window(size=2)).max() == N - 1 - 2
    assert starts(window=Window(size=2), train_last=True).max() == N - 2


def test_every_start_is_equally_likely():
    found = starts(1000, window=Window(size=3, per="prompt")).flatten()
    share = found.bincount(minlength=5) / len(found)
    assert (share - 1 / 5).abs().max() < 4 * (0.2 * 0.8 / len(found)) ** 0.5


def test_a_window_per_rollout_is_one_for_all_prompts_and_one_per_prompt_is_each_its_own():
    assert (starts(window=Window(size=2)).diff(dim=1) == 0).all()
    each = starts(window=Window(size=2, per="prompt"))
    for one in range(P):
        for other in range(one):
            assert 0.05 < (each[:, one] == each[:, other]).float().mean() < 0.35  # 1 in 6 by chance


@pytest.mark.parametrize("per", ["rollout", "prompt"])
def test_outside_its_window_nothing_is_noisy_unless_the_end_is(per):
    plan = drawn(window=Window(size=2, per=per))
    assert torch.equal(plan.stochastic, plan.trained)
    noisy = drawn(window=Window(size=2, per=per), final_state="x_N")
    assert torch.equal(noisy.trained, plan.trained)
    assert torch.equal(noisy.stochastic[..., :-1], plan.stochastic[..., :-1])
    assert noisy.stochastic[..., -1].all()


def test_flash_grpo_trains_one_step_of_each_prompt():
    plan = drawn(name="flash_grpo", prompts=200, group_size=3)
    assert (plan.trained.sum(-1) == 1).all()
    assert (plan.trained == plan.trained[:, :1]).all()
    assert set(plan.trained[:, 0].int().argmax(-1).tolist()) == set(range(N - 1))


@pytest.mark.parametrize("room", [{"size": 8}, {"size": 2, "first": 6}, {"size": 2, "end": 8}])
def test_a_window_that_does_not_fit_says_what_to_change(room):
    wanted = r"method\.plan\.window holds .* lower window\.size, window\.first or window\.end, or raise rollout\.steps"
    with pytest.raises(ValueError, match=wanted):
        drawn(window=Window(**room))
    drawn(window=Window(**room), train_last=True)  # with the last step it fits


LOW_EXPERT = [False, False, False, False, True, True, True, True]


def planned(iteration=0, trainable=LOW_EXPERT, **flat):
    chosen = method("dance_grpo", **flat)
    sizes = {"steps": N, "prompts": P, "group_size": G, "key": Key(0, iteration)}
    return chosen.plan.draw(chosen.sampler, **sizes, trainable=torch.tensor(trainable))


@pytest.mark.parametrize("per", ["rollout", "prompt"])
@pytest.mark.parametrize(("size", "wanted"), [(1, {4, 5, 6}), (2, {4, 5}), (3, {4})])
def test_a_window_is_drawn_among_the_steps_that_the_trained_network_decides(size, wanted, per):
    plans = [planned(iteration, window=Window(size=size, per=per)) for iteration in range(60)]
    assert all((plan.trained.sum(-1) == size).all() for plan in plans)
    assert {start for plan in plans for start in plan.trained.int().argmax(-1).flatten().tolist()} == wanted


@pytest.mark.parametrize(
    ("trainable", "flat"),
    [
        (LOW_EXPERT, {"window": Window(size=4)}),
        (LOW_EXPERT, {"window": Window(size=1, end=4)}),
        ([True, False] * 4, {"window": Window(size=2)}),
        ([False] * 7 + [True], {}),
    ],
)
def test_steps_that_the_trained_network_does_not_decide_leave_no_room(trainable, flat):
    with pytest.raises(RecipeError, match=r"the trained network decides .*rollout\.steps"):
        planned(trainable=trainable, **flat)


# Fractions


@example(100, 53, True, 0)  # 52.99999 in float32
@example(75, 84, True, 0)
@given(st.integers(2, 100), st.integers(1, 99), st.booleans(), st.integers(0, 3))
def test_a_fraction_trains_exactly_so_many_steps_of_every_sample(steps, percent, train_last, iteration):
    fraction = percent / 100
    plan = drawn(steps=steps, timestep_fraction=fraction, train_last=train_last, iteration=iteration)
    room = steps if train_last else steps - 1
    wanted = max(1, int(Decimal(percent) * room / 100))
    assert (plan.trained.sum(-1) == wanted).all()
    assert not (plan.trained & ~plan.stochastic).any()
    assert (plan.stochastic[..., :room]).all()  # what is not trained is still noisy


def test_a_fraction_is_drawn_for_every_sample_by_itself_and_every_step_is_as_likely():
    plan = drawn(prompts=100, group_size=20, timestep_fraction=0.5)
    rows = plan.trained.flatten(0, 1)
    assert len(set(map(steps_of, rows))) == 35  # 3 of 7: every choice occurs
    share = rows.float().mean(0)
    assert share[-1] == 0
    assert (share[:-1] - 3 / 7).abs().max() < 4 * (3 / 7 * 4 / 7 / len(rows)) ** 0.5
    alike = (plan.trained == plan.trained[:, :1]).all(-1)[:, 1:].float().mean()
    assert alike < 0.06  # of siblings; 1 in 35 by chance


def test_a_fraction_of_a_window_stays_inside_it():
    seen = set()
    for iteration in range(50):
        plan = drawn(window=Window(size=4, per="prompt"), timestep_fraction=0.5, iteration=iteration)
        assert (plan.trained.sum(-1) == 2).all()
        assert (plan.stochastic.sum(-1) == 4).all()
        assert not (plan.trained & ~plan.stochastic).any()
        seen |= {steps_of(row) for row in plan.trained.flatten(0, 1)}
    assert len(seen) == 6 + 3 * 3  # pairs within 4 neighbours of 7 steps: all of the first 4, then 3 more each


# Randomness


RANDOM = [
    {"window": Window(size=2)},
    {"window": Window(size=2, per="prompt")},
    {"timestep_fraction": 0.5},
    {"window": Window(size=4, per="prompt"), "timestep_fraction": 0.5},
]


@pytest.mark.parametrize("settings", RANDOM, ids=str)
def test_a_plan_is_a_pure_function_of_seed_and_iteration(settings):
    def at(seed, iteration):
        return drawn(seed=seed, iteration=iteration, **settings).trained

    kept = torch.random.get_rng_state()
    first = at(3, 5)
    torch.manual_seed(11)
    for iteration in (0, 7, 2):  # what was drawn before does not matter
        at(3, iteration)
    assert torch.equal(at(3, 5), first)
    torch.manual_seed(12)
    state = torch.random.get_rng_state()
    at(0, 0)
    assert torch.equal(torch.random.get_rng_state(), state)  # the global generator is not asked
    torch.random.set_rng_state(kept)
    assert any(not torch.equal(at(3, iteration), first) for iteration in range(6, 12))
    assert any(not torch.equal(at(seed, 5), first) for seed in range(4, 10))
    assert any(not torch.equal(at(1, other), at(other, 1)) for other in range(2, 8))
