"""Rewards that a recipe can name."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from stepcredit.settings import keys
from stepcredit.settings.places import PlaceOrHub
from stepcredit.settings.strict import Strict


class RewardSettings(Strict):
    """What all rewards share."""

    # Not a key but a fact of the class: a recipe of pictures with a reward for videos is refused before anything loads.
    scores: ClassVar[tuple[Literal["image", "video"], ...]] = ("image",)

    # Names are columns of tables, and are joined with "+" where several outputs share a problem.
    name: str | None = Field(default=None, pattern=r"^[\w.-]+$", max_length=100)
    """How the objective is called in tables; null is its type."""
    weight: float = Field(default=1.0, ge=-1e6, le=1e6)
    """Weight for methods that sum objectives; of each output, where a reward has several."""

    @property
    def labels(self) -> list[str]:
        return keys.labels(dict(self))


class Learned(RewardSettings):
    """Rewards that are networks."""

    device: str | None = None
    """Torch device; null is that of the generator."""


class ClipT(Learned):
    """Cosine of picture and caption under CLIP."""

    type: Literal["clip_t"] = "clip_t"
    weights: PlaceOrHub = "scenes"
    """A transformers CLIP folder or hub id; `scenes` is the tiny one inside the package."""


class HPS(Learned):
    """Human-preference score: a CLIP that was trained on which of two pictures people prefer."""

    type: Literal["hps"] = "hps"
    weights: PlaceOrHub = "scenes"
    """A transformers CLIP folder or hub id; `scenes` is the tiny one inside the package."""


class Aesthetic(Learned):
    """LAION's aesthetic score: an affine head on the CLIP embedding of the picture; the caption is not asked."""

    type: Literal["aesthetic"] = "aesthetic"
    weights: PlaceOrHub = "scenes"
    """The CLIP that embeds; `scenes` is the tiny one inside the package."""
    head: PlaceOrHub | None = None
    """A safetensors file with the head; null is `head.safetensors` beside the embedded weights."""


class Composition(RewardSettings):
    """Exact: are the objects, colours, number and places those of the caption? Scenes captions only."""

    type: Literal["composition"] = "composition"


Output = Literal["vq", "mq", "ta", "overall"]


class VideoAlign(Learned):
    """VideoAlign: visual quality, motion quality and text alignment of a video, from one look at it."""

    scores: ClassVar[tuple[Literal["image", "video"], ...]] = ("video",)

    type: Literal["video_align"] = "video_align"
    outputs: Annotated[tuple[Output, ...], Field(min_length=1)] = ("vq", "mq", "ta")
    """Which of its outputs are objectives; `overall` is the sum of the three."""
    weights: PlaceOrHub = "scenes"
    """A folder with a Qwen2-VL and its reward head; `scenes` is the tiny one inside the package."""


class Motion(RewardSettings):
    """Exact: are the things, colours and motions of a video those of the caption? Moving scenes only."""

    scores: ClassVar[tuple[Literal["image", "video"], ...]] = ("video",)

    type: Literal["motion"] = "motion"


class Diversity(RewardSettings):
    """How different the pictures or videos of one prompt are from each other."""

    scores: ClassVar[tuple[Literal["image", "video"], ...]] = ("image", "video")

    type: Literal["diversity"] = "diversity"


class Custom(RewardSettings):
    """A reward of your own: a function or callable object in an importable module."""

    scores: ClassVar[tuple[Literal["image", "video"], ...]] = ("image", "video")

    type: Literal["custom"] = "custom"
    path: str
    """`package.module:name`; called as name(pictures or videos, texts) -> one score each, with facts=[...], what the
    source knows of each prompt, where it has a parameter of that name. It is code, and is run."""
    # Longer than any honest call for a whole batch; a hang hears Ctrl-C meanwhile.
    time_limit: float | None = Field(default=3600, gt=0)
    """Seconds after which a call is given up and its samples have no score; null waits for ever, without a thread."""


RewardChoice = Annotated[
    ClipT | HPS | Aesthetic | Composition | VideoAlign | Motion | Diversity | Custom, Field(discriminator="type")
]
