"""The panels of the report: from a run to charts. One function a panel; each says in a sentence how to read it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

import numpy as np

from stepcredit.evaluation.paired import Difference, by_kind, by_question, compare, hacking_gap
from stepcredit.runs.looks import Look
from stepcredit.runs.reader import RunReader, StoredCredit
from stepcredit.viewer import charts
from stepcredit.viewer.charts import Line

_COLOURS = ("--c1", "--c2", "--c3", "--c4", "--c5", "--c6")
_MOST = 120  # iterations in a heat map or a curve read from credit files
Item = TypeVar("Item")


@dataclass(frozen=True)
class Panel:
    """A titled chart; `note` says how to read it."""

    title: str
    note: str
    chart: str
    wide: bool = False


@dataclass(frozen=True)
class Story:
    """What the panels share, read once."""

    run: RunReader
    metrics: list[dict]
    base: Look | None
    looks: list[Look]  # later ones, on the watched pictures; the last may be the whole evaluation
    credits: list[StoredCredit]

    @classmethod
    def read(cls, run: RunReader) -> "Story":
        numbers = run.looks()
        return cls(
            run=run,
            metrics=run.metrics(),
            base=run.look(0) if 0 in numbers else None,
            looks=[run.look(number, pictures=number == numbers[-1]) for number in numbers if number],
            credits=[run.credit(number) for number in _spread(run.credits())],
        )

    @property
    def last(self) -> Look | None:
        return self.looks[-1] if self.looks else None

    def colour(self, name: str) -> str:
        """Always the same colour for the same objective."""
        names = [*self.run.trained, *self.run.held_out]
        return _COLOURS[names.index(name) % len(_COLOURS)] if name in names else "--ink"

    def differences(self) -> list[Difference]:
        """The newest look against the base, on the same pictures."""
        if self.base is None or self.last is None:
            return []
        return compare(self.base.among(self.last.rows), self.last)


def curves(story: Story) -> list[Panel]:
    """Training and held-out means of each score."""
    panels = []
    for name in [*story.run.trained, *story.run.held_out]:
        is_trained = name in story.run.trained
        lines = []
        if is_trained:
            x, y = _series(story.metrics, f"reward/{name}")
            lines.append(Line("", x, y, story.colour(name), faint=True))
            lines.append(Line("training captions, with sampling noise", x, _smooth(y), story.colour(name), dashed=True))
        base = None
        if story.base is not None and name in story.base.names:
            rows = story.looks[0].rows if story.looks else story.base.rows
            base = story.base.among(rows).means()[name]
            looked = [(look.iteration, look.among(rows).means()[name]) for look in story.looks]
            x, y = zip((0, base), *looked, strict=True)
            lines.append(Line("held-out captions", x, y, story.colour(name), dots=True))
        what = "trained on" if is_trained else "never trained on"
        panels.append(
            Panel(
                name,
                f"{what}; the line is the base model on the same held-out captions",
                charts.lines(lines, alt=f"{name} over iterations", x_label="iteration", reference=base),
            )
        )
    return panels


def outcome(story: Story) -> list[Panel]:
    """Gains in common units, hacking gap over time, kinds of captions, questions of the checker."""
    base, last = story.base, story.last
    if base is None or last is None:
        return []
    base = base.among(last.rows)
    spread = {name: _deviation(base.scores[:, k]) for k, name in enumerate(base.names)}
    gains = [
        (
            row.name,
            row.difference / spread[row.name],
            row.low / spread[row.name],
            row.high / spread[row.name],
            story.colour(row.name),
        )
        for row in story.differences()
        if spread[row.name] > 0
    ]
    panels = [
        Panel(
            "Gains over the base",
            "in standard deviations of the base's samples, with 95 % intervals over captions",
            charts.intervals(gains, alt="gain of every score over the base", x_label="gain in standard deviations")
            if gains
            else charts.empty("no gains yet"),
        )
    ]
    rows = story.looks[0].rows
    gaps = [
        (look.iteration, hacking_gap(base.among(rows), look.among(rows), story.run.trained)) for look in story.looks
    ]
    known = [(iteration, gap) for iteration, gap in gaps if gap is not None]
    if known:
        x = [0, *(iteration for iteration, _ in known)]
        panels.append(
            Panel(
                "Hacking gap",
                "mean gain of the trained rewards and of what was held out; when the first rises and the second does "
                "not, rewards are won and pictures are not",
                charts.lines(
                    [
                        Line("trained rewards", x, [0.0, *(gap.trained for _, gap in known)], "--c1", dots=True),
                        Line("held out", x, [0.0, *(gap.held_out for _, gap in known)], "--c4", dots=True),
                    ],
                    alt="mean gain of trained and of held-out scores over iterations",
                    x_label="iteration",
                    reference=0.0,
                ),
            )
        )
    kinds = by_kind(base, last)
    if kinds:
        names = [name for name in base.names if spread[name] > 0]
        table = np.full((len(kinds), len(names)), np.nan)
        for r, rows_of_kind in enumerate(kinds.values()):
            for row in rows_of_kind:
                if row.name in names:
                    table[r, names.index(row.name)] = row.difference / spread[row.name]
        panels.append(
            Panel(
                "Which captions gained",
                "gain in standard deviations, by kind of caption",
                charts.heat(
                    table,
                    alt="gain by kind of caption and score",
                    rows=list(kinds),
                    columns=names,
                    x_label="",
                    write=True,
                    tips=True,
                ),
            )
        )
    questions = by_question(base, last)
    if questions:
        table = np.array([[row.base, row.tuned, row.difference] for row in questions])
        names = [row.name for row in questions]
        panels.append(
            Panel(
                "What the exact checker says",
                "share of samples in which the question is answered right, over the captions that ask it",
                charts.heat(
                    table,
                    alt="checker's questions before and after",
                    rows=names,
                    columns=["base", "tuned", "change"],
                    x_label="",
                    write=True,
                    tips=True,
                ),
            )
        )
    return panels


def step_weights(story: Story) -> np.ndarray:
    """Mean weight `[steps, iterations]` over samples; NaN for a step that is never trained."""
    weights = np.stack([_mean(credit["weights"], (0, 1)) for credit in story.credits], axis=1)
    weights[(np.nan_to_num(weights) == 0).all(1)] = np.nan
    return weights


def when(story: Story) -> list[Panel]:
    """Where along the trajectory the credit went."""
    if not story.credits:
        return []
    weights = step_weights(story)
    steps = [f"step {n + 1}" for n in range(len(weights))]
    columns = [str(credit.iteration) for credit in story.credits]
    first, last = story.credits[0], story.credits[-1]
    levels = list(range(first["similarity"].shape[-1]))
    similar = [_mean(credit["similarity"], (0, 1)) for credit in (first, last)]
    gain = [np.diff(values) for values in similar]
    size = np.stack([_mean(np.abs(credit["per_step"]), (0, 1)) for credit in story.credits], axis=1)
    size[np.isnan(weights).all(1)] = np.nan
    return [
        Panel(
            "Weight of each step",
            "mean over samples; 1 is an even share, more is blue, less is orange; a step that is not trained is blank. "
            "Step 1 is the noisiest",
            charts.heat(
                weights,
                alt="mean weight by step and iteration",
                rows=steps,
                columns=columns,
                x_label="iteration",
                tips=True,
                low=1.0,
                limit=1.0,
                room=960.0,
            ),
            wide=True,
        ),
        Panel(
            "Size of the credit",
            "mean absolute credit: weight times advantage, what multiplies the loss",
            charts.heat(
                size,
                alt="mean absolute credit by step and iteration",
                room=960.0,
                rows=steps,
                columns=columns,
                x_label="iteration",
                tips=True,
            ),
            wide=True,
        ),
        Panel(
            "Similarity to the finished picture",
            "cosine of the latent after so many steps with the final one; credit follows its rises",
            charts.lines(
                [
                    Line(
                        f"iteration {first.iteration}", levels, similar[0].tolist(), "--muted", dashed=True, dots=True
                    ),
                    Line(f"iteration {last.iteration}", levels, similar[1].tolist(), "--c1", dots=True),
                ],
                alt="cosine similarity by step",
                x_label="steps taken",
            ),
        ),
        Panel(
            "Similarity gained by each step",
            "the rises of the curve beside; TCD's weights are their shares, with a floor",
            charts.lines(
                [
                    Line(
                        f"iteration {first.iteration}", levels[1:], gain[0].tolist(), "--muted", dashed=True, dots=True
                    ),
                    Line(f"iteration {last.iteration}", levels[1:], gain[1].tolist(), "--c1", dots=True),
                ],
                alt="similarity gained by step",
                x_label="step",
                reference=0.0,
                reference_name="",
            ),
        ),
    ]


@dataclass(frozen=True)
class Group:
    """One group's credit, to be chosen in the page."""

    label: str
    chart: str


