"""Which steps received the credit."""

from dataclasses import dataclass

import numpy as np

from stepcredit.runs.reader import StoredCredit
from stepcredit.viewer import charts
from stepcredit.viewer.charts import Line
from stepcredit.viewer.panels.story import Panel, Story, known_mean

_WIDE = 960.0  # room of a panel over both columns of the page
_READABLE = 200  # cells of a map up to which their numbers can be written into them


@dataclass(frozen=True)
class Group:
    """One group's credit, to be chosen in the page; such as Group("iteration 39: a red circle", "<svg ...")."""

    label: str
    chart: str


def step_weights(story: Story) -> np.ndarray:
    """Mean weight `[steps, iterations]` over samples; NaN for a step that is never trained."""
    weights = np.stack([known_mean(credit["weights"], (0, 1)) for credit in story.credits], axis=1)
    weights[(np.nan_to_num(weights) == 0).all(1)] = np.nan
    return weights


def when(story: Story) -> list[Panel]:
    """Where along the trajectory the credit went."""
    if not story.credits:
        return []
    return [*_sizes(story), *_similarities(story)]


def _sizes(story: Story) -> list[Panel]:
    """Weight and size of the credit, steps down, iterations across."""
    weights = step_weights(story)
    size = np.stack([known_mean(np.abs(credit["per_step"]), (0, 1)) for credit in story.credits], axis=1)
    size[np.isnan(weights).all(1)] = np.nan  # a step that is never trained has no credit, not a small one
    steps = [f"step {n + 1}" for n in range(len(weights))]
    iterations = [str(credit.iteration) for credit in story.credits]
    weight_map = charts.heat(
        weights,
        alt="mean weight by step and iteration",
        rows=steps,
        columns=iterations,
        x_label="iteration",
        tips=True,
        low=1.0,
        limit=1.0,
        room=_WIDE,
    )
    size_map = charts.heat(
        size,
        alt="mean absolute credit by step and iteration",
        rows=steps,
        columns=iterations,
        x_label="iteration",
        tips=True,
        room=_WIDE,
    )
    weight_note = (
        "mean over samples; 1 is an even share, more is blue, less is orange; a step that is not trained is blank. "
        "Step 1 is the noisiest"
    )
    size_note = "mean absolute credit: weight times advantage, what multiplies the loss"
    return [
        Panel("Weight of each step", weight_note, weight_map, wide=True),
        Panel("Size of the credit", size_note, size_map, wide=True),
    ]


def _similarities(story: Story) -> list[Panel]:
    """How near the latents came to the finished picture, in the first and the last iteration that stored it."""
    # Only where somebody looked at the similarity during the rollout: the rule, or the report's observer.
    stored = [credit for credit in story.credits if "similarity" in credit.tensors]
    if not stored:
        return []
    ends = (stored[0], stored[-1])
    means = [known_mean(credit["similarity"], (0, 1)) for credit in ends]
    steps_taken = list(range(len(means[0])))
    curve = charts.lines(
        _first_and_last(ends, steps_taken, means), alt="cosine similarity by step", x_label="steps taken"
    )
    gain = charts.lines(
        _first_and_last(ends, steps_taken[1:], [np.diff(values) for values in means]),
        alt="similarity gained by step",
        x_label="step",
        reference=0.0,
        reference_name="",
    )
    curve_note = "cosine of the latent after so many steps with the final one; credit follows its rises"
    gain_note = "the rises of the curve beside; TCD's weights are their shares, with a floor"
    return [
        Panel("Similarity to the finished picture", curve_note, curve),
        Panel("Similarity gained by each step", gain_note, gain),
    ]


def _first_and_last(ends: tuple[StoredCredit, StoredCredit], x: list[int], values: list[np.ndarray]) -> list[Line]:
    first, last = (f"iteration {credit.iteration}" for credit in ends)
    return [
        Line(first, x, values[0].tolist(), "--muted", dashed=True, dots=True),
        Line(last, x, values[1].tolist(), "--c1", dots=True),
    ]


def groups(story: Story) -> list[Group]:
    """Step x sample credit of every group of the first and the newest stored iteration."""
    # by number: the first may be the newest too
    ends = {credit.iteration: credit for credit in story.credits[:1] + story.credits[-1:]}
    return [
        Group(f"iteration {credit.iteration}: {prompt}", _group_map(credit, p))
        for credit in reversed(ends.values())
        for p, prompt in enumerate(credit.prompts)
    ]


def _group_map(credit: StoredCredit, p: int) -> str:
    """The credit of group `p`, its best sample on top."""
    per_step = credit["per_step"][p]
    best_first = np.argsort(-np.nan_to_num(credit["mixed"][p], nan=-np.inf))
    return charts.heat(
        per_step[best_first],
        alt=f"credit by sample and step for {credit.prompts[p]}",
        rows=[f"sample {member + 1}" for member in best_first],
        columns=[f"{n + 1}" for n in range(per_step.shape[1])],
        x_label="step",
        tips=True,
        write=per_step.size <= _READABLE,
    )
