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
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from stepcredit.errors import RecipeError, RunError, StepcreditError
from stepcredit.exporting import card, hub
from stepcredit.exporting.card import Base, Exported, Kind, Weights
from stepcredit.files.text import write_json, write_text
from stepcredit.policies import lora_file
from stepcredit.policies.families import family_of
from stepcredit.policies.loading import load_pipeline
from stepcredit.recipe.load import load_recipe
from stepcredit.recipe.recipe import Recipe
from stepcredit.runs.reader import RunReader
from stepcredit.settings.policies import LoRA
from stepcredit.training import checkpoint

_LIST = "stepcredit.json"
_ORIGIN = ("_name_or_path", "name_or_path")  # where transformers and diffusers write the folder that they loaded


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
        hub.check(push_to_hub)
    reader = RunReader(run)
    recipe = load_recipe(reader.path / "run.yaml")
    checkpoints = reader.path / "checkpoints"
    chosen = checkpoint.newest(checkpoints)[0] if iteration is None else checkpoint.numbered(checkpoints, iteration)
    weights: Weights = "average" if (chosen / "average").is_dir() and not raw else "trained"
    source = chosen / ("average" if weights == "average" else "adapter")
    folder = Path(out) if out is not None else reader.path / "export"
    target = Path(os.path.abspath(folder))
    _refuse(target)
    writing = target.with_name(f".{target.name}.writing")
    notes = _notes(reader, recipe, int(chosen.name), weights)
    kind: Kind = "merged" if merged else "lora" if isinstance(recipe.policy.surface, LoRA) else "full"
    try:
        shutil.rmtree(writing, ignore_errors=True)
        writing.mkdir(parents=True)
        networks = _networks(source, recipe)
        if merged:
            _merge(source, networks, recipe, writing)
        else:
            shutil.copytree(source, writing, dirs_exist_ok=True)
        _annotate(writing, kind, _files(writing, kind, networks, recipe), notes)
        exported = Exported(
            kind=kind,
            iteration=int(chosen.name),
            weights=weights,
            networks=networks,
            where=push_to_hub or target.name,
            picture=_picture(reader, writing, int(chosen.name), weights),
        )
        write_text(writing / "README.md", card.render(reader, recipe, exported))
        files = sorted(path.relative_to(writing).as_posix() for path in writing.rglob("*") if path.is_file())
        write_json(writing / _LIST, {**notes, "files": [*files, _LIST]})
        _put(writing, target)
    except StepcreditError:
        raise
    except (OSError, SafetensorError) as error:
        raise RunError(f"{folder} could not be written ({error}); make room, or choose another with --out") from error
    finally:
        shutil.rmtree(writing, ignore_errors=True)
    if push_to_hub is not None:
        message = f"{recipe.method_name}, seed {recipe.seed}, {int(chosen.name)} iterations (stepcredit)"
        hub.upload(folder, push_to_hub, private=private, message=message)
    return folder


def _refuse(target: Path) -> None:
    """An error unless there is nothing, or an earlier export and nothing else."""
    if not target.exists():
        return
    found = {path.relative_to(target).as_posix() for path in target.rglob("*") if not path.is_dir()}
    try:
        mine = set(json.loads((target / _LIST).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        mine = set()
    others = sorted(found - mine)
    if not target.is_dir() or others:
        what = f"holds {others[0]}, which is no part of an export" if others else "is a file"
        raise RunError(f"{target} {what}; nothing was changed. Choose another folder with --out, or remove it")


def _notes(reader: RunReader, recipe: Recipe, iteration: int, weights: Weights) -> dict[str, str]:
    """What the weights are: flat, for the metadata of the files."""
    base = Base.of(recipe.policy)
    return {
        "stepcredit": card.version(reader) or "unknown",
        "base_model": base.name,
        "base_revision": recipe.policy.revision or ("not pinned" if base.hub else "none"),
        "method": recipe.method_name,
        "seed": str(recipe.seed),
        "iteration": str(iteration),
        "weights": "moving average" if weights == "average" else "last",
        "trigger_words": "none needed",
    }


def _networks(source: Path, recipe: Recipe) -> tuple[str, ...]:
    """The networks that a checkpoint's folder has weights of."""
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
    for name in networks:
        network = getattr(pipe, name)
        if isinstance(recipe.policy.surface, LoRA):
            lora_file.merge(network, lora_file.read(family.lora_files(source)[name], family.lora_prefix()))
        else:
            trained = type(network).from_pretrained(source / name, dtype=network.dtype, use_safetensors=True)
            pipe.register_modules(**{name: trained})
    pipe.save_pretrained(writing, safe_serialization=True)


def _files(writing: Path, kind: Kind, networks: tuple[str, ...], recipe: Recipe) -> list[Path]:
    """The files that hold weights of the trained networks."""
    if kind == "lora":
        files = family_of(recipe.policy).lora_files(writing)
        return [files[name] for name in networks]
    return [path for name in networks for path in (writing / name).glob("*.safetensors")]


def _annotate(writing: Path, kind: Kind, files: list[Path], notes: Mapping[str, str]) -> None:
    """The notes into the files of the trained networks, a LoRA's scale into its B; a machine's folders out of all."""
    for path in files:
        if kind == "lora":
            lora_file.fold(path, notes)
        else:
            lora_file.annotate(path, notes)
    for path in writing.rglob("*.json"):
        data = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(data, dict) and any(card.is_place(str(data.get(key, ""))) for key in _ORIGIN):
            named = {key: card.last_name(str(data[key])) for key in _ORIGIN if key in data}
            write_json(path, {**data, **named})


def _picture(reader: RunReader, writing: Path, iteration: int, weights: Weights) -> str | None:
    """The run's picture of before and after, if it shows these weights."""
    result = reader.result()
    if result is None or (result["iteration"], result["weights"]) != (iteration, weights):
        return None
    for name in ("before_after.webp", "before_after.png"):
        if (reader.path / name).is_file():
            shutil.copyfile(reader.path / name, writing / name)
            return name
    return None


def _put(writing: Path, target: Path) -> None:
    """The finished folder into its place; an earlier one goes away only then."""
    if not target.exists():
        os.replace(writing, target)
        return
    earlier = target.with_name(f".{target.name}.earlier")
    shutil.rmtree(earlier, ignore_errors=True)
    os.replace(target, earlier)
    try:
        os.replace(writing, target)
    except OSError:
        os.replace(earlier, target)
        raise
    shutil.rmtree(earlier, ignore_errors=True)
