"""Pictures and tables of the studies in `bench/`: the credit oracle and the paper's tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

from stepcredit.files import figures, screen
from stepcredit.files.tables import markdown_table, plus_minus
from stepcredit.files.text import write_json, write_text
from stepcredit.runs.compare import half_width

_COLOURS = ("#2463c8", "#b4560a", "#1f7a4d", "#8a3fb0", "#0e7c86", "#b0305c", "#7a6a00", "#444444")
_ROUNDING = 1e-12  # means that are equal but for their last digits are bold together


def mean_and_half(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half a 95 % interval over seeds, by Student's t; NaN for a single one."""
    array = np.asarray(values, dtype=float)
    return float(array.mean()), float(half_width(array))


def oracle_table(rows: Sequence[Mapping[str, Any]], problem: str) -> str:
    """E[cos] at equal cost and bias of every rule on one problem, three columns for each sampler."""
    of_problem = [row for row in rows if row["problem"] == problem]
    samplers = list(dict.fromkeys(row["sampler"] for row in of_problem))
    rules = list(dict.fromkeys(row["rule"] for row in of_problem))
    qualities = {(row["rule"], row["sampler"]): row["qualities"] for row in of_problem}
    best = {sampler: _best_cosine(of_problem, sampler) for sampler in samplers}
    lines = []
    for rule in rules:
        cells = []
        for sampler in samplers:
            cells += _quality_cells(qualities[rule, sampler], best[sampler])
        cost = np.mean([quality["cost"] for sampler in samplers for quality in qualities[rule, sampler]])
        lines.append([rule, f"{cost:.0f}", *cells])
    head = ["rule", "cost of a group", *(f"{name} {what}" for name in samplers for what in ("E[cos]", "bias", "SNR"))]
    return markdown_table(head, lines)


def _numbers(qualities: Sequence[Mapping[str, float]], key: str) -> list[float]:
    """One quality of every seed."""
    return [quality[key] for quality in qualities]


def _best_cosine(rows: Sequence[Mapping[str, Any]], sampler: str) -> float:
    return max(float(np.mean(_numbers(row["qualities"], "cosine"))) for row in rows if row["sampler"] == sampler)


def _quality_cells(qualities: Sequence[Mapping[str, float]], best: float) -> list[str]:
    mean, half = mean_and_half(_numbers(qualities, "cosine"))
    return [
        _bold(plus_minus(mean, half, ".3f"), mean >= best - _ROUNDING),
        f"{np.mean(_numbers(qualities, 'bias')):.3f}",
        f"{np.mean(_numbers(qualities, 'snr')):.2f}",
    ]


def _bold(text: str, is_bold: bool) -> str:
    return f"**{text}**" if is_bold else text


