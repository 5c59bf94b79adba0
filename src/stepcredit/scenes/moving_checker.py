"""The exact checker of moving scenes: follows every thing from frame to frame and answers four questions.

Are the right things there, in the right colours; does each move as its caption says; is its motion steady? Frames are
read by the checker of still scenes. A few frames may be unreadable, as long as what is left says how things moved.
"""

from dataclasses import dataclass

import numpy as np

from stepcredit.scenes.captions import Thing
from stepcredit.scenes.checker import find_objects
from stepcredit.scenes.moving import DIRECTIONS, MovingCaption
from stepcredit.scenes.renderer import Placed

_READABLE = 7 / 9  # least share of frames that must show exactly the right things
_FIT = 0.72  # least overlap with an ideal shape: things are smaller here than in still scenes, their tips blunter
_FAR = 5.0  # pixels from the first to the last frame that count as moving
_NEAR = 2.5  # pixels that still count as standing still
_SIDEWAYS = 0.5  # how much of a motion may go across its direction
_STEADY = 1.6  # pixels that a thing may be off the straight line at constant speed


@dataclass(frozen=True)
class MotionAnswers:
    """The four answers for a whole video; `correct` is all of them."""

    object: bool
    colour: bool
    motion: bool
    steady: bool

    @property
    def correct(self) -> bool:
        return self.object and self.colour and self.motion and self.steady


def check_motion(video: np.ndarray, caption: MovingCaption) -> MotionAnswers:
    """Answer the four questions for one video, uint8 `[F, H, W, 3]`."""
    frames = [find_objects(frame, fit=_FIT) for frame in video]
    things = sorted((part.thing for part in caption.parts), key=str)
    shapes, colours = (_share(frames, things, by) for by in ("shape", "colour"))
    clear = [at for at, found in enumerate(frames) if sorted((p.thing for p in found), key=str) == things]
    bound = len(clear) >= _READABLE * len(frames)
    tracks = {part: _track(frames, clear, part.thing) for part in caption.parts} if bound else {}
    times = np.array(clear) / (len(video) - 1)
    return MotionAnswers(
        object=shapes >= _READABLE,
        colour=colours >= _READABLE and (bound or shapes < _READABLE),  # with the right shapes, each wears its own
        motion=bound and all(_moves(track, times, part.motion) for part, track in tracks.items()),
        steady=bound and all(_is_steady(track, times) for track in tracks.values()),
    )


def _share(frames: list[list[Placed]], things: list[Thing], by: str) -> float:
    """The share of frames with just these shapes, or these colours."""
    wanted = sorted(getattr(thing, by) for thing in things)
    return float(np.mean([sorted(getattr(placed.thing, by) for placed in found) == wanted for found in frames]))


def _track(frames: list[list[Placed]], clear: list[int], thing: Thing) -> np.ndarray:
    """Where a thing is in the readable frames, `[frames, 2]`."""
    found = [next(placed for placed in frames[at] if placed.thing == thing) for at in clear]
    return np.array([(placed.x, placed.y) for placed in found])


def _line(track: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best straight motion at constant speed: travel `[2]` over the whole video, and what is left `[frames, 2]`."""
    design = np.stack([np.ones_like(times), times], axis=1)
    solution, *_ = np.linalg.lstsq(design, track, rcond=None)
    return solution[1], track - design @ solution


def _moves(track: np.ndarray, times: np.ndarray, motion: str) -> bool:
    travel, _ = _line(track, times)
    wanted = np.array(DIRECTIONS[motion])
    if not wanted.any():
        return bool(np.linalg.norm(travel) <= _NEAR)
    along = float(travel @ wanted)
    return along >= _FAR and bool(np.linalg.norm(travel - along * wanted) <= _SIDEWAYS * along)


def _is_steady(track: np.ndarray, times: np.ndarray) -> bool:
    _, left = _line(track, times)
    return bool(np.linalg.norm(left, axis=1).max() <= _STEADY)
