"""The loop: stopped anywhere and gone on with, a run is the same run; it looks, keeps and ends as the recipe says.

`train` and `resume` run for real, around the fakes. `happens` is told of every network call, optimiser step and
finished iteration, and may send a signal or raise.
"""

import io
import json
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from safetensors import safe_open

from fakes import PROMPTS, Brightness, Constant, Contrast, NotANumber, make_parts_of, make_recipe
from stepcredit import api
from stepcredit.errors import RewardError, RunError
from stepcredit.evaluation.paired import compare, summarise
from stepcredit.prompts.sources import Listed
from stepcredit.rewards.suite import RewardSuite
from stepcredit.runs.reader import RunReader
from stepcredit.training import checkpoint, last_whole, looking, loop
from stepcredit.training.interrupt import Interrupt
from stepcredit.training.looking import Evaluator

TOTAL = 5
SECTIONS = {
    "method": {"type": "otca"},
    "training": {"iterations": TOTAL, "updates": 2, "ema": 0.8},
    "optimiser": {"learning_rate": 0.01},
    "evaluation": {"every": 2, "watch": 4, "count": 8},
    "held_out": [{"type": "custom", "path": "fakes:unused", "name": "constant"}],
}


class Killed(BaseException):
    """The process is gone: nothing that would have come later is written."""


class Told:
    """Says what happens, as (place, iteration, number of it since the last finished iteration)."""

    def __init__(self, happens):
        self.happens, self.iteration, self.numbers = happens, 0, {}

    def note(self, place):
        self.numbers[place] = self.numbers.get(place, 0) + 1
        self.happens(place, self.iteration, self.numbers[place])

    def log(self, report):
        self.iteration, self.numbers = report.iteration, {}
        self.happens("log", report.iteration, 1)
        self.iteration += 1

    def problems(self, iteration, reasons): ...

    def pictures(self, iteration, name, images, captions): ...

    def distributions(self, iteration, values): ...

    def close(self): ...


def nothing(place, iteration, number):
    pass


def on_fakes(monkeypatch, happens=nothing, rewards=(Brightness, lambda: Contrast("contrast")), start=0):
    """`train` and `resume` build fakes; `start` is the iteration from which they count."""
    told = Told(happens)
    told.iteration = start

    def build(recipe):
        made = [reward() for reward in rewards]
        parts = make_parts_of(recipe, made)
        velocity = parts.policy.velocity
        monkeypatch.setattr(parts.policy, "velocity", lambda *given: (told.note("network"), velocity(*given))[1])
        parts.optimiser.register_step_post_hook(lambda *_: told.note("optimiser"))
        return parts, Evaluator(Listed(PROMPTS), parts.rewards.joined(RewardSuite([Constant("constant")])))

    monkeypatch.setattr(api, "build_parts", build)
    monkeypatch.setattr(api, "build_trackers", lambda *_: [told])


def recipe_for(folder, names=("brightness", "contrast"), **changes):
    output = {"folder": str(folder), "checkpoint_every": 2, "keep": 2, "report": False, **changes.pop("output", {})}
    sections = {
        key: {**SECTIONS[key], **changes.pop(key, {})} if isinstance(SECTIONS[key], dict) else SECTIONS[key]
        for key in SECTIONS
    }
    return make_recipe(names, output=output, **sections, **changes)


def begin(folder, **changes):
    return api.train(recipe_for(folder, **changes), console=Console(quiet=True))


def go_on(folder, **changes):
    return api.resume(folder, console=Console(quiet=True), **changes)


def stop_at(moment, iteration):
    """Two signals, at this moment of this iteration; a single one for `log`, the end of the iteration.

    A rollout is 4 network calls, and so is the look before the first one.
    """
    places = {"log": ("log", 1), "look": ("network", 2), "step": ("optimiser", 1)}
    first = 0 if iteration else 4
    places |= {"rollout": ("network", first + 2), "update": ("network", first + 5)}
    place, number = places[moment]

    def happens(*what):
        if what == (place, iteration, number):
            os.kill(os.getpid(), signal.SIGTERM if iteration % 2 else signal.SIGINT)
            if moment != "log":
                os.kill(os.getpid(), signal.SIGINT)

    return happens


