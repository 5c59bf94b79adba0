"""Reading a run, finished or not, without torch and without disturbing it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors import SafetensorError, safe_open

from stepcredit.errors import RunError
from stepcredit.runs import looks
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
        if not self.path.is_dir():
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
            recipe = yaml.safe_load((self.path / "run.yaml").read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise RunError(f"{self.path / 'run.yaml'} cannot be read: {error}") from None
        if not isinstance(recipe, dict) or not {"policy", "method", "rewards", "held_out", "training"} <= recipe.keys():
            raise RunError(f"{self.path / 'run.yaml'} is damaged: it holds no whole recipe; train again")
        return recipe

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Versions, commit, device, reward fingerprints."""
        path = self.path / "environment.json"
        try:
            environment = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(f"{self.path} is half-written: it has no environment.json; train again") from None
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read: {error}; train again") from None
        if not isinstance(environment, dict):
            raise RunError(f"{path} is damaged: it holds no table; train again")
        return environment

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
        """One dictionary per finished iteration; the half line that a killed run may leave is not one."""
        return read_lines(self.path / "metrics.jsonl")

    def problems(self) -> list[dict[str, Any]]:
        """What could not be scored: iteration, reward, rows of the batch and reason; `look`, where it was at one."""
        return read_lines(self.path / "problems.jsonl")

    def result(self) -> dict[str, Any] | None:
        """Base against tuned, once the run is finished."""
        return self._json("result.json")

    def evaluations(self) -> list[dict[str, Any]]:
        """What `stepcredit evaluate` found, oldest first."""
        paths = sorted((self.path / "evaluations").glob("*.json"))
        evaluations = [self._json(f"evaluations/{path.name}") for path in paths]
        return [evaluation for evaluation in evaluations if evaluation is not None]  # None: removed just now

    def looks(self) -> list[int]:
        """Iterations after which held-out captions were looked at; 0 is the base."""
        # look.json is written last of all; a folder that was copied by halves may lack it
        whole = [path for path in (self.path / "samples").glob("[0-9]*") if (path / "look.json").is_file()]
        return sorted(int(path.name) for path in whole)

    def look(self, iteration: int, *, pictures: bool = True) -> Look:
        return looks.read(self.path / "samples" / f"{iteration:06d}", pictures=pictures)

    def credits(self) -> list[int]:
        """Iterations whose credit was stored."""
        return sorted(int(path.stem) for path in (self.path / "credit").glob("[0-9]*.safetensors"))

    def credit(self, iteration: int) -> StoredCredit:
        path = self.path / "credit" / f"{iteration:06d}.safetensors"
        try:
            with safe_open(path, framework="numpy") as file:  # torch would cost seconds
                notes = file.metadata()
                return StoredCredit(
                    iteration=iteration,
                    tensors={name: file.get_tensor(name) for name in file.keys()},  # noqa: SIM118 - not a mapping
                    objectives=tuple(json.loads(notes["objectives"])),
                    prompts=tuple(json.loads(notes["prompts"])),
                )
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} is damaged ({error}); the other iterations can still be read") from None

    def _json(self, name: str) -> dict[str, Any] | None:
        path = self.path / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise RunError(f"{path} is damaged ({error}); remove it, `stepcredit evaluate` measures again") from None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSONL file. A last line without its end is dropped: somebody is writing, or was killed."""
    if not path.is_file():
        return []
    # A process that was killed may have left half of a letter; that line is dropped or named, not a UnicodeDecodeError.
    whole = path.read_text(encoding="utf-8", errors="replace").rpartition("\n")[0]
    lines = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            lines.append(json.loads(line))
        except ValueError:
            raise RunError(
                f"{path}, line {number}, is damaged: {line[:60]!r}; remove that line to read the others"
            ) from None
    return lines
