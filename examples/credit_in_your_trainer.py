"""OTCA in a trainer of your own: a flow in the plane, in pure torch; the library gives nothing but pure functions.

The data are four islands. One reward wants a sample to the right, the other wants it up; one island pleases both, and
post-training moves the flow there. Another rule or another loss is one line: `python ... --rule pcpo`.
"""

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn

import stepcredit as sc

G = 64  # samples
N = 8  # steps
NOISE = 0.7  # of the sampler
CLIP = 0.1  # half-width of the clipped ratio; the field's 1e-4 is for latents of thousands of dimensions
LEVELS = sc.flow.schedules.linear(N).float()  # from noise, 1, to data, 0
ISLANDS = torch.tensor([[1.5, 1.5], [1.5, -1.5], [-1.5, 1.5], [-1.5, -1.5]])
TRAINED = torch.arange(N) < N - 1  # the last step adds no noise
PATH = sc.flow.Sampler("dance_sde", NOISE, LEVELS).transitions
COUNTS = G * TRAINED.to(PATH.std)
BY_LENGTH = sc.objective.profile.factors(
    PATH.slope, PATH.std, PATH.length, COUNTS, profile="step_length", preserve="gradient"
)

RULES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # rewards [G, K], similarity [G, L] -> credit [G, N]
    "otca": lambda rewards, similarity: sc.methods.otca.rule(rewards, similarity, trained=TRAINED).per_step,
    "dance_grpo": lambda rewards, _: sc.methods.dance_grpo.rule(rewards, torch.ones(2), trained=TRAINED).per_step,
}
RULES["pcpo"] = RULES["dance_grpo"]  # PCPO changes what a step counts, and the loss
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # log-ratio [G, T], credit [G, T] -> loss [G, T]
    "clipped": lambda ratio, credit: sc.objective.surrogate.clipped(ratio, credit, clip=CLIP),
    "hinge": lambda ratio, credit: sc.objective.surrogate.hinge(BY_LENGTH[TRAINED] * ratio, credit, clip=CLIP),
}


def velocity(network: nn.Module, x: Tensor, n: Tensor) -> Tensor:
    return network(torch.cat([x, LEVELS[n, None]], dim=1))


def law(network: nn.Module, x: Tensor, n: Tensor) -> sc.flow.Gaussian:
    """Where step n goes from x, `[B, 2]`."""
    return sc.flow.kernels.dance_sde(x, velocity(network, x, n), LEVELS[n], LEVELS[n + 1], noise_level=NOISE)


def pretrain(updates: int = 800) -> nn.Module:
    """Flow matching: from any point between data and noise, say noise minus data."""
    network = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(updates):
        clean = ISLANDS[torch.randint(4, (256,))]
        noise = torch.randn(256, 2)
        n = torch.randint(N, (256,))
        x = clean + LEVELS[n, None] * (noise - clean)
        optimiser.zero_grad()
        (velocity(network, x, n) - (noise - clean)).square().mean().backward()
        optimiser.step()
    return network


def train(rule: Callable[[Tensor, Tensor], Tensor], loss: str = "clipped", *, seed: int = 0) -> Tensor:
    """Post-trains a new flow; returns the mean of the K rewards at every iteration."""
    torch.manual_seed(seed)
    network = pretrain()
    curve = []
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(60):
        latents = [torch.randn(G, 2)]
        with torch.no_grad():  # draw, and remember the way
            for n in torch.arange(N)[TRAINED]:
                latents.append(law(network, latents[-1], n.expand(G)).sample(torch.randn(G, 2)))
            latents.append(latents[-1] - LEVELS[-2] * velocity(network, latents[-1], torch.full((G,), N - 1)))
        way = torch.stack(latents, dim=1)  # [G, L, 2]
        rewards = -(way[:, -1] - 1.5).abs()  # [G, K]: to the right, and up
        credit = rule(rewards, sc.credit.temporal.similarity_to_final(way))[:, TRAINED]

        # Every move (x at step n, then y) is a row; the last step has no noise, so no density and nothing to train.
        x = way[:, : N - 1].flatten(0, 1)
        y = way[:, 1:N].flatten(0, 1)
        n = torch.arange(N - 1).repeat(G)
        before = law(network, x, n).log_prob(y).detach()
        for _ in range(2):
            ratio = (law(network, x, n).log_prob(y) - before).unflatten(0, credit.shape)
            optimiser.zero_grad()
            LOSSES[loss](ratio, credit).mean().backward()
            optimiser.step()
        curve.append(rewards.mean(0))
    return torch.stack(curve)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rule", choices=RULES, default="otca")
    chosen = parser.parse_args().rule
    for iteration, means in enumerate(train(RULES[chosen], "hinge" if chosen == "pcpo" else "clipped").tolist()):
        print(f"{iteration:2d}  right {means[0]:6.2f}  up {means[1]:6.2f}")