def die_at(place, iteration, number):
    def happens(*what):
        if what == (place, iteration, number):
            raise Killed

    return happens


def lines(folder, name="metrics.jsonl"):
    return [
        # the seal is of the whole line, seconds included
        {key: value for key, value in line.items() if not key.startswith("time/") and key != "seal"}
        for line in map(json.loads, (folder / name).read_text().splitlines())
    ]


def tensors(path):
    with safe_open(path, "np") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return {name: (array.shape, array.tobytes()) for name, array in found.items()}, file.metadata()


def contents(folder):
    """All that a run leaves, except times and its own name; a checkpoint counts only if it is the last."""
    found = {"metrics": lines(folder), "problems": lines(folder, "problems.jsonl")}
    last = checkpoint.listed(folder / "checkpoints")[-1]
    places = [folder / "samples", folder / "credit", last, folder / "result.json", folder / "before_after.png"]
    for path in (file for place in places for file in ([place] if place.is_file() else place.rglob("*"))):
        if path.name == "state.json":
            found["counters"] = checkpoint.counters(path.parent)
        elif path.is_file():
            name = path.relative_to(folder).as_posix()
            found[name] = tensors(path) if path.suffix == ".safetensors" else path.read_bytes()
    return found


def assert_same(folder, whole):
    got = contents(folder)
    assert got.keys() == whole.keys()
    assert [name for name in whole if got[name] != whole[name]] == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as monkeypatch:
        on_fakes(monkeypatch)
        begin(folder)
    found = contents(folder)
    assert len(found) > 2 * TOTAL + 10
    return found


# Stopped and gone on with


@pytest.mark.parametrize("finished", range(1, TOTAL))
def test_a_run_that_is_stopped_after_any_iteration_goes_on_as_if_nothing_had_happened(
    tmp_path, monkeypatch, whole, finished
):
    on_fakes(monkeypatch, stop_at("log", finished - 1))
    run = begin(tmp_path / "run")
    assert run.interrupted == (signal.SIGINT if finished % 2 else signal.SIGTERM)
    assert run.rows == []
    assert len(run.metrics()) == finished
    assert checkpoint.newest(run.folder / "checkpoints")[0].name == f"{finished:06d}"
    on_fakes(monkeypatch)
    assert go_on(run.folder).interrupted is None
    assert_same(run.folder, whole)


@pytest.mark.parametrize("iteration", [0, 1, 2, TOTAL - 1])
@pytest.mark.parametrize("moment", ["rollout", "update", "step"])
def test_a_second_signal_drops_the_iteration_if_no_weight_has_changed_and_finishes_it_otherwise(
    tmp_path, monkeypatch, whole, moment, iteration
):
    on_fakes(monkeypatch, stop_at(moment, iteration))
    run = begin(tmp_path / "run")
    look_follows = (iteration + 1) % SECTIONS["evaluation"]["every"] == 0
    # A look is left, too, and then its iteration is computed again: a line of metrics has the numbers of both.
    assert len(run.metrics()) == iteration + (moment == "step" and not look_follows)
    assert run.interrupted is not None
    on_fakes(monkeypatch)
    go_on(run.folder)
    assert_same(run.folder, whole)


@settings(max_examples=6)
@given(
    st.lists(
        st.tuples(st.sampled_from(["log", "rollout", "update", "step"]), st.integers(1, TOTAL - 1)),
        min_size=1,
        max_size=3,
    )
)
def test_a_run_may_be_stopped_again_and_again(tmp_path_factory, whole, stops):
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        for index, (moment, iteration) in enumerate(stops):
            start = len(RunReader(folder).metrics()) if index else 0
            on_fakes(monkeypatch, stop_at(moment, iteration), start=start)
            go_on(folder) if index else begin(folder)
        on_fakes(monkeypatch)
        go_on(folder)
    assert_same(folder, whole)


