"""Reading a run: whatever is whole is read, also while somebody writes; whatever is not is named. No torch."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import save_file

from fakes import make_recipe
from stepcredit.errors import RunError
from stepcredit.recipe.load import to_yaml
from stepcredit.records import Credit, Problem, RewardTable, StepReport
from stepcredit.runs.folder import RunFolder
from stepcredit.runs.looks import Look
from stepcredit.runs.reader import FORMAT, RunReader


def write_run(path):
    """A run of two iterations with one look, as the loop leaves it."""
    folder = RunFolder.create(path)
    folder.write_text("run.yaml", to_yaml(make_recipe(["brightness"], training={"iterations": 7})))
    folder.write_json("environment.json", {"format": FORMAT, "packages": {"stepcredit": "9.9"}, "rewards": {}})
    parts = torch.arange(24.0).view(2, 3, 4)
    credit = Credit(parts, parts, parts[..., 0], parts[..., :1], parts[..., :1], parts[..., 0])
    for iteration in range(2):
        folder.log(StepReport(iteration, {"reward/brightness": 0.1 * iteration, "reward/taste": float("nan")}))
        folder.problems(iteration, [Problem("taste", (3,), "ran out of ink")])
        table = RewardTable(("brightness",), parts[..., :1] / 7)
        folder.credit(iteration, credit, np.ones((2, 3, 5), np.float32), table, ["x", "ÿ"])
    picture = np.full((8, 8, 3), 7, np.uint8)
    folder.look(Look(0, "base", ("brightness",), (0, 1), ("x", "x"), np.ones((2, 1)), {0: picture}), [0])
    folder.write_json("result.json", {"rows": []})
    folder.write_json("evaluations/000002-trained-8.json", {"pictures": 8})
    folder.release()
    return path


@pytest.fixture
def path(tmp_path):
    return write_run(tmp_path / "run")


def test_everything_that_a_run_leaves_can_be_read(path):
    run = RunReader(path)
    assert (run.method, run.iterations, run.trained, run.held_out) == ("dance_grpo", 7, ["brightness"], [])
    assert run.environment["packages"] == {"stepcredit": "9.9"}
    assert run.metrics() == [
        {"iteration": index, "reward/brightness": 0.1 * index, "reward/taste": None} for index in range(2)
    ]
    assert run.problems()[1] == {
        "iteration": 1,
        "number": 0,
        "reward": "taste",
        "rows": [3],
        "reason": "taste: ran out of ink",
    }
    assert run.result() == {"rows": []}
    assert run.evaluations() == [{"pictures": 8}]
    assert run.looks() == [0]
    assert run.look(0).pictures[0][0, 0, 0] == 7
    assert run.credits() == [0, 1]


def test_stored_credit_comes_back_as_it_was(path):
    credit = RunReader(path).credit(1)
    assert (credit.iteration, credit.objectives, credit.prompts) == (1, ("brightness",), ("x", "ÿ"))
    np.testing.assert_array_equal(credit["per_step"], np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    np.testing.assert_array_equal(credit["rewards"][..., 0], credit["per_step"][..., 0] / np.float32(7))
    assert credit["similarity"].shape == (2, 3, 5)


@pytest.mark.parametrize(
    ("settings", "label"),
    [
        ({"type": "custom", "path": "package.module:taste"}, "taste"),
        ({"type": "custom", "path": "package.module:taste", "name": "own"}, "own"),
        ({"type": "composition"}, "composition"),
    ],
)
def test_a_reward_is_called_what_the_recipe_calls_it(path, settings, label):
    recipe = make_recipe(rewards=[settings])
    (path / "run.yaml").write_text(to_yaml(recipe))
    assert RunReader(path).trained == recipe.objectives == [label]


# Not a run, or not yet


def test_what_is_not_a_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="there is no folder"):
        RunReader(tmp_path / "nowhere")
    with pytest.raises(RunError, match="is empty"):
        RunReader(tmp_path)
    (tmp_path / "holiday.txt").write_text("x")
    with pytest.raises(RunError, match=r"is not a run: it has no run\.yaml"):
        RunReader(tmp_path)
    (tmp_path / "run.yaml").write_text("seed: 1\n")
    with pytest.raises(RunError, match=r"is half-written: it has no environment\.json"):
        RunReader(tmp_path)


@pytest.mark.parametrize("stored", [{"packages": {"stepcredit": "0.0.7"}}, {"format": FORMAT + 1}])
def test_a_run_of_another_format_is_refused(path, stored):
    (path / "environment.json").write_text(json.dumps(stored))
    version = "0\\.0\\.7" if "packages" in stored else "of unknown version"
    with pytest.raises(RunError, match=rf"stepcredit {version} in format .* reads formats 2 and 3;"):
        RunReader(path)


def test_a_run_that_has_only_begun_has_nothing_to_show(path):
    for name in ("metrics.jsonl", "problems.jsonl", "result.json"):
        (path / name).unlink()
    for name in ("samples", "credit", "evaluations"):
        (path / name).rename(path / f"no_{name}")
    run = RunReader(path)
    assert (run.metrics(), run.problems(), run.looks(), run.credits(), run.evaluations()) == ([], [], [], [], [])
    assert run.result() is None


def test_half_of_a_look_or_of_a_line_is_not_seen(path):
    (path / "samples" / ".000001.writing").mkdir()
    (path / "samples" / "000002").mkdir()  # somebody copied half of it
    (path / "credit" / "000002.safetensors.writing").write_bytes(b"")
    with (path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"iteration": 2, "reward/brigh')
    run = RunReader(path)
    assert run.looks() == [0]
    assert run.credits() == [0, 1]
    assert [line["iteration"] for line in run.metrics()] == [0, 1]


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_log_that_was_cut_anywhere_gives_its_whole_lines(path, cut):
    log = path / "metrics.jsonl"
    log.write_bytes(log.read_bytes()[:-cut])
    assert [line["iteration"] for line in RunReader(path).metrics()] == [0]


HOLD = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    input()
"""


