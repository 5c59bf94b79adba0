"""A look at held-out captions: pictures of one policy with their scores, as a record and as files. No torch.

samples/000120/
  look.json       iteration, which weights, names of the scores, how many pictures could not be scored; of videos
                  their frames and frames per second; SHA-256 of every other file and of itself
  scores.jsonl    one line a picture: its row among the evaluation's pictures, caption, scores, answers, and the kind
                  of its caption where it has one
  0007.png        the pictures that are kept, by row; videos are 0007.webp
"""

import json
import math
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from stepcredit.errors import RunError
from stepcredit.files import media
from stepcredit.files.seal import KEY, digest, read_json, sealed
from stepcredit.files.text import new_beside
from stepcredit.runs import entries

Weights = Literal["base", "average", "trained"]


@dataclass(frozen=True)
class Look:
    """Pictures of one policy from fixed captions and noise. `answers` are the checker's, NaN where not asked.

    `rows` number the pictures of the whole evaluation, so that two looks can be paired; `pictures` may hold only some.
    With `fps` they are videos. Such as Look(20, "average", ("hps", "composition"), (0, 1), ("a red circle",) * 2,
    [[0.27, 1.0], [nan, 0.5]], {0: picture}, {"colour": [1.0, 0.0]}, ("hps: a reason",)).
    """

    iteration: int
    weights: Weights
    names: tuple[str, ...]
    rows: tuple[int, ...]
    prompts: tuple[str, ...]
    scores: Float[np.ndarray, "B K"]
    pictures: Mapping[int, media.Medium]
    answers: Mapping[str, Float[np.ndarray, " B"]] = field(default_factory=dict)
    errors: tuple[str, ...] = ()
    fps: float | None = None
    kinds: tuple[str | None, ...] = ()
    """What kind of caption each row has, such as "count"; empty where no caption has a kind."""

    def among(self, rows: Collection[int]) -> "Look":
        """The part of it with these rows, in their order here."""
        wanted = set(rows)
        indices = [index for index, row in enumerate(self.rows) if row in wanted]
        return Look(
            iteration=self.iteration,
            weights=self.weights,
            names=self.names,
            rows=tuple(self.rows[index] for index in indices),
            prompts=tuple(self.prompts[index] for index in indices),
            scores=self.scores[indices],
            pictures={row: picture for row, picture in self.pictures.items() if row in wanted},
            answers={name: values[indices] for name, values in self.answers.items()},
            errors=self.errors,
            fps=self.fps,
            kinds=tuple(self.kinds[index] for index in indices) if self.kinds else (),
        )

    def unscored(self) -> dict[str, int]:
        """How many pictures have no number of each score."""
        missing = (~np.isfinite(self.scores)).sum(0)
        return dict(zip(self.names, map(int, missing), strict=True))

    def reason(self, name: str) -> str:
        """Why pictures have no number of this score; empty where nobody said so."""
        reasons: list[str] = []
        for error in self.errors:
            # As a problem is written: the outputs that it concerns, joined with a plus, and the reason.
            outputs, _, why = error.partition(": ")
            if name in outputs.split("+"):
                reasons.append(why)
        return "; ".join(dict.fromkeys(reasons))

    def comparable_means(self, other: "Look") -> dict[str, float]:
        """Means of the scores that the very pictures have that have them in another look; the others are left out.

        `other` has at least these rows. A mean over fewer pictures may be higher because the hard ones are missing.
        """
        known_there = np.isfinite(other.among(self.rows).scores)
        same = (np.isfinite(self.scores) == known_there).all(0)
        return {name: mean for (name, mean), equal in zip(self.means().items(), same, strict=True) if equal}

    def means(self) -> dict[str, float]:
        """Mean of every score over the pictures that could be scored; `unscored` says how many could not."""
        known = np.isfinite(self.scores)
        # not np.nanmean: it warns where nothing is known
        sums = np.where(known, self.scores, 0.0).sum(0)
        return {
            name: float(total / count) if count else math.nan
            for name, total, count in zip(self.names, sums, known.sum(0), strict=True)
        }


def write(folder: Path, snapshot: Look, pictured: Collection[int]) -> None:
    """Write it with those of its pictures whose row is in `pictured`; the folder appears whole or not at all."""
    writing = new_beside(folder)
    try:
        writing.mkdir(parents=True)
        _write_into(writing, snapshot, pictured)
        entries.remove(folder)  # a rename does not replace a folder that holds something
        os.replace(writing, folder)
    finally:
        entries.remove(writing)  # what was cut off; after the rename there is nothing


