"""The report: one self-contained HTML page about one run, finished or not."""

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from stepcredit.evaluation.paired import Difference, HackingGap, hacking_gap
from stepcredit.files.media import data_uri
from stepcredit.files.text import write_text
from stepcredit.runs.looks import Look
from stepcredit.runs.notes import notes
from stepcredit.runs.reader import RunReader
from stepcredit.viewer.panels.sections import SECTIONS
from stepcredit.viewer.panels.steps import groups
from stepcredit.viewer.panels.story import Story

_THUMBNAIL = 192  # longest side of a picture in the page: a pair fits a phone, and 96 pairs some megabytes
_MOST_PAIRS = 96  # as many as the page's choice offers at most
_ALARM = 0.2  # hacking gap, in standard deviations, from which on the page warns although both sides rose
_SAME = 1e-9  # scores of the same picture may differ in their last digits, since batches are of other sizes


@dataclass(frozen=True)
class Score:
    """One score of one pair of pictures, such as Score("hps", 0.25, 0.27)."""

    name: str
    base: float
    tuned: float

    @property
    def mood(self) -> str:
        change = self.tuned - self.base
        if not abs(change) > _SAME:  # "not more" instead of "less": NaN, a score that could not be given, is no change
            return "same"
        return "better" if change > 0 else "worse"


@dataclass(frozen=True)
class Pair:
    """The same caption and noise before and after, such as Pair("a red circle", "data:image/png...", ..., [Score]).

    Data URIs, because the page is one file and asks no server.
    """

    caption: str
    before: str
    after: str
    scores: list[Score]


def write(run: str | Path, out: Path | None = None) -> Path:
    """Write the page, by default `report.html` in the run folder; returns where it is."""
    reader = RunReader(run)
    path = out or reader.path / "report.html"
    write_text(path, render(reader), advice="make room, or choose another place with --out")
    return path


