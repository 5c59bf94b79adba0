"""The report: whole for every kind of run, sealed off from the net, true in its sentences, small and quick."""

import itertools
import json
import re
import shutil
import time
import warnings
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from drawn_runs import HTML, drawn_run, picture
from stepcredit.errors import RunError
from stepcredit.evaluation.paired import Difference
from stepcredit.files.seal import digest, read_json, sealed
from stepcredit.records import StepReport
from stepcredit.runs.reader import RunReader
from stepcredit.viewer import live, report
from stepcredit.viewer.live import LiveReport
from stepcredit.viewer.panels.sections import SECTIONS
from stepcredit.viewer.panels.story import Story, spread

VARIANTS = {
    "finished": {},
    "running": {"state": "running"},
    "no look yet": {"state": "no look"},
    "nothing yet": {"state": "nothing"},
    "one iteration": {"iterations": 1, "every": 1},
    "html": {"captions": [HTML]},
    "a reward that scored nothing": {"missing": ["hps"]},
    "a held-out measure that scored nothing": {"missing": ["diversity"]},
    "nothing scored": {"rewards": ["hps"], "missing": ["hps", "composition", "diversity"]},
    "one objective": {"rewards": ["hps"]},
    "larger pictures": {"side": 128, "watch": 8, "count": 16},
    "nothing held out": {"held_out": []},
    "no exploration strength": {"method": "dance_grpo"},
    "other captions": {"captions": ["a lighthouse at dusk", "ein Käfer"]},
}
VOID = {"meta", "link", "img", "br", "option"}