def test_a_signal_before_the_first_iteration_loses_nothing_but_time(tmp_path, monkeypatch, whole):
    on_fakes(monkeypatch, stop_at("look", 0))
    run = begin(tmp_path / "run")
    assert run.interrupted == signal.SIGINT
    assert RunReader(run.folder).looks() == []
    assert run.metrics() == []
    on_fakes(monkeypatch)
    go_on(run.folder)
    assert_same(run.folder, whole)


@pytest.mark.parametrize("iteration", range(TOTAL))
@pytest.mark.parametrize(("place", "number"), [("log", 1), ("network", 3), ("optimiser", 2)])
def test_a_run_that_is_killed_anywhere_goes_on_from_its_last_checkpoint(
    tmp_path, monkeypatch, whole, iteration, place, number
):
    """The first checkpoint is after two iterations; before that it begins again, in the same folder."""
    on_fakes(monkeypatch, die_at(place, iteration, number))
    folder = tmp_path / "run"
    with pytest.raises(Killed):
        begin(folder)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 9, "rew')
    for name in ("samples/.000003.writing", "checkpoints/.000004.writing", "checkpoints/.000001.removed"):
        (folder / name).mkdir(parents=True)
    on_fakes(monkeypatch)
    go_on(folder)
    assert_same(folder, whole)
    assert not list((folder / "checkpoints").glob(".*"))


def test_a_damaged_checkpoint_is_passed_over_and_replaced(tmp_path, monkeypatch, whole):
    on_fakes(monkeypatch)
    run = begin(tmp_path / "run", output={"keep": 9})
    damaged = run.folder / "checkpoints" / f"{TOTAL:06d}"
    (damaged / "state.safetensors").write_bytes(b"")
    console = Console(record=True, width=200, file=io.StringIO())
    api.resume(run.folder, console=console)
    told = console.export_text()
    assert "is damaged: state.safetensors is not what was written; going on from 000004 instead" in told
    assert checkpoint.damage(damaged) is None
    assert_same(run.folder, whole)


def test_keeping_one_checkpoint_never_keeps_the_damaged_one(tmp_path, monkeypatch):
    on_fakes(monkeypatch, stop_at("log", 3))
    run = begin(tmp_path / "run")
    (run.folder / "checkpoints" / "000004" / "state.json").write_text("{")
    on_fakes(monkeypatch, stop_at("log", 2), start=2)
    go_on(run.folder, **{"output.keep": 1, "output.keep_best": "brightness"})
    assert [path.name for path in checkpoint.listed(run.folder / "checkpoints")] == ["000002", "000003"]
    assert checkpoint.newest(run.folder / "checkpoints")[1] == []


def test_a_finished_run_can_be_made_longer(tmp_path, monkeypatch, whole):
    on_fakes(monkeypatch)
    run = begin(tmp_path / "run", training={"iterations": 3})
    assert len(go_on(run.folder, **{"training.iterations": TOTAL}).metrics()) == TOTAL
    last = f"checkpoints/{TOTAL:06d}/state.safetensors"
    assert tensors(run.folder / last) == whole[last]
    with pytest.raises(RunError, match=r"has 5 iterations, training\.iterations asks for 4"):
        go_on(run.folder, **{"training.iterations": 4})
    assert len(run.metrics()) == TOTAL


def test_going_on_with_a_finished_run_only_measures_again(tmp_path, monkeypatch, whole):
    on_fakes(monkeypatch)
    run = begin(tmp_path / "run")
    (run.folder / "result.json").unlink()
    on_fakes(monkeypatch, die_at("optimiser", 0, 1))
    go_on(run.folder)
    assert_same(run.folder, whole)


