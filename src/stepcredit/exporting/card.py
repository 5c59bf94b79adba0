"""The model card of an exported run: Markdown from what the run folder holds, and nothing else."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from stepcredit.recipe.recipe import Recipe
from stepcredit.runs.reader import RunReader
from stepcredit.settings.keys import labels
from stepcredit.settings.policies import ClassifierFree, Generator, LoRA, QwenImage, Wan
from stepcredit.viewer.cite import references

Kind = Literal["lora", "full", "merged"]
Weights = Literal["average", "trained"]

_PROSE = ("prompts", "negative_prompt")  # keys whose texts are never places
_WHAT = {"lora": "A LoRA", "full": "Trained networks", "merged": "A whole pipeline with the trained weights merged in,"}
_WEIGHTS = {"average": "the moving average of the trained weights", "trained": "the last weights"}
_LICENCES = {
    "black-forest-labs/FLUX.1-schnell": "apache-2.0",
    "Qwen/Qwen-Image": "apache-2.0",
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": "apache-2.0",
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": "apache-2.0",
    "Wan-AI/Wan2.2-T2V-A14B-Diffusers": "apache-2.0",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "creativeml-openrail-m",
    "scenes": "apache-2.0",
}


@dataclass(frozen=True)
class Base:
    """What was tuned: a name for people, and the model on the hub where it is one."""

    name: str
    hub: str | None
    licence: str

    @classmethod
    def of(cls, policy: Generator) -> "Base":
        weights = policy.weights
        licence = _LICENCES.get(weights, "other")
        if weights == "scenes":
            return cls("the embedded miniature of stepcredit", None, licence)
        if is_place(weights) or weights.count("/") != 1:
            return cls(last_name(weights), None, "other")
        return cls(weights, weights, licence)


@dataclass(frozen=True)
class Exported:
    """What the folder holds that the card belongs to."""

    kind: Kind
    iteration: int
    weights: Weights
    pipeline: str
    """The class of diffusers that draws with it."""
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
    base, surface = Base.of(recipe.policy), recipe.policy.surface
    found = measured(reader, exported)
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
        state=_state(reader, exported, found),
        rows=[_row(row, reader) for row in found["rows"]] if found else [],
        about=_about(found),
        rewards=_rewards(reader),
        recipe=yaml.safe_dump(without_paths(reader.recipe), sort_keys=False, allow_unicode=True).rstrip(),
        licence=_licence(base, exported),
        bibtex="\n\n".join(entry for _, entry in references(recipe)),
    )


def version(reader: RunReader) -> str:
    """Of the stepcredit that trained; empty where the run does not say."""
    return str(reader.environment.get("packages", {}).get("stepcredit", ""))


def measured(reader: RunReader, exported: Exported) -> dict[str, Any] | None:
    """Base against exactly these weights: the run's own result, or the latest evaluation of this checkpoint."""
    candidates = [*reader.evaluations(), reader.result()]
    wanted = (exported.iteration, exported.weights)
    fitting = [item for item in candidates if item and (item["iteration"], item["weights"]) == wanted]
    return fitting[-1] if fitting else None


def code(reader: RunReader, recipe: Recipe, exported: Exported) -> list[str]:
    """Lines of Python that load it with plain diffusers and draw."""
    policy, where = recipe.policy, repr(exported.where)
    plain, vae = f"torch.{policy.dtype}", f"torch.{policy.dtype_of('vae')}"
    dtype = f"dtype={plain}" if vae == plain else f'dtype={{"default": {plain}, "vae": {vae}}}'
    lora, full = exported.kind == "lora", exported.kind == "full"
    lines = ["import torch", f"from diffusers import {'AutoModel, ' if full else ''}{exported.pipeline}", ""]
    source, base = where, Base.of(policy)
    if exported.kind != "merged":
        source = repr(base.hub or base.name)
        if policy.weights == "scenes":
            lines[:1] = ["from importlib.resources import files", "", "import torch"]
            source = f'files("stepcredit") / "assets" / "{policy.type}_scenes"'
        named = {"revision": policy.revision, "variant": policy.variant} if base.hub else {"variant": policy.variant}
        dtype = ", ".join([*(f"{key}={value!r}" for key, value in named.items() if value is not None), dtype])
    own = [f"{name}={name}" for name in exported.networks] if full else []
    if full:
        lines += [
            f"{name} = AutoModel.from_pretrained({where}, subfolder={name!r}, dtype={plain})"
            for name in exported.networks
        ]
    lines.append(f"pipe = {exported.pipeline}.from_pretrained({', '.join([source, *own, dtype])})")
    for name in exported.networks if lora else ():
        second = ', subfolder="transformer_2", weight_name="pytorch_lora_weights.safetensors"'
        second += ", load_into_transformer_2=True"
        lines.append(f"pipe.load_lora_weights({where}{second if name == 'transformer_2' else ''})")
    looks = reader.looks()
    prompt = reader.look(looks[-1], pictures=False).prompts[0] if looks else "your prompt"
    steps = recipe.evaluation.steps or recipe.rollout.steps
    settings = ", ".join(f"{key}={value!r}" for key, value in _call(policy).items())
    result = "video = pipe" if policy.medium == "video" else "picture = pipe"
    lines.append(f"call = dict({settings}, num_inference_steps={steps})")
    lines.append(f"{result}({prompt!r}, **call).{'frames' if policy.medium == 'video' else 'images'}[0]")
    return lines


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
    if base.licence == "other" and base.hub:
        front["license_link"] = f"https://huggingface.co/{base.hub}"
    if base.hub:  # the hub takes its own models only
        relation = "adapter" if exported.kind == "lora" else "finetune"
        front |= {"base_model": base.hub, "base_model_relation": relation}
    tags = [*(["lora"] if exported.kind == "lora" else []), medium, "reinforcement-learning", "stepcredit"]
    front |= {"library_name": "diffusers", "pipeline_tag": medium, "tags": tags}
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n"


