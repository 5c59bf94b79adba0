"""Reading a run, finished or not, without torch and without disturbing it."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors import SafetensorError, safe_open

from stepcredit.errors import RunError
from stepcredit.files.seal import digest_of, is_as_sealed, read_json
from stepcredit.runs import entries, looks
from stepcredit.runs.log import read_lines
from stepcredit.runs.looks import Look
from stepcredit.runs.silence import Silence, silences
from stepcredit.settings.keys import labels

FORMAT = 3
"""Of the run folders that are written: 1 had no looks and no similarities, 2 had a method's settings in one heap."""
READABLE = (2, 3)
"""Formats that can be shown, reported and compared; `layout` knows where each keeps its settings."""


@dataclass(frozen=True)
class StoredCredit:
    """What one iteration's credit was made of: arrays `[P, G, ...]` by name, objectives and prompts.

    Such as StoredCredit(7, {"per_step": zeros(3, 4, 5), "rewards": zeros(3, 4, 2), ...}, ("hps", "clip_t"),
    ("a red circle", ...)). The similarity is there only if somebody looked at it during the rollout.
    """

    iteration: int
    tensors: Mapping[str, np.ndarray]
    objectives: tuple[str, ...]
    prompts: tuple[str, ...]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.tensors[name]


class RunReader:
    """A run folder as somebody who looks at it sees it: whatever is whole, and a clear word about what is not."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not os.path.isdir(path):  # of pathlib the same question raises for a name that is too long
            raise RunError(f"there is no folder {path}; give the folder that `stepcredit train` printed")
        if not (self.path / "run.yaml").is_file():
            what = "is empty" if not any(self.path.iterdir()) else "is not a run: it has no run.yaml"
            raise RunError(f"{path} {what}. Give the folder that `stepcredit train` printed")
        if self.format not in READABLE:
            raise RunError(
                f"{path} was written by stepcredit {self.version} in format {self.format}, and this one reads formats "
                f"{' and '.join(map(str, READABLE))}; use the version that wrote it, or train again"
            )

    @property
    def format(self) -> int:
        """Of the folder; 1 did not say so."""
        return self.environment.get("format", 1)

    @property
    def version(self) -> str:
        """Of the stepcredit that began the run."""
        return self.environment.get("packages", {}).get("stepcredit", "of unknown version")

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe, as plain data and as it is stored; `layout.setting` reads it whatever its format."""
        try:
            text = (self.path / "run.yaml").read_text(encoding="utf-8")
            recipe = yaml.safe_load(text)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise RunError(f"{self.path / 'run.yaml'} cannot be read: {error}") from None
        if not isinstance(recipe, dict) or not {"policy", "method", "rewards", "held_out", "training"} <= recipe.keys():
            raise RunError(f"{self.path / 'run.yaml'} is damaged: it holds no whole recipe; train again")
        if not is_as_sealed(text):
            raise RunError(
                f"{self.path / 'run.yaml'} is not what was written: the run would be taken for another. Put the "
                "old values back (`stepcredit train --resume` names what differs), or remove the line with the sha256 "
                "at its end to look at the run all the same"
            )
        return recipe

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Versions, commit, device, reward fingerprints."""
        path = self.path / "environment.json"
        try:
            return read_json(path)
        except FileNotFoundError:
            raise RunError(f"{self.path} is half-written: it has no environment.json; train again") from None
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read: {error}; put it back from a copy, or train again") from None

    @property
    def method(self) -> str:
        return str(self.recipe["method"]["type"])

    @property
    def iterations(self) -> int:
        """How many there should be."""
        return int(self.recipe["training"]["iterations"])

    @property
    def trained(self) -> list[str]:
        """The objectives, in order."""
        return [name for reward in self.recipe["rewards"] for name in labels(reward)]

    @property
    def held_out(self) -> list[str]:
        """What is measured and never trained on."""
        return [name for reward in self.recipe["held_out"] for name in labels(reward)]

    def silences(self) -> list[Silence]:
        """Objectives that taught nothing, or the whole run, as far as it is."""
        return silences(self.metrics(), self.trained, int(self.recipe["rollout"]["prompts"]))

    def metrics(self) -> list[dict[str, Any]]:
        """One dictionary per finished iteration; the half line that a killed run may leave is not one.

        RunError where lines are there twice or not in their order; `notes` tells of those that are missing.
        """
        lines = read_lines(self.path / "metrics.jsonl")
        numbers = [line.get("iteration") for line in lines]
        for number, (before, after) in enumerate(pairwise(numbers), start=2):
            if not isinstance(before, int) or not isinstance(after, int) or after <= before:
                raise RunError(
                    f"{self.path / 'metrics.jsonl'}, line {number}, is of iteration {after} and follows one of "
                    f"iteration {before}: lines are doubled or out of order; put each iteration there once, in order"
                )
        return lines

    def problems(self) -> list[dict[str, Any]]:
        """What could not be scored: iteration, reward, rows of the batch and reason; `look`, where it was at one."""
        return read_lines(self.path / "problems.jsonl")

    def result(self) -> dict[str, Any] | None:
        """Base against tuned, once the run is finished."""
        return self._json("result.json")

    def changes(self) -> list[dict[str, Any]]:
        """What was accepted when the run went on with something changed: `iteration`, `differences` as phrases."""
        return read_lines(self.path / "changes.jsonl")

    def evaluations(self) -> list[dict[str, Any]]:
        """What `stepcredit evaluate` found, in the order of their checkpoints."""
        files = entries.matching(self.path / "evaluations", r"(\d{6,})-([a-z]+)-(\d+)\.json")
        ordered = sorted(files, key=lambda entry: (int(entry[1][0]), entry[1][1], int(entry[1][2])))
        evaluations = [self._json(f"evaluations/{path.name}") for path, _ in ordered]
        return [evaluation for evaluation in evaluations if evaluation is not None]  # None: removed just now

    def looks(self) -> list[int]:
        """Iterations after which held-out captions were looked at; 0 is the base."""
        # look.json is written last of all; a folder that was copied by halves may lack it
        folders = entries.numbered(self.path / "samples")
        return [number for number, path in folders.items() if (path / "look.json").is_file()]

    def look(self, iteration: int, *, pictures: bool = True) -> Look:
        path = self.path / "samples" / f"{iteration:06d}"
        look = looks.read(path, pictures=pictures)
        if look.iteration != iteration:
            raise RunError(f"{path} is the look after {look.iteration} iterations; give the folder its name again")
        return look

    def credits(self) -> list[int]:
        """Iterations whose credit was stored."""
        return list(entries.numbered(self.path / "credit", ".safetensors"))

    def credit(self, iteration: int) -> StoredCredit:
        path = self.path / "credit" / f"{iteration:06d}.safetensors"
        try:
            with safe_open(path, framework="numpy") as file:  # torch would cost seconds
                notes = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            check_credit(iteration, tensors, notes)
            return StoredCredit(
                iteration=iteration,
                tensors=tensors,
                objectives=tuple(json.loads(notes["objectives"])),
                prompts=tuple(json.loads(notes["prompts"])),
            )
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} is damaged ({error}); the other iterations can still be read") from None

    def _json(self, name: str) -> dict[str, Any] | None:
        path = self.path / name
        try:
            return read_json(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise RunError(f"{path} is damaged ({error}); remove it, `stepcredit evaluate` measures again") from None


def credit_seal(iteration: int, tensors: Mapping[str, np.ndarray], notes: Mapping[str, str]) -> str:
    """The digest of a credit file's content, whatever the order in which it lies there."""
    described = [
        [name, str(array.dtype), list(array.shape), hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()]
        for name, array in sorted(tensors.items())
    ]
    return digest_of([iteration, described, notes["objectives"], notes["prompts"]])


def check_credit(iteration: int, tensors: Mapping[str, np.ndarray], notes: Mapping[str, str]) -> None:
    """ValueError unless a credit file holds what was written for this iteration; older versions sealed none."""
    if "sha256" in notes and notes["sha256"] != credit_seal(iteration, tensors, notes):
        raise ValueError("it is not what was written")
