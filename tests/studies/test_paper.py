"""The study of the paper's tables: its rows and runs, what is trained and what is only read, a small one for real."""

import json
import os
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from rich.console import Console

from drawn_runs import drawn_run
from stepcredit.cli import app as cli
from stepcredit.errors import RecipeError, RunError
from stepcredit.methods import names
from stepcredit.recipe.load import load_recipe
from stepcredit.runs.reader import RunReader, read_lines
from stepcredit.studies import paper
from stepcredit.studies.paper import Cell

QUIET = Console(quiet=True)


def run(*arguments):
    try:
        cli.main(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def drawn(folder, arms=("otca", "dance_grpo"), seeds=2, **settings):
    for cell in paper.cells(folder, arms, seeds):
        drawn_run(cell.folder, method=cell.arm, seed=cell.seed, gains={"hps": 1.0 + cell.seed}, **settings)
    return folder


# Rows


def test_every_row_is_a_recipe():
    for name in [*paper.ARMS, *names()]:
        command = Cell(name, 3, folder_of(name)).command(["--training.budget=60"])
        assert command[:5] == [sys.executable, "-m", "stepcredit", "train", paper.RECIPE]
        recipe = load_recipe(command[4], command[5:])
        assert recipe.seed == 3
        assert recipe.training.budget == 60
        assert str(recipe.output.folder) == str(folder_of(name))
        assert recipe.method_name == paper.arm(name)["type"]
        method: Any = recipe.method  # with a kernel that has a noise level, and made without settings
        if method.sampler.kernel == "dance_sde":
            assert method.sampler.noise_level in (0.7, type(method)().sampler.noise_level)


def folder_of(name):
    return paper.Path("somewhere") / f"{name}-3"


def test_rows_differ_as_they_say():
    assert paper.arm("otca_balanced") == {
        "type": "otca",
        "rule": {"recentred": True, "objective_floor": 0.5},
        "sampler": {"noise_level": 0.7},
    }
    assert paper.arm("coca")["type"] == "coca"
    assert paper.arm("flow_grpo") == {"type": "flow_grpo"}  # its own noise is made for its own kernel
    with pytest.raises(RecipeError, match=r'no row or method "otca_balance"; did you mean "otca_balanced"\?'):
        paper.arm("otca_balance")
    with pytest.raises(RecipeError, match="cannot be imported"):
        paper.arm("nowhere.rule")


def test_whole_seeds_come_first(tmp_path):
    found = paper.cells(tmp_path, ["otca", "tcd"], 2)
    assert [(cell.arm, cell.seed) for cell in found] == [("otca", 0), ("tcd", 0), ("otca", 1), ("tcd", 1)]
    assert [cell.folder.name for cell in found] == ["otca-0", "tcd-0", "otca-1", "tcd-1"]


def test_what_is_there_is_gone_on_with(tmp_path):
    cell = Cell("otca", 0, drawn_run(tmp_path / "otca-0", state="running"))
    assert not cell.finished
    assert cell.command(["--training.budget=60"])[3:] == ["train", "--resume", str(cell.folder)]
    assert Cell("otca", 1, drawn_run(tmp_path / "otca-1")).finished


# Reading


def test_results_are_those_of_the_runs(tmp_path):
    drawn(tmp_path)
    found = paper.results(tmp_path, ["otca", "dance_grpo", "tcd"], 3)
    assert list(found["arms"]) == ["otca", "dance_grpo"]  # nothing of tcd is there
    assert found["trained"] == ["clip_t", "hps", "aesthetic"]
    assert list(found["base"]) == ["clip_t", "hps", "aesthetic", "composition", "diversity"]
    assert found["pictures"] == 48
    arm = found["arms"]["otca"]
    assert arm["seeds"] == [0, 1]
    assert arm["forwards"] == [600, 600]
    assert arm["iterations"] == [6, 6]
    rows = [{row["name"]: row for row in RunReader(tmp_path / f"otca-{seed}").result()["rows"]} for seed in (0, 1)]
    assert arm["gains"]["hps"] == [row["hps"]["difference"] for row in rows]
    assert arm["gains"]["hps"][1] == pytest.approx(0.4, abs=0.02)  # two standard deviations of 0.2
    assert found["base"]["hps"] == rows[0]["hps"]["base"]
    assert arm["curves"][0]["forwards"] == [100, 200, 300, 400, 500, 600]
    assert arm["curves"][0]["hps"] == [line["reward/hps"] for line in RunReader(tmp_path / "otca-0").metrics()]


def test_a_run_that_is_not_finished_has_no_results(tmp_path):
    drawn(tmp_path, seeds=1)
    drawn_run(tmp_path / "otca-1", state="running")
    assert paper.results(tmp_path, ["otca"], 2)["arms"]["otca"]["seeds"] == [0]


def same_study(folder, budget=600):
    for path in folder.glob("*/run.yaml"):
        recipe = yaml.safe_load(path.read_text())
        recipe["training"]["budget"] = budget
        path.write_text(yaml.safe_dump(recipe))


REPORT = ("--budget", "600", "--count", "48", "--seeds", "2", "--report")


@pytest.fixture
def no_models(monkeypatch):
    """The study of similarity against reward needs a generator."""
    agreement = dict.fromkeys(("pearson", "spearman", "argmax_distance", "recall_3", "recall_5"), 0.25)
    row = {"within": agreement, "null": dict.fromkeys(agreement, 0.125), "residual": 0.5, "trajectories": 8}
    found = {"size": {"steps": 16}, "trajectories": 8, "rows": {"hps": {"noisy latent": row}}}
    monkeypatch.setattr(paper, "study_proxy", lambda *_, **__: found)


def test_tables_of_what_is_there(tmp_path, no_models, capsys):
    drawn(tmp_path)
    same_study(tmp_path)
    assert run("bench", "paper", "--folder", str(tmp_path), "--method", "otca", "dance_grpo", *REPORT) == 0
    shown = capsys.readouterr().out
    page = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert page in shown
    page = re.sub(" +", " ", page)  # columns are padded
    assert "2 seeds of each method, 600 network forwards each" in page
    assert "48 held-out pictures" in page
    assert "| hps | noisy latent | 0.250 (null 0.125)" in page
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["budget"] == 600
    gains = found["arms"]["otca"]["gains"]["hps"]
    assert f"{np.mean(gains):+.4f}" in next(line for line in page.splitlines() if line.startswith("| otca |"))
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size[0] > 1200


def test_a_folder_without_a_finished_run_has_no_tables(tmp_path, no_models, capsys):
    assert run("bench", "paper", "--folder", str(tmp_path / "x"), "--method", "otca", *REPORT) == 2
    assert "holds no finished run of otca; run the study without --report" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (("--budget", "500", "--count", "48"), "otca-0 has training.budget 600, and this study asks for 500"),
        (("--budget", "600", "--count", "64"), "give --count 48, or another --folder"),
    ],
)
def test_runs_of_another_budget_do_not_share_a_table(tmp_path, no_models, capsys, flags, wanted):
    drawn(tmp_path)
    same_study(tmp_path)
    for more in (("--report",), ()):
        assert run("bench", "paper", "--folder", str(tmp_path), "--method", "otca", "--seeds", "1", *flags, *more) == 2
        assert wanted in capsys.readouterr().err.replace("\n", " ")