def _write_into(writing: Path, snapshot: Look, pictured: Collection[int]) -> None:
    for row in pictured:
        media.save(writing / f"{row:04d}{media.suffix(snapshot.fps)}", snapshot.pictures[row], snapshot.fps)
    lines = [_line(snapshot, index) for index in range(len(snapshot.rows))]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (writing / "scores.jsonl").write_text(text, encoding="utf-8")
    about: dict[str, Any] = {
        "iteration": snapshot.iteration,
        "weights": snapshot.weights,
        "names": snapshot.names,
        "errors": snapshot.errors,
    }
    if snapshot.fps is not None:
        # WebP stores frames that look alike as one, so that their number cannot be read back from the file
        about |= {"fps": snapshot.fps, "frames": len(next(iter(snapshot.pictures.values())))}
    # Last of all files, because it has the digests of the others.
    about["files"] = {path.name: digest(path) for path in sorted(writing.iterdir())}
    (writing / "look.json").write_text(json.dumps(sealed(about), ensure_ascii=False) + "\n", encoding="utf-8")


def _line(snapshot: Look, index: int) -> dict[str, Any]:
    """One picture as plain data."""
    kind = {"kind": snapshot.kinds[index]} if snapshot.kinds else {}
    return {
        "row": snapshot.rows[index],
        "prompt": snapshot.prompts[index],
        "scores": dict(zip(snapshot.names, map(_number, snapshot.scores[index]), strict=True)),
        "answers": {name: _number(values[index]) for name, values in snapshot.answers.items()},
        **kind,
    }


def read(folder: Path, *, pictures: bool = True) -> Look:
    """The look as it was written."""
    try:
        about = read_json(folder / "look.json")
        _check_files(folder, about, pictures=pictures)
        text = (folder / "scores.jsonl").read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.removesuffix("\n").split("\n")]  # a prompt may hold U+2028
        names: Sequence[str] = about["names"]
        questions: Sequence[str] = list(lines[0]["answers"])
        return Look(
            iteration=about["iteration"],
            weights=about["weights"],
            names=tuple(names),
            rows=tuple(line["row"] for line in lines),
            prompts=tuple(line["prompt"] for line in lines),
            scores=np.stack([_column(lines, "scores", name) for name in names], axis=1),
            pictures=_pictures(folder, about) if pictures else {},
            answers={name: _column(lines, "answers", name) for name in questions},
            errors=tuple(about["errors"]),
            fps=about.get("fps"),
            kinds=tuple(line["kind"] for line in lines) if "kind" in lines[0] else (),
        )
    except (OSError, ValueError, KeyError, IndexError, TypeError, SyntaxError) as error:  # SyntaxError: a broken PNG
        raise RunError(f"{folder} cannot be read ({type(error).__name__}: {error}); {_advice(folder)}") from None


def _advice(folder: Path) -> str:
    again = " The base is drawn again, from the weights before training, by `stepcredit train --resume`."
    is_base = folder.name.strip("0") == ""
    return f"put it back from a copy, or move it away to look at the others.{again if is_base else ''}"


def seal(folder: Path) -> str | None:
    """The digest of everything that a look holds; None for one of an older version, or where there is none."""
    try:
        return json.loads((folder / "look.json").read_text(encoding="utf-8")).get(KEY)
    except (OSError, ValueError, AttributeError):
        return None


def _check_files(folder: Path, about: Mapping[str, Any], *, pictures: bool) -> None:
    """ValueError unless the files are those that were written; older versions wrote down nothing about them."""
    for name, written in about.get("files", {}).items():
        if (folder / name).is_symlink():
            raise ValueError(f"{name} is a link, which leads out of the run")
        if (pictures or name == "scores.jsonl") and digest(folder / name) != written:
            raise ValueError(f"{name} is not what was written")


def _column(lines: Sequence[Mapping[str, Any]], kind: str, name: str) -> np.ndarray:
    """The numbers of one score or question, a picture each."""
    return np.array([_value(line[kind][name]) for line in lines], dtype=float)


def _pictures(folder: Path, about: Mapping[str, Any]) -> dict[int, media.Medium]:
    fps = about.get("fps")
    frames = about.get("frames", 1)
    files = entries.matching(folder, rf"(\d{{4,}}){re.escape(media.suffix(fps))}")
    listed = about.get("files")
    # Of the listed ones only, where there is a list: somebody may have put a copy beside them.
    own = {int(row): path for path, (row,) in files if listed is None or path.name in listed}
    return {row: media.load(own[row], fps, frames) for row in sorted(own)}


def _number(value: float) -> float | None:
    """JSON has no NaN; null stands for "could not be scored" and for "not asked"."""
    return float(value) if math.isfinite(value) else None


def _value(stored: float | None) -> float:
    return math.nan if stored is None else stored
