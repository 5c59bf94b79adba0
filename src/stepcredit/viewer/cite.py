"""BibTeX of exactly what a run used."""

import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

from stepcredit.recipe.papers import paper_of_method, paper_of_model
from stepcredit.runs.layout import today
from stepcredit.settings.keys import labels

_KERNELS = {"flow_sde": "2505.05470", "dance_sde": "2505.07818", "cps": "2509.05952", "ddim": "2010.02502"}
_REWARDS = {
    "clip_t": "2103.00020",
    "hps": "2306.09341",
    "aesthetic": "2210.08402",
    "composition": "2310.11513",
    "video_align": "2501.13918",
}


def references(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What each is cited for, and its entry; things without a paper are left out.

    recipe   resolved, as plain data: methods, models and rewards of somebody else are neither run nor cited
    """
    recipe = today(recipe)
    method = recipe["method"]
    policy = recipe["policy"]
    kernel = method["sampler"]["type"]
    uses = {
        f"method {method['type']}": _arxiv(paper_of_method(method["type"])),
        f"kernel {kernel}": _KERNELS.get(kernel, ""),
        f"model {policy['type']}": paper_of_model(policy["type"]),
    }
    for reward in (*recipe["rewards"], *recipe["held_out"]):
        uses[f"reward {', '.join(labels(reward))}"] = _REWARDS.get(reward["type"], "")
    # A guidance alone may be a number that the network is told; a second forward has a prompt of its own.
    if "negative_prompt" in policy and policy["guidance"] > 1:
        uses["guidance"] = "2207.12598"
    if policy["surface"]["type"] == "lora":
        uses["low-rank adapters"] = "2106.09685"
    uses["optimiser"] = "1711.05101"
    bibliography = entries()
    uses_of_paper: dict[str, list[str]] = {}
    for use, paper in uses.items():
        if paper in bibliography:  # things without a paper, and methods of one's own, are left out
            uses_of_paper.setdefault(paper, []).append(use)
    return [(", ".join(cited_for), bibliography[paper]) for paper, cited_for in uses_of_paper.items()]


def entries() -> dict[str, str]:
    """Every entry of references.bib by its key."""
    text = resources.files("stepcredit.viewer").joinpath("references.bib").read_text(encoding="utf-8")
    # No parser: the file is ours, and each of its entries ends with a brace on a line of its own.
    return {match[1]: match[0].strip() for match in re.finditer(r"@\w+\{([^,]+),.*?\n\}", text, re.DOTALL)}


def _arxiv(paper: str) -> str:
    number = re.search(r"\d{4}\.\d{5}", paper)
    return number[0] if number else ""
