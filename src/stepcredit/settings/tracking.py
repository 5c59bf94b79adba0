"""Services that a recipe can report to. The run folder has everything without them."""

from typing import Annotated, Literal

from pydantic import Field

from stepcredit.settings.places import Place
from stepcredit.settings.strict import Strict


class TensorBoard(Strict):
    """Event files for `tensorboard --logdir`."""

    type: Literal["tensorboard"] = "tensorboard"
    folder: Place | None = None
    """Where the event files go; null is `tensorboard/` in the run folder."""


class WandB(Strict):
    """Weights & Biases."""

    type: Literal["wandb"] = "wandb"
    project: str = "stepcredit"
    """The project there."""
    mode: Literal["online", "offline"] = "online"
    """`offline` writes into the run folder, for `wandb sync` later."""


class Trackio(Strict):
    """trackio: local first, looked at with `trackio show`."""

    type: Literal["trackio"] = "trackio"
    project: str = "stepcredit"
    """The project there."""


TrackingChoice = Annotated[TensorBoard | WandB | Trackio, Field(discriminator="type")]
