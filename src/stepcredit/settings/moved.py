"""Recipe keys that were called something else before methods were composed. Plain data, so runs can be read by it."""

from collections.abc import Mapping

MOVED = {
    "method.kernel": "method.sampler.type",
    "method.noise_level": "method.sampler.noise_level",
    "method.shared_noise": "method.plan.shared_noise",
    "method.train_last": "method.sampler.train_last",
    "method.final_state": "method.sampler.final_state",
    "method.window": "method.plan.window",
    "method.timestep_fraction": "method.plan.timestep_fraction",
    "method.best_of": "method.plan.best_of",
    "method.head": "method.objective.loss.type",
    "method.clip": "method.objective.loss.clip",
    "method.profile": "method.objective.profile",
    "method.place": "method.objective.place",
    "method.preserve": "method.objective.preserve",
    "method.form": "method.objective.form",
    "method.kl_weight": "method.objective.kl_weight",
    "method.kl_form": "method.objective.kl_form",
    "method.advantage_clip": "method.rule.advantage_clip",
    "method.floor": "method.rule.floor",
    "method.weights": "method.rule.weights",
    "method.compared": "method.rule.compared",
    "method.centred": "method.rule.centred",
    "method.recentred": "method.rule.recentred",
    "method.objective_floor": "method.rule.objective_floor",
    "method.step_mix": "method.rule.step_mix",
    "method.mix_of": "method.rule.mix_of",
    "method.scale": "method.rule.scale",
    "method.span": "method.rule.span",
    "method.baseline": "method.rule.baseline",
    "method.over": "method.rule.over",
}
"""Old dotted keys and their names now; what stands below an old key moves along."""


def new_name(key: str, moved: Mapping[str, str] = MOVED) -> str | None:
    """What an old dotted key is called now, or None if it was never another: `method.window.size` has moved too."""
    # With the dot: `method.place` would also begin a longer word, such as `method.placement`.
    for old, new in moved.items():
        if key == old or key.startswith(f"{old}."):
            return new + key.removeprefix(old)
    return None