def test_a_run_can_be_read_while_another_process_writes_it(path):
    command = [sys.executable, "-c", HOLD, str(path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match="is being written by another process"):
            RunFolder.reopen(path)
        assert len(RunReader(path).metrics()) == 2
        holder.communicate("\n")
    RunFolder.reopen(path)


# Damage


@pytest.mark.parametrize(
    ("name", "content", "read"),
    [
        ("run.yaml", b"seed: [", lambda run: run.recipe),
        ("run.yaml", b"- 1", lambda run: run.recipe),
        ("run.yaml", b"\xff", lambda run: run.recipe),
        ("environment.json", b"{", lambda run: run.environment),
        ("environment.json", b"[]", lambda run: run.environment),
        ("metrics.jsonl", b'{"iteration": 0}\n{"iter\n{"iteration": 2}\n', lambda run: run.metrics()),
        ("problems.jsonl", b"\xff\n", lambda run: run.problems()),
        ("result.json", b"{", lambda run: run.result()),
        ("result.json", b"\xff", lambda run: run.result()),
        ("evaluations/000002-trained-8.json", b"", lambda run: run.evaluations()),
        ("credit/000001.safetensors", b"", lambda run: run.credit(1)),
        ("credit/000001.safetensors", b"\0" * 100, lambda run: run.credit(1)),
    ],
)
def test_a_damaged_file_is_an_error_with_its_name(path, name, content, read):
    (path / name).write_bytes(content)
    with pytest.raises(RunError, match=name):
        read(RunReader(path))


def test_the_damaged_line_is_numbered_and_shown(path):
    log = path / "metrics.jsonl"
    log.write_text(log.read_text().replace('"iteration": 1', '"iteration": '))
    with pytest.raises(RunError, match=r"line 2, is damaged \(.*\): '\{\"iteration\": , .*remove that line"):
        RunReader(path).metrics()


@pytest.mark.parametrize("notes", [None, {"objectives": "[]"}, {"objectives": "[", "prompts": "[]"}])
def test_credit_without_its_notes_is_damaged(path, notes):
    save_file({"per_step": np.zeros(3, np.float32)}, path / "credit" / "000001.safetensors", notes)
    with pytest.raises(RunError, match=r"000001\.safetensors is damaged"):
        RunReader(path).credit(1)


def test_credit_that_was_cut_anywhere_is_damaged(path):
    stored = path / "credit" / "000001.safetensors"
    content = stored.read_bytes()
    for size in range(0, len(content), 37):
        stored.write_bytes(content[:size])
        with pytest.raises(RunError, match="the other iterations can still be read"):
            RunReader(path).credit(1)
    RunReader(path).credit(0)


def test_what_is_not_there_is_an_error_and_not_a_crash(path):
    with pytest.raises(RunError, match="000005"):
        RunReader(path).look(5)
    with pytest.raises(RunError, match="000005"):
        RunReader(path).credit(5)


# No torch


@pytest.mark.parametrize(
    "module", ["stepcredit.runs.reader", "stepcredit.runs.compare", "stepcredit.evaluation.paired"]
)
def test_looking_at_runs_does_not_load_torch(path, module):
    program = (
        f"import sys, {module}\n"
        "from stepcredit.runs.reader import RunReader\n"
        "run = RunReader(sys.argv[1])\n"
        "run.credit(0), run.look(0), run.metrics()\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'torch', 'diffusers', 'transformers'}))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, env={**os.environ}, check=False
    )
    assert answer.stdout == "[]\n", answer.stderr


def test_the_recipe_is_plain_data(path):
    assert RunReader(path).recipe == yaml.safe_load((path / "run.yaml").read_text())
