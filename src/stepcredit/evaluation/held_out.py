"""A policy's pictures of held-out captions, always from the same noise, and their scores."""

import warnings
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import UInt8

from stepcredit.protocols import Policy, Progress, PromptSource, Questions
from stepcredit.records import Key, Prompt, RewardBatch, fixed_noise
from stepcredit.rewards.suite import RewardSuite
from stepcredit.rewards.usable import score_usable
from stepcredit.rollout.decoding import Decoded, decode
from stepcredit.rollout.engine import sample_ode, silent
from stepcredit.runs.looks import Look, Weights

SIBLINGS = 4  # pictures per caption draw, so that diversity can be measured
_SEED = 20_260_419  # captions and noise of every evaluation, whatever the run's seed


def evaluate(
    policy: Policy,
    prompts: PromptSource,
    rewards: RewardSuite,
    *,
    iteration: int,
    weights: Weights,
    count: int,
    steps: int,
    shift: float | None,
    micro_batch: int,
    questions: Questions | None = None,
    only: Sequence[int] | None = None,
    progress: Progress = silent,
) -> Look:
    """Draw `count` pictures (rounded up to whole groups of 4) with the deterministic sampler and score them.

    With `only`, just these rows of them, which are the same pictures as in the whole. `iteration` and `weights` are
    what the look says of itself; `questions` is an exact checker, where there is one; `progress` hears of every
    (picture, step) pair, and may raise to leave the look.
    """
    drawn = _drawn(prompts, count)
    texts = [prompt.text for prompt in drawn]
    rows = range(len(drawn) * SIBLINGS) if only is None else only
    decoded = draw(
        policy,
        texts,
        members=SIBLINGS,
        rows=rows,
        steps=steps,
        shift=shift,
        seed=_SEED,
        micro_batch=micro_batch,
        progress=progress,
    )
    # The number of the draw and not the caption makes a group: a caption that is drawn twice has two.
    groups = tuple(row // SIBLINGS for row in rows)
    batch = RewardBatch(decoded.media, tuple(drawn[group] for group in groups), groups, decoded.fps)
    scores, problems = score_usable(rewards, batch, decoded.unusable, waiting=lambda: progress(0))
    return Look(
        iteration=iteration,
        weights=weights,
        names=rewards.names,
        rows=tuple(rows),
        prompts=batch.texts,
        scores=scores,
        pictures=dict(zip(rows, decoded.media, strict=True)),
        answers=answered(batch, questions, decoded.unusable) if questions else {},
        errors=tuple(map(str, problems)),
        fps=policy.fps,
        kinds=kinds_of(batch.prompts),
    )


def watched(prompts: PromptSource, *, count: int, watch: int) -> list[int]:
    """The rows that are looked at during training: whole groups of siblings, of as many captions as possible."""
    texts = [prompt.text for prompt in _drawn(prompts, count)]
    repeats = [texts[:group].count(text) for group, text in enumerate(texts)]  # 0: first time of this caption
    groups = sorted(range(len(texts)), key=lambda group: (repeats[group], group))[: -(-watch // SIBLINGS)]
    return [group * SIBLINGS + sibling for group in sorted(groups) for sibling in range(SIBLINGS)]


def answered(
    batch: RewardBatch, questions: Questions, unusable: Collection[int] = frozenset()
) -> dict[str, np.ndarray]:
    """The exact checker's answers, 1, 0 or NaN where the caption does not ask; nothing if it cannot read a caption.

    Rows that are not usable are not shown to it, and have no answer.
    """
    rows: list[Mapping[str, bool]] = []
    for row, (medium, prompt) in enumerate(zip(batch.media, batch.prompts, strict=True)):
        answers = {} if row in unusable else questions(medium, prompt)
        if answers is None:
            return {}  # shares of some captions only would be read as shares of all
        rows.append(answers)
    names = dict.fromkeys(name for answers in rows for name in answers)
    return {name: _column(rows, name) for name in names}


def kinds_of(prompts: Sequence[Prompt]) -> tuple[str | None, ...]:
    """What each prompt's facts say of its kind; empty where none has one."""
    kinds = [prompt.facts.get("kind") for prompt in prompts]
    if not any(kinds):
        return ()
    return tuple(None if kind is None else str(kind) for kind in kinds)


def _drawn(prompts: PromptSource, count: int) -> list[Prompt]:
    """The captions of every evaluation of this size, one for each group of siblings."""
    return prompts.draw(-(-count // SIBLINGS), Key(_SEED, iteration=0))


def _column(rows: Sequence[Mapping[str, bool]], name: str) -> np.ndarray:
    return np.array([answers.get(name, np.nan) for answers in rows], dtype=float)


def shown(decoded: Decoded) -> UInt8[np.ndarray, "B *frames H W 3"]:
    """The pictures for people to look at: what is not usable is black, and a warning says so."""
    if decoded.unusable:
        reasons = ", ".join(dict.fromkeys(decoded.unusable.values()))
        warnings.warn(
            f"{len(decoded.unusable)} of {len(decoded.media)} pictures are drawn black: {reasons}", stacklevel=2
        )
    return decoded.media


@torch.no_grad()
def draw(
    policy: Policy,
    prompts: Sequence[str],
    *,
    members: int,
    steps: int,
    shift: float | None,
    seed: int,
    micro_batch: int,
    rows: Sequence[int] | None = None,
    progress: Progress = silent,
) -> Decoded:
    """`members` pictures or videos of each prompt with the ODE, each from noise of its own that the seed decides.

    With `rows`, only these of the P x members pictures.
    """
    rows = range(len(prompts) * members) if rows is None else rows
    # Noise goes by the number of the picture, so that some of the rows are the same pictures as in the whole.
    noise = torch.stack([fixed_noise(seed, *divmod(row, members)).draw(policy.latent_shape()) for row in rows])
    condition = policy.encode(prompts)
    levels = policy.levels(steps, shift)
    finished = []
    for part in torch.arange(len(rows)).split(micro_batch):
        prompt_rows = torch.tensor([rows[index] // members for index in part.tolist()])
        finished.append(sample_ode(policy, condition[prompt_rows], levels, noise[part], progress))
    return decode(policy, torch.cat(finished), micro_batch)
