"""A run in the terminal: the same sentences as the report, nothing that rich would swallow, nothing that breaks."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from drawn_runs import drawn_run
from stepcredit.evaluation.paired import Difference
from stepcredit.runs.reader import RunReader
from stepcredit.viewer import report, terminal
from stepcredit.viewer.panels.story import Story


def printed(act, width=140):
    page = io.StringIO()
    act(Console(file=page, width=width, color_system=None))
    return page.getvalue()


def shown(path, **settings):
    return printed(lambda console: terminal.show(RunReader(path), console), **settings)


def test_a_run_is_shown_with_its_verdict_table_curves_and_credit(finished):
    text = shown(finished)
    story = Story.read(RunReader(finished))
    assert "otca on scenes" in text
    assert "finished after 6 iterations" in text
    assert all(sentence in text for sentence in report.verdict(story, story.differences()))
    rows = {line.split()[0]: line for line in text.splitlines() if "[" in line}  # lines with an interval
    assert "trained" in rows["hps"]
    assert "up" in rows["hps"]
    assert "held out" in rows["diversity"]
    assert "▁" in next(line for line in text.splitlines() if line.startswith(f"{'clip_t':>12}  "))
    assert [line.split()[0] for line in text.splitlines() if "█████" in line] == ["1", "2", "3", "4"]
    assert "5" in [line.strip() for line in text.splitlines()]  # not trained, so it has no weight to show


@pytest.mark.parametrize(
    "settings",
    [
        {"state": "running"},
        {"state": "no look"},
        {"state": "nothing"},
        {"missing": ["hps", "diversity"]},
        {"rewards": ["hps"], "held_out": []},
        {"iterations": 150, "every": 75, "prompts": 1},
    ],
)
def test_every_kind_of_run_can_be_shown(tmp_path, settings):
    text = shown(drawn_run(tmp_path / "run", **settings))
    assert max(map(len, text.splitlines())) <= 140
    if "missing" in settings or settings.get("state") == "nothing":
        assert "hps  nothing yet" in text


def test_credit_of_which_nothing_is_known_is_blank(finished):
    story = Story.read(RunReader(finished))
    for credit in story.credits:
        credit["weights"][..., 0] = np.nan
    story.credits[0]["weights"][..., 1] = np.nan
    rows = printed(lambda console: console.print(terminal.credit_map(story))).splitlines()
    assert rows[1].split() == ["1"]
    assert rows[2].split()[:2] == ["2", "█████"]  # all but the first of six iterations
    assert len(rows[2].split()) == 3


def test_a_long_run_has_bars_of_one_line(tmp_path):
    text = shown(drawn_run(tmp_path / "run", iterations=150, every=75, prompts=1))
    bars = next(line for line in text.splitlines() if line.startswith(f"{'hps':>12}  "))
    assert sum(letter in terminal._BARS for letter in bars) == terminal._WIDTH
    assert len(bars) <= 80


def test_intervals_in_a_table_are_not_taken_for_markup():
    row = Difference("score", 0.5, 0.75, 0.25, 0.1, 0.125, 0.375)
    text = printed(lambda console: console.print(terminal.differences([row], {"score"})))
    assert "[+0.1250, +0.3750]" in text
    assert "0.5000" in text


def test_a_table_of_differences_fits_eighty_columns():
    names = ("vq", "composition", "aesthetic")
    table = terminal.differences([Difference(name, 1.0, 1.25, 0.25, 0.1, -0.125, 0.375) for name in names], {"vq"})
    text = printed(lambda console: console.print(table), width=80)
    rows = [line for line in text.splitlines() if line.startswith(names)]
    assert len(rows) == 3
    assert all("+0.2500 [-0.1250, +0.3750]" in row and "unclear" in row for row in rows)


def test_an_evaluation_is_printed_with_kinds_questions_and_gap(finished):
    result = json.loads((finished / "result.json").read_text(encoding="utf-8"))
    text = printed(lambda console: terminal.evaluation(result, finished, console))
    assert "48 pictures of 12 captions" in text
    assert all(word in text for word in ("position", "questions of the exact checker", "colour"))
    assert f"hacking gap {result['hacking_gap']['gap']:+.2f} standard deviations [" in text


def test_an_evaluation_of_other_captions_is_printed(tmp_path):
    path = drawn_run(tmp_path / "run", captions=["a lighthouse", "ein Käfer"], held_out=[])
    result = json.loads((path / "result.json").read_text(encoding="utf-8"))
    text = printed(lambda console: terminal.evaluation(result, path, console))
    assert "hacking gap" not in text
    assert "kind of caption" not in text