@pytest.mark.parametrize("key", ["seed", "rollout.steps", "method.type", "evaluation.count", "rewards"])
def test_a_run_cannot_go_on_as_another(tmp_path, monkeypatch, key):
    on_fakes(monkeypatch, stop_at("log", 1))
    run = begin(tmp_path / "run")
    before = contents(run.folder) | {"recipe": (run.folder / "run.yaml").read_text()}
    value = {"seed": 7, "rollout.steps": 5, "method.type": "tcd", "evaluation.count": 12}.get(
        key, [{"type": "composition"}]
    )
    with pytest.raises(RunError, match=rf"cannot go on with another .*{key}.*These may change: training\.iterations"):
        go_on(run.folder, **{key: value})
    assert contents(run.folder) | {"recipe": (run.folder / "run.yaml").read_text()} == before


HOLD = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    input()
"""


def test_a_run_that_another_process_writes_is_left_alone(tmp_path, monkeypatch, whole):
    on_fakes(monkeypatch, stop_at("log", 1))
    run = begin(tmp_path / "run")
    before = contents(run.folder)
    on_fakes(monkeypatch)
    command = [sys.executable, "-c", HOLD, str(run.folder / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunError, match="is being written by another process"):
            go_on(run.folder)
        assert contents(run.folder) == before
        other.communicate("\n")
    go_on(run.folder)
    assert_same(run.folder, whole)


# Errors


def fail_at(place, iteration, number):
    def happens(*what):
        if what == (place, iteration, number):
            raise ArithmeticError("the numbers went astray")

    return happens


def notes_of(folder, **changes):
    """What is noted on the error with which a run ends."""
    with pytest.raises(ArithmeticError, match="the numbers went astray") as caught:
        begin(folder, **changes)
    return "".join(getattr(caught.value, "__notes__", []))


@pytest.mark.parametrize("iteration", [1, 2, TOTAL - 1])
@pytest.mark.parametrize(
    ("place", "number"), [("network", 2), ("network", 6), ("optimiser", 1), ("optimiser", 2), ("log", 1)]
)
def test_an_error_loses_nothing_but_the_iteration_that_it_falls_into(
    tmp_path, monkeypatch, whole, place, number, iteration
):
    on_fakes(monkeypatch, fail_at(place, iteration, number))
    folder = tmp_path / "a run"
    notes = notes_of(folder, output={"checkpoint_every": 9})
    assert notes == f"saved after {iteration} iterations; go on with: stepcredit train --resume '{folder}'"
    assert [path.name for path in checkpoint.listed(folder / "checkpoints")] == [f"{iteration:06d}"]
    on_fakes(monkeypatch)
    go_on(folder)
    assert_same(folder, whole)


def test_an_error_before_the_first_whole_iteration_has_nothing_to_save(tmp_path, monkeypatch):
    on_fakes(monkeypatch, fail_at("optimiser", 0, 1))
    assert notes_of(tmp_path / "run") == ""
    assert checkpoint.listed(tmp_path / "run" / "checkpoints") == []


@pytest.mark.parametrize("place", [("optimiser", 3, 1), ("look", 4, 1)])
def test_what_is_too_large_to_be_copied_goes_back_to_its_last_checkpoint_once_it_changed(
    tmp_path, monkeypatch, whole, place
):
    monkeypatch.setattr(last_whole, "COPIED", 0)
    on_fakes(monkeypatch, fail_at(*place))
    break_look(monkeypatch, *place[1:2] if place[0] == "look" else ())
    # A look comes after its iteration, which is whole by then, and is saved without the means of the look.
    saved = 4 if place[0] == "look" else 2
    assert f"saved after {saved} iterations" in notes_of(tmp_path / "run")
    on_fakes(monkeypatch)
    monkeypatch.undo()
    with pytest.MonkeyPatch.context() as again:
        on_fakes(again)
        go_on(tmp_path / "run")
    last = f"checkpoints/{TOTAL:06d}/state.safetensors"
    assert tensors(tmp_path / "run" / last) == whole[last]


def break_look(monkeypatch, *iterations):
    """Looks after so many iterations fail."""
    evaluate = loop.held_out.evaluate

    def failing(*parts, iteration, **settings):
        if iteration in iterations:
            raise ArithmeticError("the numbers went astray")
        return evaluate(*parts, iteration=iteration, **settings)

    monkeypatch.setattr(loop.held_out, "evaluate", failing)


@pytest.mark.parametrize("iteration", [2, TOTAL])
def test_an_error_in_a_look_goes_back_to_where_a_run_can_go_on_exactly(tmp_path, whole, iteration):
    """During training by one iteration, since a line of metrics has the numbers of the look; at the end by none."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        on_fakes(monkeypatch)
        break_look(monkeypatch, iteration)
        saved = iteration if iteration == TOTAL else iteration - 1
        assert f"saved after {saved} iterations" in notes_of(tmp_path / "run")
    with pytest.MonkeyPatch.context() as monkeypatch:
        on_fakes(monkeypatch)
        go_on(tmp_path / "run")
    assert_same(tmp_path / "run", whole)