def groups(story: Story) -> list[Group]:
    """Step x sample credit of every group of the first and the newest stored iteration."""
    shown = {credit.iteration: credit for credit in story.credits[:1] + story.credits[-1:]}
    found = []
    for credit in reversed(shown.values()):
        for p, prompt in enumerate(credit.prompts):
            per_step, mixed = credit["per_step"][p], credit["mixed"][p]
            order = np.argsort(-np.nan_to_num(mixed, nan=-np.inf))
            rows = [f"sample {member + 1}" for member in order]
            columns = [f"{n + 1}" for n in range(per_step.shape[1])]
            chart = charts.heat(
                per_step[order],
                alt=f"credit by sample and step for {prompt}",
                rows=rows,
                columns=columns,
                x_label="step",
                tips=True,
                write=per_step.size <= 200,
            )
            found.append(Group(f"iteration {credit.iteration}: {prompt}", chart))
    return found


def mixing(story: Story) -> list[Panel]:
    """How objectives were mixed, who counted, who was overruled."""
    if not story.credits:
        return []
    names = story.credits[-1].objectives
    x = [credit.iteration for credit in story.credits]
    zero = [float((credit["mixed"] == 0).mean()) for credit in story.credits]
    strength = [float(np.nanmean(credit["strength"])) for credit in story.credits]
    shares = np.array([_shares(credit) for credit in story.credits])
    overruled = np.array([_overruled(credit) for credit in story.credits])

    def each(values: np.ndarray) -> list[Line]:
        return [Line(name, x, _smooth(values[:, k].tolist()), story.colour(name)) for k, name in enumerate(names)]

    panels = [
        Panel(
            "Samples without credit",
            "share of samples whose mixed advantage is exactly 0: they teach nothing and cost no gradient",
            charts.lines(
                [Line("", x, zero, "--c1")], alt="share of samples with zero credit", x_label="iteration", floor=0.0
            ),
        ),
    ]
    if np.any(strength):
        panels.append(
            Panel(
                "Exploration strength",
                "MOCA's lambda, mean over samples: above 0 it leans to samples that are good on the whole",
                charts.lines(
                    [Line("", x, strength, "--c1")],
                    alt="mean lambda",
                    x_label="iteration",
                    reference=0.0,
                    reference_name="",
                ),
            )
        )
    panels += [
        Panel(
            "Which objective carries the credit",
            "share of the coefficients, over samples that have credit",
            charts.lines(each(shares), alt="share of each objective in the mix", x_label="iteration", floor=0.0),
        ),
        Panel(
            "Who is sacrificed",
            "share of samples with credit in which this objective wanted the opposite sign",
            charts.lines(
                each(overruled),
                alt="share of samples in which an objective is overruled",
                x_label="iteration",
                floor=0.0,
            ),
        ),
    ]
    return panels


