"""Runs side by side: means and intervals as done by hand, equal cost, and no comparison of what cannot be compared.

The runs are written by hand, and so small that every number can be followed.
"""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import yaml
from scipy import stats

from stepcredit.errors import RunError
from stepcredit.runs import looks
from stepcredit.runs.compare import compare, half_width, markdown
from stepcredit.runs.looks import Look
from stepcredit.runs.reader import FORMAT, RunReader

NAMES = ("shine", "taste")
ROWS = tuple(range(8))
WATCHED = (0, 1, 2, 3)


def write_run(path, gains, *, seed=0, method="otca", iterations=4, forwards=100.0, result=None, changes=None):
    """A run whose looks are `gains` above the base: {iteration: (shine, taste)}, the last look on all pictures.

    `changes` are recipe keys; `result` are the gains in result.json.
    """
    recipe = {
        "seed": seed,
        "policy": {"type": "flux", "weights": "scenes"},
        "prompts": {"type": "scenes"},
        "rollout": {"prompts": 2, "steps": 4, "shift": None, "micro_batch": 8},
        "method": {"type": method, "clip": 0.1},
        "rewards": [{"type": "custom", "path": "own:shine", "name": "shine"}],
        "held_out": [{"type": "custom", "path": "own:taste", "name": "taste"}],
        "training": {"iterations": iterations, "micro_batch": 8},
        "evaluation": {"prompts": {"type": "scenes"}, "count": 8, "steps": None, "every": 2, "watch": 4},
        "output": {"folder": str(path)},
    }
    environment = {"format": FORMAT, "rewards": {"shine": {"kind": "Shine"}, "taste": {"kind": "Taste"}}}
    for key, value in (changes or {}).items():
        *parents, last = key.split(".")
        at = environment if key.startswith("rewards.") else recipe
        for parent in parents:
            at = at[parent]
        at[last] = value
    path.mkdir(parents=True)
    (path / "run.yaml").write_text(yaml.safe_dump(recipe))
    (path / "environment.json").write_text(json.dumps(environment))
    lines = [
        {"iteration": i, "cost/pictures": 8.0, "cost/forwards": forwards, "time/seconds": 1000 / forwards}
        for i in range(iterations)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    base = np.random.default_rng(0).normal(size=(len(ROWS), 2))
    for iteration, gain in {0: (0.0, 0.0), **gains}.items():
        rows = ROWS if iteration in (0, iterations) else WATCHED
        scores = base[list(rows)] + gain
        weights = "trained" if iteration else "base"
        look = Look(iteration, weights, NAMES, rows, tuple(f"p{row // 4}" for row in rows), scores, {})
        looks.write(path / "samples" / f"{iteration:06d}", look, [])
    if result is not None:
        rows = [{"name": name, "difference": gain} for name, gain in zip(NAMES, result, strict=True)]
        (path / "result.json").write_text(json.dumps({"rows": rows}))
    return RunReader(path)


def pair(tmp_path, **changed):
    """Two runs that agree, except for what is changed in the second."""
    return [
        write_run(tmp_path / "first", {4: (0.2, 0.1)}),
        write_run(tmp_path / "second", {4: (0.3, 0.1)}, **{"method": "dance_grpo", **changed}),
    ]


def test_means_and_intervals_are_those_of_the_seeds(tmp_path):
    gains = {"otca": [(0.2, 0.1), (0.5, 0.0), (0.3, -0.2)], "dance_grpo": [(0.1, 0.3), (0.2, 0.1), (0.6, 0.2)]}
    runs = [
        write_run(tmp_path / f"{method}-{seed}", {4: (0.0, 0.0)}, method=method, seed=seed, result=gain)
        for method, seeds in gains.items()
        for seed, gain in enumerate(seeds)
    ]
    comparison = compare(runs, by="method")
    assert [side.name for side in comparison.sides] == ["otca", "dance_grpo"]
    for side in comparison.sides:
        values = np.array(gains[side.name])
        np.testing.assert_allclose(side.gains, values)
        np.testing.assert_allclose(side.mean, values.sum(0) / 3)
        for k in range(2):
            low, high = stats.t.interval(0.95, 2, values[:, k].mean(), stats.sem(values[:, k]))
            np.testing.assert_allclose(side.half_width[k], (high - low) / 2)
    assert (comparison.budget, comparison.pictures, comparison.names, comparison.trained) == (
        400.0,
        8,
        NAMES,
        ("shine",),
    )
    np.testing.assert_allclose(comparison.base, np.random.default_rng(0).normal(size=(8, 2)).mean(0))
    assert comparison.notes == []


def test_an_interval_of_two_seeds_by_the_textbook():
    width = half_width(np.array([[1.0], [3.0]]))  # sd sqrt(2), sem 1, t(0.975, 1) = 12.706
    np.testing.assert_allclose(width, [12.7062047], rtol=1e-7)
    assert np.isnan(half_width(np.array([[1.0]]))).all()


def test_without_results_the_watched_pictures_count(tmp_path):
    comparison = compare(pair(tmp_path), by="method")
    np.testing.assert_allclose(comparison.sides[0].mean, [0.2, 0.1])
    np.testing.assert_allclose(comparison.base, np.random.default_rng(0).normal(size=(8, 2)).mean(0))
    assert any("single seed" in note for note in comparison.notes)


def test_at_equal_cost_each_run_is_taken_at_its_latest_look_within_the_budget(tmp_path):
    gains = {2: (0.1, 0.0), 4: (0.2, 0.0), 6: (0.4, 0.0), 8: (0.8, 0.0)}
    cheap = write_run(tmp_path / "cheap", gains, iterations=8, forwards=50.0, result=(9.0, 9.0))
    dear = write_run(tmp_path / "dear", {2: (0.1, 0.3), 4: (0.2, 0.5)}, forwards=125.0, method="tcd", result=(9.0, 9.0))
    comparison = compare([cheap, dear], by="method")  # 400 against 500: look 8 costs 400, look 2 250, look 4 500
    assert comparison.budget == 400.0
    np.testing.assert_allclose(comparison.sides[0].mean, [0.8, 0.0])
    np.testing.assert_allclose(comparison.sides[1].mean, [0.1, 0.3])
    assert comparison.pictures == 4
    np.testing.assert_allclose(comparison.base, np.random.default_rng(0).normal(size=(8, 2))[:4].mean(0))
    assert "unequal cost" in comparison.notes[0]

    comparison = compare([cheap, dear], by="method", cost="pictures")  # 64 against 32
    assert comparison.budget == 32.0
    np.testing.assert_allclose(comparison.sides[0].mean, [0.2, 0.0])
    np.testing.assert_allclose(comparison.sides[1].mean, [0.2, 0.5])

    comparison = compare([cheap, dear], by="method", cost="seconds")  # 160 against 32
    assert comparison.budget == 32.0
    np.testing.assert_allclose(comparison.sides[0].mean, [0.0, 0.0])  # its first look is at 40
    np.testing.assert_allclose(comparison.sides[1].mean, [0.2, 0.5])


def test_a_look_after_the_last_whole_line_of_the_log_is_left_out(tmp_path):
    first, second = pair(tmp_path)
    looks.write(second.path / "samples" / "000002", replace(second.look(4), iteration=2), [])
    lines = (second.path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (second.path / "metrics.jsonl").write_text("".join(lines[:3]))  # killed after the look, before the line
    assert compare([first, second], by="method").budget == 200.0


def test_seeds_of_several_values_of_any_key_are_grouped(tmp_path):
    runs = [
        write_run(tmp_path / f"{clip}-{seed}", {4: (clip * (1 + seed), 0.0)}, seed=seed, changes={"method.clip": clip})
        for clip in (0.25, 0.5)
        for seed in (0, 1)
    ]
    comparison = compare(runs, by="method.clip")
    assert [(side.name, len(side.curves)) for side in comparison.sides] == [("0.25", 2), ("0.5", 2)]
    np.testing.assert_allclose([side.mean[0] for side in comparison.sides], [0.375, 0.75])


# Refusals


def test_one_run_is_no_comparison(tmp_path):
    with pytest.raises(RunError, match="got 1 run, wanted at least 2"):
        compare(pair(tmp_path)[:1], by="method")


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("policy.weights", "other", "policy"),
        ("prompts.type", "list", "prompts"),
        ("rewards", [{"type": "composition"}], "rewards"),
        ("held_out", [], "held_out"),
        ("evaluation.prompts", {"type": "list"}, r"evaluation\.prompts"),
        ("evaluation.count", 16, r"evaluation\.count"),
        ("evaluation.steps", 3, r"evaluation\.steps"),
        ("rewards.shine", {"kind": "other weights"}, "reward fingerprints"),
    ],
)
def test_runs_that_do_not_speak_of_the_same_thing_are_refused(tmp_path, key, value, named):
    with pytest.raises(RunError, match=rf"cannot be compared: .*second and .*first differ in {named}"):
        compare(pair(tmp_path, changes={key: value}), by="method")


