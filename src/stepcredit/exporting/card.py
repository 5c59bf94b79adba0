"""The model card of an exported run: Markdown from what the run folder holds, and nothing else."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from stepcredit.policies.families import family_of
from stepcredit.policies.published import Published
from stepcredit.recipe.recipe import Recipe
from stepcredit.runs.reader import RunReader
from stepcredit.settings.keys import labels
from stepcredit.settings.policies import LoRA, PolicySettings
from stepcredit.viewer.cite import references

Kind = Literal["lora", "full", "merged"]
Weights = Literal["average", "trained"]

_PROSE = ("prompts", "negative_prompt")  # keys whose texts are never places
_WHAT = {"lora": "A LoRA", "full": "Trained networks", "merged": "A whole pipeline with the trained weights merged in,"}
_WEIGHTS = {"average": "the moving average of the trained weights", "trained": "the last weights"}
_SAMPLERS = {"velocity": "Euler steps", "noise": "DDIM without noise"}  # by what the network predicts
_EMBEDDED_LICENCE = "apache-2.0"  # that of this package


@dataclass(frozen=True)
class Base:
    """What was tuned: a name for people, and the model on the hub where it is one.

    Example: `Base("Qwen/Qwen-Image", "Qwen/Qwen-Image", "apache-2.0")`, of a local folder `Base("my_flux", None,
    "other")`.
    """

    name: str
    hub: str | None
    licence: str

    @classmethod
    def of(cls, policy: PolicySettings) -> "Base":
        """The base of a recipe's `policy`."""
        weights = policy.weights
        if weights == "scenes":
            return cls("the embedded miniature of stepcredit", None, _EMBEDDED_LICENCE)
        if is_place(weights) or weights.count("/") != 1:
            return cls(last_name(weights), None, "other")
        return cls(weights, weights, family_of(policy).published.get(weights, Published()).licence)


@dataclass(frozen=True)
class Exported:
    """What the folder holds that the card belongs to.

    Example: `Exported("lora", 100, "average", ("transformer",), "me/mine", "before_after.webp")`.
    """

    kind: Kind
    iteration: int
    weights: Weights
    networks: tuple[str, ...]
    """Those that were trained."""
    where: str
    """What to hand to diffusers: a hub id, or the folder's name."""
    picture: str | None
    """File name of the picture of before and after, inside the folder."""


def render(reader: RunReader, recipe: Recipe, exported: Exported) -> str:
    """The whole card, front matter first."""
    environment = Environment(
        loader=PackageLoader("stepcredit.exporting", "."),
        autoescape=False,  # Markdown; what could break a table is escaped in _cell
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    base = Base.of(recipe.policy)
    surface = recipe.policy.surface
    measurement = measured(reader, exported)
    start = surface.start if isinstance(surface, LoRA) else None
    return environment.get_template("card.md").render(
        front=_front(recipe, base, exported),
        title=f"{recipe.method_name} on {base.name}",
        what=_WHAT[exported.kind],
        base=f"[{base.hub}](https://huggingface.co/{base.hub})" if base.hub else base.name,
        version=version(reader),
        iterations=_many(exported.iteration, "iteration"),
        method=recipe.method_name,
        paper=getattr(recipe.method, "paper", ""),
        summary=getattr(recipe.method, "summary", "a rule of its own"),
        seed=recipe.seed,
        weights=_WEIGHTS[exported.weights],
        started=last_name(start) if start else None,
        picture=exported.picture,
        code="\n".join(code(reader, recipe, exported)),
        sampling=_sampling(recipe),
        folded=exported.kind == "lora",
        state=_state(reader, exported, measurement),
        rows=[_row(row, reader) for row in measurement["rows"]] if measurement else [],
        about=_about(measurement),
        rewards=_rewards(reader),
        recipe=yaml.safe_dump(without_paths(reader.recipe), sort_keys=False, allow_unicode=True).rstrip(),
        licence=_licence(base, exported),
        bibtex="\n\n".join(entry for _, entry in references(reader.recipe)),
    )


def version(reader: RunReader) -> str:
    """Of the stepcredit that trained; empty where the run does not say."""
    return str(reader.environment.get("packages", {}).get("stepcredit", ""))


def measured(reader: RunReader, exported: Exported) -> dict[str, Any] | None:
    """Base against exactly these weights: the run's own result, or the latest evaluation of this checkpoint."""
    # Not what was measured after prompts, rewards or weights had changed: the run's numbers are of something else.
    measurements = [item for item in (*reader.evaluations(), reader.result()) if item and not item.get("changed")]
    weights = (exported.iteration, exported.weights)
    fitting = [item for item in measurements if (item["iteration"], item["weights"]) == weights]
    return fitting[-1] if fitting else None


def code(reader: RunReader, recipe: Recipe, exported: Exported) -> list[str]:
    """Lines of Python that load it with plain diffusers and draw."""
    family = family_of(recipe.policy)
    lines = _imports(recipe, exported)
    if exported.kind == "full":
        dtype = f"torch.{recipe.policy.dtype}"
        lines += [
            f"{name} = AutoModel.from_pretrained({exported.where!r}, subfolder={name!r}, dtype={dtype})"
            for name in exported.networks
        ]
    lines.append(f"pipe = {family.pipeline}.from_pretrained({', '.join(_source(recipe, exported))})")
    if exported.kind == "lora":
        for name in exported.networks:
            arguments = [repr(exported.where), *_keywords(family.lora_loader(name))]
            lines.append(f"pipe.load_lora_weights({', '.join(arguments)})")
    return [*lines, *_drawing(reader, recipe)]


def is_place(text: str) -> bool:
    """Whether a text is the path of something on this machine, or of another."""
    if text.startswith(("/", "~", "./", "../", ".\\", "..\\", "\\\\")) or re.match(r"[A-Za-z]:[\\/]", text):
        return True
    try:
        return os.sep in text and Path(text).exists()
    except OSError:  # too long for a path
        return False


def last_name(path: str) -> str:
    """A place without where it is."""
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1] or path


