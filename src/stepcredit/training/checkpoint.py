"""Checkpoints: whole or not there. Written beside their place, flushed and renamed; safetensors and JSON only.

    checkpoints/000100/
      adapter/             the trained weights for plain diffusers (a LoRA, or a transformer folder)
      average/             the same of the moving average, if there is one
      state.safetensors    trained weights, moving average, optimiser moments, in float32
      state.json           counters, held-out means at that moment, what the run stood on and how far its logs went,
                           SHA-256 of every other file and of itself

Noise and prompts are keyed by (seed, iteration), so there is no generator state to keep.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from stepcredit.errors import NumericsError, RunError, WeightsError
from stepcredit.files.seal import digest, opened, sealed
from stepcredit.files.text import new_beside, resume_line
from stepcredit.protocols import Policy
from stepcredit.runs import entries
from stepcredit.runs.ground import Ground
from stepcredit.runs.log import Extent
from stepcredit.training.anchors import Average
from stepcredit.training.finite import all_finite

_MOMENTS = ("exp_avg", "exp_avg_sq")
_ATTEMPTS = 5  # at reading a checkpoint while a run writes


@dataclass(frozen=True)
class Counters:
    """What a run has to know besides tensors. `silent`: iterations in a row in which a reward scored nothing.

    Example: `Counters(iteration=100, optimiser_steps=200, silent={"hps": 0}, held_out={"hps": 0.27})`.
    """

    iteration: int
    optimiser_steps: int = 0
    average_steps: int = 0
    silent: Mapping[str, int] = field(default_factory=dict)
    held_out: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Standing:
    """What a run stood on when a checkpoint was written: its ground, its logs so far, and its look at the base.

    Example: `Standing(Ground({"seed": 0}), {"metrics.jsonl": Extent(12, "9f86...")}, base="77de...")`.
    """

    ground: Ground
    logs: Mapping[str, Extent] = field(default_factory=dict)
    base: str | None = None
    """The digest of the look at the base; None where it has none."""

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> "Standing":
        """As state.json has it."""
        logs = {name: Extent(**extent) for name, extent in stored["logs"].items()}
        return cls(Ground.read(stored["ground"]), logs, stored["base"])

    def plain(self) -> dict[str, Any]:
        """For state.json."""
        logs = {name: asdict(extent) for name, extent in self.logs.items()}
        return {"ground": self.ground.plain(), "logs": logs, "base": self.base}


def save(
    folder: Path,
    policy: Policy,
    optimiser: torch.optim.Optimizer,
    average: Average | None,
    *,
    iteration: int,
    silent: Mapping[str, int] | None = None,
    held_out: Mapping[str, float] | None = None,
    standing: Standing | None = None,
) -> Path:
    """Write the checkpoint after `iteration` finished iterations; returns its folder.

    NumericsError, and nothing is written, if weights, average or moments are not finite.
    """
    _refuse_not_finite(policy, optimiser, average, iteration)
    target = folder / f"{iteration:06d}"
    writing = new_beside(target)
    try:
        writing.mkdir(parents=True)
        optimiser_steps = _write_weights(writing, policy, optimiser, average)
        average_steps = average.steps if average else 0
        _write_state(
            writing, Counters(iteration, optimiser_steps, average_steps, silent or {}, held_out or {}), standing
        )
        _flush(writing)
        # A folder cannot be renamed onto one that holds something: a checkpoint of this number, damaged or whole, goes.
        entries.remove(target)
        os.replace(writing, target)
    except (OSError, SafetensorError) as error:
        # Often the disk is full: what was half written is the first thing to give back.
        entries.remove(writing)
        raise RunError(
            f"checkpoint {target} could not be written ({error}); earlier checkpoints are whole. "
            f"Make room, then go on with: {resume_line(folder.parent)}"
        ) from error
    return target


def _refuse_not_finite(
    policy: Policy, optimiser: torch.optim.Optimizer, average: Average | None, iteration: int
) -> None:
    parameters = policy.parameters()
    moments = [optimiser.state.get(parameter, {}) for parameter in parameters]
    parts: dict[str, Sequence[torch.Tensor]] = {
        "trained weights": parameters,
        "moving average": average.tensors if average else [],
        "optimiser's moments": [state[name] for state in moments for name in _MOMENTS if name in state],
    }
    for name, tensors in parts.items():
        if not all_finite(tensors):
            raise NumericsError(
                f"the {name} after {iteration} iterations hold NaN or infinity, so they are not saved; earlier "
                "checkpoints are whole. Lower optimiser.learning_rate, or use policy.dtype float32"
            )


def _write_weights(folder: Path, policy: Policy, optimiser: torch.optim.Optimizer, average: Average | None) -> int:
    """For diffusers and for `restore`; returns how many steps the optimiser has taken."""
    parameters = policy.parameters()
    policy.save(folder / "adapter")
    # Numbered: a policy promises the order of its parameters, and knows no names for them.
    tensors = {f"trained.{i}": parameter.detach().cpu().contiguous() for i, parameter in enumerate(parameters)}
    if average is not None:
        tensors |= {f"average.{i}": tensor.cpu().contiguous() for i, tensor in enumerate(average.tensors)}
        with average.in_place():
            policy.save(folder / "average")
    optimiser_steps = 0
    for index, parameter in enumerate(parameters):
        # The optimiser keeps nothing for a parameter that has never had a gradient.
        moments = optimiser.state.get(parameter, {})
        optimiser_steps = max(optimiser_steps, int(moments.get("step", 0)))
        tensors |= {f"{name}.{index}": moments[name].cpu().contiguous() for name in _MOMENTS if name in moments}
    save_file(tensors, folder / "state.safetensors")
    return optimiser_steps


def _write_state(folder: Path, counters: Counters, standing: Standing | None) -> None:
    """Last of all files, because it has the digests of the others."""
    stood_on = {} if standing is None else {"standing": standing.plain()}
    state = sealed({**asdict(counters), **stood_on, "finite": True, "files": _digests(folder)})
    (folder / "state.json").write_text(json.dumps(state, indent=1) + "\n")


def listed(folder: Path) -> list[Path]:
    """All checkpoints, oldest first, whole or damaged."""
    return list(entries.numbered(folder).values())


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint; None if it is exactly what was written."""
    try:
        state = json.loads((checkpoint / "state.json").read_text())
        state["sha256"]  # one without a seal is none of ours
        digests = dict(state["files"])
    except FileNotFoundError:
        return "state.json is missing"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"state.json cannot be read ({error})"
    try:
        numbered_as = f"{opened(state)['iteration']:06d}"
    except (ValueError, KeyError):
        return "state.json is not what was written"
    if numbered_as != checkpoint.name:
        return f"it is checkpoint {numbered_as} under another name"
    return _damaged_file(checkpoint, digests) or (None if state.get("finite") else _unchecked_numbers(checkpoint))


