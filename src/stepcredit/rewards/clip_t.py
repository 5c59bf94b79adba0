"""CLIP-T: cosine of picture and caption. FLUX papers use ViT-L/14; the embedded one is a tiny CLIP."""

from stepcredit.records import RewardBatch, RewardOutput
from stepcredit.rewards.clip import Clip


class ClipT:
    """Score in [-1, 1], raw (not times 100)."""

    def __init__(self, clip: Clip, *, name: str = "clip_t") -> None:
        self.outputs = (name,)
        self._clip = clip

    def score(self, batch: RewardBatch) -> RewardOutput:
        # Some papers print 100 max(cosine, 0): the factor drops out of advantages, the cut would hide differences.
        return RewardOutput({self.outputs[0]: self._clip.agreement(batch.images, batch.texts)})

    def fingerprint(self) -> dict[str, str]:
        return {"preprocessing": "pillow bicubic, centre crop", **self._clip.fingerprint()}