class Page(HTMLParser):
    """What a test wants to know of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.ids = []
        self.headings = []
        self.addresses = []
        self.alts = []
        self.open = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if re.fullmatch(r"h\d", tag):
            self.headings.append(int(tag[1]))
        keys = ("href", "src", "action", "srcset", "data", "poster")
        self.addresses += [attributes[key] for key in keys if key in attributes]
        if tag == "img":
            self.alts.append(attributes.get("alt"))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def page_of(path):
    return report.write(path).read_text(encoding="utf-8")


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_every_kind_of_run_has_a_whole_page(tmp_path, settings):
    path = drawn_run(tmp_path / "run", **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = page_of(path)
    page = Page(text)
    assert not page.open
    assert len(page.ids) == len(set(page.ids))
    assert {"verdict", "pictures", "recipe"} <= set(page.ids)
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(page.ids)
    assert not re.search(r"@import|url\(|https?://", text)
    assert page.tags.count("script") == 1
    assert page.headings[0] == 1
    assert all(after <= before + 1 for before, after in zip(page.headings, page.headings[1:], strict=False))
    assert all(page.alts)
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(svg)


def test_a_finished_run_has_every_section(finished):
    text = page_of(finished)
    wanted = [key for key, _, _ in SECTIONS]
    assert {"verdict", "pictures", "problems", "recipe", *wanted} <= set(Page(text).ids)
    titles = ("Hacking gap", "Which captions gained", "What the exact checker says", "Weight of each step")
    titles += ("One group, step by sample", "Exploration strength", "Agreement of the rewards", "Clip fraction by step")
    assert [title for title in titles if f"<h3>{title}" not in text] == []
    assert "finished after 6 iterations" in text


def test_a_run_that_goes_on_says_how_far_it_is(tmp_path):
    assert "5 of 6 iterations" in page_of(drawn_run(tmp_path / "a", state="running"))
    assert "nothing trained yet" in page_of(drawn_run(tmp_path / "b", state="nothing"))


def test_a_run_without_a_look_shows_its_training_and_promises_nothing(tmp_path):
    text = page_of(drawn_run(tmp_path / "run", state="no look"))
    assert "nothing can be said" in text
    assert "Which steps received the credit" in text
    assert "<figure" not in text


def test_a_run_in_which_nobody_looked_at_the_similarity_has_all_other_panels(finished, tmp_path):
    path = drawn_run(tmp_path / "run", similarity=False)
    titles = set(re.findall(r"<h3>([^<]*)</h3>", page_of(path)))
    similarities = {"Similarity to the finished picture", "Similarity gained by each step"}
    assert titles == set(re.findall(r"<h3>([^<]*)</h3>", page_of(finished))) - similarities
    assert "Weight of each step" in titles


def test_a_similarity_that_only_later_iterations_stored_is_shown_from_there(finished, tmp_path):
    path = shutil.copytree(drawn_run(tmp_path / "without", similarity=False), tmp_path / "run")
    for iteration in (3, 5):
        shutil.copy(finished / "credit" / f"{iteration:06d}.safetensors", path / "credit")
    charts = re.findall(r"<h3>Similarity.*?</article>", page_of(path), re.DOTALL)
    assert [re.findall(r"</i>(iteration \d)</span>", chart) for chart in charts] == [["iteration 3", "iteration 5"]] * 2


def test_captions_are_escaped_everywhere(tmp_path):
    text = page_of(drawn_run(tmp_path / "run", captions=[HTML]))
    assert '<script>document.title = "broken"' not in text
    assert text.count("&lt;script&gt;") > 60  # caption, alt texts, the credit's groups


def test_parts_that_do_not_apply_are_left_out(tmp_path):
    text = page_of(drawn_run(tmp_path / "run", method="dance_grpo", rewards=["hps"], held_out=[]))
    for title in ("Exploration strength", "Agreement of the rewards", "Conflict", "hacking gap", "Hacking gap"):
        assert f"<h3>{title}" not in text


def test_every_pair_has_its_own_scores_in_the_order_of_the_choice(finished):
    text = page_of(finished)
    reader = RunReader(finished)
    base = reader.look(0)
    tuned = reader.look(6)
    first = re.findall(r"<figure.*?</figure>", text, re.DOTALL)[1]
    names = re.findall(r"<option>([a-z_]+)</option>", text)
    assert names == list(base.names)
    gains = [float(gain) for gain in re.findall(r'data-gain-\d="([^"]+)"', first)]
    assert gains == pytest.approx((tuned.scores[1] - base.scores[1]).tolist())
    cells = re.findall(r'<th scope="row">(\w+)</th><td>([\d.]+)</td><td>([\d.]+)</td>', first)
    assert cells == [(name, f"{base.scores[1, k]:.2f}", f"{tuned.scores[1, k]:.2f}") for k, name in enumerate(names)]


def test_problems_are_listed_with_how_often_and_when_first(finished):
    assert "<td>hps: one picture is &lt; broken &gt;</td><td>6</td><td>0</td>" in page_of(finished)


def test_evaluations_are_shown(finished, tmp_path):
    path = shutil.copytree(finished, tmp_path / "run")
    (path / "evaluations").mkdir()
    shutil.copy(path / "result.json", path / "evaluations" / "000006-average-48.json")
    assert "iteration 6, trained weights, 48 pictures" in page_of(path)


# What is said


def row(name, low, high):
    return Difference(name, 0.0, (low + high) / 2, (low + high) / 2, 0.1, low, high)


UP = (0.1, 0.2)
DOWN = (-0.2, -0.1)
UNCLEAR = (-0.1, 0.1)


@pytest.mark.parametrize(
    ("intervals", "wanted"),
    [
        ({}, ""),
        ({"a": UP}, "The reward rose: a."),
        ({"a": UP, "b": UP}, "Both rewards rose: a, b."),
        ({"a": UP, "b": UP, "c": UP}, "All 3 rewards rose: a, b, c."),
        ({"a": DOWN}, "The reward: a fell."),
        ({"a": UNCLEAR}, "The reward: a did not move beyond chance."),
        ({"a": UP, "b": DOWN, "c": UNCLEAR}, "Of 3 rewards: a rose; b fell; c did not move beyond chance."),
        ({"a": DOWN, "b": DOWN}, "Of 2 rewards: a, b fell."),
    ],
)
def test_what_moved_is_told_in_a_sentence(intervals, wanted):
    assert report._moved_in_words("reward", [row(name, *ends) for name, ends in intervals.items()]) == wanted


@pytest.mark.parametrize(
    ("trained", "held_out", "wanted"),
    [
        (2.0, -1.0, "The rewards rose clearly more than what was held out"),
        (0.0, 2.0, "What was held out rose more than the rewards did"),
        (-1.0, -3.0, "What was held out fell more than the rewards did"),
        (-3.0, -1.0, "The rewards fell more than what was held out"),
    ],
)
def test_the_gap_is_told_from_the_run(tmp_path, trained, held_out, wanted):
    gains = {"clip_t": trained, "hps": trained, "aesthetic": trained, "composition": held_out, "diversity": held_out}
    text = page_of(drawn_run(tmp_path / "run", gains=gains))
    assert wanted in text
    assert ("no sign of reward hacking" in text) is False


def test_a_run_that_moved_nothing_says_so(tmp_path):
    names = ("clip_t", "hps", "aesthetic", "composition", "diversity")
    story = Story.read(RunReader(drawn_run(tmp_path / "run", gains=dict.fromkeys(names, 0.0))))
    first, *_, last = report.verdict(story, [row(name, *UNCLEAR) for name in names])
    assert first == "Of 3 trained rewards: clip_t, hps, aesthetic did not move beyond chance."
    assert last.endswith("no sign of reward hacking.")


def test_a_run_is_compared_on_the_pictures_that_both_looks_have(tmp_path):
    path = drawn_run(tmp_path / "run", state="running")  # 48 pictures before, 32 after
    story = Story.read(RunReader(path))
    assert [difference.verdict for difference in story.differences()] == ["up"] * 5
    assert "on 32 pictures of 8 held-out captions" in page_of(path)


# Files


def test_a_page_of_a_large_run_is_small_and_quick(tmp_path):
    large = {"iterations": 180, "every": 180, "prompts": 8, "group_size": 12, "steps": 6}
    path = drawn_run(tmp_path / "run", **large, watch=96, count=256)
    generator = np.random.default_rng(0)
    for index in range(8):  # drawing and packing 192 pictures of this size would take a minute
        picture_file = tmp_path / "picture.png"
        Image.fromarray(picture(generator, 512)).save(picture_file, compress_level=1)
        for place in sorted(path.glob("samples/*/*.png"))[index::8]:
            shutil.copy(picture_file, place)
    for about in path.glob("samples/*/look.json"):
        look = read_json(about)
        look["files"] = {name: digest(about.parent / name) for name in look["files"]}
        about.write_text(json.dumps(sealed(look)))
    began = time.process_time()
    text = page_of(path)
    assert time.process_time() - began < 5
    assert len(text) < 5_000_000
    assert text.count("<figure") == 96
    assert text.count('src="data:image/webp') == 192


def test_small_pictures_are_embedded_exactly(finished):
    text = page_of(finished)
    assert text.count('src="data:image/png') == 64
    assert "data:image/webp" not in text


@pytest.mark.parametrize("count", [0, 1, 119, 120, 121, 1000])
def test_a_long_run_is_thinned_evenly_from_its_first_to_its_last(count):
    chosen = spread(range(count))
    assert len(chosen) == min(count, 120)
    assert chosen[:1] + chosen[-1:] == [0, count - 1][: 2 * count]
    assert len({b - a for a, b in itertools.pairwise(chosen)}) <= 2


def test_the_page_can_be_written_elsewhere_and_leaves_nothing_half_written(finished, tmp_path):
    out = report.write(finished, tmp_path / "new" / "page.html")
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]


def test_a_place_that_cannot_be_written_is_a_run_error(finished, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="choose another place with --out"):
        report.write(finished, tmp_path / "file" / "page.html")


@pytest.mark.parametrize("name", ["run.yaml", "environment.json", "credit/000003.safetensors", "result.json"])
def test_a_damaged_run_is_a_run_error(finished, tmp_path, name):
    path = shutil.copytree(finished, tmp_path / "run")
    (path / name).write_bytes((path / name).read_bytes()[:3])
    with pytest.raises(RunError, match=r"damaged|cannot be read"):
        report.write(path)


def test_a_half_written_run_is_a_run_error(tmp_path):
    path = drawn_run(tmp_path / "run", state="nothing")
    (path / "environment.json").unlink()
    with pytest.raises(RunError, match="half-written"):
        report.write(path)


def test_a_last_line_that_is_being_written_does_no_harm(tmp_path):
    path = drawn_run(tmp_path / "run", state="running")
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 5, "rew')
    assert "5 of 6 iterations" in page_of(path)


# Kept current


def test_the_live_report_is_written_after_looks_and_at_the_end(tmp_path):
    path = drawn_run(tmp_path / "run", state="running")
    messages = []
    tracker = LiveReport(path, messages.append)
    tracker.log(StepReport(0, {}))
    assert not (path / "report.html").exists()
    tracker.pictures(4, "samples", [], [])
    assert "5 of 6 iterations" in (path / "report.html").read_text(encoding="utf-8")
    (path / "result.json").write_text(json.dumps({"rows": []}))
    tracker.close()
    assert "finished after" in (path / "report.html").read_text(encoding="utf-8")
    assert messages == []


def test_a_live_report_that_fails_tells_once_and_never_raises(tmp_path, monkeypatch):
    def fails(run):
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(live, "write", fails)
    messages = []
    tracker = LiveReport(tmp_path, messages.append)
    tracker.pictures(1, "samples", [], [])
    tracker.pictures(2, "samples", [], [])
    tracker.close()
    assert messages == ["the report could not be written: ZeroDivisionError: oh"]
