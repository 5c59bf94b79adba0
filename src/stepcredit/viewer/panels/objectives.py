"""How the objectives were mixed, and whether they agree."""

from itertools import combinations

import numpy as np

from stepcredit.runs.reader import StoredCredit
from stepcredit.viewer import charts
from stepcredit.viewer.charts import Line
from stepcredit.viewer.panels.story import COLOURS, Panel, Story, known_mean, smooth

_RECENT = 20  # stored iterations whose correlations are averaged: one has too few samples in a group to say much
_NO_SPREAD = 1e-12  # of an objective within a group: below it a correlation is noise divided by noise


def mixing(story: Story) -> list[Panel]:
    """How objectives were mixed, who counted, who was overruled."""
    if not story.credits:
        return []
    return [_without_credit(story), *_exploration(story), *_each_objective(story)]


def _iterations(story: Story) -> list[int]:
    return [credit.iteration for credit in story.credits]


def _without_credit(story: Story) -> Panel:
    shares = [float((credit["mixed"] == 0).mean()) for credit in story.credits]
    line = Line("", _iterations(story), shares, "--c1")
    return Panel(
        "Samples without credit",
        "share of samples whose mixed advantage is exactly 0: they teach nothing and cost no gradient",
        charts.lines([line], alt="share of samples with zero credit", x_label="iteration", floor=0.0),
    )


def _exploration(story: Story) -> list[Panel]:
    """Of methods that have it; others store zeros."""
    strengths = [float(np.nanmean(credit["strength"])) for credit in story.credits]
    if not np.any(strengths):
        return []
    line = Line("", _iterations(story), strengths, "--c1")
    chart = charts.lines([line], alt="mean lambda", x_label="iteration", reference=0.0, reference_name="")
    note = "MOCA's lambda, mean over samples: above 0 it leans to samples that are good on the whole"
    return [Panel("Exploration strength", note, chart)]


def _each_objective(story: Story) -> list[Panel]:
    shares = charts.lines(
        _lines(story, np.array([_shares(credit) for credit in story.credits])),
        alt="share of each objective in the mix",
        x_label="iteration",
        floor=0.0,
    )
    overruled = charts.lines(
        _lines(story, np.array([_overruled(credit) for credit in story.credits])),
        alt="share of samples in which an objective is overruled",
        x_label="iteration",
        floor=0.0,
    )
    overruled_note = "share of samples with credit in which this objective wanted the opposite sign"
    return [
        Panel("Which objective carries the credit", "share of the coefficients, over samples that have credit", shares),
        Panel("Who is sacrificed", overruled_note, overruled),
    ]


def _lines(story: Story, values: np.ndarray) -> list[Line]:
    """A smoothed line for each objective of `values [iterations, K]`."""
    names = story.credits[-1].objectives
    x = _iterations(story)
    return [Line(name, x, smooth(values[:, k].tolist()), story.colour(name)) for k, name in enumerate(names)]


def conflict(story: Story) -> list[Panel]:
    """How far the objectives agree within groups."""
    if not story.credits or len(story.credits[-1].objectives) < 2:
        return []
    names = list(story.credits[-1].objectives)
    recent = story.credits[-_RECENT:]
    agreement = charts.heat(
        known_mean(np.array([_correlation(credit["rewards"]) for credit in recent])),
        alt="correlation of rewards within groups",
        rows=names,
        columns=names,
        x_label="",
        write=True,
        tips=True,
        limit=1.0,
    )
    disagreement = charts.lines(
        _disagreements(story), alt="share of samples in conflict", x_label="iteration", floor=0.0
    )
    agreement_note = "correlation within groups, mean of the last stored iterations; below 0 is orange"
    return [
        Panel("Agreement of the rewards", agreement_note, agreement),
        Panel("Conflict", "share of samples that one objective praises and the other blames", disagreement),
    ]


def _disagreements(story: Story) -> list[Line]:
    """A line for every two objectives."""
    # colours by pair: a pair has two objectives, so that the colour of neither would be its own
    names = story.credits[-1].objectives
    lines = []
    for index, (a, b) in enumerate(combinations(range(len(names)), 2)):
        shares = smooth([_conflict(credit["advantages"], a, b) for credit in story.credits])
        colour = COLOURS[index % len(COLOURS)]
        lines.append(Line(f"{names[a]} and {names[b]}", _iterations(story), shares, colour))
    return lines


def _shares(credit: StoredCredit) -> np.ndarray:
    """`[K]`, of the sum of all |coefficients|; NaN where no sample has credit."""
    counted = credit["coefficients"][credit["mixed"] != 0]
    total = np.nansum(np.abs(counted), axis=0)
    return total / total.sum() if total.sum() > 0 else np.full(len(credit.objectives), np.nan)


def _overruled(credit: StoredCredit) -> np.ndarray:
    """`[K]`, of the samples with credit; an objective without an opinion (NaN) is never overruled."""
    has_credit = credit["mixed"] != 0
    if not has_credit.any():
        return np.full(len(credit.objectives), np.nan)
    products = np.nan_to_num(credit["advantages"][has_credit]) * credit["mixed"][has_credit][:, None]
    return (products < 0).mean(0)


def _correlation(rewards: np.ndarray) -> np.ndarray:
    """Mean over groups of the correlation of each two objectives, `[P, G, K] -> [K, K]`."""
    # by hand, since np.corrcoef knows neither groups nor NaN; within groups, since captions differ in level
    centred = rewards - known_mean(rewards.swapaxes(0, 1))[:, None]
    size = np.sqrt(np.nansum(centred**2, axis=1))
    products = np.nansum(centred[:, :, :, None] * centred[:, :, None, :], axis=1)
    scale = size[:, :, None] * size[:, None, :]
    return known_mean(np.where(scale > _NO_SPREAD, products / np.maximum(scale, _NO_SPREAD), np.nan))


def _conflict(advantages: np.ndarray, a: int, b: int) -> float:
    # no opinion (NaN) counts as 0, which conflicts with nobody
    return float((np.nan_to_num(advantages[..., a]) * np.nan_to_num(advantages[..., b]) < 0).mean())