def test_weights_that_are_no_numbers_are_not_what_is_saved(tmp_path, monkeypatch, whole):
    parts = []
    build = make_parts_of

    def happens(place, iteration, number):
        if (place, iteration) == ("log", 2):
            parts[-1].policy.parameters()[0].data.fill_(np.nan)
            raise ArithmeticError("the numbers went astray")

    monkeypatch.setitem(globals(), "make_parts_of", lambda *given: (parts.append(build(*given)), parts[-1])[1])
    on_fakes(monkeypatch, happens)
    assert "saved after 2 iterations" in notes_of(tmp_path / "run", output={"checkpoint_every": 9})
    on_fakes(monkeypatch)
    go_on(tmp_path / "run")
    assert_same(tmp_path / "run", whole)


def test_an_error_that_cannot_be_saved_from_is_still_the_one_that_is_seen(tmp_path, monkeypatch):
    on_fakes(monkeypatch, fail_at("network", 1, 2))

    def full(*parts, **settings):
        raise RunError("checkpoint 000001 could not be written (no space left)")

    monkeypatch.setattr(checkpoint, "save", full)
    assert notes_of(tmp_path / "run", output={"checkpoint_every": 9}) == (
        "what was trained since the last checkpoint could not be saved: "
        "checkpoint 000001 could not be written (no space left)"
    )


def test_a_run_whose_reward_is_silent_is_saved_with_its_last_iteration(tmp_path, monkeypatch):
    on_fakes(monkeypatch, rewards=(Brightness, lambda: NotANumber("contrast")))
    with pytest.raises(RewardError) as caught:
        begin(tmp_path / "run", output={"checkpoint_every": 9})
    assert "saved after 3 iterations" in caught.value.__notes__[0]
    assert checkpoint.counters(tmp_path / "run" / "checkpoints" / "000003").silent["contrast"] == 3


# The last metre


def broken_disk(*parts, **settings):
    raise OSError(28, "No space left on device")


def impossible_picture(*parts, **settings):
    raise ValueError("Expected end of text, found '$'")


@pytest.mark.parametrize("failure", [broken_disk, impossible_picture])
def test_a_run_ends_well_without_its_last_picture_and_says_so(tmp_path, monkeypatch, whole, failure):
    on_fakes(monkeypatch)
    console = Console(record=True, width=200, file=io.StringIO())
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(looking, "before_after", failure)
        run = api.train(recipe_for(tmp_path / "run"), console=console)
    assert [row.name for row in run.rows] == ["brightness", "contrast", "constant"]
    seen = console.export_text()
    assert "before_after.png: could not be made" in seen
    assert "before and after:" not in seen  # where it would be, had it been made
    problem = RunReader(run.folder).problems()[-1]
    assert (problem["iteration"], problem["reward"]) == (TOTAL, "before_after.png")
    go_on(run.folder)  # nothing is trained, and the picture is made
    assert_same(run.folder, whole)


