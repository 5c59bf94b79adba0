"""How a finished run leaves the house: a LoRA, networks or a whole pipeline for plain diffusers, with a model card.

    FOLDER/
      README.md            the model card
      stepcredit.json      what the weights are, in one flat table, and the files of this export
      before_after.png     where the run has one of these weights
      pytorch_lora_weights.safetensors, and transformer_2/ with the same of a second expert
      or transformer/ ...  the networks of a run that trained all weights
      or everything        of a pipeline, with the trained weights merged in

No base is loaded unless it has to be merged.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from stepcredit.errors import RecipeError, RunError, StepcreditError
from stepcredit.exporting import card, hub
from stepcredit.exporting.card import Base, Exported, Kind, Weights
from stepcredit.files.text import write_json, write_text
from stepcredit.files.whole import load_whole
from stepcredit.policies import lora_file
from stepcredit.policies.families import family_of
from stepcredit.policies.loading import load_pipeline
from stepcredit.recipe.load import load_recipe
from stepcredit.recipe.recipe import Recipe
from stepcredit.runs.reader import RunReader
from stepcredit.settings.policies import LoRA
from stepcredit.training import checkpoint

_LIST = "stepcredit.json"
_ORIGIN = ("_name_or_path", "name_or_path")  # keys of a configuration that say where it was loaded from


def export(
    run: str | Path,
    *,
    out: str | Path | None = None,
    iteration: int | None = None,
    raw: bool = False,
    merged: bool = False,
    push_to_hub: str | None = None,
    private: bool = False,
) -> Path:
    """Write what a run trained, with a model card, into a folder that plain diffusers loads; returns the folder.

    `out` is by default RUN/export; an earlier export there is replaced, anything else is refused. `iteration` names the
    checkpoint, by default the newest whole one; `raw` takes the last weights instead of their moving average. `merged`
    writes the whole pipeline with the trained weights in place. `push_to_hub` (OWNER/NAME) uploads the finished folder.
    """
    if private and push_to_hub is None:
        raise RecipeError("private says how to upload; it goes with --push-to-hub OWNER/NAME")
    if push_to_hub is not None:
        hub.check(push_to_hub)  # before minutes are spent on what could not be uploaded
    reader = RunReader(run)
    recipe = load_recipe(reader.path / "run.yaml")
    chosen = _choose(reader.path / "checkpoints", iteration, raw=raw)
    folder = Path(out) if out is not None else reader.path / "export"
    # Not resolved: where the folder is a link, the link's own place is meant, and its name goes into the card.
    target = Path(os.path.abspath(folder))
    _refuse(target)
    writing = target.with_name(f".{target.name}.writing")
    try:
        shutil.rmtree(writing, ignore_errors=True)  # of an export that was cut off
        writing.mkdir(parents=True)
        _write(reader, recipe, chosen, writing, kind=_kind(recipe, merged=merged), where=push_to_hub or target.name)
        _put(writing, target)
    except StepcreditError:
        raise
    except (OSError, SafetensorError) as error:
        raise RunError(f"{folder} could not be written ({error}); make room, or choose another with --out") from error
    finally:
        shutil.rmtree(writing, ignore_errors=True)
    if push_to_hub is not None:
        message = f"{recipe.method_name}, seed {recipe.seed}, {chosen.iteration} iterations (stepcredit)"
        hub.upload(folder, push_to_hub, private=private, message=message)
    return folder


@dataclass(frozen=True)
class _Chosen:
    """The weights of a run that leave, e.g. `_Chosen(400, "average", Path("RUN/checkpoints/000400/average"))`."""

    iteration: int
    weights: Weights
    folder: Path


def _choose(checkpoints: Path, iteration: int | None, *, raw: bool) -> _Chosen:
    """A checkpoint's weights: the moving average where there is one and the last weights are not asked for."""
    path = checkpoint.newest(checkpoints)[0] if iteration is None else checkpoint.numbered(checkpoints, iteration)
    if (path / "average").is_dir() and not raw:
        return _Chosen(int(path.name), "average", path / "average")
    return _Chosen(int(path.name), "trained", path / "adapter")


def _kind(recipe: Recipe, *, merged: bool) -> Kind:
    if merged:
        return "merged"
    return "lora" if isinstance(recipe.policy.surface, LoRA) else "full"


def _write(reader: RunReader, recipe: Recipe, chosen: _Chosen, writing: Path, *, kind: Kind, where: str) -> None:
    """Everything that an export holds, into a folder that is not yet in its place."""
    networks = _networks(chosen.folder, recipe)
    if kind == "merged":
        _merge(chosen.folder, networks, recipe, writing)
    else:
        shutil.copytree(chosen.folder, writing, dirs_exist_ok=True)
    notes = _notes(reader, recipe, chosen)
    _annotate(_files(writing, kind, networks, recipe), kind, notes)
    _forget_places(writing)
    exported = Exported(
        kind=kind,
        iteration=chosen.iteration,
        weights=chosen.weights,
        networks=networks,
        where=where,
        picture=_picture(reader, writing, chosen),
    )
    write_text(writing / "README.md", card.render(reader, recipe, exported))
    # Last, so that it names everything: a later export replaces these files and no others.
    files = sorted(path.relative_to(writing).as_posix() for path in writing.rglob("*") if path.is_file())
    write_json(writing / _LIST, {**notes, "files": [*files, _LIST]})


