"""Services that a run reports to: what they are told, and that none of them can stop a run."""

import io
import json
import math
import sys
from types import ModuleType

import numpy as np
import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stepcredit.build import build_trackers
from stepcredit.protocols import Tracker
from stepcredit.recipe.load import load_recipe
from stepcredit.records import Problem, StepReport
from stepcredit.tracking.console import ConsoleTracker
from stepcredit.tracking.guarded import Guarded
from stepcredit.tracking.tensorboard import TensorBoardTracker
from stepcredit.tracking.wandb import WandBTracker

PICTURES = list(np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), dtype=np.uint8))
CAPTIONS = [f"caption {index}" for index in range(30)]
PROBLEM = Problem("r", (0,), "a reason")
CALLS = {
    "log": (StepReport(0, {"reward/a": 0.5}),),
    "problems": (0, [PROBLEM]),
    "pictures": (1, "samples", PICTURES, CAPTIONS),
    "distributions": (0, {"credit": np.ones((2, 3))}),
    "close": (),
}


class Recorder:
    """Remembers what was called; raises at one verb."""

    def __init__(self, fails_at=None):
        self.verbs = []
        self.fails_at = fails_at

    def __getattr__(self, verb):
        def act(*arguments):
            self.verbs.append(verb)
            if verb == self.fails_at:
                raise ConnectionError("no [network]")

        return act


def tell_everything(tracker):
    for verb, arguments in CALLS.items():
        getattr(tracker, verb)(*arguments)


# Guarded


def test_a_guarded_tracker_is_told_everything():
    inner = Recorder()
    messages = []
    guarded = Guarded("service", lambda: inner, messages.append)
    assert isinstance(guarded, Tracker)
    tell_everything(guarded)
    assert inner.verbs == list(CALLS)
    assert messages == []


@pytest.mark.parametrize("verb", CALLS)
def test_a_tracker_that_fails_is_told_no_more_and_the_reason_is_shown_once(verb):
    inner = Recorder(fails_at=verb)
    messages = []
    guarded = Guarded("service", lambda: inner, messages.append)
    tell_everything(guarded)
    tell_everything(guarded)
    assert inner.verbs == [*list(CALLS)[: list(CALLS).index(verb)], verb]
    assert messages == ["tracker service failed (ConnectionError: no [network]); it is told no more, the run goes on"]


def test_a_tracker_that_cannot_be_made_is_told_of_once():
    messages = []
    tell_everything(Guarded("service", lambda: 1 / 0, messages.append))
    assert len(messages) == 1
    assert "ZeroDivisionError" in messages[0]


def test_ctrl_c_inside_a_tracker_is_not_swallowed():
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Guarded("service", interrupted, print)


# One clock: iteration 4, counted from 0, is the fifth, and everything about it lies at 5


def fifth_iteration(tracker):
    """What the loop tells after the fifth iteration: first the pictures, then the numbers."""
    tracker.pictures(5, "samples", PICTURES, CAPTIONS)
    tracker.log(StepReport(4, {"reward/a": 0.5, "held_out/a": 0.25}))
    tracker.problems(4, [PROBLEM])
    tracker.distributions(4, {"credit": np.array([1.0, 3.0])})
    tracker.close()


def test_tensorboard_shows_everything_of_an_iteration_at_one_step(tmp_path):
    fifth_iteration(TensorBoardTracker(tmp_path))
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0})
    events.Reload()
    shown_events = [*events.Scalars("reward/a"), *events.Scalars("held_out/a"), *events.Images("samples")]
    shown_events += [*events.Histograms("credit"), *events.Tensors("problems/text_summary")]
    assert [event.step for event in shown_events] == [5] * 5


def test_wandb_gets_everything_of_an_iteration_in_one_step():
    service = Service(Histogram=lambda values: values.tolist())
    fifth_iteration(WandBTracker(service, project="p", name="n", config={}))
    everything = {"samples": CAPTIONS[:24], "reward/a": 0.5, "held_out/a": 0.25, "problems": 1, "credit": [1.0, 3.0]}
    assert service.calls[1:-1] == [("log", 5, everything)]


