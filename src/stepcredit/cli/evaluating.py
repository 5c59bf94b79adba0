"""Base against tuned from the same noise: in numbers (`evaluate`) and in pictures (`sample`)."""

from pathlib import Path
from typing import Annotated

from stepcredit.cli.options import COUNT, ITERATION, PICTURE, PICTURES, PROMPTS, SEED, STRENGTH, STRENGTHS
from stepcredit.cli.terminal import console, say


def evaluate(
    run: Path,
    /,
    *,
    checkpoint: Annotated[int | None, ITERATION] = None,
    raw: bool = False,
    count: Annotated[int | None, PICTURES] = None,
) -> None:
    """Score base and tuned on held-out captions with the same noise; writes JSON, a table, and the report.

    Parameters
    ----------
    run
        A run folder.
    checkpoint
        Iterations of the checkpoint; by default the newest whole one.
    raw
        The last weights instead of their moving average.
    count
        Pictures; by default the recipe's number.
    """
    from stepcredit.api import evaluate as measure
    from stepcredit.viewer.report import write
    from stepcredit.viewer.terminal import evaluation

    path, scores = measure(run, iteration=checkpoint, raw=raw, count=count)
    evaluation(scores, run, console)
    say(f"{path}   report: {write(run)}")


def sample(
    run: Path,
    /,
    *,
    prompt: Annotated[list[str], PROMPTS],
    count: Annotated[int, COUNT] = 4,
    seed: Annotated[int, SEED] = 0,
    raw: bool = False,
    reward_guidance: Annotated[float, STRENGTH] = 1.0,
    also: Annotated[list[str] | None, STRENGTHS] = None,
    out: Annotated[Path | None, PICTURE] = None,
) -> None:
    """Draw pictures with a tuned generator, beside those of its base from the same noise.

    Parameters
    ----------
    run
        A run folder.
    prompt
        One or more prompts.
    count
        Pictures of each prompt.
    seed
        Seed of the noise.
    raw
        The last weights instead of their moving average.
    reward_guidance
        How far the fine-tune is followed: 1 as trained, 0 the base, 1.5 beyond it. Other than 1 doubles the cost.
    also
        Other runs of the same base to follow at the same time, each as FOLDER=STRENGTH.
    out
        The picture to write; by default samples.png in the run folder.
    """
    from stepcredit.api import sample as draw

    strengths = dict(_strength(text) for text in also or ())
    path = draw(run, prompt, count=count, seed=seed, raw=raw, reward_guidance=reward_guidance, also=strengths, out=out)
    say(f"base (left) and tuned (right): {path}")


def _strength(text: str) -> tuple[str, float]:
    folder, _, strength = text.rpartition("=")
    return folder, float(strength)
