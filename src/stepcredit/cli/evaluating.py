"""Base against tuned from the same noise: in numbers (`evaluate`) and in pictures (`sample`)."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from stepcredit.cli.terminal import console, say
from stepcredit.errors import RecipeError


def evaluate(run: Path, /, *, checkpoint: int | None = None, raw: bool = False, count: int | None = None) -> None:
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
    prompt: Annotated[list[str], Parameter(consume_multiple=True)],
    count: int = 4,
    seed: int = 0,
    raw: bool = False,
    reward_guidance: float = 1.0,
    also: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    out: Path | None = None,
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
    folder, _, strength = text.rpartition("=")  # from the right: a folder may have an equals sign in its name
    try:
        return folder, float(strength)
    except ValueError:
        raise RecipeError(f'--also got "{text}", wanted FOLDER=STRENGTH such as runs/otca-1=0.5') from None
