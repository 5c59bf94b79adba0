"""Runs the sampler: from noise to finished latents, remembering what training needs. No gradient."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stepcredit.errors import during
from stepcredit.flow.convert import velocity_to_data
from stepcredit.flow.kernels import KERNELS
from stepcredit.flow.sampler import Sampler
from stepcredit.parts.planning import Planning
from stepcredit.parts.sampling import Sampling
from stepcredit.protocols import Observer, Policy, Progress
from stepcredit.records import Condition, Key, Move, NoiseStream, Plan, Prompt, Rollout
from stepcredit.records.rollout import GROUP
from stepcredit.rollout.states import distinct, spread


def silent(pairs: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class RollOut:
    """Draws G samples for every prompt, as the method's sampler and plan say.

    share_states   compute a state that several samples share once; False computes every sample by itself, which is the
                   same but for rounding
    """

    policy: Policy
    sampling: Sampling
    planning: Planning
    levels: Float[Tensor, " L"]
    group_size: int
    micro_batch: int
    observers: Sequence[Observer] = ()
    share_states: bool = True

    @property
    def sampler(self) -> Sampler:
        """The sampler on this rollout's noise levels."""
        return self.sampling.at(self.levels, prediction=self.policy.prediction)

    def plan(self, prompts: int, key: Key) -> Plan:
        """Which steps of which samples add noise and are trained, in this iteration."""
        return self.planning.draw(
            self.sampling,
            steps=len(self.levels) - 1,
            prompts=prompts,
            group_size=self.group_size,
            key=key,
            trainable=self.policy.trainable(self.levels),
        )

    @during("rollout")
    def __call__(
        self,
        prompts: Sequence[Prompt],
        key: Key,
        progress: Progress = silent,
        *,
        places: Sequence[int] | None = None,
        plan: Plan | None = None,
    ) -> Rollout:
        """Trajectories of these prompts.

        places   the global number of each prompt among the iteration's prompts; None: 0, 1, 2, ...
        plan     what to do; None: what `plan` draws
        """
        plan = plan or self.plan(len(prompts), key)
        numbers = torch.arange(len(prompts)) if places is None else torch.tensor(list(places))
        # Each prompt once, not once a sample: text encoders are large, and a group has one text.
        condition = self.policy.encode([prompt.text for prompt in prompts])
        walk = _Walk(self.policy, self.sampler, self.sampling.decodes_last, self.observers, self.share_states, progress)
        first = self._start(plan, numbers, key)
        tasks = _tasks(plan, numbers)
        parts = [
            walk(first[rows], condition[tasks.prompt[rows]], tasks[rows], key)
            for rows in torch.arange(len(first)).split(self.micro_batch)
        ]
        shape = (len(prompts), self.group_size)
        seen: dict[str, Tensor] = {}
        for name in parts[0].seen:
            rows = torch.cat([part.seen[name] for part in parts])
            seen[name] = rows.cpu().unflatten(0, shape)
        return Rollout(
            plan=plan,
            sampler=walk.sampler,
            condition=condition,
            latents=torch.cat([part.latents for part in parts]).unflatten(0, shape),
            velocities=torch.cat([part.velocities for part in parts]).unflatten(0, shape),
            final=torch.cat([part.final for part in parts]).unflatten(0, shape),
            places=numbers,
            forwards=sum(part.forwards for part in parts),
            seen=seen,
        )

    def _start(self, plan: Plan, places: Int[Tensor, " P"], key: Key) -> Float[Tensor, "B *latent"]:
        """The first latents of all samples, each from the noise of its author."""
        shape = self.policy.latent_shape()
        rows: list[Tensor] = []
        for place, authors in zip(places.tolist(), plan.author[..., 0].tolist(), strict=True):
            # A stream is drawn from its beginning, so members with one author get the very same numbers.
            noise = {author: _first_noise(key, place, author).draw(shape) for author in dict.fromkeys(authors)}
            rows += [noise[author] for author in authors]
        start = torch.stack(rows)
        return self.policy.start(start, self.levels[0].to(start))


def _first_noise(key: Key, place: int, author: int) -> NoiseStream:
    return key.shared_start(place) if author == GROUP else key.start(place, author)


@dataclass(frozen=True)
class _Tasks:
    """What each row of a flat batch has to do: its prompt here, its prompt's global number, its part of the plan."""

    prompt: Int[Tensor, " B"]
    place: Int[Tensor, " B"]
    stochastic: Bool[Tensor, "B N"]
    author: Int[Tensor, "B L"]
    node: Int[Tensor, "B L"]

    def __getitem__(self, rows: Tensor) -> "_Tasks":
        return _Tasks(self.prompt[rows], self.place[rows], self.stochastic[rows], self.author[rows], self.node[rows])


def _tasks(plan: Plan, places: Int[Tensor, " P"]) -> _Tasks:
    prompts, members, _ = plan.stochastic.shape
    prompt = torch.arange(prompts).repeat_interleave(members)
    return _Tasks(
        prompt=prompt,
        place=places[prompt],
        stochastic=plan.stochastic.flatten(0, 1),
        author=plan.author.flatten(0, 1),
        node=plan.node.flatten(0, 1),
    )


