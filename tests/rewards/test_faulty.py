"""Faulty rewards of every kind: each number is right or missing with a reason, and nobody else notices.

`FAULTS` holds a function of somebody else for each kind, what becomes of its four scores (`RIGHT`, `MISSING` or the
numbers) and a part of what is said about it.
"""

import importlib
import io
import json
import os
import signal
import sys
import threading

import numpy as np
import pytest
import torch
from rich.console import Console

from fakes import PROMPTS, Brightness, Contrast, make_parts_of, make_recipe, noise_pictures
from stepcredit import api
from stepcredit.foreign import surroundings
from stepcredit.prompts.sources import Listed
from stepcredit.records import Problem, Prompt, RewardBatch, RewardOutput
from stepcredit.rewards.custom import Custom
from stepcredit.rewards.suite import RewardSuite
from stepcredit.runs.reader import RunReader
from stepcredit.training.interrupt import Interrupt
from stepcredit.training.looking import Evaluator

RIGHT, MISSING = "right", "missing"
HEAD = """
import asyncio, gc, os, random, sys, threading
import numpy as np, torch
released = threading.Event()
class Theirs(BaseException): pass
class Mute(Exception):
    def __str__(self): raise ValueError
def means(media): return media.reshape(len(media), -1).mean(1) / 255
"""
FAULTS = {
    "in_place": ("right = means(media); media[:] = 0; return right", RIGHT, None),
    "writes_facts": ("facts[0]['word'] = 'x'; facts[0]['list'].append(1); return means(media)", RIGHT, None),
    "exits": ("sys.exit(0)", MISSING, "called sys.exit(0)"),
    "cancelled": ("raise asyncio.CancelledError", MISSING, "raised CancelledError"),
    "generator_exit": ("raise GeneratorExit", MISSING, "raised GeneratorExit"),
    "keyboard": ("raise KeyboardInterrupt", MISSING, "raised KeyboardInterrupt"),
    "base_exception": ("raise Theirs('own')", MISSING, "raised Theirs: own"),
    "mute": ("raise Mute", MISSING, "raised Mute: a Mute that cannot be printed"),
    "recursion": ("return recursion(media, texts)", MISSING, "raised RecursionError"),
    "memory": ("raise MemoryError", MISSING, "raised MemoryError"),
    "hangs": ("released.wait(30)", MISSING, ("took longer than its time limit", "still busy with an earlier call")),
    "dtype": ("torch.set_default_dtype(torch.float64); return means(media)", RIGHT, "changed torch's default dtype"),
    "gradients": ("torch.set_grad_enabled(False); return means(media)", RIGHT, "changed whether torch keeps gradients"),
    "device": ("torch.set_default_device('meta'); return means(media)", RIGHT, "changed torch's default device"),
    "threads": ("torch.set_num_threads(7); return means(media)", RIGHT, "changed torch's number of threads"),
    "moves": ("os.chdir('/'); return means(media)", RIGHT, "changed the working directory"),
    "silences": ("sys.stdout = None; return means(media)", RIGHT, "changed where output is printed"),
    "numpy_errors": ("np.seterr(all='raise'); return means(media)", RIGHT, "changed NumPy's handling"),
    "seeds": ("torch.manual_seed(0); np.random.seed(0); random.seed(0); return means(media)", RIGHT, None),
    "masked": ("return np.ma.array(means(media), mask=[True] * len(media))", MISSING, "masked by the reward"),
    "complex": ("return means(media) + 1j", MISSING, "returned complex numbers"),
    "text": ("return [str(mean) for mean in means(media)]", MISSING, "returned text"),
    "nothing": ("means(media)", MISSING, "returned None for"),
    "gaps": ("return [None] * len(media)", MISSING, "returned None; wanted one number each"),
    "column": ("return means(media)[:, None]", MISSING, "flatten it"),
    "one_number": ("return means(media).mean()", MISSING, "returned shape ()"),
    "pair": ("return means(media), {'mean': 0}", MISSING, "return the scores alone"),
    "dictionary": ("return {'score': means(media)}", MISSING, "returned a dictionary with score"),
    "endless": ("return iter(int, 1)", MISSING, "returned more than"),
    "breaks_off": ("return (1 / row for row in range(len(media)))", MISSING, "raised ZeroDivisionError"),
    "dates": ("return np.zeros(len(media), 'datetime64[s]')", MISSING, "returned dates"),
    "half": ("return torch.tensor(means(media).round(2)).bfloat16()", "half", None),
    "graph": ("return torch.tensor(means(media), requires_grad=True) * 1", RIGHT, None),
    "tensors": ("return [torch.tensor(mean) for mean in means(media)]", RIGHT, None),
    "infinite": ("return [float('inf')] * len(media)", MISSING, "returned infinity"),
}
ASYNC = "async def asynchronous(media, texts): return means(media)\n"


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """The module of somebody else, with a function for each fault."""
    folder = tmp_path_factory.mktemp("faulty")
    functions = [f"def {name}(media, texts, facts=()):\n    {body}\n" for name, (body, *_) in FAULTS.items()]
    (folder / "faulty_rewards.py").write_text(HEAD + "".join(functions) + ASYNC)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        module = importlib.import_module("faulty_rewards")
        yield module
        module.released.set()
        del sys.modules["faulty_rewards"]


