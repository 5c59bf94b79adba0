"""HPS (arXiv 2306.09341): a CLIP that was trained to rank pictures as people do; it scores by cosine as well."""

from stepcredit.records import RewardBatch, RewardOutput
from stepcredit.rewards.clip import Clip


class HPS:
    """Score in [-1, 1]: HPSv2.1's number, not multiplied. The last product is taken in float32: in half precision
    its steps of 2.4e-4 are no smaller than the differences between siblings."""

    def __init__(self, clip: Clip, *, name: str = "hps") -> None:
        self.outputs = (name,)
        self._clip = clip

    def score(self, batch: RewardBatch) -> RewardOutput:
        # HPSv2's own code letterboxes where CLIP's would crop; published numbers of wide pictures depend on it.
        return RewardOutput({self.outputs[0]: self._clip.agreement(batch.images, batch.texts, letterbox=True)})

    def fingerprint(self) -> dict[str, str]:
        return {"preprocessing": "torch bicubic antialias, letterbox", **self._clip.fingerprint()}
