"""The exact checker of moving scenes: follows every thing from frame to frame and answers four questions.

Are the right things there, in the right colours; does each move as its caption says; is its motion steady? Frames are
read by the checker of still scenes. A few frames may be unreadable, as long as what is left says how things moved.
"""

from collections.abc import Callable, Sequence
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
    """The four answers for a whole video; `correct` is all of them.

    The right things, going where they should in jumps: `MotionAnswers(True, True, motion=True, steady=False)`.
    """

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
    things = [_things(objects) for objects in frames]
    shapes = _share(things, caption.things, by=lambda thing: thing.shape)
    colours = _share(things, caption.things, by=lambda thing: thing.colour)
    readable = [index for index, seen in enumerate(things) if _same(seen, caption.things, by=str)]
    enough = len(readable) >= _READABLE * len(frames)
    # Unreadable frames are left out, so motion is fitted over the times of the others.
    times = np.array(readable) / (len(video) - 1)
    scenes = [frames[index] for index in readable]
    tracks = {part: _track(scenes, part.thing) for part in caption.parts} if enough else {}
    return MotionAnswers(
        object=shapes >= _READABLE,
        # With the right shapes, each must wear its own colour; with wrong ones, no shape says whose a colour is.
        colour=colours >= _READABLE and (enough or shapes < _READABLE),
        motion=enough and all(_moves(track, times, part.motion) for part, track in tracks.items()),
        steady=enough and all(_is_steady(track, times) for track in tracks.values()),
    )


def _things(objects: list[Placed]) -> list[Thing]:
    return [placed.thing for placed in objects]


def _same(things: Sequence[Thing], wanted: Sequence[Thing], *, by: Callable[[Thing], str]) -> bool:
    """Whether both hold the same shapes, colours or names, each as often."""
    return sorted(map(by, things)) == sorted(map(by, wanted))


def _share(frames: list[list[Thing]], wanted: Sequence[Thing], *, by: Callable[[Thing], str]) -> float:
    """The share of frames with just these shapes, or these colours."""
    return float(np.mean([_same(things, wanted, by=by) for things in frames]))


def _track(scenes: list[list[Placed]], thing: Thing) -> np.ndarray:
    """Where a thing is in the readable frames, `[frames, 2]`."""
    places = []
    for scene in scenes:
        placed = next(placed for placed in scene if placed.thing == thing)
        places.append((placed.x, placed.y))
    return np.array(places)


def _line(track: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best straight motion at constant speed: travel `[2]` over the whole video, and what is left `[frames, 2]`."""
    design = np.stack([np.ones_like(times), times], axis=1)
    solution, *_ = np.linalg.lstsq(design, track, rcond=None)
    return solution[1], track - design @ solution


def _moves(track: np.ndarray, times: np.ndarray, motion: str) -> bool:
    """Whether a track goes far enough in the direction of a motion, or nowhere for "standing still"."""
    # The fitted travel, not last minus first: one frame that is off does not decide.
    travel, _ = _line(track, times)
    wanted = np.array(DIRECTIONS[motion])
    if not wanted.any():
        return bool(np.linalg.norm(travel) <= _NEAR)
    along = float(travel @ wanted)
    return along >= _FAR and bool(np.linalg.norm(travel - along * wanted) <= _SIDEWAYS * along)


def _is_steady(track: np.ndarray, times: np.ndarray) -> bool:
    """Whether a track stays near the straight line at constant speed, in every frame."""
    _, left = _line(track, times)
    return bool(np.linalg.norm(left, axis=1).max() <= _STEADY)