def render(reader: RunReader) -> str:
    """The page as text."""
    story = Story.read(reader)
    environment = Environment(
        loader=PackageLoader("stepcredit.viewer", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    # read, not included by the template, in which braces of CSS and JavaScript would be Jinja's
    here = resources.files("stepcredit.viewer")
    rows = story.differences()
    return environment.get_template("page.html").render(
        title=f"{reader.path.resolve().name}: {reader.method}",
        run=reader,
        state=state(story),
        verdict=[*verdict(story, rows), *notes(reader)],
        rows=rows,
        gap=_gap(story),
        captions=len(set(story.last.prompts)) if story.last else 0,
        pictures=len(story.last.rows) if story.last else 0,
        media="videos" if story.last and story.last.fps is not None else "pictures",
        sections=[(key, title, build(story)) for key, title, build in SECTIONS],
        groups=groups(story),
        pairs=pairs(story),
        scores=[*reader.trained, *reader.held_out],
        problems=_problems(reader),
        recipe=yaml.safe_dump(reader.recipe, sort_keys=False, allow_unicode=True),
        environment=json.dumps(reader.environment, indent=2, ensure_ascii=False),
        evaluations=reader.evaluations(),
        css=here.joinpath("page.css").read_text(encoding="utf-8"),
        script=here.joinpath("page.js").read_text(encoding="utf-8"),
    )


def state(story: Story) -> str:
    """Where the run is, in words."""
    done = len(story.metrics)
    budget = story.run.recipe["training"].get("budget")  # None or absent: iterations are what ends the run
    if story.run.result() is not None:
        return f"finished after {done} iterations"
    if not done:
        return "nothing trained yet"
    if budget is not None:
        spent = sum(line["cost/forwards"] for line in story.metrics)
        return f"{done} iterations, {spent:,.0f} of {budget:,} network forwards"
    return f"{done} of {story.run.iterations} iterations"


def verdict(story: Story, rows: list[Difference]) -> list[str]:
    """What a stranger should know first, one sentence each."""
    silent = [f"{silence}." for silence in story.run.silences()]
    if not rows:
        return [*silent, "There is no look at held-out captions after training began yet, so nothing can be said."]
    sentences = [
        *silent,
        _moved_in_words("trained reward", [row for row in rows if row.name in story.run.trained]),
        _moved_in_words("held-out measure", [row for row in rows if row.name not in story.run.trained]),
    ]
    gap = _gap(story)
    if gap is not None:
        sentences.append(_gap_in_words(gap))
    return [sentence for sentence in sentences if sentence]


def _gap_in_words(gap: HackingGap) -> str:
    """The hacking gap in a sentence; an alarm only when what was held out did not rise, or by far less."""
    # The interval decides whether there is a gap, the two gains what it means.
    if gap.low > 0 and gap.trained > 0:
        if gap.held_out <= 0 or gap.gap > _ALARM:
            return "The rewards rose clearly more than what was held out: look for what was lost."
        return "The rewards rose somewhat more than what was held out."
    if gap.low > 0:
        return "What was held out fell more than the rewards did."
    if gap.high < 0:
        if gap.held_out > 0:
            return "What was held out rose more than the rewards did."
        return "The rewards fell more than what was held out."
    return "What was trained and what was held out moved together: no sign of reward hacking."


def pairs(story: Story) -> list[Pair]:
    """Pictures that exist before and after."""
    base = story.base
    last = story.last
    if base is None or last is None:
        return []
    common = [row for row in last.pictures if row in base.pictures]
    return [_pair(base, last, row) for row in common[:_MOST_PAIRS]]


def _pair(base: Look, last: Look, row: int) -> Pair:
    before = base.rows.index(row)
    after = last.rows.index(row)
    scores = zip(base.names, base.scores[before], last.scores[after], strict=True)
    return Pair(
        caption=base.prompts[before],
        before=data_uri(base.pictures[row], base.fps, side=_THUMBNAIL),
        after=data_uri(last.pictures[row], last.fps, side=_THUMBNAIL),
        scores=[Score(name, float(old), float(new)) for name, old, new in scores],
    )


def _moved_in_words(kind: str, rows: list[Difference]) -> str:
    """Such as: Of 3 trained rewards: a, b rose; c fell."""
    if not rows:
        return ""
    names: dict[str, list[str]] = {"up": [], "down": [], "unclear": [], "unscored": []}
    for row in rows:
        names[row.verdict].append(f"{row.name} ({row.coverage})" if row.pictures and row.coverage else row.name)
    plural = kind if len(rows) == 1 else f"{kind}s"
    if len(names["up"]) == len(rows):
        every = {1: "The", 2: "Both"}.get(len(rows), f"All {len(rows)}")
        return f"{every} {plural} rose: {', '.join(names['up'])}."
    words = {
        "up": "rose",
        "down": "fell",
        "unclear": "did not move beyond chance",
        "unscored": "could not be scored",
    }
    parts = [f"{', '.join(names[verdict])} {word}" for verdict, word in words.items() if names[verdict]]
    if len(rows) == 1:
        return f"The {kind}: {parts[0]}."
    return f"Of {len(rows)} {plural}: {'; '.join(parts)}."


def _gap(story: Story) -> HackingGap | None:
    if story.base is None or story.last is None:
        return None
    return hacking_gap(story.base.among(story.last.rows), story.last, story.run.trained)


def _problems(reader: RunReader) -> list[tuple[str, int, int]]:
    """Each distinct reason, how often, and when first."""
    seen: dict[str, tuple[int, int]] = {}
    for line in reader.problems():
        # Looks are numbered by the iterations that were finished, the base's by 0.
        at_look = "look" in line
        reason = f"held-out captions: {line['reason']}" if at_look else line["reason"]
        count, first = seen.get(reason, (0, line["look"] if at_look else line["iteration"]))
        seen[reason] = (count + 1, first)
    return [(reason, count, first) for reason, (count, first) in seen.items()]
