"""Pictures and tables of the studies in `bench/`: the credit oracle and the paper's tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from stepcredit.files.text import write_json, write_text
from stepcredit.runs.compare import half_width

_COLOURS = ("#2463c8", "#b4560a", "#1f7a4d", "#8a3fb0", "#0e7c86", "#b0305c", "#7a6a00", "#444444")


def mean_and_half(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half a 95 % interval over seeds, by Student's t; NaN for a single one."""
    array = np.asarray(values, dtype=float)
    return float(array.mean()), float(half_width(array))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, first column left."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def oracle_table(rows: Sequence[Mapping[str, Any]], problem: str) -> str:
    """E[cos] at equal cost and bias of every rule on one problem, a column pair for each sampler."""
    mine = [row for row in rows if row["problem"] == problem]
    samplers = list(dict.fromkeys(row["sampler"] for row in mine))
    rules = list(dict.fromkeys(row["rule"] for row in mine))
    found = {(row["rule"], row["sampler"]): row["qualities"] for row in mine}
    best = {name: max(float(np.mean([q["cosine"] for q in found[rule, name]])) for rule in rules) for name in samplers}
    lines = []
    for rule in rules:
        cells = []
        for name in samplers:
            qualities = found[rule, name]
            mean, half = mean_and_half([q["cosine"] for q in qualities])
            text = f"{mean:.3f} ± {half:.3f}" if np.isfinite(half) else f"{mean:.3f}"
            cells.append(f"**{text}**" if mean >= best[name] - 1e-12 else text)
            cells.append(f"{np.mean([q['bias'] for q in qualities]):.3f}")
            cells.append(f"{np.mean([q['snr'] for q in qualities]):.2f}")
        cost = np.mean([q["cost"] for name in samplers for q in found[rule, name]])
        lines.append([rule, f"{cost:.0f}", *cells])
    head = ["rule", "cost of a group", *(f"{name} {what}" for name in samplers for what in ("E[cos]", "bias", "SNR"))]
    return table(head, lines)


