"""The run folder: never writes over another run, one writer at a time, files for anybody to read."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from stepcredit.errors import RunError
from stepcredit.records import Credit, Problem, RewardTable, StepReport
from stepcredit.runs.environment import describe
from stepcredit.runs.folder import RunFolder
from stepcredit.runs.log import read_lines
from stepcredit.runs.looks import Look
from stepcredit.runs.reader import FORMAT


def begun(path):
    """The two files that make a folder a run."""
    (path / "run.yaml").write_text("seed: 1\n")
    (path / "environment.json").write_text(json.dumps({"format": FORMAT}))


def snapshot(folder):
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def made_credit():
    P = 2
    G = 3
    N = 4
    K = 2
    generator = torch.Generator().manual_seed(0)
    return Credit(
        per_step=torch.randn(P, G, N, generator=generator, dtype=torch.float64),
        weights=torch.rand(G, P, N, generator=generator).transpose(0, 1),
        mixed=torch.randn(P, G, generator=generator),
        advantages=torch.tensor([1.0, torch.nan]).expand(P, G, K),
        coefficients=torch.tensor([1.0, 2.0]).expand(P, G, K),
        strength=torch.zeros(P, G),
    )


def write_iteration(folder, iteration):
    """Everything that an iteration and the look after it leave behind."""
    folder.log(StepReport(iteration, {"reward/a": 0.1 + iteration, "reward/b": math.nan}))
    folder.problems(iteration, [Problem("a", (), "ran out of ink")])
    table = RewardTable(("a", "b"), torch.zeros(2, 3, 2))
    folder.credit(iteration, made_credit(), np.zeros((2, 3, 5), np.float32), table, ["x", "y"])
    picture = np.zeros((8, 8, 3), np.uint8)
    folder.look(Look(iteration + 1, "trained", ("a",), (0,), ("x",), np.ones((1, 1)), {0: picture}), [0])


def test_a_new_folder_is_made_with_its_parents(tmp_path):
    folder = RunFolder.create(tmp_path / "a" / "b")
    assert folder.path == tmp_path / "a" / "b"
    assert not visible(folder.path)


def test_an_empty_folder_is_taken_and_so_is_one_where_a_run_never_began(tmp_path):
    folder = RunFolder.create(tmp_path)
    assert folder.path == tmp_path
    folder.release()
    RunFolder.create(tmp_path)


def test_a_folder_that_holds_something_is_refused_and_left_as_it_was(tmp_path):
    (tmp_path / "run.yaml").write_text("seed: 1\n")
    (tmp_path / "checkpoints").mkdir()
    before = snapshot(tmp_path)
    with pytest.raises(RunError, match=rf"nothing was changed.*--output\.folder.*--resume {tmp_path}"):
        RunFolder.create(tmp_path)
    assert snapshot(tmp_path) == before


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(RunError):
        RunFolder.create(tmp_path / "run")
    with pytest.raises(RunError):
        RunFolder.create(tmp_path / "run" / "below")
    assert (tmp_path / "run").read_text() == "x"


@pytest.mark.parametrize("where", ["pathlib.Path.mkdir", "stepcredit.runs.folder.FileLock.acquire"])
def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch, where):
    def denied(self, *arguments, **settings):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(where, denied)
    with pytest.raises(RunError, match=r"cannot be written \(Permission denied\)"):
        RunFolder.create(tmp_path / "run")


def test_only_a_run_can_be_reopened(tmp_path):
    with pytest.raises(RunError, match=r"is not a run: it has no run\.yaml"):
        RunFolder.reopen(tmp_path)
    begun(tmp_path)
    assert RunFolder.reopen(tmp_path).path == tmp_path


def test_a_run_has_one_writer_at_a_time(tmp_path):
    folder = RunFolder.create(tmp_path)
    begun(tmp_path)
    with pytest.raises(RunError, match="is being written by another process"):
        RunFolder.reopen(tmp_path)
    folder.release()
    RunFolder.reopen(tmp_path)


def test_the_log_is_json_lines_with_null_for_what_is_not_a_number(tmp_path):
    folder = RunFolder.create(tmp_path / "run")
    folder.log(StepReport(0, {"reward/a": 0.5, "reward/b": math.nan, "update/loss": math.inf}))
    folder.log(StepReport(1, {"reward/a": 1.0}))

    def strict(constant):
        raise AssertionError(f"{constant} is not JSON")

    lines = (folder.path / "metrics.jsonl").read_text().splitlines()
    assert all(json.loads(line, parse_constant=strict)["seal"] for line in lines)
    assert read_lines(folder.path / "metrics.jsonl") == [
        {"iteration": 0, "reward/a": 0.5, "reward/b": None, "update/loss": None},
        {"iteration": 1, "reward/a": 1.0},
    ]


def test_credit_tensors_come_back_as_they_were(tmp_path):
    credit = made_credit()
    scores = torch.randn(2, 3, 2)
    similarity = np.random.default_rng(0).random((2, 3, 5), dtype=np.float32)
    folder = RunFolder.create(tmp_path / "run")
    folder.credit(7, credit, similarity, RewardTable(("a", "b"), scores), ["a red circle", "zwei Äpfel"])

    path = folder.path / "credit" / "000007.safetensors"
    stored = load_file(path)
    wanted = {**credit.tensors(), "rewards": scores, "similarity": torch.from_numpy(similarity)}
    assert stored.keys() == wanted.keys()
    for name, value in wanted.items():
        assert stored[name].dtype == torch.float32
        torch.testing.assert_close(stored[name], value.float(), equal_nan=True, rtol=0, atol=0)
    with safe_open(path, "pt") as file:
        notes = file.metadata()
    assert json.loads(notes["objectives"]) == ["a", "b"]
    assert json.loads(notes["prompts"]) == ["a red circle", "zwei Äpfel"]
    assert visible(path.parent) == ["000007.safetensors"]


def test_a_similarity_that_nobody_looked_at_is_not_stored(tmp_path):
    folder = RunFolder.create(tmp_path / "run")
    folder.credit(7, made_credit(), None, RewardTable(("a", "b"), torch.zeros(2, 3, 2)), ["x", "y"])
    stored = load_file(folder.path / "credit" / "000007.safetensors")
    assert stored.keys() == {*made_credit().tensors(), "rewards"}


def test_rewinding_forgets_what_came_later_and_nothing_else(tmp_path):
    folder = RunFolder.create(tmp_path)
    for iteration in range(2):
        write_iteration(folder, iteration)
    (folder.checkpoints / "000002").mkdir(parents=True)
    before = snapshot(tmp_path)
    for iteration in range(2, 4):
        write_iteration(folder, iteration)
    (folder.checkpoints / "000004").mkdir()  # a damaged one
    folder.write_json("result.json", {})
    (tmp_path / "before_after.png").write_bytes(b"")
    with (tmp_path / "metrics.jsonl").open("a") as file:  # from here on: what a killed process may leave
        file.write('{"iteration": 4, "rew')
    (tmp_path / "credit" / "000004.safetensors.writing").write_bytes(b"")
    (tmp_path / "samples" / ".000005.writing").mkdir()
    (folder.checkpoints / ".000002.removed").mkdir()
    folder.rewind(2)
    assert snapshot(tmp_path) == before


def test_a_full_disk_ends_the_run_with_the_name_of_the_file(tmp_path, monkeypatch):
    folder = RunFolder.create(tmp_path)
    write_iteration(folder, 0)
    before = snapshot(tmp_path)

    def full(*arguments, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.open", full)
    monkeypatch.setattr("pathlib.Path.write_text", full)
    monkeypatch.setattr("stepcredit.runs.folder.save_file", full)
    with pytest.raises(RunError, match=r"metrics\.jsonl could not be written .*No space left.*--resume"):
        folder.log(StepReport(1, {}))
    with pytest.raises(RunError, match=r"result\.json could not be written"):
        folder.write_json("result.json", {})
    with pytest.raises(RunError, match=r"samples/000001 could not be written"):
        folder.look(Look(1, "trained", ("a",), (0,), ("x",), np.ones((1, 1)), {}), [])
    table = RewardTable(("a", "b"), torch.zeros(2, 3, 2))
    with pytest.raises(RunError, match=r"000001\.safetensors could not be written"):
        folder.credit(1, made_credit(), np.zeros((2, 3, 5), np.float32), table, ["x", "y"])
    monkeypatch.undo()
    after = snapshot(tmp_path)
    assert {name: after[name] for name in before} == before
    assert all(".writing" in name for name in after.keys() - before.keys())


def test_the_half_written_last_line_of_a_killed_run_is_skipped(tmp_path):
    folder = RunFolder.create(tmp_path)
    folder.log(StepReport(0, {"reward/a": 0.5}))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 1, "rew')
    assert [line["iteration"] for line in read_lines(tmp_path / "metrics.jsonl")] == [0]


def test_the_environment_names_versions_and_device():
    environment: Any = describe()
    assert environment["packages"]["torch"] == torch.__version__
    assert environment["device"]
    json.dumps(environment)
