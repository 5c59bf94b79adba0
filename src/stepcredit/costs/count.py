"""What an iteration costs in work and memory, counted by running PyTorch on tensors that have shapes and no memory.

The generator is built from configurations alone (`policies.blueprint`) and asked for one velocity, one gradient and
one picture; the operations that run are counted and multiplied. No formula of a model is written down here.
"""

import math
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

from stepcredit.build import build_prompts, family
from stepcredit.costs.blueprint import blueprint, guessed_lengths
from stepcredit.errors import PromptError
from stepcredit.methods.base import Method
from stepcredit.policies.generator import Generator
from stepcredit.prompts.sources import Listed
from stepcredit.protocols import PromptSource
from stepcredit.recipe.recipe import Recipe
from stepcredit.records import Condition, Plan
from stepcredit.rollout.plan import draw
from stepcredit.settings.policies import Full, LoRA

Phase = Literal["text", "rollout", "decode", "update"]
META = torch.device("meta")
ATTENTION: Any = torch.ops.aten


@dataclass(frozen=True)
class Need:
    """Bytes of a phase, beside what is there all the time: some whatever the batch, and some for each of a batch."""

    fixed: int
    each: int
    batch: int

    @property
    def total(self) -> int:
        return self.fixed + self.each * self.batch


@dataclass(frozen=True)
class Costs:
    """One iteration. FLOPs: a multiplication and an addition are two. An upper bound: pairs without credit are skipped,
    prompts that are in the text cache are not encoded again.

    `resident` is on the device all the time, `waiting` in main memory, by part; `needs` come and go.
    """

    work: Mapping[str, int]
    resident: Mapping[str, int]
    waiting: Mapping[str, int]
    needs: Mapping[Phase, Need]
    pairs: int
    guessed_texts: bool
    """Whether lengths of texts had to be guessed: the tokenizer is not here, and the model does not pad."""
    missing: str | None = None
    """Why prompts of twenty words stand in for the recipe's own; None where they do not."""

    @property
    def flops(self) -> int:
        return sum(self.work.values())

    @property
    def peak(self) -> int:
        """Bytes on the device at the worst moment."""
        return sum(self.resident.values()) + max(need.total for need in self.needs.values())

    def seconds(self, *, peak_tflops: float, utilisation: float) -> float:
        """Of the counted work, on a device of so many TFLOP/s that is used so well."""
        return self.flops / (peak_tflops * 1e12 * utilisation)