def test_a_run_that_was_not_looked_at_is_refused(tmp_path):
    first, _ = pair(tmp_path)
    with pytest.raises(RunError, match=r"third has no look .*let it run further"):
        compare([first, write_run(tmp_path / "third", {}, method="tcd")], by="method")
    looked = write_run(tmp_path / "fourth", {1: (0.0, 0.0)}, method="tcd")
    (looked.path / "metrics.jsonl").write_text("")
    with pytest.raises(RunError, match=r"fourth has no look .*let it run further"):
        compare([first, looked], by="method")


def test_the_same_seed_twice_names_the_key_that_differs(tmp_path):
    with pytest.raises(
        RunError, match=r"method = otca holds the same seed twice .*differ: method\.objective\.loss\.clip"
    ):
        compare(pair(tmp_path, method="otca", changes={"method.clip": 0.3}), by="method")
    with pytest.raises(RunError, match="differ: there is none"):
        compare(pair(tmp_path / "again", method="otca"), by="method")


def test_seeds_that_differ_in_something_else_have_no_mean(tmp_path):
    changes = {"rollout.prompts": 3, "output.folder": "elsewhere", "rollout.micro_batch": 4}
    runs = pair(tmp_path, method="otca", seed=1, changes=changes)
    with pytest.raises(RunError, match=r"differ in more than their seed \(rollout\.prompts\)"):
        compare(runs, by="method")