def test_a_run_ends_well_though_its_table_cannot_be_shown(tmp_path, monkeypatch, whole):
    on_fakes(monkeypatch)
    monkeypatch.setattr(api, "differences", impossible_picture)
    assert begin(tmp_path / "run").rows
    assert_same(tmp_path / "run", whole)


def test_a_run_ends_well_though_nobody_reads_what_it_prints(tmp_path, monkeypatch, whole, capfd):
    on_fakes(monkeypatch)
    reader, writer = os.pipe()
    os.close(reader)
    with monkeypatch.context() as gone, open(writer, "w") as pipe:
        gone.setattr(sys, "stdout", pipe)
        run = api.train(recipe_for(tmp_path / "run"), console=Console())
        gone.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)  # what waits in the pipe would fail when it is closed
    assert run.rows
    assert_same(run.folder, whole)
    assert capfd.readouterr().err.count("standard output is gone ([Errno 32] Broken pipe)") == 1


# Looking, keeping, ending


def test_it_looks_at_the_watched_pictures_every_so_often_and_at_all_of_them_before_and_after(tmp_path, monkeypatch):
    on_fakes(monkeypatch)
    run = RunReader(begin(tmp_path / "run").folder)
    assert run.looks() == [0, 2, 4, TOTAL]
    assert [len(run.look(number).rows) for number in run.looks()] == [8, 4, 4, 8]
    assert [len(run.look(number).pictures) for number in run.looks()] == [4] * 4
    assert [run.look(number).weights for number in run.looks()] == ["base", *["average"] * 3]
    rows = run.look(2).rows
    assert {tuple(run.look(number).pictures) for number in run.looks()} == {rows}
    assert run.look(TOTAL).among(rows).prompts == run.look(2).prompts
    for number, line in enumerate(run.metrics(), start=1):
        means = {key.removeprefix("held_out/"): value for key, value in line.items() if key.startswith("held_out/")}
        assert means == (run.look(number).means() if number in (2, 4) else {})
    assert not np.array_equal(run.look(2).scores, run.look(4).scores)


def test_the_result_is_that_of_the_first_and_the_last_look(tmp_path, monkeypatch):
    on_fakes(monkeypatch)
    done = begin(tmp_path / "run")
    run = RunReader(done.folder)
    wanted = {**summarise(run.look(0), run.look(TOTAL), ["brightness", "contrast"]), "silent": []}
    assert run.result() == json.loads(json.dumps(wanted))
    assert [row.name for row in done.rows] == ["brightness", "contrast", "constant"]
    assert done.rows == compare(run.look(0), run.look(TOTAL))
    assert (run.path / "before_after.png").stat().st_size > 1000


@pytest.mark.parametrize("best", ["brightness", "contrast"])
def test_the_best_checkpoint_stays(tmp_path, monkeypatch, best):
    on_fakes(monkeypatch)
    output = {"checkpoint_every": 1, "keep": 1, "keep_best": best}
    run = RunReader(begin(tmp_path / "run", output=output, optimiser={"learning_rate": 0.2}).folder)
    assert run.looks() == list(range(TOTAL + 1))  # every checkpoint needs a look
    rows = run.look(1).rows
    means = {number: run.look(number).among(rows).means()[best] for number in run.looks()[1:]}
    highest = max(means, key=means.__getitem__)
    assert {int(path.name) for path in checkpoint.listed(run.path / "checkpoints")} == {highest, TOTAL}
    assert checkpoint.counters(run.path / "checkpoints" / f"{highest:06d}").held_out[best] == means[highest]