def _damaged_file(checkpoint: Path, digests: Mapping[str, str]) -> str | None:
    """The first file that is not what was written, and why."""
    for name, written in digests.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if digest(path) != written:
            return f"{name} is not what was written"
    return None


def _unchecked_numbers(checkpoint: Path) -> str | None:
    """Whether numbers are numbers where `save` did not look yet: it wrote down what an optimiser step had left."""
    try:
        with safe_open(checkpoint / "state.safetensors", framework="pt") as file:
            # One at a time: together they may be larger than the main memory.
            finite = all(all_finite([file.get_tensor(name)]) for name in file.keys())  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        return f"state.safetensors cannot be read ({error})"
    return None if finite else "state.safetensors holds NaN or infinity"


def newest(folder: Path) -> tuple[Path, list[str]]:
    """The latest whole checkpoint, and a sentence for each newer one that had to be passed over."""
    passed = []
    for path in reversed(listed(folder)):
        reason = damage(path)
        if reason is None:
            return path, passed
        if not path.is_dir():
            continue  # removed just now, by a run that goes on and keeps only the last few
        passed.append(f"checkpoint {path} is damaged: {reason}")
    reasons = "; ".join(passed) or "the run stopped before its first one"
    raise RunError(f"{folder} holds no whole checkpoint: {reasons}")


def numbered(folder: Path, iteration: int) -> Path:
    """The checkpoint after so many iterations, whole."""
    path = folder / f"{iteration:06d}"
    if not path.is_dir():
        known = ", ".join(str(int(item.name)) for item in listed(folder)) or "none"
        raise RunError(f"there is no checkpoint {iteration} in {folder}; there are: {known}")
    reason = damage(path)
    if reason is not None:
        raise RunError(f"checkpoint {path} is damaged: {reason}; choose another")
    return path


def prune(folder: Path, *, keep: int, best: str | None) -> None:
    """Remove all but the last `keep` checkpoints and the one with the highest held-out mean of the reward `best`."""
    checkpoints = listed(folder)
    stay = set(checkpoints[-keep:])
    if best is not None:
        means = {path: _held_out(path).get(best, math.nan) for path in checkpoints}
        # NaN is neither more nor less than anything: with one among them, max would depend on the order.
        looked_at = [path for path, mean in means.items() if math.isfinite(mean)]
        if looked_at:
            stay.add(max(looked_at, key=lambda path: means[path]))
    for path in checkpoints:
        if path not in stay:
            doomed = new_beside(path)
            os.replace(path, doomed)  # a half-removed checkpoint must not look like a damaged one
            entries.remove(doomed)