def _refuse(target: Path) -> None:
    """An error unless there is nothing, or an earlier export and nothing else."""
    if not target.exists():
        return
    present = {path.relative_to(target).as_posix() for path in target.rglob("*") if not path.is_dir()}
    foreign = sorted(present - _listed(target))
    if not target.is_dir() or foreign:
        what = f"holds {foreign[0]}, which is no part of an export" if foreign else "is a file"
        raise RunError(f"{target} {what}; nothing was changed. Choose another folder with --out, or remove it")


def _listed(target: Path) -> set[str]:
    """The files that an earlier export put here; none where there was no such export."""
    try:
        return set(json.loads((target / _LIST).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return set()  # not our list, whatever it is: then nothing here may be replaced


def _notes(reader: RunReader, recipe: Recipe, chosen: _Chosen) -> dict[str, str]:
    """What the weights are, flat: the metadata of a safetensors file maps texts to texts."""
    base = Base.of(recipe.policy)
    return {
        "stepcredit": card.version(reader) or "unknown",
        "base_model": base.name,
        "base_revision": recipe.policy.revision or ("not pinned" if base.hub else "none"),
        "method": recipe.method_name,
        "seed": str(recipe.seed),
        "iteration": str(chosen.iteration),
        "weights": "moving average" if chosen.weights == "average" else "last",
        "trigger_words": "none needed",
    }


def _networks(source: Path, recipe: Recipe) -> tuple[str, ...]:
    """The networks that a checkpoint's folder has weights of; of two experts a run may have trained either or both."""
    family = family_of(recipe.policy)
    if isinstance(recipe.policy.surface, LoRA):
        networks = tuple(name for name, file in family.lora_files(source).items() if file.is_file())
    else:
        networks = tuple(name for name in family.network_names if (source / name).is_dir())
    if not networks:
        raise RunError(f"{source} holds no weights of {' or '.join(family.network_names)}; choose another checkpoint")
    return networks


def _merge(source: Path, networks: tuple[str, ...], recipe: Recipe, writing: Path) -> None:
    """The base with the trained weights in place, in the dtype of the recipe."""
    family = family_of(recipe.policy)
    pipe: Any = load_pipeline(recipe.policy, family)
    files = family.lora_files(source)
    for name in networks:
        network = getattr(pipe, name)
        if isinstance(recipe.policy.surface, LoRA):
            lora_file.merge(network, lora_file.read(files[name], family.lora_prefix()))
        else:
            # Trained in float32; the base's dtype is what the rest of the pipeline is written in.
            trained = load_whole(type(network), source / name, dtype=network.dtype)
            pipe.register_modules(**{name: trained})
    pipe.save_pretrained(writing, safe_serialization=True)


def _files(writing: Path, kind: Kind, networks: tuple[str, ...], recipe: Recipe) -> list[Path]:
    """The files that hold weights of the trained networks."""
    if kind == "lora":
        files = family_of(recipe.policy).lora_files(writing)
        return [files[name] for name in networks]
    return [path for name in networks for path in (writing / name).glob("*.safetensors")]


def _annotate(files: list[Path], kind: Kind, notes: Mapping[str, str]) -> None:
    """The notes into the files of the trained networks, and a LoRA's scale into its B."""
    for path in files:
        if kind == "lora":
            lora_file.fold(path, notes)
        else:
            lora_file.annotate(path, notes)


def _forget_places(writing: Path) -> None:
    """Take this machine's folders out of the configurations: a card is public, and says whose machine it was."""
    # transformers and diffusers write down which folder they loaded. Ids of the hub stay: they say what the base is.
    for path in writing.rglob("*.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(config, dict) and any(card.is_place(str(config.get(key, ""))) for key in _ORIGIN):
            named = {key: card.last_name(str(config[key])) for key in _ORIGIN if key in config}
            write_json(path, {**config, **named})


def _picture(reader: RunReader, writing: Path, chosen: _Chosen) -> str | None:
    """The run's picture of before and after, if it shows these weights."""
    result = reader.result()
    if result is None or (result["iteration"], result["weights"]) != (chosen.iteration, chosen.weights):
        return None
    for name in ("before_after.webp", "before_after.png"):  # of videos, of pictures
        if (reader.path / name).is_file():
            shutil.copyfile(reader.path / name, writing / name)
            return name
    return None


def _put(writing: Path, target: Path) -> None:
    """The finished folder into its place; an earlier one goes away only then."""
    if not target.exists():
        os.replace(writing, target)
        return
    # A folder that is not empty cannot be replaced in one move: the earlier one steps aside, and comes back if needed.
    earlier = target.with_name(f".{target.name}.earlier")
    shutil.rmtree(earlier, ignore_errors=True)
    os.replace(target, earlier)
    try:
        os.replace(writing, target)
    except OSError:
        os.replace(earlier, target)
        raise
    shutil.rmtree(earlier, ignore_errors=True)