def test_a_reward_that_is_silent_ends_the_run_also_across_a_stop(tmp_path, monkeypatch):
    silent = (Brightness, lambda: NotANumber("contrast"))
    on_fakes(monkeypatch, stop_at("log", 1), rewards=silent)
    run = begin(tmp_path / "run")
    assert checkpoint.counters(run.folder / "checkpoints" / "000002").silent == {"brightness": 0, "contrast": 2}
    on_fakes(monkeypatch, rewards=silent)
    with pytest.raises(RewardError, match="reward contrast could not score anything in 3 iterations in a row"):
        go_on(run.folder)
    assert len(run.metrics()) == 3
    assert checkpoint.damage(run.folder / "checkpoints" / "000002") is None


def test_the_lock_is_let_go_when_a_run_fails(tmp_path, monkeypatch, whole):
    on_fakes(monkeypatch, die_at("network", 2, 1))
    with pytest.raises(Killed):
        begin(tmp_path / "run")
    on_fakes(monkeypatch)
    go_on(tmp_path / "run")


# Signals


def handlers():
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.parametrize("end", [None, "stop", "kill"])
def test_the_handlers_of_before_are_back_however_a_run_ends(tmp_path, monkeypatch, end):
    mine = lambda number, frame: None  # noqa: E731
    old = signal.signal(signal.SIGTERM, mine)
    try:
        before = handlers()
        on_fakes(monkeypatch, {None: nothing, "stop": stop_at("log", 0), "kill": die_at("log", 0, 1)}[end])
        if end == "kill":
            with pytest.raises(Killed):
                begin(tmp_path / "run")
        else:
            begin(tmp_path / "run")
        assert handlers() == before
    finally:
        signal.signal(signal.SIGTERM, old)