def test_the_pictures_of_the_base_come_before_the_first_iteration():
    service = Service()
    tracker = WandBTracker(service, project="p", name="n", config={})
    tracker.pictures(0, "samples", PICTURES[:1], CAPTIONS[:1])
    tracker.log(StepReport(0, {"reward/a": 0.5}))
    tracker.close()
    assert service.calls[1:-1] == [("log", 0, {"samples": CAPTIONS[:1]}), ("log", 1, {"reward/a": 0.5})]


def printed(iterations, *, every, total):
    """The lines that the console shows of these iterations, without the bar."""
    page = io.StringIO()
    tracker = ConsoleTracker(Console(file=page, width=100, color_system=None), total, every=every)
    for iteration in range(iterations):
        tracker.log(StepReport(iteration, {"reward/a": iteration / 10, "reward/a/spread": 9.0, "update/loss": 9.0}))
        tracker.problems(iteration, [Problem("r", (), "a [bold] reason")] if iteration >= 3 else [])
    tracker.close()
    return [line for line in page.getvalue().splitlines() if line[:5].strip().isdigit()]


def test_the_console_counts_finished_iterations_as_its_bar_does():
    assert printed(7, every=5, total=7) == [
        "    1  a 0.0000",
        "    4  r: a [bold] reason",
        "    5  a 0.4000",
        "    7  a 0.6000",
    ]
    assert [line.split()[0] for line in printed(7, every=5, total=None)] == ["1", "4", "5"]


# TensorBoard


def test_tensorboard_reads_back_what_was_told(tmp_path):
    tracker = TensorBoardTracker(tmp_path)
    for iteration in range(3):
        tracker.log(StepReport(iteration, {"reward/a": 0.5 * iteration, "reward/b": math.nan}))
        tracker.distributions(iteration, {"credit/mixed": np.array([[1.0, math.nan], [2.0, 3.0]])})
    tracker.distributions(3, {"credit/none": np.full(3, math.nan)})
    tracker.problems(1, [PROBLEM, Problem("r", (5,), "a reason")])
    tracker.problems(2, [])
    tracker.pictures(3, "samples", PICTURES, CAPTIONS)
    tracker.close()

    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0})  # 0 keeps all of them
    events.Reload()
    tags = events.Tags()
    assert set(tags["scalars"]) == {"reward/a", "reward/b"}
    assert [(event.step, event.value) for event in events.Scalars("reward/a")] == [(1, 0.0), (2, 0.5), (3, 1.0)]
    assert tags["histograms"] == ["credit/mixed"]
    histogram = events.Histograms("credit/mixed")[-1]
    assert (histogram.step, histogram.histogram_value.num, histogram.histogram_value.sum) == (3, 3, 6)
    (sheet,) = events.Images("samples")
    assert (sheet.step, sheet.width * sheet.height) == (3, 24 * 8 * 8)
    reasons = events.Tensors("problems/text_summary")
    assert [(event.step, event.tensor_proto.string_val[0]) for event in reasons] == [(2, b"r: a reason")]


# Weights & Biases


class Service(ModuleType):
    """A module with wandb's functions."""

    def __init__(self, **more):
        super().__init__("service")
        self.calls = []
        vars(self).update(more)

    def init(self, **settings):
        self.calls.append(("init", settings))

    def log(self, values, step):
        self.calls.append(("log", step, dict(values)))

    def finish(self):
        self.calls.append(("finish",))

    def Image(self, image, caption):  # noqa: N802 - wandb's name
        return caption


def three_iterations(service):
    tracker = WandBTracker(service, project="p", name="n", config={"seed": 0}, mode="offline")
    for iteration in range(3):
        if iteration == 1:
            tracker.pictures(iteration + 1, "samples", PICTURES, CAPTIONS)  # drawn before the iteration is logged
        tracker.log(StepReport(iteration, {"reward/a": float(iteration), "reward/b": math.nan, "loss": math.inf}))
        tracker.problems(iteration, [PROBLEM, PROBLEM] if iteration == 2 else [])
        tracker.distributions(iteration, {"credit": np.array([1.0, 3.0, math.nan])})
    tracker.pictures(3, "samples", PICTURES[:2], CAPTIONS[:2])  # the last snapshot, at the end
    tracker.close()
    return service.calls