@dataclass(frozen=True)
class _Path:
    """What some rows leave: latents `[B, L, *]`, velocities `[B, N, *]`, the latents to decode, what was seen."""

    latents: Tensor
    velocities: Tensor
    final: Tensor
    seen: Mapping[str, Tensor]
    forwards: int


@dataclass(frozen=True)
class _Walk:
    """Takes some rows through all steps."""

    policy: Policy
    sampler: Sampler
    decodes_last: bool
    observers: Sequence[Observer]
    share_states: bool
    progress: Progress

    @torch.no_grad()
    def __call__(self, start: Tensor, condition: Condition, tasks: _Tasks, key: Key) -> _Path:
        x = start.to(self.policy.device)
        # Latents and velocities of the whole path stay on the device: the update begins from them.
        states = [x]
        velocities: list[Tensor] = []
        forwards = 0
        noise = _Noise(key, tasks)
        levels = self.sampler.levels.to(x)
        for observer in self.observers:
            observer.begin()
        for step in range(self.sampler.steps):
            velocity, computed = self._velocity(x, levels[step], condition, tasks.node[:, step])
            y = self._next(x, velocity, step, tasks.stochastic[:, step], noise)
            move = Move(step, levels[step], levels[step + 1], x, velocity, y)
            for observer in self.observers:
                observer.see(move)
            velocities.append(velocity)
            states.append(y)
            forwards += computed
            x = y
            self.progress(len(x))
        # The clean prediction and not x, unless the sampler wants it: where the last move adds noise, x would show it.
        final = x if self.decodes_last else velocity_to_data(states[-2], velocities[-1], levels[-2])
        return _Path(
            latents=torch.stack(states, dim=1),
            velocities=torch.stack(velocities, dim=1),
            final=final,
            seen={name: tensor for observer in self.observers for name, tensor in observer.leave(final).items()},
            forwards=forwards,
        )

    def _velocity(self, x: Tensor, level: Tensor, condition: Condition, node: Int[Tensor, " B"]) -> tuple[Tensor, int]:
        """What the network says at each row's state, and for how many states it was asked."""
        states = distinct(node) if self.share_states else None
        if states is None:
            return self.policy.velocity(x, level.expand(len(x)), condition), len(x)
        first = states.first.to(x.device)
        velocity = self.policy.velocity(x[first], level.expand(len(first)), condition[first])
        return spread(velocity, states), len(first)

    def _next(self, x: Tensor, velocity: Tensor, step: int, stochastic: Bool[Tensor, " B"], noise: "_Noise") -> Tensor:
        """The next latents: by the kernel where stochastic, along the ODE elsewhere."""
        straight = self.sampler.straight(x, velocity, step)
        if not stochastic.any():
            return straight
        drawn = noise.draw(step, stochastic, tuple(x.shape[1:]))
        moved = self.sampler.law(x, velocity, step).sample(drawn.to(x))
        return torch.where(stochastic.to(x.device).view(-1, *(1,) * (x.ndim - 1)), moved, straight)


class _Noise:
    """The noise of some rows' moves: each author's stream, drawn where it is used, once for all who follow it."""

    def __init__(self, key: Key, tasks: _Tasks) -> None:
        self._key = key
        self._tasks = tasks
        self._streams: dict[tuple[int, int], NoiseStream] = {}

    def draw(self, step: int, stochastic: Bool[Tensor, " B"], shape: tuple[int, ...]) -> Float[Tensor, "B *latent"]:
        """Standard normal noise for the rows that are stochastic at this step, 0 for the others."""
        nothing = torch.zeros(shape)
        at_this_step: dict[tuple[int, int], Tensor] = {}
        rows = []
        authors = zip(self._tasks.place.tolist(), self._tasks.author[:, step + 1].tolist(), strict=True)
        for who, noisy in zip(authors, stochastic.tolist(), strict=True):
            # Streams are read in order: a move without noise must not use up a latent of it.
            if noisy and who not in at_this_step:
                at_this_step[who] = self._stream(who).draw(shape)
            rows.append(at_this_step[who] if noisy else nothing)
        return torch.stack(rows)

    def _stream(self, who: tuple[int, int]) -> NoiseStream:
        if who not in self._streams:
            self._streams[who] = self._key.moves(*who)
        return self._streams[who]


@during("rollout")
@torch.no_grad()
def sample_ode(
    policy: Policy, condition: Condition, levels: Tensor, noise: Tensor, progress: Progress = silent
) -> Tensor:
    """Finished latents `[B, *latent]` of the deterministic sampler, remembering nothing."""
    x = policy.start(noise, levels[0].to(noise)).to(policy.device)
    for level, next_level in zip(levels[:-1].to(x), levels[1:].to(x), strict=True):
        x = KERNELS["ode"](x, policy.velocity(x, level.expand(len(x)), condition), level, next_level).mean
        progress(len(x))
    return x