def test_what_changes_no_result_may_differ(tmp_path):
    changes = {"output.folder": "elsewhere", "rollout.micro_batch": 4, "training.micro_batch": 4}
    comparison = compare(pair(tmp_path, method="otca", seed=1, changes=changes), by="method")
    assert [len(side.curves) for side in comparison.sides] == [2]


def test_an_unknown_key_names_the_nearest(tmp_path):
    runs = pair(tmp_path)
    with pytest.raises(RunError, match=r'no recipe key "method\.clipp"; did you mean "clip"'):
        compare(runs, by="method.clipp")
    with pytest.raises(RunError, match=r'no recipe key "seed\.number"'):
        compare(runs, by="seed.number")
    with pytest.raises(RunError, match=r'no recipe key "polcy\.weights"; did you mean "policy"'):
        compare(runs, by="polcy.weights")


# The table


def test_the_table_can_be_pasted(tmp_path):
    runs = [
        write_run(tmp_path / f"{method}-{seed}", {4: (0.0, 0.0)}, method=method, seed=seed, result=gain)
        for method, seed, gain in [
            ("otca", 0, (0.25, -0.5)),
            ("otca", 1, (0.75, -0.5)),
            ("tcd", 0, (0.125, 0.0625)),
        ]
    ]
    lines = [re.sub(" +", " ", line) for line in markdown(compare(runs, by="method")).splitlines()]
    base = np.random.default_rng(0).normal(size=(8, 2)).mean(0)
    width = 12.7062047 * 0.25  # sd 0.25 sqrt(2), sem 0.25
    assert re.fullmatch(r"(\|:-+){3}(\|-+:){2}\|", lines[1])
    assert lines[:4] == [
        "| score | | base | method = otca (2 seeds) | method = tcd (1 seeds) |",
        lines[1],
        f"| shine | trained | {base[0]:.4f} | **+0.5000 ± {width:.4f}** | +0.1250 |",
        f"| taste | held out | {base[1]:.4f} | -0.5000 ± 0.0000 | **+0.0625** |",
    ]
    assert "on 8 held-out pictures at equal cost (400 network forwards" in lines[5]
    assert "Note: a single seed has no interval over seeds." in lines[5]