def test_an_iteration_is_one_call_with_all_of_its_values():
    init, *logs, finish = three_iterations(Service(Histogram=lambda values: ("histogram", values.tolist())))
    assert init == ("init", {"project": "p", "name": "n", "config": {"seed": 0}, "mode": "offline"})
    assert finish == ("finish",)
    histogram = {"credit": ("histogram", [1.0, 3.0])}
    assert logs == [
        ("log", 1, {"reward/a": 0.0, **histogram}),
        ("log", 2, {"samples": CAPTIONS[:24], "reward/a": 1.0, **histogram}),
        ("log", 3, {"reward/a": 2.0, "problems": 2, **histogram, "samples": CAPTIONS[:2]}),
    ]


def test_a_service_without_histograms_gets_mean_and_deviation():
    _, first, *_ = three_iterations(Service())
    assert first == ("log", 1, {"reward/a": 0.0, "credit/mean": 2.0, "credit/sd": 1.0})


def test_nothing_known_is_not_a_histogram():
    service = Service(Histogram=lambda values: values.tolist())
    tracker = WandBTracker(service, project="p", name="n", config={})
    tracker.distributions(0, {"credit": np.full(2, math.nan)})
    tracker.close()
    assert [call[0] for call in service.calls] == ["init", "finish"]


# From a recipe


def built(tmp_path, *choices):
    messages = []
    recipe = load_recipe(overrides=["--tracking", f"[{', '.join(f'{{{choice}}}' for choice in choices)}]"])
    return build_trackers(recipe, tmp_path / "run", messages.append), messages


def test_a_service_whose_package_is_missing_is_told_of_and_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # Python's way to say that an import fails
    monkeypatch.setitem(sys.modules, "trackio", None)
    trackers, messages = built(tmp_path, "type: wandb", "type: tensorboard", "type: trackio")
    for tracker in trackers:
        tell_everything(tracker)
    assert [line.split(" (")[0] for line in messages] == ["tracker wandb failed", "tracker trackio failed"]
    assert all("the run goes on" in line for line in messages)
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_tensorboard_goes_where_the_recipe_says(tmp_path):
    trackers, messages = built(tmp_path, f"type: tensorboard, folder: {tmp_path / 'events'}")
    tell_everything(trackers[0])
    assert messages == []
    assert list((tmp_path / "events").iterdir())


@pytest.mark.parametrize(("kind", "own"), [("wandb", {"mode": "offline"}), ("trackio", {})])
def test_a_service_gets_the_name_and_the_whole_recipe(tmp_path, monkeypatch, kind, own):
    service = Service()
    monkeypatch.setitem(sys.modules, kind, service)
    settings = "".join(f", {key}: {value}" for key, value in own.items())
    _, messages = built(tmp_path, f"type: {kind}, project: mine{settings}")
    assert messages == []
    ((_, arguments),) = service.calls
    assert (arguments["project"], arguments["name"]) == ("mine", "run")
    assert arguments["config"]["method"]["type"] == "otca"
    assert arguments.get("mode") == own.get("mode")


def test_a_run_that_goes_on_is_the_same_run_at_wandb(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", service := Service())
    recipe = load_recipe("recipes/scenes/otca.yaml", {"tracking": [{"type": "wandb"}]})
    for folder in ("run", "run", "other"):
        (tmp_path / folder).mkdir(exist_ok=True)
        build_trackers(recipe, tmp_path / folder, print)
    first, again, other = (settings for verb, settings in service.calls if verb == "init")
    assert first["id"] == again["id"] != other["id"]
    assert first["resume"] == again["resume"] == "allow"
    assert json.loads((tmp_path / "run" / "wandb.json").read_text()) == {"id": first["id"]}
