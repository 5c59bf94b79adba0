"""`stepcredit export`: what a run trained, for other programs."""

from pathlib import Path
from typing import Annotated

from stepcredit.cli.options import ITERATION
from stepcredit.cli.terminal import say


def export(
    run: Path,
    /,
    *,
    out: Path | None = None,
    checkpoint: Annotated[int | None, ITERATION] = None,
    raw: bool = False,
    merged: bool = False,
    push_to_hub: str | None = None,
    private: bool = False,
) -> None:
    """Write what a run trained for plain diffusers, with a model card: a LoRA, or the networks that were trained.

    Parameters
    ----------
    run
        A run folder.
    out
        The folder to write; by default export in the run folder. An earlier export there is replaced.
    checkpoint
        Iterations of the checkpoint; by default the newest whole one.
    raw
        The last weights instead of their moving average.
    merged
        The whole pipeline with the trained weights merged in, instead of what was trained alone.
    push_to_hub
        OWNER/NAME on the Hugging Face hub, to which the finished folder is uploaded.
    private
        Make that repository private.
    """
    from stepcredit.api import export as write

    folder = write(run, out=out, iteration=checkpoint, raw=raw, merged=merged, push_to_hub=push_to_hub, private=private)
    repository = f"   https://huggingface.co/{push_to_hub}" if push_to_hub else ""
    say(f"{folder}   card: {folder / 'README.md'}{repository}")
