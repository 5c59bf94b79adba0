"""A run folder as version 0.1 wrote it, stored beside this file: shown, reported and compared, but not gone on with.

Its scores and pictures are made up, and of its credit files and pictures a few are enough.
"""

import io
import json
import shutil
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from stepcredit.errors import RunError
from stepcredit.runs.compare import compare, markdown
from stepcredit.runs.folder import RunFolder
from stepcredit.runs.layout import today
from stepcredit.runs.reader import FORMAT, RunReader
from stepcredit.viewer import report, terminal

STORED = Path(__file__).parent / "written_by_0_1"


def copied(path, *, seed=0, method=None, settings=None, layout="old"):
    """The stored run with another seed, method or settings of it, in its own layout or in today's."""
    shutil.copytree(STORED, path)
    recipe = yaml.safe_load((path / "run.yaml").read_text())
    recipe["seed"] = seed
    recipe["method"] |= {"type": method or recipe["method"]["type"], **(settings or {})}
    if layout == "new":
        recipe = today(recipe)
        environment = json.loads((path / "environment.json").read_text())
        (path / "environment.json").write_text(json.dumps({**environment, "format": FORMAT}))
    (path / "run.yaml").write_text(yaml.safe_dump(recipe))
    return RunReader(path)


def test_it_is_read():
    run = RunReader(STORED)
    assert (run.format, run.version, run.method, run.iterations) == (2, "0.1.0", "otca", 4)
    assert (run.trained, run.held_out) == (["clip_t", "hps"], ["composition", "diversity"])
    assert run.looks() == [0, 2, 4]
    assert run.credits() == [3]
    assert run.credit(3)["similarity"].shape == (2, 4, 6)


def test_it_is_shown():
    page = io.StringIO()
    terminal.show(RunReader(STORED), Console(file=page, width=100, color_system=None))
    text = page.getvalue()
    assert "otca on scenes" in text
    assert "finished after 4 iterations" in text
    assert "weight over the iterations" in text


def test_it_is_reported(tmp_path):
    page = report.write(STORED, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "finished after 4 iterations" in page
    assert "noise_level: 0.3" in page  # the recipe as it was, not as it would be written today
    assert "Similarity gained by each step" in page


@pytest.mark.parametrize("layout", ["old", "new"])
def test_it_is_compared_with_a_run_of_its_time_or_of_today(tmp_path, layout):
    runs = [RunReader(STORED), copied(tmp_path / "other", method="tcd", layout=layout)]
    comparison = compare(runs, by="method")
    assert [side.name for side in comparison.sides] == ["otca", "tcd"]
    note, *unscored = comparison.notes
    assert note == "a single seed has no interval over seeds"  # and no key that only moved
    assert [sentence.partition(" could not score ")[0] for sentence in unscored] == [str(run.path) for run in runs]
    assert "method = otca (1 seeds)" in markdown(comparison)


@pytest.mark.parametrize("key", ["method.noise_level", "method.sampler.noise_level"])
def test_it_is_compared_by_either_key(tmp_path, key):
    runs = [RunReader(STORED), copied(tmp_path / "noisier", settings={"noise_level": 0.7}, layout="new")]
    comparison = compare(runs, by=key)
    assert [side.name for side in comparison.sides] == ["0.3", "0.7"]
    assert comparison.notes[0] == "a single seed has no interval over seeds"


def test_seeds_of_both_layouts_are_one_side(tmp_path):
    runs = [RunReader(STORED), copied(tmp_path / "again", seed=1, layout="new")]
    assert [len(side.curves) for side in compare(runs, by="method").sides] == [2]


def test_going_on_with_it_is_refused_in_a_sentence_and_nothing_is_changed(tmp_path):
    path = copied(tmp_path / "run").path
    before = sorted(path.rglob("*"))
    with pytest.raises(
        RunError, match=r"written by stepcredit 0\.1\.0.*keys of then.*that version, or start a new run"
    ):
        RunFolder.reopen(path)
    assert sorted(path.rglob("*")) == before
