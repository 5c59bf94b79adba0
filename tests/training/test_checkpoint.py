"""Checkpoints: whole or not there, the same bits back, every damage noticed, and the right ones kept."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fakes import FakePolicy
from stepcredit.errors import RunError, WeightsError
from stepcredit.training import checkpoint
from stepcredit.training.anchors import Average


def snapshot(folder):
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def trained_policy(steps=2, seed=0):
    """A policy with an optimiser that has moments, and an average."""
    policy = FakePolicy(seed)
    optimiser = torch.optim.AdamW(policy.parameters(), lr=0.1, betas=(0.8, 0.9))
    average = Average(policy.parameters(), 0.9)
    train(policy, optimiser, average, range(steps))
    return policy, optimiser, average


def train(policy, optimiser, average, iterations):
    for iteration in iterations:
        generator = torch.Generator().manual_seed(iteration)
        for parameter in policy.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimiser.step()
        average.follow()


def save(folder, iteration=5, average=True, **told):
    """A checkpoint of a trained policy."""
    policy, optimiser, mean = trained_policy()
    return checkpoint.save(folder, policy, optimiser, mean if average else None, iteration=iteration, **told)


def kept(folder):
    return [int(path.name) for path in checkpoint.listed(folder)]


# The same bits back


@pytest.mark.parametrize("split", [0, 1, 3])
def test_going_on_from_a_checkpoint_is_as_if_nothing_had_happened(tmp_path, split):
    whole = trained_policy(steps=6)
    first = trained_policy(steps=split)
    path = checkpoint.save(tmp_path, *first, iteration=split, silent={"a": 2}, held_out={"a": 0.1 + 0.2})

    second = trained_policy(steps=0, seed=0)
    for parameter in second[0].parameters():
        parameter.data += 1  # whatever it was
    found = checkpoint.restore(path, *second)
    assert found == checkpoint.Counters(split, split, split, {"a": 2}, {"a": 0.1 + 0.2})
    train(*second, range(split, 6))
    for one, two in zip(whole[0].parameters(), second[0].parameters(), strict=True):
        assert torch.equal(one, two)
        for name, value in whole[1].state[one].items():
            assert torch.equal(second[1].state[two][name], value)
    assert all(torch.equal(one, two) for one, two in zip(whole[2].tensors, second[2].tensors, strict=True))


def test_saving_changes_nothing(tmp_path):
    whole, saved = trained_policy(steps=4), trained_policy(steps=2)
    checkpoint.save(tmp_path, *saved, iteration=2)
    train(*saved, range(2, 4))
    assert all(torch.equal(one, two) for one, two in zip(whole[0].parameters(), saved[0].parameters(), strict=True))


@pytest.mark.parametrize("kind", ["average", "raw", "no average"])
def test_a_checkpoint_puts_the_weights_back(tmp_path, kind):
    policy, optimiser, average = trained_policy()
    raw = [parameter.detach().clone() for parameter in policy.parameters()]
    mean = [tensor.clone() for tensor in average.tensors]
    assert not torch.equal(raw[0], mean[0])
    kept = None if kind == "no average" else average
    target = checkpoint.save(tmp_path, policy, optimiser, kept, iteration=5)
    assert target == tmp_path / "000005"

    fresh = FakePolicy(9)
    assert checkpoint.restore_weights(target, fresh, raw=kind == "raw") == (
        "average" if kind == "average" else "trained"
    )
    for parameter, wanted in zip(fresh.parameters(), mean if kind == "average" else raw, strict=True):
        assert torch.equal(parameter.data, wanted)


def test_a_checkpoint_holds_both_adapters_and_the_weights_are_swapped_back(tmp_path):
    policy, optimiser, average = trained_policy(steps=3)
    raw = [parameter.detach().clone() for parameter in policy.parameters()]
    target = checkpoint.save(tmp_path, policy, optimiser, average, iteration=5)
    adapter = load_file(target / "adapter" / "weights.safetensors")
    mean = load_file(target / "average" / "weights.safetensors")
    assert torch.equal(adapter["0.weight"], raw[0])
    assert torch.equal(mean["0.weight"], average.tensors[0])
    assert all(torch.equal(p.data, old) for p, old in zip(policy.parameters(), raw, strict=True))


def test_a_checkpoint_before_any_optimiser_step_is_whole(tmp_path):
    policy = FakePolicy()
    target = checkpoint.save(tmp_path, policy, torch.optim.AdamW(policy.parameters()), None, iteration=1)
    assert checkpoint.damage(target) is None
    assert checkpoint.counters(target).optimiser_steps == 0
    assert not (target / "average").exists()


# Damage


def test_every_missing_file_is_noticed(tmp_path):
    target = save(tmp_path)
    assert checkpoint.damage(target) is None
    files = [path for path in target.rglob("*") if path.is_file()]
    assert len(files) == 4
    for path in files:
        content = path.read_bytes()
        path.unlink()
        assert path.relative_to(target).as_posix() in (checkpoint.damage(target) or "")
        path.write_bytes(content)
    assert checkpoint.damage(target) is None


@pytest.mark.parametrize("name", ["state.safetensors", "adapter/weights.safetensors", "average/weights.safetensors"])
def test_every_flipped_byte_of_the_tensors_is_noticed(tmp_path, name):
    target = save(tmp_path)
    content = (target / name).read_bytes()
    for at in {*range(0, len(content), 101), len(content) - 1}:
        (target / name).write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert checkpoint.damage(target) == f"{name} is not what was written"
    (target / name).write_bytes(content[:-1])
    assert checkpoint.damage(target) is not None


def test_a_flipped_byte_of_the_counters_is_noticed_or_changes_nothing(tmp_path):
    target = save(tmp_path, silent={"a": 1}, held_out={"a": 0.25})
    path, before = target / "state.json", checkpoint.counters(target)
    content = path.read_bytes()
    unnoticed = 0
    for at in range(len(content)):
        for mask in (1, 16, 128):
            path.write_bytes(content[:at] + bytes([content[at] ^ mask]) + content[at + 1 :])
            if checkpoint.damage(target) is None:
                unnoticed += 1
                assert checkpoint.counters(target) == before
    assert unnoticed < 0.05 * len(content)  # white space, and the name of the checksum itself


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"files": 1}', '{"files": {}, "sha256": 1}', '{"files": {}, "sha256": null}', "\0"]
)
def test_counters_that_are_something_else_are_damage(tmp_path, text):
    target = save(tmp_path)
    (target / "state.json").write_text(text)
    assert checkpoint.damage(target).startswith("state.json")
    with pytest.raises(RunError, match=r"state\.json cannot be read"):
        checkpoint.counters(target)


def test_the_newest_checkpoint_is_the_latest_whole_one(tmp_path):
    for iteration in (5, 100, 20):
        save(tmp_path, iteration)
    (tmp_path / ".000300.writing").mkdir()
    assert checkpoint.newest(tmp_path) == (tmp_path / "000100", [])


def test_damaged_checkpoints_are_passed_over_with_a_sentence_each(tmp_path):
    for iteration in (5, 20, 100):
        save(tmp_path, iteration)
    (tmp_path / "000020" / "state.safetensors").unlink()
    with (tmp_path / "000100" / "adapter" / "weights.safetensors").open("ab") as file:
        file.write(b"\0")
    path, passed = checkpoint.newest(tmp_path)
    assert path == tmp_path / "000005"
    assert passed == [
        f"checkpoint {tmp_path / '000100'} is damaged: adapter/weights.safetensors is not what was written",
        f"checkpoint {tmp_path / '000020'} is damaged: state.safetensors is missing",
    ]
    (path / "state.json").unlink()
    with pytest.raises(RunError, match=r"no whole checkpoint: .*000100.*000020.*000005 .*state\.json is missing"):
        checkpoint.newest(tmp_path)


def test_a_run_without_a_checkpoint_says_so(tmp_path):
    with pytest.raises(RunError, match="holds no whole checkpoint: the run stopped before its first one"):
        checkpoint.newest(tmp_path / "checkpoints")


def test_a_numbered_checkpoint_is_there_and_whole_or_refused(tmp_path):
    for iteration in (5, 20):
        save(tmp_path, iteration)
    assert checkpoint.numbered(tmp_path, 5) == tmp_path / "000005"
    with pytest.raises(RunError, match=r"there is no checkpoint 6 .* there are: 5, 20"):
        checkpoint.numbered(tmp_path, 6)
    (tmp_path / "000020" / "state.safetensors").unlink()
    with pytest.raises(RunError, match=r"000020 is damaged: state\.safetensors is missing; choose another"):
        checkpoint.numbered(tmp_path, 20)


def test_a_damaged_checkpoint_is_refused_clearly(tmp_path):
    state = save(tmp_path) / "state.safetensors"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(WeightsError, match="000005 is damaged"):
        checkpoint.restore_weights(state.parent, FakePolicy())


# What is kept


def test_the_last_ones_and_the_best_are_kept(tmp_path):
    for iteration, value in enumerate([0.3, 0.9, 0.5, math.nan, 0.7, None], start=1):
        save(tmp_path, iteration, held_out={} if value is None else {"a": value, "b": -float(iteration)})
    checkpoint.prune(tmp_path, keep=6, best=None)
    assert kept(tmp_path) == [1, 2, 3, 4, 5, 6]
    checkpoint.prune(tmp_path, keep=4, best="b")
    assert kept(tmp_path) == [1, 3, 4, 5, 6]
    checkpoint.prune(tmp_path, keep=1, best="a")
    assert kept(tmp_path) == [5, 6]  # not the one without a number
    checkpoint.prune(tmp_path, keep=1, best="unheard of")
    assert kept(tmp_path) == [6]
    assert [path.name for path in tmp_path.iterdir()] == ["000006"]


def test_a_damaged_checkpoint_is_not_the_best_and_does_not_stop_the_run(tmp_path):
    for iteration in (1, 2, 3):
        save(tmp_path, iteration, held_out={"a": -float(iteration)})
    (tmp_path / "000001" / "state.json").write_text("{")
    checkpoint.prune(tmp_path, keep=1, best="a")
    assert kept(tmp_path) == [2, 3]


# Writing that fails


def test_a_checkpoint_that_fails_leaves_the_older_one_whole_and_nothing_half_written(tmp_path, monkeypatch):
    older = save(tmp_path)
    before = snapshot(tmp_path)

    def full(*arguments, **settings):
        raise OSError(28, "No space left on device")

    for place in ("save_file", "os.fsync", "os.replace", "Path.write_text"):
        with monkeypatch.context() as broken:
            broken.setattr(f"stepcredit.training.checkpoint.{place}", full)
            with pytest.raises(RunError, match=r"000010 could not be written .*No space.*--resume"):
                save(tmp_path, 10)
        assert snapshot(tmp_path) == before
    with monkeypatch.context() as broken:  # the same number again: the one that is there must survive
        broken.setattr(checkpoint, "save_file", full)
        with pytest.raises(RunError):
            save(tmp_path, 5)
    assert snapshot(tmp_path) == before
    assert checkpoint.newest(tmp_path) == (older, [])


def test_a_policy_that_cannot_be_saved_leaves_the_average_out_of_the_weights(tmp_path, monkeypatch):
    policy, optimiser, average = trained_policy()
    raw = [parameter.detach().clone() for parameter in policy.parameters()]
    real = policy.save

    def fails_on_average(folder):
        if folder.name == "average":
            raise OSError(28, "No space left on device")
        real(folder)

    monkeypatch.setattr(policy, "save", fails_on_average)
    with pytest.raises(RunError):
        checkpoint.save(tmp_path, policy, optimiser, average, iteration=10)
    assert all(torch.equal(p.data, old) for p, old in zip(policy.parameters(), raw, strict=True))
    assert not list(tmp_path.iterdir())


LIMITED = """
import resource, sys
from pathlib import Path
from fakes import FakePolicy
from test_checkpoint import save
folder = Path(sys.argv[1])
save(folder, 5)
for limit in (100, 3000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        save(folder, 10)
    except Exception as error:
        print(type(error).__name__, error, sorted(path.name for path in folder.iterdir()))
"""


def test_a_real_write_that_is_cut_short_leaves_the_older_one_whole(tmp_path):
    """The system refuses the file beyond some size: at first the adapter, then the state."""
    here = Path(__file__).parent
    answer = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)],  # in a process of its own, which such a limit holds for good
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])},
        capture_output=True,
        text=True,
    )
    first, second = answer.stdout.splitlines()
    for line in (first, second):
        assert line.startswith("RunError")
        assert "000010 could not be written" in line
        assert line.endswith("['000005']")
    assert kept(tmp_path) == [5]
    assert checkpoint.damage(tmp_path / "000005") is None
    assert [path.name for path in tmp_path.iterdir()] == ["000005"]


# Weights that do not fit


def other_shape(policy):
    policy.network[2] = torch.nn.Linear(3, 12)


def one_layer_more(policy):
    policy.network.append(torch.nn.Linear(12, 12))


@pytest.mark.parametrize("change", [other_shape, one_layer_more])
def test_weights_that_do_not_fit_are_refused_and_nothing_is_changed(tmp_path, change):
    target = save(tmp_path, average=False)
    other = FakePolicy(3)
    change(other)
    before = [parameter.detach().clone() for parameter in other.parameters()]
    with pytest.raises(WeightsError, match="does not fit the run's recipe"):
        checkpoint.restore_weights(target, other)
    assert all(torch.equal(p.data, old) for p, old in zip(other.parameters(), before, strict=True))


def test_weights_of_a_larger_policy_are_refused(tmp_path):
    policy = FakePolicy()
    one_layer_more(policy)
    target = checkpoint.save(tmp_path, policy, torch.optim.AdamW(policy.parameters()), None, iteration=5)
    with pytest.raises(WeightsError, match="does not fit"):
        checkpoint.restore_weights(target, FakePolicy())


def test_a_checkpoint_without_average_does_not_fit_a_run_with_one(tmp_path):
    target = save(tmp_path, average=False)
    with pytest.raises(WeightsError, match=r"training\.ema"):
        checkpoint.restore(target, *trained_policy())


def test_the_state_is_plain_json(tmp_path):
    state = json.loads((save(tmp_path, held_out={"a": 0.5}) / "state.json").read_text())
    assert state["iteration"] == 5
    assert state["held_out"] == {"a": 0.5}
    assert set(state["files"]) == {"state.safetensors", "adapter/weights.safetensors", "average/weights.safetensors"}