def without_paths(value: Any, key: str = "") -> Any:
    """Plain data in which places on a machine are only named."""
    if isinstance(value, Mapping):
        return {name: without_paths(item, name) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(item, key) for item in value]
    if isinstance(value, str) and key not in _PROSE and is_place(value):
        return last_name(value)
    return value


def _front(recipe: Recipe, base: Base, exported: Exported) -> str:
    medium = f"text-to-{recipe.policy.medium}"
    front: dict[str, Any] = {"license": base.licence}
    if base.licence == "other" and base.hub:  # the hub asks for a link where it does not know the licence
        front["license_link"] = f"https://huggingface.co/{base.hub}"
    if base.hub:  # the hub takes its own models only
        relation = "adapter" if exported.kind == "lora" else "finetune"
        front |= {"base_model": base.hub, "base_model_relation": relation}
    tags = [*(["lora"] if exported.kind == "lora" else []), medium, "reinforcement-learning", "stepcredit"]
    front |= {"library_name": "diffusers", "pipeline_tag": medium, "tags": tags}
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n"


def _is_embedded(recipe: Recipe, exported: Exported) -> bool:
    """Whether the code has to find its base inside this package."""
    return recipe.policy.weights == "scenes" and exported.kind != "merged"


def _imports(recipe: Recipe, exported: Exported) -> list[str]:
    family = family_of(recipe.policy)
    lines = ["from importlib.resources import files", ""] if _is_embedded(recipe, exported) else []
    # a family's pipeline may come from another library than AutoModel
    classes = {"diffusers": ["AutoModel"] if exported.kind == "full" else []}
    classes.setdefault(family.library, []).append(family.pipeline)
    imports = [f"from {library} import {', '.join(names)}" for library, names in classes.items() if names]
    return [*lines, "import torch", *imports, ""]


def _source(recipe: Recipe, exported: Exported) -> list[str]:
    """What `from_pretrained` of the pipeline is called with."""
    policy = recipe.policy
    base = Base.of(policy)
    network_dtype = f"torch.{policy.dtype}"
    vae_dtype = f"torch.{policy.dtype_of('vae')}"
    dtype = f"dtype={network_dtype}"
    if vae_dtype != network_dtype:
        dtype = f'dtype={{"default": {network_dtype}, "vae": {vae_dtype}}}'
    if exported.kind == "merged":
        return [repr(exported.where), dtype]
    source = repr(base.hub or base.name)
    if _is_embedded(recipe, exported):
        source = f'files("stepcredit") / "assets" / "{family_of(policy).embedded}"'
    # networks that were loaded in the lines before
    networks = [f"{name}={name}" for name in exported.networks] if exported.kind == "full" else []
    revision = policy.revision if base.hub else None  # a folder has none
    return [source, *networks, *_keywords({"revision": revision, "variant": policy.variant}), dtype]