@pytest.fixture
def undecided():
    """Nobody has decided about the signals of terminals and clusters: these tests may run under `nohup`."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGHUP, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_the_first_signal_is_told_and_the_second_only_heeded(number, undecided):
    told = []
    with Interrupt(told.append) as interrupt:
        os.kill(os.getpid(), number)
        assert interrupt.signal == number
        interrupt.check()
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.signal == number
    assert len(told) == 1
    assert told[0].startswith(f"{number.name}: finishing this iteration")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
@pytest.mark.parametrize("decided", [signal.SIG_IGN, lambda number, frame: None])
def test_what_somebody_decided_about_a_signal_stays(number, decided):
    """Under `nohup` a terminal that is closed is no reason to stop."""
    before = signal.signal(number, decided)
    try:
        with Interrupt() as interrupt:
            os.kill(os.getpid(), number)
            assert interrupt.signal is None
            assert signal.getsignal(number) is decided
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_a_closed_terminal_and_a_cluster_that_ends_stop_a_run_in_order(tmp_path, monkeypatch, number, undecided):
    def happens(*what):
        if what == ("network", 1, 2):
            os.kill(os.getpid(), number)

    on_fakes(monkeypatch, happens)
    run = begin(tmp_path / "run")
    assert run.interrupted == number
    assert checkpoint.newest(run.folder / "checkpoints")[0].name == "000002"


@pytest.mark.parametrize("iteration", [0, 2, TOTAL])
def test_a_look_hears_of_signals_at_every_call_of_the_network(tmp_path, monkeypatch, whole, iteration):
    """One is enough before and after training, where nothing is lost by stopping; in between a second one is."""
    calls = []
    evaluate = loop.held_out.evaluate

    def looking(*parts, iteration: int, progress, **settings):
        def heard(pairs):
            if iteration == looked_at:
                calls.append(pairs)
                os.kill(os.getpid(), signal.SIGINT)
            progress(pairs)

        return evaluate(*parts, iteration=iteration, progress=heard, **settings)

    looked_at = iteration
    on_fakes(monkeypatch)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop.held_out, "evaluate", looking)
        run = begin(tmp_path / "run")
    assert run.interrupted == signal.SIGINT
    assert len(calls) == (2 if iteration == 2 else 1)
    saved = checkpoint.listed(run.folder / "checkpoints")
    assert [path.name for path in saved][-1:] == {0: [], 2: ["000001"], TOTAL: [f"{TOTAL:06d}"]}[iteration]
    go_on(run.folder)
    assert_same(run.folder, whole)


def test_outside_the_main_thread_signals_are_left_alone():
    before, seen = handlers(), []

    def elsewhere():
        with Interrupt():
            seen.extend(handlers())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == before == handlers()


# A budget of network forwards


def spent(whole, iterations):
    """Forwards of so many iterations; moves without credit are not computed again, so it is not a multiple."""
    return int(sum(line["cost/forwards"] for line in whole["metrics"][:iterations]))


@pytest.mark.parametrize(("after", "more", "finished"), [(0, 1, 1), (1, 0, 1), (1, 1, 2), (3, 0, 3), (3, -1, 3)])
def test_a_budget_ends_a_run_with_the_first_iteration_that_reaches_it(
    tmp_path, monkeypatch, whole, after, more, finished
):
    on_fakes(monkeypatch)
    budget = spent(whole, after) + more
    run = RunReader(begin(tmp_path / "run", training={"iterations": 1000, "budget": budget}).folder)
    costs = [line["cost/forwards"] for line in run.metrics()]
    assert len(costs) == finished
    assert sum(costs) >= budget > sum(costs[:-1])
    assert checkpoint.newest(run.path / "checkpoints")[0].name == f"{finished:06d}"
    assert run.result()["iteration"] == run.looks()[-1] == finished
    assert (run.path / "before_after.png").is_file()


def test_a_run_that_its_budget_ends_is_the_run_of_so_many_iterations(tmp_path, monkeypatch, whole):
    on_fakes(monkeypatch)
    begin(tmp_path / "run", training={"iterations": 1000, "budget": spent(whole, TOTAL)})
    assert_same(tmp_path / "run", whole)


def test_iterations_end_a_run_before_its_budget_does(tmp_path, monkeypatch, whole):
    on_fakes(monkeypatch)
    begin(tmp_path / "run", training={"budget": 10**9})
    assert_same(tmp_path / "run", whole)


@pytest.mark.parametrize(("moment", "iteration"), [("log", 0), ("log", 2), ("rollout", 3), ("step", TOTAL - 2)])
def test_a_run_with_a_budget_is_stopped_and_goes_on_as_if_nothing_had_happened(
    tmp_path, monkeypatch, whole, moment, iteration
):
    """What was spent before the stop counts, once."""
    on_fakes(monkeypatch, stop_at(moment, iteration))
    run = begin(tmp_path / "run", training={"iterations": 1000, "budget": spent(whole, TOTAL)})
    assert run.interrupted is not None
    assert len(run.metrics()) < TOTAL
    on_fakes(monkeypatch)
    go_on(run.folder)
    assert_same(run.folder, whole)


def test_a_killed_run_does_not_spend_twice_what_it_does_again(tmp_path, monkeypatch, whole):
    on_fakes(monkeypatch, die_at("optimiser", 3, 2))
    with pytest.raises(Killed):
        begin(tmp_path / "run", training={"iterations": 1000, "budget": spent(whole, TOTAL)})
    on_fakes(monkeypatch)
    go_on(tmp_path / "run")
    assert_same(tmp_path / "run", whole)


def test_a_run_may_be_given_a_larger_budget(tmp_path, monkeypatch, whole):
    on_fakes(monkeypatch)
    run = begin(tmp_path / "run", training={"iterations": 1000, "budget": spent(whole, 3)})
    assert len(run.metrics()) == 3
    assert len(go_on(run.folder, **{"training.budget": spent(whole, TOTAL)}).metrics()) == TOTAL
    last = f"checkpoints/{TOTAL:06d}/state.safetensors"
    assert tensors(run.folder / last) == whole[last]
    on_fakes(monkeypatch, die_at("optimiser", 0, 1))
    go_on(run.folder)  # spent: it only measures again
    assert len(run.metrics()) == TOTAL
