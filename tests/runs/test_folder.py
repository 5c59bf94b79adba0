"""The run folder: never writes over another run, files for anybody to read, checkpoints whole or not there."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from fakes import FakePolicy
from stepcredit.errors import RunError, WeightsError
from stepcredit.records import Credit, RewardTable, StepReport
from stepcredit.runs.environment import describe
from stepcredit.runs.folder import RunFolder
from stepcredit.training import checkpoint
from stepcredit.training.anchors import Average


def snapshot(folder):
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def trained_policy(steps=2, seed=0):
    """A policy with an optimiser that has moments, and an average."""
    policy = FakePolicy(seed)
    optimiser = torch.optim.AdamW(policy.parameters(), lr=0.1)
    average = Average(policy.parameters(), 0.5)
    for _ in range(steps):
        for parameter in policy.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimiser.step()
        average.follow()
    return policy, optimiser, average


def test_a_new_folder_is_made_with_its_parents(tmp_path):
    folder = RunFolder.create(tmp_path / "a" / "b")
    assert folder.path.is_dir()
    assert not list(folder.path.iterdir())


def test_an_empty_folder_is_taken(tmp_path):
    assert RunFolder.create(tmp_path).path == tmp_path


def test_a_folder_that_holds_something_is_refused_and_left_as_it_was(tmp_path):
    (tmp_path / "run.yaml").write_text("seed: 1\n")
    (tmp_path / "checkpoints").mkdir()
    before = snapshot(tmp_path)
    with pytest.raises(RunError, match=r"not empty; nothing was changed.*--output\.folder"):
        RunFolder.create(tmp_path)
    assert snapshot(tmp_path) == before


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(RunError):
        RunFolder.create(tmp_path / "run")
    with pytest.raises(RunError):
        RunFolder.create(tmp_path / "run" / "below")
    assert (tmp_path / "run").read_text() == "x"


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    def denied(self, *arguments, **settings):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.touch", denied)
    with pytest.raises(RunError, match=r"cannot be written \(Permission denied\)"):
        RunFolder.create(tmp_path / "run")


def test_only_a_run_can_be_opened(tmp_path):
    with pytest.raises(RunError, match=r"is not a run: it has no run\.yaml"):
        RunFolder.open(tmp_path)
    (tmp_path / "run.yaml").write_text("seed: 1\n")
    assert RunFolder.open(tmp_path).path == tmp_path


def test_the_log_is_json_lines_with_null_for_what_is_not_a_number(tmp_path):
    folder = RunFolder.create(tmp_path / "run")
    folder.log(StepReport(0, {"reward/a": 0.5, "reward/b": math.nan, "update/loss": math.inf}))
    folder.log(StepReport(1, {"reward/a": 1.0}))

    def strict(constant):
        raise AssertionError(f"{constant} is not JSON")

    lines = (folder.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line, parse_constant=strict) for line in lines] == [
        {"iteration": 0, "reward/a": 0.5, "reward/b": None, "update/loss": None},
        {"iteration": 1, "reward/a": 1.0},
    ]
    assert folder.metrics() == [json.loads(line) for line in lines]


def test_a_run_without_a_log_has_no_metrics(tmp_path):
    assert RunFolder.create(tmp_path).metrics() == []


def test_credit_tensors_come_back_as_they_were(tmp_path):
    generator = torch.Generator().manual_seed(0)
    values = {
        "per_step": torch.randn(2, 3, 4, generator=generator, dtype=torch.float64),
        "weights": torch.rand(2, 3, 4, generator=generator).transpose(0, 1).contiguous().transpose(0, 1),
        "mixed": torch.randn(2, 3, generator=generator),
        "advantages": torch.tensor([[[1.0, torch.nan]] * 3] * 2),
        "coefficients": torch.tensor([1.0, 2.0]).expand(2, 3, 2),
        "strength": torch.zeros(2, 3),
    }
    scores = torch.randn(2, 3, 2, generator=generator)
    folder = RunFolder.create(tmp_path / "run")
    folder.credit(7, Credit(**values), RewardTable(("a", "b"), scores), ["a red circle", "zwei Äpfel"])

    path = folder.path / "credit" / "000007.safetensors"
    stored = load_file(path)
    assert stored.keys() == {*values, "rewards"}
    for name, value in {**values, "rewards": scores}.items():
        assert stored[name].dtype == torch.float32
        torch.testing.assert_close(stored[name], value.float(), equal_nan=True, rtol=0, atol=0)
    with safe_open(path, "pt") as file:
        notes = file.metadata()
    assert json.loads(notes["objectives"]) == ["a", "b"]
    assert json.loads(notes["prompts"]) == ["a red circle", "zwei Äpfel"]
    assert [file.name for file in path.parent.iterdir()] == ["000007.safetensors"]


def test_pictures_are_kept_with_their_captions(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    folder = RunFolder.create(tmp_path / "run")
    folder.pictures(10, "samples", list(images), ["a red circle", "ein Käfer"])
    place = folder.path / "samples" / "000010"
    assert (place / "captions.txt").read_text(encoding="utf-8").splitlines() == ["a red circle", "ein Käfer"]
    np.testing.assert_array_equal(np.asarray(Image.open(place / "01.png")), images[1])


def test_the_environment_names_versions_and_device():
    found = describe()
    assert found["packages"]["torch"] == torch.__version__
    assert found["device"]
    json.dumps(found)


# Checkpoints


@pytest.mark.parametrize("kind", ["average", "raw", "no average"])
def test_a_checkpoint_puts_the_weights_back(tmp_path, kind):
    policy, optimiser, average = trained_policy()
    raw = [parameter.detach().clone() for parameter in policy.parameters()]
    mean = [tensor.clone() for tensor in average.tensors]
    assert not torch.equal(raw[0], mean[0])
    target = checkpoint.save(tmp_path, 5, policy, optimiser, None if kind == "no average" else average)
    assert target == tmp_path / "000005"

    fresh = FakePolicy(9)
    checkpoint.restore_weights(target, fresh, raw=kind == "raw")
    for parameter, wanted in zip(fresh.parameters(), mean if kind == "average" else raw, strict=True):
        assert torch.equal(parameter.data, wanted)


def test_a_checkpoint_holds_moments_steps_and_both_adapters(tmp_path):
    policy, optimiser, average = trained_policy(steps=3)
    raw = [parameter.detach().clone() for parameter in policy.parameters()]
    target = checkpoint.save(tmp_path, 5, policy, optimiser, average)
    assert json.loads((target / "state.json").read_text()) == {"iteration": 5, "optimiser_steps": 3}
    state = load_file(target / "state.safetensors")
    for index, parameter in enumerate(policy.parameters()):
        assert torch.equal(state[f"exp_avg.{index}"], optimiser.state[parameter]["exp_avg"])
        assert torch.equal(state[f"exp_avg_sq.{index}"], optimiser.state[parameter]["exp_avg_sq"])
    adapter = load_file(target / "adapter" / "weights.safetensors")
    mean = load_file(target / "average" / "weights.safetensors")
    assert torch.equal(adapter["0.weight"], raw[0])
    assert torch.equal(mean["0.weight"], average.tensors[0])
    assert all(torch.equal(p.data, old) for p, old in zip(policy.parameters(), raw, strict=True))  # swapped back


def test_a_checkpoint_before_any_optimiser_step_is_whole(tmp_path):
    policy = FakePolicy()
    target = checkpoint.save(tmp_path, 1, policy, torch.optim.AdamW(policy.parameters()), None)
    assert json.loads((target / "state.json").read_text())["optimiser_steps"] == 0
    assert not (target / "average").exists()


def test_a_checkpoint_that_fails_leaves_the_older_one_whole_and_nothing_half_written(tmp_path, monkeypatch):
    policy, optimiser, average = trained_policy()
    older = checkpoint.save(tmp_path, 5, policy, optimiser, average)
    before = snapshot(tmp_path)

    def full(*arguments, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(RunError, match=r"000010 could not be written .*No space left.*earlier checkpoints are whole"):
        checkpoint.save(tmp_path, 10, policy, optimiser, average)
    with pytest.raises(RunError):  # the same number again: the one that is there must survive
        checkpoint.save(tmp_path, 5, policy, optimiser, average)
    assert snapshot(tmp_path) == before
    assert checkpoint.newest(tmp_path) == older
    checkpoint.restore_weights(older, FakePolicy())


def test_a_policy_that_cannot_be_saved_leaves_the_average_out_of_the_weights(tmp_path, monkeypatch):
    policy, optimiser, average = trained_policy()
    raw = [parameter.detach().clone() for parameter in policy.parameters()]
    save = policy.save

    def fails_on_average(folder):
        if folder.name == "average":
            raise OSError(28, "No space left on device")
        save(folder)

    monkeypatch.setattr(policy, "save", fails_on_average)
    with pytest.raises(RunError):
        checkpoint.save(tmp_path, 10, policy, optimiser, average)
    assert all(torch.equal(p.data, old) for p, old in zip(policy.parameters(), raw, strict=True))
    assert not list(tmp_path.iterdir())


def test_the_newest_checkpoint_is_the_latest_whole_one(tmp_path):
    policy, optimiser, average = trained_policy()
    for iteration in (5, 100, 20):
        checkpoint.save(tmp_path, iteration, policy, optimiser, average)
    (tmp_path / "000200").mkdir()  # no state.json: not whole
    (tmp_path / ".000300.writing").mkdir()
    assert checkpoint.newest(tmp_path) == tmp_path / "000100"


def test_a_run_without_a_checkpoint_says_so(tmp_path):
    with pytest.raises(RunError, match="holds no checkpoint"):
        checkpoint.newest(tmp_path / "checkpoints")


def test_weights_of_another_shape_are_refused(tmp_path):
    policy, optimiser, _ = trained_policy()
    target = checkpoint.save(tmp_path, 5, policy, optimiser, None)
    other = FakePolicy()
    other.network[2] = torch.nn.Linear(3, 12)
    with pytest.raises(WeightsError, match="does not fit the run's recipe"):
        checkpoint.restore_weights(target, other)


def test_weights_of_a_larger_policy_are_missing(tmp_path):
    policy, optimiser, _ = trained_policy()
    target = checkpoint.save(tmp_path, 5, policy, optimiser, None)
    other = FakePolicy()
    other.network.append(torch.nn.Linear(12, 12))
    with pytest.raises(WeightsError, match="does not fit the run's recipe"):
        checkpoint.restore_weights(target, other)


# Known defects


def test_a_checkpoint_that_safetensors_cannot_write_is_a_run_error(tmp_path, monkeypatch):
    policy, optimiser, average = trained_policy()
    real = checkpoint.save_file
    monkeypatch.setattr(checkpoint, "save_file", lambda tensors, path: real(tensors, tmp_path / "no" / "x.safetensors"))
    with pytest.raises(RunError):
        checkpoint.save(tmp_path / "checkpoints", 5, policy, optimiser, average)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_refused_weights_leave_the_policy_as_it_was(tmp_path):
    policy, optimiser, _ = trained_policy()
    target = checkpoint.save(tmp_path, 5, policy, optimiser, None)
    other = FakePolicy(3)
    other.network[2] = torch.nn.Linear(3, 12)
    before = [parameter.detach().clone() for parameter in other.parameters()]
    with pytest.raises(WeightsError):
        checkpoint.restore_weights(target, other)
    assert all(torch.equal(p.data, old) for p, old in zip(other.parameters(), before, strict=True))


def test_weights_of_a_smaller_policy_are_refused(tmp_path):
    policy = FakePolicy()
    policy.network.append(torch.nn.Linear(12, 12))
    target = checkpoint.save(tmp_path, 5, policy, torch.optim.AdamW(policy.parameters()), None)
    with pytest.raises(WeightsError):
        checkpoint.restore_weights(target, FakePolicy())


def test_a_damaged_checkpoint_is_refused_clearly(tmp_path):
    policy, optimiser, _ = trained_policy()
    target = checkpoint.save(tmp_path, 5, policy, optimiser, None)
    state = target / "state.safetensors"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises((RunError, WeightsError)):
        checkpoint.restore_weights(target, FakePolicy())


def test_the_half_written_last_line_of_a_killed_run_is_skipped(tmp_path):
    folder = RunFolder.create(tmp_path)
    folder.log(StepReport(0, {"reward/a": 0.5}))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 1, "rew')
    assert [line["iteration"] for line in folder.metrics()] == [0]