@figures.literal_text()
def draw_oracle(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """E[cos] of every rule at equal cost with 95 % intervals over seeds; the bias as an open mark, 1 - bias."""
    problems = list(dict.fromkeys(row["problem"] for row in rows))
    samplers = list(dict.fromkeys(row["sampler"] for row in rows))
    rules = list(dict.fromkeys(row["rule"] for row in rows))
    figure = Figure(figsize=(3.6 * len(problems) + 2.6, 0.3 * len(rules) + 1.9), dpi=130, facecolor="white")
    panels = figure.subplots(1, len(problems), sharey=True, squeeze=False)[0]
    least = min(min(quality["cosine"], 1 - quality["bias"]) for row in rows for quality in row["qualities"])
    for axes, problem in zip(panels, problems, strict=True):
        for index, sampler in enumerate(samplers):
            # the marks of a rule's samplers stand around its height, apart from each other
            shift = ((len(samplers) - 1) / 2 - index) * 0.64 / len(samplers)
            of_sampler = [row for row in rows if (row["sampler"], row["problem"]) == (sampler, problem)]
            _draw_qualities(axes, of_sampler, rules, colour=_COLOURS[index % len(_COLOURS)], shift=shift)
        axes.set_title(figures.name(problem), fontsize=10, loc="left")
        axes.set_xlabel("cosine with the true gradient", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.set_xlim(min(0, least - 0.05), 1.02)
        axes.set_ylim(-0.6, len(rules) - 0.4)
        axes.grid(axis="both", color="#eeeeee")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(_heights(rules), list(map(figures.name, rules)))
    # Empty plots, for the legend alone: labels on the marks themselves would be listed once for every rule.
    for sampler, colour in zip(samplers, _COLOURS * 9, strict=False):
        panels[0].plot([], [], "o", color=colour, label=figures.name(sampler))
    panels[0].plot([], [], "k|", label="mean estimate (1 - bias)")
    handles, labels = panels[0].get_legend_handles_labels()
    _legend_above(figure, handles, labels)
    figures.save(figure, path)


def _heights(rules: Sequence[str]) -> np.ndarray:
    """Where each rule stands, the first on top."""
    return np.arange(len(rules))[::-1]


def _draw_qualities(
    axes: Axes, rows: Sequence[Mapping[str, Any]], rules: Sequence[str], *, colour: str, shift: float
) -> None:
    """The rules of one sampler on one problem; a rule that did not run there has no mark."""
    qualities = {row["rule"]: row["qualities"] for row in rows}
    for y, rule in zip(_heights(rules), rules, strict=True):
        if rule not in qualities:
            continue
        mean, half = mean_and_half(_numbers(qualities[rule], "cosine"))
        interval = np.nan_to_num(half)  # a single seed has none: its mark stands alone
        axes.errorbar(mean, y + shift, xerr=interval, fmt="o", color=colour, markersize=4, linewidth=1)
        unbiased = 1 - np.mean(_numbers(qualities[rule], "bias"))
        axes.plot(unbiased, y + shift, marker="|", color=colour, markersize=7, alpha=0.7)


def _legend_above(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """In as many rows as the width asks for, with room for them."""
    # matplotlib cannot say how wide a legend is before it is drawn: .075 inches a letter of 8 points
    columns = max(1, int(figure.get_figwidth() / (0.55 + 0.075 * max(map(len, labels)))))
    rows = -(-len(labels) // columns)
    figure.legend(handles, labels, loc="upper center", ncols=columns, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 1 - (0.2 + 0.19 * rows) / figure.get_figheight()))


def gains_table(study: Mapping[str, Any]) -> str:
    """The paper's Table 1 and 4: gain over the base by score, mean over seeds with intervals, and what it cost."""
    scores = list(study["base"])
    arms = study["arms"]
    best = {score: _best_gain(arms, score) for score in scores}
    lines = [["base (no training)", "", "", *(f"{study['base'][score]:.4f}" for score in scores)]]
    for name, arm in arms.items():
        cells = []
        for score in scores:
            mean, half = mean_and_half(arm["gains"][score])
            cells.append(_bold(plus_minus(mean, half), mean >= best[score] - _ROUNDING))
        lines.append([name, f"{np.mean(arm['iterations']):.0f}", f"{np.mean(arm['forwards']) / 1000:.0f} k", *cells])
    labels = [f"{score} ({'trained' if score in study['trained'] else 'held out'})" for score in scores]
    return markdown_table(["method", "iterations", "forwards", *labels], lines)


def _best_gain(arms: Mapping[str, Any], score: str) -> float:
    return max(float(np.mean(arm["gains"][score])) for arm in arms.values())


def against(study: Mapping[str, Any], reference: str) -> str:
    """Every other row minus one, paired by seed: mean and 95 % interval, bold where it leaves out 0."""
    scores = list(study["base"])
    base = study["arms"][reference]
    lines = []
    for name, arm in study["arms"].items():
        shared = [seed for seed in arm["seeds"] if seed in base["seeds"]]
        if name == reference or not shared:
            continue
        cells = []
        for score in scores:
            mean, half = mean_and_half([_gain(arm, score, seed) - _gain(base, score, seed) for seed in shared])
            cells.append(_bold(plus_minus(mean, half), abs(mean) > half))  # never of a single seed: half is NaN
        lines.append([name, *cells])
    return markdown_table([f"minus {reference}", *scores], lines)


def _gain(arm: Mapping[str, Any], score: str, seed: int) -> float:
    return arm["gains"][score][arm["seeds"].index(seed)]


def proxy_table(study: Mapping[str, Any]) -> str:
    """The paper's Table 5: similarity gain against reward gain, each number beside its shuffled null."""
    keys = {
        "pearson": "Pearson",
        "spearman": "Spearman",
        "argmax_distance": "argmax distance",
        "recall_3": "recall@3",
        "recall_5": "recall@5",
    }
    lines = []
    for reward, kinds in study["rows"].items():
        for kind, row in kinds.items():
            cells = [f"{row['within'][key]:.3f} (null {row['null'][key]:.3f})" for key in keys]
            lines.append([reward, kind, *cells, f"{row['residual']:+.3f}"])
    head = ["reward", "what is compared", *keys.values(), "Pearson left without step means"]
    return markdown_table(head, lines, left=2)


@figures.literal_text()
def draw_curves(study: Mapping[str, Any], path: Path) -> None:
    """The paper's Figure 5: training rewards over cost, mean of the seeds with a 95 % band."""
    trained = study["trained"]
    figure = Figure(figsize=(4.2 * len(trained), 3.6), dpi=130, facecolor="white")
    panels = figure.subplots(1, len(trained), squeeze=False)[0]
    # to where the cheapest run ends: beyond, a mean would be of other seeds than before
    end = min(max(curve["forwards"]) for arm in study["arms"].values() for curve in arm["curves"])
    costs = np.linspace(end / 60, end, 60)
    for axes, score in zip(panels, trained, strict=True):
        for (name, arm), colour in zip(study["arms"].items(), _COLOURS * 9, strict=False):
            curves = np.array([_reward_at(curve, score, costs) for curve in arm["curves"]])
            mean = np.mean(curves, axis=0)
            axes.plot(costs / 1000, mean, color=colour, label=figures.name(name), linewidth=1.5)
            if len(curves) > 1:
                half = half_width(curves)
                axes.fill_between(costs / 1000, mean - half, mean + half, color=colour, alpha=0.12, linewidth=0)
        axes.set_title(f"{figures.name(score)}, training captions", fontsize=10, loc="left")
        axes.set_xlabel("thousand network forwards", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    _legend_above(figure, handles, labels)
    figures.save(figure, path)


def _reward_at(curve: Mapping[str, Any], score: str, costs: np.ndarray) -> np.ndarray:
    """The smoothed reward of one run at these costs; null, which could not be scored, is NaN."""
    return np.interp(costs, curve["forwards"], _smoothed(np.array(curve[score], dtype=float)))


def _smoothed(values: np.ndarray, width: int = 9) -> np.ndarray:
    """A running mean over what could be scored; training captions change from iteration to iteration."""
    width = min(width, len(values))
    # the ends are repeated, so that the curve is as long as before and does not sink to zero there
    padded = np.pad(values, (width // 2, width - 1 - width // 2), mode="edge")
    known = np.isfinite(padded)
    window = np.ones(width)
    sums = np.convolve(np.where(known, padded, 0), window, mode="valid")
    counts = np.convolve(known, window, mode="valid")
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def show_oracle(study: Mapping[str, Any], out: Path, console: Console) -> None:
    """Write OUT.md, OUT.png and OUT.json and print the tables."""
    parts = []
    for problem in dict.fromkeys(row["problem"] for row in study["rows"]):
        parts += [f"### {problem}", oracle_table(study["rows"], problem)]
    parts.append(
        f"{study['seeds']} seeds of {study['groups']} groups of 12 samples; ± is half a 95 % interval over seeds "
        "(Student's t). An estimate costs as much as four plain groups, counted in forwards, backwards (two each) "
        "and scores; E[cos] is its mean cosine with the true gradient, bias 1 minus the mean estimate's, SNR "
        "the length of the mean over the root mean square deviation. Rules run at their own settings on the sampler "
        "named, with their own noise sharing, windows and fractions."
    )
    parts += ["### exact law of the kernels", kernel_table(study["kernels"])]
    parts += ["### similarity gain against reward gain", null_table(study["similarity"])]
    page, picture, numbers = (out.with_name(f"{out.name}{end}") for end in (".md", ".png", ".json"))
    _write_and_print("\n\n".join(parts) + "\n", page, console)
    write_json(numbers, study)
    draw_oracle(study["rows"], picture)
    console.print(screen.plain(f"{page}   {picture}   {numbers}"), highlight=False, soft_wrap=True, markup=False)


def _write_and_print(text: str, page: Path, console: Console) -> None:
    write_text(page, text)
    # no markup: names in [brackets] would be lost; no wrapping: a row of a table is one line
    console.print(screen.plain(text), highlight=False, soft_wrap=True, markup=False)


def kernel_table(kernels: Mapping[str, Any]) -> str:
    """Distance to the true law and variance within a mode, by steps."""
    steps = list(next(iter(kernels.values())))
    rows = [[name, *map(_law_cell, errors.values())] for name, errors in kernels.items()]  # the same steps for all
    return markdown_table(["kernel", *(f"{n} steps: distance / variance (truth 0 / 0.150)" for n in steps)], rows)


def _law_cell(error: Mapping[str, float]) -> str:
    return f"{error['distance']:.3f} / {error['variance']:.3f}"


def null_table(samplers: Mapping[str, Any]) -> str:
    """On the exact flow: correlation within a trajectory, with another one's similarity, and without step means."""
    rows = [
        [
            name,
            f"{row['within']['pearson']:.3f}",
            f"{row['null']['pearson']:.3f}",
            f"{row['residual']:+.3f}",
            str(row["trajectories"]),
        ]
        for name, row in samplers.items()
    ]
    return markdown_table(["sampler", "Pearson", "shuffled null", "without step means", "trajectories"], rows)


def show_paper(study: Mapping[str, Any], folder: Path, console: Console) -> None:
    """Write results.md, curves.png and results.json into the study's folder and print the tables."""
    arms = study["arms"]
    counts = sorted({len(arm["seeds"]) for arm in arms.values()})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    parts = ["### Gains over the base (the paper's Tables 1 and 4)", gains_table(study)]
    parts.append(
        f"{seeds} seeds of each method, {study['budget']:,} network forwards each (a forward with gradient counts as "
        f"three), {study['pictures']} held-out pictures of the same captions and noise for all; mean over seeds ± half "
        "a 95 % interval (Student's t). Bold is the largest mean, not a verdict."
    )
    for reference in ("dance_grpo", "otca"):
        if reference in arms and len(arms) > 1:
            parts += [f"### Paired with {reference}", against(study, reference)]
    parts.append("Differences of runs with the same seed and captions; bold where the 95 % interval leaves out 0.")
    parts += ["### Similarity gain against reward gain (the paper's Table 5)", proxy_table(study["proxy"])]
    parts.append(
        f"{study['proxy']['trajectories']} trajectories of the base model, {study['proxy']['size']['steps']} steps. In "
        "parentheses the same with the similarity of another trajectory: what remains there comes from the noise "
        "schedule."
    )
    _write_and_print("\n\n".join(parts) + "\n", folder / "results.md", console)
    write_json(folder / "results.json", study)
    draw_curves(study, folder / "curves.png")
    console.print(
        screen.plain(f"{folder / 'results.md'}   {folder / 'curves.png'}"),
        highlight=False,
        soft_wrap=True,
        markup=False,
    )