def counters(checkpoint: Path) -> Counters:
    """The numbers of a checkpoint."""
    try:
        stored = json.loads((checkpoint / "state.json").read_text())
        # The file holds more than counters, and one of an older version may hold fewer of them.
        return Counters(**{item.name: stored[item.name] for item in fields(Counters) if item.name in stored})
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{checkpoint / 'state.json'} cannot be read ({error})") from None


def standing(checkpoint: Path) -> Standing | None:
    """What the run stood on then; None of a checkpoint of an older version, which does not say it."""
    try:
        stored = json.loads((checkpoint / "state.json").read_text()).get("standing")
        return None if stored is None else Standing.read(stored)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{checkpoint / 'state.json'} cannot be read ({error})") from None


def _held_out(checkpoint: Path) -> Mapping[str, float]:
    """Nothing for a damaged checkpoint, which cannot be the best."""
    try:
        return counters(checkpoint).held_out
    except RunError:
        return {}


def restore(checkpoint: Path, policy: Policy, optimiser: torch.optim.Optimizer, average: Average | None) -> Counters:
    """Put a run back to where this checkpoint was written, bit for bit."""
    tensors = _tensors(checkpoint)
    numbers = counters(checkpoint)
    parameters = policy.parameters()
    _fill([parameter.data for parameter in parameters], tensors, "trained", checkpoint)
    if average is not None:
        _fill(average.tensors, tensors, "average", checkpoint)
        average.steps = numbers.average_steps
    for index, parameter in enumerate(parameters):
        moments = {name: tensors[f"{name}.{index}"] for name in _MOMENTS if f"{name}.{index}" in tensors}
        if moments:
            # As AdamW makes it itself, a float on the CPU; one for each parameter, because it is counted up in place.
            steps = torch.tensor(float(numbers.optimiser_steps))
            optimiser.state[parameter] = {"step": steps, **{k: v.to(parameter) for k, v in moments.items()}}
    return numbers


def restore_weights(checkpoint: Path, policy: Policy, *, raw: bool = False) -> Literal["average", "trained"]:
    """Put the trained weights into a policy of the same recipe; their moving average if there is one, unless `raw`.

    Returns which of the two it was, `average` or `trained`.
    """
    tensors = _tensors(checkpoint)
    kind: Literal["average", "trained"] = "average" if "average.0" in tensors and not raw else "trained"
    _fill([parameter.data for parameter in policy.parameters()], tensors, kind, checkpoint)
    return kind


def restore_newest(folder: Path, policy: Policy, *, raw: bool = False) -> tuple[Path, Literal["average", "trained"]]:
    """The same of the newest whole checkpoint; returns it, too.

    A run that goes on meanwhile removes checkpoints: one that vanishes while it is read is passed over for a newer one.
    """
    for _ in range(_ATTEMPTS):
        path = newest(folder)[0]
        try:
            return path, restore_weights(path, policy, raw=raw)
        except WeightsError:
            if path.is_dir():
                raise
    raise RunError(f"{folder}: checkpoints were removed while they were read, {_ATTEMPTS} times; try again")


def _tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    try:
        tensors = load_file(checkpoint / "state.safetensors")
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{checkpoint} is damaged: {error}") from None
    if not all_finite(list(tensors.values())):
        raise WeightsError(f"{checkpoint} is damaged: state.safetensors holds NaN or infinity; choose an earlier one")
    return tensors


def _fill(targets: Sequence[torch.Tensor], tensors: Mapping[str, torch.Tensor], kind: str, checkpoint: Path) -> None:
    count = sum(name.startswith(f"{kind}.") for name in tensors)
    stored = [tensors[f"{kind}.{i}"] for i in range(count)]
    # All shapes before the first copy: a policy that was filled by half would be neither run's.
    if [tensor.shape for tensor in stored] != [target.shape for target in targets]:
        raise WeightsError(f"{checkpoint} does not fit the run's recipe; was policy.surface or training.ema changed?")
    for target, tensor in zip(targets, stored, strict=True):
        target.copy_(tensor)


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): digest(path) for path in files}


def _flush(folder: Path) -> None:
    """Contents first, names later: a rename must not reach the disk before what it names."""
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