def conflict(story: Story) -> list[Panel]:
    """How far the objectives agree within groups."""
    if not story.credits or len(story.credits[-1].objectives) < 2:
        return []
    names = story.credits[-1].objectives
    recent = story.credits[-20:]
    agreement = _mean(np.array([_correlation(credit["rewards"]) for credit in recent]))
    x = [credit.iteration for credit in story.credits]
    pairs = list(combinations(range(len(names)), 2))
    disagree = [
        Line(
            f"{names[a]} and {names[b]}",
            x,
            _smooth([_conflict(credit["advantages"], a, b) for credit in story.credits]),
            _COLOURS[i % len(_COLOURS)],
        )
        for i, (a, b) in enumerate(pairs)
    ]
    return [
        Panel(
            "Agreement of the rewards",
            "correlation within groups, mean of the last stored iterations; below 0 is orange",
            charts.heat(
                agreement,
                alt="correlation of rewards within groups",
                rows=list(names),
                columns=list(names),
                x_label="",
                write=True,
                tips=True,
                limit=1.0,
            ),
        ),
        Panel(
            "Conflict",
            "share of samples that one objective praises and the other blames",
            charts.lines(disagree, alt="share of samples in conflict", x_label="iteration", floor=0.0),
        ),
    ]


def update(story: Story) -> list[Panel]:
    """The optimiser's side."""
    panels = []
    wanted: list[tuple[str, str, str]] = [
        ("update/gradient_norm", "Gradient norm", "before clipping, mean of the updates of an iteration"),
        ("update/ratio_deviation", "Ratio deviation", "mean |ratio - 1| against the policy that sampled"),
        ("update/clip_fraction", "Clip fraction", "share of (sample, step) pairs cut off by the clip"),
        ("update/kl", "KL to the reference", "pull towards the policy before training"),
    ]
    for key, title, note in wanted:
        x, y = _series(story.metrics, key)
        if any(y):
            chart = charts.lines(
                [Line("", x, y, "--c1")], alt=f"{title} over iterations", x_label="iteration", floor=0.0
            )
            panels.append(Panel(title, note, chart))
    for key, title in (
        ("update/ratio_deviation", "Ratio deviation by step"),
        ("update/clip_fraction", "Clip fraction by step"),
    ):
        steps = sorted(
            {name.rpartition("/")[2] for line in story.metrics for name in line if name.startswith(f"{key}/")}
        )
        if not steps:
            continue
        chosen = _spread(story.metrics)
        table = np.array([[_float(line.get(f"{key}/{step}")) for line in chosen] for step in steps])
        rows = [f"step {int(step) + 1}" for step in steps]
        columns = [str(line["iteration"]) for line in chosen]
        chart = charts.heat(
            table, alt=title, rows=rows, columns=columns, x_label="iteration", tips=True, digits=6, room=960.0
        )
        panels.append(Panel(title, "the same, for each trained step", chart, wide=True))
    return panels