def custom(name):
    """The fault as a recipe would build it."""
    return Custom(f"faulty_rewards:{name}", name=name, time_limit=0.1 if name == "hangs" else 60.0)


def batch():
    words = Prompt.listed(["a sign", "a shop"], facts=lambda text: {"word": text, "list": [text]})
    return RewardBatch(noise_pictures(4), (words[0], words[0], words[1], words[1]), (0, 0, 1, 1))


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_reward_harms_nobody(theirs, name):
    pictures = batch()
    alone, none = RewardSuite([Brightness(), Contrast("contrast")]).score(pictures)
    assert none == ()
    before = surroundings.read()
    scores, problems = RewardSuite([Brightness(), custom(name), Contrast("contrast")]).score(pictures)

    np.testing.assert_array_equal(scores[:, [0, 2]], alone)
    np.testing.assert_array_equal(pictures.media, noise_pictures(4))
    assert pictures.prompts == batch().prompts
    assert torch.equal(torch.get_rng_state(), before["torch's generator"])
    assert surroundings.put_back(before) == ()

    _, expected, said = FAULTS[name]
    if expected == RIGHT:
        np.testing.assert_array_equal(scores[:, 1], alone[:, 0])
    elif expected == MISSING:
        assert np.isnan(scores[:, 1]).all()
    else:
        np.testing.assert_array_equal(scores[:, 1], torch.tensor(alone[:, 0].round(2)).bfloat16().double())
    reasons = [problem.reason for problem in problems]
    assert len(reasons) == (said is not None)
    if said is not None:
        assert any(part in reasons[0] for part in ([said] if isinstance(said, str) else said))


def test_an_async_function_is_told_what_it_is(theirs):
    _, problems = RewardSuite([custom("asynchronous")]).score(batch())
    assert problems == (Problem("asynchronous", (), "is an async function; a reward has to return its numbers itself"),)


def test_the_same_pictures_are_scored_alike_by_a_reward_that_draws(their_lab):
    name = their_lab("draws", "import numpy as np\ndef noisy(media, texts): return np.random.rand(len(media))\n")
    suite = RewardSuite([Custom(f"{name}:noisy", name="noisy", time_limit=60.0)])
    first = suite.score(batch())[0]
    np.random.seed(3)
    np.testing.assert_array_equal(suite.score(batch())[0], first)
    others = RewardBatch(noise_pictures(4, seed=1), batch().prompts, (0, 0, 1, 1))
    assert (suite.score(others)[0] != first).all()


class Answering(Brightness):
    """Says about its scores what the test wants, in whatever form."""

    outputs = ("first", "second")

    def __init__(self, errors):
        self.output = RewardOutput({"first": np.array([np.nan, 1.0]), "second": np.array([2.0, 3.0])})
        object.__setattr__(self.output, "errors", errors)

    def score(self, batch):
        return self.output


def garbled(**fields):
    problem = Problem("first", (0,), "no ink")
    for name, value in fields.items():
        object.__setattr__(problem, name, value)
    return problem