def test_a_misspelt_row_or_flag_is_refused_before_anything_is_trained(tmp_path, capsys):
    assert run("bench", "paper", "--folder", str(tmp_path / "x"), "--method", "otca", "otcq") == 2
    assert 'no row or method "otcq"' in capsys.readouterr().err
    assert run("bench", "paper", "--folder", str(tmp_path / "x"), "--trainin.updates", "3") == 2
    assert "trainin: unknown key" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


# Training, with a stand-in for the process

FINISH = "import pathlib, sys; pathlib.Path(sys.argv[1], 'result.json').write_text('{}')"


def stand_in(monkeypatch, code=FINISH, told=None):
    """Every cell is 'trained' by a few words of Python that are given its folder."""

    def command(cell, flags):
        if told is not None:
            told.append((cell.arm, cell.seed, (cell.folder / "run.yaml").is_file(), list(flags)))
        cell.folder.mkdir(exist_ok=True)
        return [sys.executable, "-c", code, str(cell.folder)]

    monkeypatch.setattr(Cell, "command", command)


@pytest.mark.parametrize("workers", [1, 3])
def test_finished_runs_are_not_trained_again(tmp_path, monkeypatch, workers):
    drawn_run(tmp_path / "otca-0")
    drawn_run(tmp_path / "tcd-1", state="running")
    told = []
    stand_in(monkeypatch, told=told)
    todo = paper.cells(tmp_path, ["otca", "tcd"], 2)
    paper.train_all(todo, ["--x=1"], budget=600, workers=workers, console=QUIET)
    assert sorted(told) == [
        (arm, seed, there, ["--x=1", "--threads", str(max(1, (os.cpu_count() or 1) // workers))])
        for arm, seed, there in (("otca", 1, False), ("tcd", 0, False), ("tcd", 1, True))
    ]
    assert all(cell.finished for cell in todo)
    told.clear()
    paper.train_all(todo, [], budget=600, workers=workers, console=QUIET)
    assert told == []


def test_a_run_that_fails_ends_the_study_with_its_last_line(tmp_path, monkeypatch):
    told = []
    stand_in(monkeypatch, "print('much'); raise SystemExit('error: the disk is full')", told)
    with pytest.raises(
        RunError, match=r"otca-0 ended with code 1: error: the disk is full \(all of it: .*otca-0\.log\)"
    ):
        paper.train_all(paper.cells(tmp_path, ["otca", "tcd"], 2), [], budget=600, workers=1, console=QUIET)
    assert len(told) == 1
    assert "much" in (tmp_path / "otca-0.log").read_text()


def test_a_run_that_fails_stops_the_others(tmp_path, monkeypatch):
    """They are asked to save, not waited for to the end of their budget."""
    slow = (
        "import pathlib, signal, sys, time\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "signal.signal(signal.SIGTERM, lambda *_: (folder.joinpath('saved').touch(), sys.exit(143)))\n"
        "folder.joinpath('ready').touch()\n"
        "if folder.name == 'tcd-0':\n"
        "    while not folder.with_name('otca-0').joinpath('ready').exists():\n        time.sleep(0.05)\n"
        "    sys.exit('error: no')\n"
        "time.sleep(200)\n"
    )
    stand_in(monkeypatch, slow)
    with pytest.raises(RunError, match="tcd-0 ended with code 1: error: no"):
        paper.train_all(paper.cells(tmp_path, ["otca", "tcd"], 1), [], budget=600, workers=2, console=QUIET)
    assert (tmp_path / "otca-0" / "saved").exists()


def test_rules_of_a_package_have_logs_of_their_own(tmp_path, monkeypatch):
    stand_in(monkeypatch, FINISH + "; print(sys.argv[1])")
    todo = paper.cells(tmp_path, ["their_lab.one", "their_lab.two"], 2)
    paper.train_all(todo, [], budget=600, workers=1, console=QUIET)
    logs = {path.name: path.read_text().strip() for path in tmp_path.glob("*.log")}
    assert logs == {f"{cell.folder.name}.log": str(cell.folder) for cell in todo}


# For real

TINY = ("--rollout.prompts=1", "--rollout.group_size=4", "--rollout.steps=3")
TINY += ("--evaluation.steps=2", "--evaluation.watch=4", "--threads=1")


def test_a_small_study_is_trained_resumed_and_told(tmp_path, monkeypatch, capsys):
    """One iteration of DanceGRPO is 4 x 3 forwards and 4 x 2 with gradient, 36 in all: a budget of 40 is two of them.
    OTCA's cost less, where it gives no credit. Every sample is computed by itself: what sharing the first state saves
    depends on how its moves are dealt to the two optimiser steps."""
    folder = tmp_path / "study"
    study = ("bench", "paper", "--folder", str(folder), "--method", "dance_grpo", "otca", "--seeds", "1")
    study += ("--budget", "40", "--count", "8", "--proxy-prompts", "1", "--rollout.share_states=false", *TINY)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert run(*study) == 0, capsys.readouterr().err
    page = (folder / "results.md").read_text(encoding="utf-8")
    assert page in capsys.readouterr().out
    page = re.sub(" +", " ", page)  # columns are padded
    found = json.loads((folder / "results.json").read_text())
    for name in ("dance_grpo", "otca"):
        costs = [line["cost/forwards"] for line in read_lines(folder / f"{name}-0" / "metrics.jsonl")]
        assert costs == [36, 36] or name == "otca"
        assert sum(costs) >= 40 > sum(costs[:-1])
        assert found["arms"][name]["iterations"] == [len(costs)]
        assert found["arms"][name]["forwards"] == [sum(costs)]
        assert (folder / f"{name}-0" / "result.json").is_file()
        assert f"| {name} | {len(costs)} | 0 k |" in page
    assert "### Paired with dance_grpo" in page
    assert found["proxy"]["size"] == {"prompts": 1, "group_size": 8, "steps": 16}
    assert set(found["proxy"]["rows"]) <= {"clip_t", "hps", "aesthetic"}
    assert (folder / "curves.png").stat().st_size > 5000

    def nothing_is_trained(*_, **__):
        raise AssertionError

    monkeypatch.setattr(subprocess, "Popen", nothing_is_trained)
    monkeypatch.setattr(paper, "build_parts", nothing_is_trained)  # and the proxy is read from proxy.json
    assert run(*study) == 0, capsys.readouterr().err
    assert json.loads((folder / "results.json").read_text()) == found
    assert len(read_lines(folder / "dance_grpo-0" / "metrics.jsonl")) == 2