def _series(metrics: Sequence[dict], key: str) -> tuple[list[int], list[float]]:
    some = [(line["iteration"], _float(line[key])) for line in metrics if key in line]
    return [x for x, _ in some], [y for _, y in some]


def _float(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _smooth(values: Sequence[float]) -> list[float]:
    """A running mean over a tenth of the run."""
    known = np.array(values, dtype=float)
    half = max(len(known) // 20, 1)
    windows = [known[max(0, i - half) : i + half + 1] for i in range(len(known))]
    return [float(np.nanmean(w)) if np.isfinite(w).any() else float("nan") for w in windows]


def _spread(items: Sequence[Item]) -> list[Item]:
    """As many as a chart can show, evenly, with the first and the last."""
    if len(items) <= _MOST:
        return list(items)
    return [items[round(i)] for i in np.linspace(0, len(items) - 1, _MOST)]


def _mean(values: np.ndarray, axes: int | tuple[int, ...] = 0) -> np.ndarray:
    """Mean over what is finite, so a sample that broke is left out; NaN where nothing is known."""
    known = np.isfinite(values)
    counts = known.sum(axes)
    return np.where(counts > 0, np.where(known, values, 0).sum(axes) / np.maximum(counts, 1), np.nan)


def _shares(credit: StoredCredit) -> np.ndarray:
    counted = credit["coefficients"][credit["mixed"] != 0]
    total = np.nansum(np.abs(counted), axis=0)
    return total / total.sum() if total.sum() > 0 else np.full(len(credit.objectives), np.nan)


def _overruled(credit: StoredCredit) -> np.ndarray:
    has = credit["mixed"] != 0
    if not has.any():
        return np.full(len(credit.objectives), np.nan)
    return (np.nan_to_num(credit["advantages"][has]) * credit["mixed"][has][:, None] < 0).mean(0)


def _correlation(rewards: np.ndarray) -> np.ndarray:
    """Mean over groups of the correlation of each two objectives, `[P, G, K] -> [K, K]`."""
    centred = rewards - _mean(rewards.swapaxes(0, 1))[:, None]
    size = np.sqrt(np.nansum(centred**2, axis=1))
    products = np.nansum(centred[:, :, :, None] * centred[:, :, None, :], axis=1)
    scale = size[:, :, None] * size[:, None, :]
    return _mean(np.where(scale > 1e-12, products / np.maximum(scale, 1e-12), np.nan))


def _deviation(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.std()) if known.size else 0.0


def _conflict(advantages: np.ndarray, a: int, b: int) -> float:
    return float((np.nan_to_num(advantages[..., a]) * np.nan_to_num(advantages[..., b]) < 0).mean())


SECTIONS: list[tuple[str, str, Callable[[Story], list[Panel]]]] = [
    ("rewards", "Rewards over time", curves),
    ("outcome", "Did the samples get better?", outcome),
    ("when", "Which steps received the credit", when),
    ("mixing", "How the objectives were mixed", mixing),
    ("conflict", "Do the rewards agree?", conflict),
    ("update", "The updates", update),
]
