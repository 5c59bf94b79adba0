"""BibTeX of exactly what a run used."""

import re
from importlib import resources

from stepcredit.recipe.recipe import Recipe
from stepcredit.settings.policies import ClassifierFree, LoRA

_KERNELS = {"flow_sde": "2505.05470", "dance_sde": "2505.07818", "cps": "2509.05952", "ddim": "2010.02502"}
_REWARDS = {
    "clip_t": "2103.00020",
    "hps": "2306.09341",
    "aesthetic": "2210.08402",
    "composition": "2310.11513",
    "video_align": "2501.13918",
}


def references(recipe: Recipe) -> list[tuple[str, str]]:
    """What each is cited for, and its entry; things without a paper are left out."""
    wanted = {f"method {recipe.method_name}": _arxiv(getattr(recipe.method, "paper", ""))}
    wanted |= {
        f"kernel {kernel}": _KERNELS.get(kernel, "") for kernel in [getattr(recipe.method, "kernel", "")] if kernel
    }
    wanted |= {f"model {recipe.policy_name}": recipe.policy.paper}
    for reward in (*recipe.rewards, *recipe.held_out):
        wanted[f"reward {', '.join(reward.labels)}"] = _REWARDS.get(reward.type, "")
    if isinstance(recipe.policy, ClassifierFree) and recipe.policy.guidance > 1:
        wanted["guidance"] = "2207.12598"
    if isinstance(recipe.policy.surface, LoRA):
        wanted["low-rank adapters"] = "2106.09685"
    wanted["optimiser"] = "1711.05101"
    known = entries()
    for_what: dict[str, list[str]] = {}
    for what, key in wanted.items():
        if key in known:
            for_what.setdefault(key, []).append(what)
    return [(", ".join(whats), known[key]) for key, whats in for_what.items()]


def entries() -> dict[str, str]:
    """Every entry of references.bib by its key."""
    text = resources.files("stepcredit.viewer").joinpath("references.bib").read_text(encoding="utf-8")
    return {match[1]: match[0].strip() for match in re.finditer(r"@\w+\{([^,]+),.*?\n\}", text, re.DOTALL)}


def _arxiv(paper: str) -> str:
    found = re.search(r"\d{4}\.\d{5}", paper)
    return found[0] if found else ""