def _drawing(reader: RunReader, recipe: Recipe) -> list[str]:
    """The call that draws as the recipe does, with a prompt of the run's own."""
    snapshots = reader.looks()
    prompt = reader.look(snapshots[-1], pictures=False).prompts[0] if snapshots else "your prompt"
    arguments = ", ".join(_keywords(family_of(recipe.policy).call(recipe.policy)))
    steps = recipe.evaluation.steps or recipe.rollout.steps
    result, output = ("video", "frames") if recipe.policy.medium == "video" else ("picture", "images")
    return [
        f"call = dict({arguments}, num_inference_steps={steps})",
        f"{result} = pipe({prompt!r}, **call).{output}[0]",
    ]


def _keywords(arguments: Mapping[str, Any]) -> list[str]:
    """As they are written in a call; None is left out."""
    return [f"{name}={value!r}" for name, value in arguments.items() if value is not None]


def _sampling(recipe: Recipe) -> str:
    sampler = _SAMPLERS[family_of(recipe.policy).prediction]
    shift = recipe.rollout.shift
    levels = f"noise levels shifted by {shift:g}" if shift is not None else "the model's own noise levels"
    steps = recipe.evaluation.steps or recipe.rollout.steps
    return (
        f"What is measured below was drawn with {steps} steps ({sampler}, {levels}); "
        "another scheduler of the pipeline draws other pictures."
    )


def _state(reader: RunReader, exported: Exported, measurement: Mapping[str, Any] | None) -> str:
    """How far the run is, and whether these weights were measured."""
    result = reader.result()
    sentences = []
    if result is None:
        planned = "a budget of network forwards" if reader.recipe["training"].get("budget") else f"{reader.iterations}"
        done = _many(len(reader.metrics()), "iteration")
        sentences.append(f"The run is not finished: {done} so far, of {planned}.")
    if measurement is None:
        sentences.append("These weights were not measured.")
    if measurement is None and result is not None:
        when = _many(result["iteration"], "iteration")
        sentences.append(f"The run's own result is of {_WEIGHTS[result['weights']]} after {when}.")
    return " ".join(sentences) or "The run is finished, and these are the weights that it measured."


def _about(measurement: Mapping[str, Any] | None) -> str:
    """What the table was measured on."""
    if measurement is None:
        return ""
    return (
        f"{_many(measurement['pictures'], 'sample')} of {_many(measurement['captions'], 'caption')} of the recipe's "
        "`evaluation.prompts`, from the same noise before and after; intervals treat captions as independent. Held-out "
        "scores were never trained on."
    )


def _row(row: Mapping[str, Any], reader: RunReader) -> dict[str, str]:
    name = _cell(row["name"])
    kind = "trained" if row["name"] in reader.trained else "held out"
    if row["difference"] is None:
        return {"name": name, "base": "-", "tuned": "-", "difference": "could not be scored", "kind": kind}
    # a result of an earlier version does not say how many pictures it stands on
    pictures = row.get("pictures")
    fewer = "" if pictures == row.get("total") else f", {pictures} of {row['total']} samples"
    return {
        "name": name,
        "base": f"{row['base']:.4g}",
        "tuned": f"{row['tuned']:.4g}",
        "difference": f"{row['difference']:+.3g} [{row['low']:+.3g}, {row['high']:+.3g}]{fewer}",
        "kind": kind,
    }


def _rewards(reader: RunReader) -> list[dict[str, str]]:
    """One row for each reward with what it stood on; several outputs of one share a row."""
    fingerprints = without_paths(reader.environment.get("rewards", {}))
    rows = [_reward(reward, "trained", fingerprints) for reward in reader.recipe["rewards"]]
    return rows + [_reward(reward, "held out", fingerprints) for reward in reader.recipe["held_out"]]


def _reward(reward: Mapping[str, Any], kind: str, fingerprints: Mapping[str, Any]) -> dict[str, str]:
    names = labels(reward)
    fingerprint = fingerprints.get("+".join(names), {})  # a run folder keys them by all outputs of a reward
    row = {
        "name": ", ".join(names),
        "kind": kind,
        "weight": f"{reward.get('weight', 1):g}" if kind == "trained" else "",
        "print": ", ".join(f"{key} `{value}`" for key, value in fingerprint.items()) or "not recorded",
    }
    return {key: _cell(text) for key, text in row.items()}


def _licence(base: Base, exported: Exported) -> str:
    if base.licence != "other":
        return f"That of the base, {base.licence}."
    which = f"[{base.hub}](https://huggingface.co/{base.hub})" if base.hub else f"`{base.name}`"
    what = "It is of use only with the base" if exported.kind == "lora" else "It contains weights of the base"
    return f"{what}: the licence of {which} says what may be done with it."


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")  # either would end the cell