def draw_oracle(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """E[cos] of every rule at equal cost with 95 % intervals over seeds; the bias as an open mark, 1 - bias."""
    problems = list(dict.fromkeys(row["problem"] for row in rows))
    samplers = list(dict.fromkeys(row["sampler"] for row in rows))
    rules = list(dict.fromkeys(row["rule"] for row in rows))
    figure = Figure(figsize=(3.6 * len(problems) + 2.6, 0.3 * len(rules) + 1.9), dpi=130, facecolor="white")
    panels = figure.subplots(1, len(problems), sharey=True, squeeze=False)[0]
    height = np.arange(len(rules))[::-1]
    least = min(min(quality["cosine"], 1 - quality["bias"]) for row in rows for quality in row["qualities"])
    for axes, problem in zip(panels, problems, strict=True):
        for index, (sampler, colour) in enumerate(zip(samplers, _COLOURS, strict=False)):
            shift = ((len(samplers) - 1) / 2 - index) * 0.64 / len(samplers)
            for y, rule in zip(height, rules, strict=True):
                found = [r for r in rows if (r["rule"], r["sampler"], r["problem"]) == (rule, sampler, problem)]
                if not found:
                    continue
                qualities = found[0]["qualities"]
                mean, half = mean_and_half([q["cosine"] for q in qualities])
                axes.errorbar(
                    mean, y + shift, xerr=np.nan_to_num(half), fmt="o", color=colour, markersize=4, linewidth=1
                )
                unbiased = 1 - np.mean([q["bias"] for q in qualities])
                axes.plot(unbiased, y + shift, marker="|", color=colour, markersize=7, alpha=0.7)
        axes.set_title(problem, fontsize=10, loc="left")
        axes.set_xlabel("cosine with the true gradient", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.set_xlim(min(0, least - 0.05), 1.02)
        axes.set_ylim(-0.6, len(rules) - 0.4)
        axes.grid(axis="both", color="#eeeeee")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(height, rules)
    for sampler, colour in zip(samplers, _COLOURS, strict=False):
        panels[0].plot([], [], "o", color=colour, label=sampler)
    panels[0].plot([], [], "k|", label="mean estimate (1 - bias)")
    handles, labels = panels[0].get_legend_handles_labels()
    _legend_above(figure, handles, labels)
    figure.savefig(path)


def _legend_above(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """In as many rows as the width asks for, with room for them."""
    columns = max(1, int(figure.get_figwidth() / (0.55 + 0.075 * max(map(len, labels)))))
    rows = -(-len(labels) // columns)
    figure.legend(handles, labels, loc="upper center", ncols=columns, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 1 - (0.2 + 0.19 * rows) / figure.get_figheight()))


def gains_table(found: Mapping[str, Any]) -> str:
    """The paper's Table 1 and 4: gain over the base by score, mean over seeds with intervals, and what it cost."""
    scores = list(found["base"])
    arms = found["arms"]
    best = {score: max(float(np.mean(arm["gains"][score])) for arm in arms.values()) for score in scores}
    lines = [["base (no training)", "", "", *(f"{found['base'][score]:.4f}" for score in scores)]]
    for name, arm in arms.items():
        cells = []
        for score in scores:
            mean, half = mean_and_half(arm["gains"][score])
            text = f"{mean:+.4f}" + (f" ± {half:.4f}" if np.isfinite(half) else "")
            cells.append(f"**{text}**" if mean >= best[score] - 1e-12 else text)
        lines.append([name, f"{np.mean(arm['iterations']):.0f}", f"{np.mean(arm['forwards']) / 1000:.0f} k", *cells])
    labels = [f"{score} ({'trained' if score in found['trained'] else 'held out'})" for score in scores]
    return table(["method", "iterations", "forwards", *labels], lines)


def against(found: Mapping[str, Any], reference: str) -> str:
    """Every other row minus one, paired by seed: mean and 95 % interval, bold where it leaves out 0."""
    scores = list(found["base"])
    base = found["arms"][reference]
    lines = []
    for name, arm in found["arms"].items():
        shared = [seed for seed in arm["seeds"] if seed in base["seeds"]]
        if name == reference or not shared:
            continue
        cells = []
        for score in scores:
            pairs = [
                arm["gains"][score][arm["seeds"].index(seed)] - base["gains"][score][base["seeds"].index(seed)]
                for seed in shared
            ]
            mean, half = mean_and_half(pairs)
            text = f"{mean:+.4f}" + (f" ± {half:.4f}" if np.isfinite(half) else "")
            cells.append(f"**{text}**" if abs(mean) > half else text)
        lines.append([name, *cells])
    return table([f"minus {reference}", *scores], lines)


def proxy_table(found: Mapping[str, Any]) -> str:
    """The paper's Table 5: similarity gain against reward gain, each number beside its shuffled null."""
    keys = {
        "pearson": "Pearson",
        "spearman": "Spearman",
        "argmax_distance": "argmax distance",
        "recall_3": "recall@3",
        "recall_5": "recall@5",
    }
    lines = []
    for reward, kinds in found["rows"].items():
        for kind, row in kinds.items():
            cells = [f"{row['within'][key]:.3f} (null {row['null'][key]:.3f})" for key in keys]
            lines.append([reward, kind, *cells, f"{row['residual']:+.3f}"])
    return table(["reward", "what is compared", *keys.values(), "Pearson left without step means"], lines)


def draw_curves(found: Mapping[str, Any], path: Path) -> None:
    """The paper's Figure 5: training rewards over cost, mean of the seeds with a 95 % band."""
    trained = found["trained"]
    figure = Figure(figsize=(4.2 * len(trained), 3.6), dpi=130, facecolor="white")
    panels = figure.subplots(1, len(trained), squeeze=False)[0]
    end = min(max(curve["forwards"]) for arm in found["arms"].values() for curve in arm["curves"])
    costs = np.linspace(end / 60, end, 60)
    for axes, score in zip(panels, trained, strict=True):
        for (name, arm), colour in zip(found["arms"].items(), _COLOURS * 9, strict=False):
            smooth = [
                np.interp(costs, curve["forwards"], _smoothed(np.array(curve[score], dtype=float)))
                for curve in arm["curves"]
            ]
            mean = np.mean(smooth, axis=0)
            axes.plot(costs / 1000, mean, color=colour, label=name, linewidth=1.5)
            if len(smooth) > 1:
                half = half_width(np.array(smooth))
                axes.fill_between(costs / 1000, mean - half, mean + half, color=colour, alpha=0.12, linewidth=0)
        axes.set_title(f"{score}, training captions", fontsize=10, loc="left")
        axes.set_xlabel("thousand network forwards", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    _legend_above(figure, handles, labels)
    figure.savefig(path)


def _smoothed(values: np.ndarray, width: int = 9) -> np.ndarray:
    """A running mean over what could be scored; training captions change from iteration to iteration."""
    width = min(width, len(values))
    padded = np.pad(values, (width // 2, width - 1 - width // 2), mode="edge")
    known = np.isfinite(padded)
    sums, counts = (np.convolve(part, np.ones(width), mode="valid") for part in (np.where(known, padded, 0), known))
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def show_oracle(found: Mapping[str, Any], out: Path, console: Console) -> None:
    """Write OUT.md, OUT.png and OUT.json and print the tables."""
    problems = list(dict.fromkeys(row["problem"] for row in found["rows"]))
    parts = []
    for problem in problems:
        parts += [f"### {problem}", oracle_table(found["rows"], problem)]
    parts.append(
        f"{found['seeds']} seeds of {found['groups']} groups of 12 samples; ± is half a 95 % interval over seeds "
        "(Student's t). An estimate costs as much as four plain groups, counted in forwards, backwards (two each) "
        "and scores; E[cos] is its mean cosine with the true gradient, bias 1 minus the mean estimate's, SNR "
        "the length of the mean over the root mean square deviation. Rules run at their own settings on the sampler "
        "named, with their own noise sharing, windows and fractions."
    )
    parts += ["### exact law of the kernels", kernel_table(found["kernels"])]
    parts += ["### similarity gain against reward gain", null_table(found["similarity"])]
    page, picture, data = (out.with_name(f"{out.name}{end}") for end in (".md", ".png", ".json"))
    text = "\n\n".join(parts) + "\n"
    write_text(page, text)
    write_json(data, found)
    draw_oracle(found["rows"], picture)
    console.print(text, highlight=False, soft_wrap=True, markup=False)
    console.print(f"{page}   {picture}   {data}", highlight=False, soft_wrap=True, markup=False)


def kernel_table(found: Mapping[str, Any]) -> str:
    """Distance to the true law and variance within a mode, by steps."""
    steps = list(next(iter(found.values())))
    rows = [
        [name, *(f"{errors[n]['distance']:.3f} / {errors[n]['variance']:.3f}" for n in steps)]
        for name, errors in found.items()
    ]
    return table(["kernel", *(f"{n} steps: distance / variance (truth 0 / 0.150)" for n in steps)], rows)


def null_table(found: Mapping[str, Any]) -> str:
    """On the exact flow: correlation within a trajectory, with another one's similarity, and without step means."""
    rows = [
        [
            name,
            f"{row['within']['pearson']:.3f}",
            f"{row['null']['pearson']:.3f}",
            f"{row['residual']:+.3f}",
            str(row["trajectories"]),
        ]
        for name, row in found.items()
    ]
    return table(["sampler", "Pearson", "shuffled null", "without step means", "trajectories"], rows)


def show_paper(found: Mapping[str, Any], folder: Path, console: Console) -> None:
    """Write results.md, curves.png and results.json into the study's folder and print the tables."""
    arms = found["arms"]
    seeds = sorted({len(arm["seeds"]) for arm in arms.values()})
    told = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    parts = ["### Gains over the base (the paper's Tables 1 and 4)", gains_table(found)]
    parts.append(
        f"{told} seeds of each method, {found['budget']:,} network forwards each (a forward with gradient counts as "
        f"three), {found['pictures']} held-out pictures of the same captions and noise for all; mean over seeds ± half "
        "a 95 % interval (Student's t). Bold is the largest mean, not a verdict."
    )
    for reference in ("dance_grpo", "otca"):
        if reference in arms and len(arms) > 1:
            parts += [f"### Paired with {reference}", against(found, reference)]
    parts.append("Differences of runs with the same seed and captions; bold where the 95 % interval leaves out 0.")
    parts += ["### Similarity gain against reward gain (the paper's Table 5)", proxy_table(found["proxy"])]
    parts.append(
        f"{found['proxy']['trajectories']} trajectories of the base model, {found['proxy']['size']['steps']} steps. In "
        "parentheses the same with the similarity of another trajectory: what remains there comes from the noise "
        "schedule."
    )
    text = "\n\n".join(parts) + "\n"
    write_text(folder / "results.md", text)
    write_json(folder / "results.json", found)
    draw_curves(found, folder / "curves.png")
    console.print(text, highlight=False, soft_wrap=True, markup=False)
    console.print(f"{folder / 'results.md'}   {folder / 'curves.png'}", highlight=False, soft_wrap=True, markup=False)
