"""Figures and measured tables of docs/methods/.

python scripts/method_pages.py                                   draws docs/images/methods/*.png; a minute on two cores
python scripts/method_pages.py --measured bench_credit.json      fills "## Measured" from `stepcredit bench credit`
"""

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stepcredit.files.tables import markdown_table
from stepcredit.methods import names
from stepcredit.viewer.benchmarks import mean_and_half

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "methods"
PICTURES = ROOT / "docs" / "images" / "methods"
PLAIN = "dance_grpo"
STEPS = 10
# What stands between the markers is replaced; the rest of a page is written by hand.
MARKED = re.compile(r"(?<=<!-- measured -->\n).*?(?=<!-- /measured -->)", re.DOTALL)
FLAGS = ["--rollout.steps", str(STEPS)]


def draw(stored: Path) -> None:
    """A picture for each method, from one rollout, which is kept at `stored` so that it is drawn only once."""
    # Torch takes seconds to import, and `--measured` needs none of it.
    from dataclasses import replace

    from stepcredit.recipe.load import load_recipe
    from stepcredit.recipe.recipe import method_named
    from stepcredit.studies import frozen

    if not stored.exists():
        frozen.store(stored, *frozen.draw(load_recipe("scenes", ["--method", "dance_grpo", *FLAGS])))
    evidence, _ = frozen.load(stored)
    plain = frozen.every_rule(evidence, [PLAIN]).verdicts[PLAIN].effective
    order = plain[0].sum(-1).argsort(descending=True)
    trained = evidence.trained[0, 0].numpy()
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name in names():
        # One rollout for all, whoever drew it: a method's own sampler says what its steps would count.
        sampler = method_named(name).sampler.at(evidence.transitions.levels)
        as_if = replace(evidence, transitions=sampler.transitions)
        effective = frozen.every_rule(as_if, [name]).verdicts[name].effective
        native = np.where(trained, sampler.transitions.native.numpy(), np.nan)
        # What multiplies the change of the prediction at a step: credit times the weight that the sampler gives it.
        sizes = effective.abs().mean((0, 1)).numpy() * native
        credit = np.where(trained, effective[0][order].numpy(), np.nan)
        about = f"{sampler.kernel} {sampler.noise_level:g}"
        _picture(PICTURES / f"{name}.png", name, credit, sizes, native, about)


def _picture(path: Path, name: str, credit: np.ndarray, sizes: np.ndarray, native: np.ndarray, about: str) -> None:
    """Left the credit of a group, right what each step counts in the gradient, both lines of mean 1."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 2.6), dpi=100, facecolor="white", layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    image = left.imshow(credit, cmap="RdBu", vmin=-2.5, vmax=2.5, aspect="auto", interpolation="nearest")
    left.set_title(f"{name}: credit in one group", fontsize=9, loc="left")
    left.set_facecolor("#dddddd")  # not trained
    left.set_xlabel("step, noise to data", fontsize=8)
    left.set_ylabel("samples, best on top", fontsize=8)
    left.set_xticks(range(0, credit.shape[1], 2))
    left.set_yticks([])
    left.tick_params(labelsize=8)
    bar = figure.colorbar(image, ax=left, ticks=[-2, 0, 2], pad=0.02)
    bar.ax.tick_params(labelsize=7)
    right.plot(native / np.nanmean(native), color="#aaaaaa", linewidth=3, label="plain GRPO")
    right.plot(sizes / np.nanmean(sizes), color="#2463c8", marker="o", markersize=4, label=name)
    right.set_title(f"weight of a step in the gradient, {about}", fontsize=9, loc="left")
    right.set_xlabel("step, noise to data", fontsize=8)
    right.set_xticks(range(0, credit.shape[1], 2))
    right.set_ylim(0, None)
    right.tick_params(labelsize=8)
    right.legend(fontsize=8, frameon=False)
    right.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def measured(name: str, study: Mapping[str, Any]) -> str:
    """A method's row of the oracle: a line for each sampler and problem, plain GRPO's beside it."""
    qualities = {(row["rule"], row["sampler"], row["problem"]): row["qualities"] for row in study["rows"]}
    sides = [name] if name == PLAIN else [name, PLAIN]
    rows = []
    for sampler, problem in dict.fromkeys((row["sampler"], row["problem"]) for row in study["rows"]):
        cells = [f"`{sampler}`", problem]
        for rule in sides:
            of_rule = qualities.get((rule, sampler, problem))
            cells += ["", ""] if of_rule is None else _cells(of_rule)
        rows.append(cells)
    head = ["sampler", "rewards"]
    for rule in sides:
        head += [f"{rule} E[cos]", f"{rule} bias"]
    about = (
        f"`stepcredit bench credit`, {study['groups']} groups of 12, {study['seeds']} seeds: flows whose policy "
        "gradient is known exactly.\nE[cos] is the mean cosine of an estimate with the truth at the cost of four plain "
        "groups, ± half a 95 %\ninterval over seeds; bias is 1 - cosine of the mean estimate. Every rule runs on every "
        "sampler, whatever its own,\nand keeps its own plan and noise sharing (initial noise is shared by dance_grpo)."
    )
    return f"\n{about}\n\n{markdown_table(head, rows)}\n\n"


def _cells(qualities: list[dict[str, float]]) -> list[str]:
    mean, half = mean_and_half([quality["cosine"] for quality in qualities])
    text = f"{mean:.3f} ± {half:.3f}" if np.isfinite(half) else f"{mean:.3f}"
    return [text, f"{np.mean([quality['bias'] for quality in qualities]):.3f}"]


def fill(page: str, text: str) -> str:
    """The page with its measured section replaced."""
    if len(MARKED.findall(page)) != 1:
        raise ValueError("wanted one pair of <!-- measured --> and <!-- /measured --> on lines of their own")
    # A function, because a replacement string would read the text's backslashes.
    return MARKED.sub(lambda _: text, page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=Path, help="the JSON file of `stepcredit bench credit`; draws nothing")
    parser.add_argument("--rollout", type=Path, default=ROOT / "build" / "method_pages.safetensors")
    chosen = parser.parse_args()
    if chosen.measured is None:
        draw(chosen.rollout)
        return
    study = json.loads(chosen.measured.read_text(encoding="utf-8"))
    known = {row["rule"] for row in study["rows"]}
    for name in names():
        if name not in known:
            print(f"{chosen.measured} has no row of {name}; its page stays")
            continue
        page = PAGES / f"{name}.md"
        page.write_text(fill(page.read_text(encoding="utf-8"), measured(name, study)), encoding="utf-8")


if __name__ == "__main__":
    main()