def fitting_micro_batch(costs: Costs, available_bytes: int, phase: Phase = "update") -> int:
    """The largest micro-batch of a phase that fits; 0 when not even one does."""
    need = costs.needs[phase]
    room = available_bytes - sum(costs.resident.values()) - need.fixed
    return max(room // max(need.each, 1), 0)


def count_costs(recipe: Recipe) -> Costs:
    """Count the first iteration of a recipe; no weights are loaded."""
    policy = sketch(recipe)
    plan = _plan(recipe, policy)
    bytes_of = _Weights(recipe, policy)
    prompts, missing = _prompts(recipe)
    drawn = prompts.draw(recipe.rollout.prompts, seed=recipe.seed, iteration=0)
    text, told = encode(policy, [prompt.text for prompt in drawn])
    text_batch = policy.family.text_batch
    calls = Counter(policy.family.deciding(policy.levels(recipe.rollout.steps, recipe.rollout.shift)))
    samples, passes = recipe.rollout.prompts * recipe.rollout.group_size, recipe.training.passes
    kl = cast(Method, recipe.method).kl_weight > 0
    trained = _by_network(policy, recipe, plan)

    work = Counter({"text encoding": text.flops})
    rollout_each = update_each = 0
    for name, steps in calls.items():
        forward = measure(lambda name=name: velocity(policy, told, name))
        rollout_each = max(rollout_each, forward.peak)
        work["rollout"] += samples * steps * forward.flops
        pairs = trained[name] * passes
        if pairs == 0:
            continue
        both = measure(lambda name=name: gradient(policy, told, name))
        update_each = max(update_each, both.peak)
        work["update, forward"] += pairs * forward.flops
        work["update, backward"] += pairs * (both.flops - forward.flops)
        if kl:
            switched_off = policy.reference() if isinstance(recipe.policy.surface, LoRA) else nullcontext()
            with switched_off:
                work["reference (KL)"] += pairs * measure(lambda name=name: velocity(policy, told, name)).flops
    latent = torch.empty(1, *policy.latent_shape(), device=META)
    pictures: list[Tensor] = []
    decoded = measure(lambda: pictures.append(policy.decode(latent)))
    work["decoding"] = samples * decoded.flops

    store = samples * latent.numel() * 4 * (2 * recipe.rollout.steps + 2)
    out = pictures[0].numel() * 4
    micro = min(recipe.rollout.micro_batch, samples)
    per_update = math.ceil(plan.trained.sum().item() / recipe.training.updates)
    row = sum(tensor[0].numel() * tensor.element_size() for tensor in told.tensors.values())
    return Costs(
        work=dict(work),
        resident=bytes_of.resident | {"trajectories": store},
        waiting=bytes_of.waiting | {"text cache": row * min(recipe.policy.text_cache, len(prompts.prompts))},
        needs={
            "text": Need(
                bytes_of.waiting.get("text encoders", 0), text.peak // min(text_batch, len(drawn)), text_batch
            ),
            "rollout": Need(0, rollout_each, micro),
            "decode": Need(
                3 * micro * out + bytes_of.waiting.get("autoencoder", 0),  # itself, and twice while bytes are made
                decoded.peak,
                min(recipe.policy.decode_batch, micro),
            ),
            "update": Need(bytes_of.copies, update_each, min(recipe.training.micro_batch, per_update)),
        },
        pairs=int(plan.trained.sum()),
        guessed_texts=guessed_lengths(policy.pipe),
        missing=missing,
    )


class Meter(TorchDispatchMode):
    """Counts the work of operations while it is entered, and the bytes of the tensors that they make and that live."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.live = self.peak = 0
        self._storages: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        before = {_storage(leaf)._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        out = func(*args, **kwargs)
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **kwargs, out_val=out)
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.device == META:
                self._see(_storage(leaf), before)
        return out

    def _see(self, storage: Any, before: set[int]) -> None:
        """A storage that no operand had is new; it is known until it is freed."""
        key, size = storage._cdata, storage.nbytes()
        if key in before or key in self._storages:
            return
        self._storages.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key, size).atexit = False

    def _forget(self, key: int, size: int) -> None:
        self._storages.discard(key)
        self.live -= size


@contextmanager
def fused_attention() -> Iterator[None]:
    """Inside, attention is as GPUs do it: on the meta device PyTorch would multiply the whole matrix out and keep it.
    A function is replaced, since modes of PyTorch do not reach what checkpointing computes again."""
    own = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = _fused  # type: ignore[assignment]
    try:
        yield
    finally:
        F.scaled_dot_product_attention = own


def _fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    del dropout_p  # the generator is in evaluation mode
    if enable_gqa:
        key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], dim=1) for part in (key, value))
    if attn_mask is None:
        return ATTENTION._scaled_dot_product_flash_attention(query, key, value, 0.0, is_causal, scale=scale)[0]
    bias = attn_mask.to(query.dtype).expand(*query.shape[:3], key.shape[2])
    return ATTENTION._scaled_dot_product_efficient_attention(
        query, key, value, bias, True, 0.0, is_causal, scale=scale
    )[0]


def measure(call: Callable[[], object]) -> Meter:
    """Work and peak of a call on the meta device."""
    with fused_attention(), Meter() as meter:
        call()
    return meter


def sketch(recipe: Recipe) -> Generator:
    """The recipe's generator without weights."""
    surface = recipe.policy.surface
    if isinstance(surface, LoRA):
        surface = surface.model_copy(update={"start": None})
    settings = recipe.policy.model_copy(
        update={"device": "meta", "offload": (), "attention": None, "surface": surface, "text_cache": 2**30}
    )
    adapter = family(settings)
    return Generator(adapter, settings, pipe=blueprint(settings, adapter))


def _prompts(recipe: Recipe) -> tuple[PromptSource, str | None]:
    """The recipe's prompts; where they are not here yet, stand-ins and the reason."""
    try:
        return build_prompts(recipe.prompts), None
    except PromptError as error:
        words = " ".join(["word"] * 19)
        return Listed([f"{words} {index}" for index in range(recipe.rollout.prompts)]), str(error)


def _plan(recipe: Recipe, policy: Generator) -> Plan:
    rollout = recipe.rollout
    return draw(
        cast(Method, recipe.method),
        steps=rollout.steps,
        prompts=rollout.prompts,
        group_size=rollout.group_size,
        seed=recipe.seed,
        iteration=0,
        trainable=policy.trainable(policy.levels(rollout.steps, rollout.shift)),
    )


def _by_network(policy: Generator, recipe: Recipe, plan: Plan) -> Counter[str]:
    """Trained pairs of each network."""
    names = policy.family.deciding(policy.levels(recipe.rollout.steps, recipe.rollout.shift))
    found: Counter[str] = Counter()
    for name, pairs in zip(names, plan.trained.sum((0, 1)).tolist(), strict=True):
        found[name] += pairs
    return found


def velocity(policy: Generator, told: Condition, network: str, count: int = 1) -> None:
    with torch.no_grad():
        _forward(policy, told, network, count)


def gradient(policy: Generator, told: Condition, network: str, count: int = 1) -> None:
    found = _forward(policy, told, network, count)
    found.backward(torch.empty_like(found))


def _forward(policy: Generator, told: Condition, network: str, count: int) -> Tensor:
    rows = Condition({name: tensor[:1].expand(count, *tensor.shape[1:]) for name, tensor in told.tensors.items()})
    latents = torch.empty(count, *policy.latent_shape(), device=META)
    with policy.alone(network):
        return policy.velocity(latents, torch.empty(count, device=META), rows)


def encode(policy: Generator, prompts: list[str]) -> tuple[Meter, Condition]:
    """Work and peak of the text encoders, and what a network is told. The pipeline's own handling of texts, which looks
    at values, runs on the CPU with zeros; only the encoders are without memory."""
    encoders = [getattr(policy.pipe, name) for name in policy.family.encoders]
    policy.family.device = torch.device("cpu")
    with _shadows([encoder for encoder in encoders if encoder is not None]) as meter, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of prompts that are cut: training says it
        told = policy.encode(prompts)
    policy.family.device = META
    return meter, told


@contextmanager
def _shadows(encoders: list[Any]) -> Iterator[Meter]:
    """Inside, encoders return zeros; the meter knows what they would have done."""
    total = Meter()

    def shadow(forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            ids, *_ = (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
            flags = {name: value for name, value in kwargs.items() if not isinstance(value, Tensor)}
            found: list[Any] = []
            with torch.no_grad():  # without its mask: padding is computed, too
                seen = measure(lambda: found.append(forward(ids.to(META), **flags)))
            total.flops += seen.flops
            total.peak = max(total.peak, seen.peak)
            return tree_map(_zeros, found[0])

        return run

    for encoder in encoders:
        encoder.forward = shadow(encoder.forward)
    try:
        yield total
    finally:
        for encoder in encoders:
            del encoder.forward


def _zeros(leaf: Any) -> Any:
    return torch.zeros((), dtype=leaf.dtype).expand(leaf.shape) if isinstance(leaf, Tensor) else leaf


class _Weights:
    """Bytes of parameters and what hangs on them, by part; `copies` are made for each update batch."""

    def __init__(self, recipe: Recipe, policy: Generator) -> None:
        trained = policy.parameters()
        ours = {id(parameter) for parameter in trained}
        networks = {id(network) for network in policy.family.networks().values()}
        frozen: Counter[str] = Counter()
        for name, module in policy.pipe.components.items():
            if isinstance(module, torch.nn.Module):
                part = "network" if id(module) in networks else "autoencoder" if name == "vae" else "text encoders"
                frozen[part] += sum(_size(p) for p in module.parameters() if id(p) not in ours)
        away = {"vae": "autoencoder", "text_encoders": "text encoders"}
        offload = () if recipe.policy.device == "cpu" else recipe.policy.offload
        self.waiting = {away[name]: frozen.pop(away[name]) for name in offload}
        count, full = sum(p.numel() for p in trained), isinstance(recipe.policy.surface, Full)
        self.resident = {
            **frozen,
            "trained weights": 4 * count,
            "gradients": 4 * count,
            "moments of AdamW": 8 * count,
        }
        if recipe.training.ema is not None:
            self.resident["moving average"] = 4 * count
        if full and cast(Method, recipe.method).kl_weight > 0:
            self.resident["reference"] = frozen["network"] + 4 * count
        self.resident = {part: size for part, size in self.resident.items() if size}
        self.copies = 0
        for parameter in trained:
            if full and policy.dtype != torch.float32:  # autocast computes with a copy, and keeps it for the backward
                parameter.data = parameter.data.to(policy.dtype)
                self.copies += _size(parameter)
            parameter.grad = torch.empty_like(parameter)


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _storage(tensor: Tensor) -> Any:
    return tensor.untyped_storage()