def _call(policy: Generator) -> dict[str, Any]:
    """What the pipeline is told beside the prompt."""
    height, width = policy.size
    call: dict[str, Any] = {"height": height, "width": width}
    if isinstance(policy, Wan):
        call["num_frames"] = policy.frames
    if hasattr(policy, "max_tokens"):
        call["max_sequence_length"] = policy.max_tokens  # type: ignore[attr-defined]
    call["true_cfg_scale" if isinstance(policy, QwenImage) else "guidance_scale"] = policy.guidance  # type: ignore[attr-defined]
    if isinstance(policy, Wan) and policy.guidance_2 is not None:
        call["guidance_scale_2"] = policy.guidance_2
    if isinstance(policy, ClassifierFree) and policy.negative_prompt:
        call["negative_prompt"] = policy.negative_prompt
    return call


def _sampling(recipe: Recipe) -> str:
    sampler = "DDIM without noise" if recipe.policy.type == "sd" else "Euler steps"
    shift = recipe.rollout.shift
    levels = f"noise levels shifted by {shift:g}" if shift is not None else "the model's own noise levels"
    steps = recipe.evaluation.steps or recipe.rollout.steps
    return (
        f"What is measured below was drawn with {steps} steps ({sampler}, {levels}); "
        "another scheduler of the pipeline draws other pictures."
    )


def _state(reader: RunReader, exported: Exported, found: Mapping[str, Any] | None) -> str:
    result, sentences = reader.result(), []
    if result is None:
        planned = "a budget of network forwards" if reader.recipe["training"].get("budget") else f"{reader.iterations}"
        done = _many(len(reader.metrics()), "iteration")
        sentences.append(f"The run is not finished: {done} so far, of {planned}.")
    if found is None:
        other = ""
        if result is not None:
            when = _many(result["iteration"], "iteration")
            other = f" The run's own result is of {_WEIGHTS[result['weights']]} after {when}."
        sentences.append(f"These weights were not measured.{other}")
    return " ".join(sentences) or "The run is finished, and these are the weights that it measured."


def _about(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    return (
        f"{_many(found['pictures'], 'sample')} of {_many(found['captions'], 'caption')} of the recipe's "
        "`evaluation.prompts`, from the same noise before and after; intervals treat captions as independent. Held-out "
        "scores were never trained on."
    )


def _row(row: Mapping[str, Any], reader: RunReader) -> dict[str, str]:
    return {
        "name": _cell(row["name"]),
        "base": f"{row['base']:.4g}",
        "tuned": f"{row['tuned']:.4g}",
        "difference": f"{row['difference']:+.3g} [{row['low']:+.3g}, {row['high']:+.3g}]",
        "kind": "trained" if row["name"] in reader.trained else "held out",
    }


def _rewards(reader: RunReader) -> list[dict[str, str]]:
    """One row for each reward with what it stood on; several outputs of one share a row."""
    prints, rows = without_paths(reader.environment.get("rewards", {})), []
    for kind, rewards in (("trained", reader.recipe["rewards"]), ("held out", reader.recipe["held_out"])):
        for reward in rewards:
            names = labels(reward)
            fingerprint = prints.get("+".join(names), {})
            told = ", ".join(f"{key} `{value}`" for key, value in fingerprint.items()) or "not recorded"
            weight = f"{reward.get('weight', 1):g}" if kind == "trained" else ""
            rows.append({"name": ", ".join(names), "kind": kind, "weight": weight, "print": told})
    return [{key: _cell(value) for key, value in row.items()} for row in rows]


def _licence(base: Base, exported: Exported) -> str:
    if base.licence != "other":
        return f"That of the base, {base.licence}."
    which = f"[{base.hub}](https://huggingface.co/{base.hub})" if base.hub else f"`{base.name}`"
    what = "It is of use only with the base" if exported.kind == "lora" else "It contains weights of the base"
    return f"{what}: the licence of {which} says what may be done with it."


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