@pytest.mark.parametrize(
    ("errors", "problem"),
    [
        (None, Problem("first", (0,), "returned NaN for 1 of 2 pictures")),
        ("no ink", Problem("first+second", (), "no ink")),
        (Problem("first", (0,), "no ink"), Problem("first", (0,), "no ink")),
        ([7], Problem("first+second", (), "7")),
        (3.5, Problem("first+second", (), "3.5")),
        ((garbled(rows=None),), Problem("first", (), "no ink")),
        ((garbled(rows=0),), Problem("first", (0,), "no ink")),
        ((garbled(rows=np.array([0, 99, -1])),), Problem("first", (0,), "no ink")),
        ((garbled(rows=["a", 0.5, True, 0]),), Problem("first", (0,), "no ink")),
        ((garbled(reward=None),), Problem("first+second", (0,), "no ink")),
        ((garbled(reward="first+of_another"),), Problem("first", (0,), "no ink")),
        ((garbled(reason=None),), Problem("first", (0,), "None")),
    ],
    ids=repr,
)
def test_whatever_a_reward_says_of_its_failures_costs_no_score(errors, problem):
    pictures = RewardBatch(noise_pictures(2), Prompt.listed(["a", "b"]), (0, 1))
    scores, problems = RewardSuite([Answering(errors)]).score(pictures)
    np.testing.assert_array_equal(scores, [[np.nan, 2], [1, 3]])
    assert problems == (problem,)


# In a run


def run(folder, monkeypatch, rewards, looked_at, screen=None):
    """Two iterations that learn nothing from these rewards; looks are scored by others."""
    names = [reward.outputs[0] for reward in rewards]
    recipe = make_recipe(
        names,
        output={"folder": str(folder), "report": False},
        evaluation={"every": 2, "watch": 4, "count": 8},
        held_out=[{"type": "custom", "path": "fakes:unused", "name": "contrast"}],
    )

    def build(recipe):
        # So that the pictures of two runs are the same, whatever their rewards say of them.
        still = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.0)
        parts = make_parts_of(recipe, rewards, descent=still)
        return parts, Evaluator(Listed(PROMPTS), RewardSuite(looked_at))

    monkeypatch.setattr(api, "build_parts", build)
    return api.train(recipe, console=Console(file=screen or io.StringIO(), width=10_000))


def test_a_run_with_all_of_them_has_the_numbers_of_one_without(theirs, tmp_path, monkeypatch):
    faults = [name for name in FAULTS if name != "writes_facts"]  # the fakes' prompts have no facts
    healthy = [Brightness(), Contrast("contrast")]
    run(tmp_path / "without", monkeypatch, healthy[:1], healthy)
    faulty = [custom(name) for name in faults]
    screen = io.StringIO()
    run(tmp_path / "with", monkeypatch, [healthy[0], *faulty], [healthy[0], *faulty, healthy[1]], screen)
    without, beside = RunReader(tmp_path / "without"), RunReader(tmp_path / "with")
    for clean, noisy in zip(without.metrics(), beside.metrics(), strict=True):
        for key in ("reward/brightness", "reward/brightness/spread", "reward/brightness/missing"):
            assert noisy[key] == clean[key]
        for name in faults:
            expected = FAULTS[name][1]
            assert noisy[f"reward/{name}/missing"] == (expected == MISSING)
            assert expected != RIGHT or noisy[f"reward/{name}"] == clean["reward/brightness"]
    for iteration in without.looks():
        clean, noisy = without.look(iteration), beside.look(iteration)
        for name in ("brightness", "contrast"):
            column, wanted = noisy.scores[:, noisy.names.index(name)], clean.scores[:, clean.names.index(name)]
            np.testing.assert_array_equal(column, wanted)
        for row, picture in clean.pictures.items():
            np.testing.assert_array_equal(noisy.pictures[row], picture)
    lines = [json.loads(line) for line in (tmp_path / "with" / "problems.jsonl").read_text().splitlines()]
    assert "this recipe runs code of fakes (" in screen.getvalue()
    assert {line["reward"] for line in lines} == {name for name in faults if FAULTS[name][2] is not None}


def test_a_second_signal_is_heard_while_a_reward_hangs(theirs, tmp_path, monkeypatch):
    hanging = Custom("faulty_rewards:hangs", name="hangs", time_limit=60.0)
    theirs.released.clear()
    sent = []

    def insist():
        while not theirs.released.wait(0.2):
            sent.append(signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    def begin(self, optimiser):
        watch(self, optimiser)
        threading.Thread(target=insist, daemon=True).start()

    # Only once the run listens: until then a signal would end the tests.
    watch = Interrupt.watch
    monkeypatch.setattr(Interrupt, "watch", begin)
    stay = signal.signal(signal.SIGTERM, lambda number, frame: theirs.released.set())
    try:
        stopped = run(tmp_path / "run", monkeypatch, [hanging], [Brightness("hangs"), Contrast("contrast")])
    finally:
        theirs.released.set()
        signal.signal(signal.SIGTERM, stay)
    assert stopped.interrupted == signal.SIGTERM
    assert 2 <= len(sent) < 50  # the hang itself lasts 30 s
