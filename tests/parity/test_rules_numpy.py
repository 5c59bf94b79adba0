"""Every rule, step profile, log-ratio and head against an independent statement in NumPy, written from the papers'
equations with loops where the package uses masks.

float64 everywhere, tolerance 1e-10, but for MGDA: its solver adds a ridge of 1e-12, so the shortest vector is known to
about 1e-6; the twin finds it by Frank-Wolfe's pairwise steps on the simplex.
"""

import itertools
import math

import numpy as np
import pytest
import torch

import composing
from stepcredit import methods
from stepcredit.flow import schedules
from stepcredit.flow.transitions import read_transitions
from stepcredit.objective import profile, surrogate
from stepcredit.records import Evidence

SMALL = 1e-6  # a group whose spread is below this has no opinion


def z_scores(table, eps=1e-8):
    """Column by column over valid rows, Bessel; NaN where there is nothing to say."""
    out = np.full(table.shape, np.nan)
    for k in range(table.shape[1]):
        rows = [i for i in range(len(table)) if math.isfinite(table[i, k])]
        if len(rows) < 2:
            continue
        mean = sum(table[i, k] for i in rows) / len(rows)
        std = math.sqrt(sum((table[i, k] - mean) ** 2 for i in rows) / (len(rows) - 1))
        for i in rows:
            if std > SMALL:
                out[i, k] = (table[i, k] - mean) / (std + eps)
    return out


def clip(values, limit=5.0):
    return np.clip(values, -limit, limit)


def spread_out(per_sample, trained):
    """One number per sample, at every trained step."""
    return np.where(trained, np.nan_to_num(per_sample)[..., None], 0.0)


def summed(world, *, scale, eps=1e-4):
    """Flow-GRPO: scores summed, centred per group, over the population std of the batch or of the group."""
    scores = (world["rewards"] * world["weights"]).sum(-1)
    out = np.zeros(scores.shape)
    for p, group in enumerate(scores):
        over = scores if scale == "batch" else group
        over = over[np.isfinite(over)]
        valid = group[np.isfinite(group)]
        for i, score in enumerate(group):
            if math.isfinite(score) and len(valid) > 1:
                out[p, i] = (score - valid.mean()) / (over.std() + eps)
    return spread_out(clip(out), world["trained"])


def dance(world, of="advantages"):
    out = []
    for group, trained in zip(world["rewards"], world["trained"], strict=True):
        if of == "rewards":
            mixed = z_scores((group * world["weights"]).sum(-1)[:, None])[:, 0]
        else:
            mixed = np.nansum(clip(z_scores(group)) * world["weights"], axis=-1)
        out.append(spread_out(mixed if of == "losses" else clip(mixed), trained))
    return np.stack(out)


def dpok(world, baseline):
    out = []
    for group, trained in zip(world["rewards"], world["trained"], strict=True):
        scores = (group * world["weights"]).sum(-1)
        out.append(spread_out(clip(scores - (np.nanmean(scores) if baseline == "group" else 0.0)), trained))
    return np.stack(out)


def gdpo(world):
    sums = []
    for group in world["rewards"]:
        z = z_scores(group, eps=1e-4)
        sums.append([math.nan if np.isnan(row).all() else np.nansum(row * world["weights"]) for row in z])
    sums = np.array(sums)
    known = sums[np.isfinite(sums)]
    return spread_out(clip((sums - known.mean()) / (known.std(ddof=1) + 1e-4)), world["trained"])


def shortest(columns):
    """The simplex point that minimises |columns c|: again and again, the best exchange between two objectives."""
    K = columns.shape[1]
    c = np.full(K, 1 / K)
    for _ in range(20_000):
        slope = columns.T @ (columns @ c)
        worst = max((k for k in range(K) if c[k] > 0), key=lambda k: slope[k])
        best = min(range(K), key=lambda k: slope[k])
        direction = columns[:, best] - columns[:, worst]
        if slope[worst] - slope[best] < 1e-13 or not direction.any():
            break
        step = min(c[worst], -(direction @ (columns @ c)) / (direction @ direction))
        c[best] += step
        c[worst] = c[worst] - step if step < c[worst] else 0.0
    return c


def mgda(world, over):
    z = np.stack([np.nan_to_num(clip(z_scores(group))) for group in world["rewards"]])
    heard = [np.any(part != 0, axis=0) for part in ([z.reshape(-1, z.shape[2])] * len(z) if over == "batch" else z)]
    out = []
    for p, group in enumerate(z):
        pool = (z.reshape(-1, z.shape[2]) if over == "batch" else group)[:, heard[p]]
        out.append(spread_out(group[:, heard[p]] @ shortest(pool), world["trained"][p]))
    return np.stack(out)


def coca(world, window, floor):
    out = []
    for group, clean, trained in zip(world["rewards"], world["clean"], world["trained"], strict=True):
        z = clip(z_scores(group))
        shaped = np.full(trained.shape, math.nan)
        for i, row in enumerate(clean):
            if np.isnan(z[i]).all():
                continue
            sequence, N = [*row, 1.0], len(row)
            starts = list(range(1, N + 1, window))
            parts = [sequence[a : min(a + window, N + 1)] for a in starts]
            means = [sequence[0]] + [sum(part) / len(part) for part in parts]
            gains = [after - before for before, after in itertools.pairwise(means)]
            share = [gain / sum(gains) / len(part) for gain, part in zip(gains, parts, strict=True) for _ in part]
            good = clip(np.nansum(z[i] * world["weights"]))
            for n in range(N):
                if trained[i, n]:
                    shaped[i, n] = good * (floor + (1 - floor) * sum(share[n:]))
        known = shaped[np.isfinite(shaped)]
        out.append(clip(np.nan_to_num((shaped - known.mean()) / (known.std(ddof=1) + 1e-6))))
    return np.stack(out)


def otca(world, *, when=True, mix=True, floor=0.5, centred=False, recentred=False, bottom=0.0, step_mix=False):
    out = []
    for group, course, trained in zip(world["rewards"], world["similarity"], world["trained"], strict=True):
        G, N = trained.shape
        z, gains = clip(z_scores(group)), np.diff(course, axis=1)
        raised = np.where(trained, np.maximum(gains, 0) + 1e-6, 0)
        share = raised / raised.sum(1, keepdims=True)
        weights = np.where(trained, floor + (1 - floor) * trained.sum(1, keepdims=True) * share if when else 1.0, 0)
        gained = share * gains
        q = gained if step_mix else np.repeat(gained.sum(1, keepdims=True), N, axis=1)
        e = np.abs(q - q.mean(0) if centred else q) / (q.std(0, ddof=1) + 1e-6)
        good = np.zeros((G, N))
        opinion = [i for i in range(G) if not np.isnan(z[i]).all()]
        for i in opinion:
            known = z[i][~np.isnan(z[i])]
            total = known.sum()
            for n in range(N):
                strength = max(0.0, total) / (abs(total) + 1e-6) * math.tanh(e[i, n])
                moca = min(max(strength / 2, known.min()), known.max()) if mix else known.mean()
                good[i, n] = (1 - bottom) * moca + bottom * known.mean()
        if recentred and opinion:
            good[opinion] -= good[opinion].mean(0)
        out.append(weights * good)
    return np.stack(out)


CASES = {
    "coca": (composing.method("coca"), lambda world: coca(world, 5, 0.0)),
    "coca, windows of 2, floor": (composing.method("coca", span=2, floor=0.3), lambda world: coca(world, 2, 0.3)),
    "dance_grpo": (composing.method("dance_grpo"), dance),
    "dance_grpo, rewards": (composing.method("dance_grpo", mix_of="rewards"), lambda world: dance(world, "rewards")),
    "dance_grpo, losses": (composing.method("dance_grpo", mix_of="losses"), lambda world: dance(world, "losses")),
    "ddpo": (composing.method("ddpo"), lambda world: summed(world, scale="group", eps=1e-6)),
    "dpok": (composing.method("dpok"), lambda world: dpok(world, "group")),
    "dpok, no baseline": (composing.method("dpok", baseline="none"), lambda world: dpok(world, "none")),
    "flash_grpo": (composing.method("flash_grpo"), lambda world: summed(world, scale="group")),
    "flow_cps": (composing.method("flow_cps"), lambda world: summed(world, scale="batch")),
    "flow_dppo": (composing.method("flow_dppo"), lambda world: summed(world, scale="batch")),
    "flow_grpo": (composing.method("flow_grpo"), lambda world: summed(world, scale="batch")),
    "gdpo": (composing.method("gdpo"), gdpo),
    "grpo_guard": (composing.method("grpo_guard"), lambda world: summed(world, scale="batch")),
    "mgda": (composing.method("mgda"), lambda world: mgda(world, "batch")),
    "mgda, group": (composing.method("mgda", over="group"), lambda world: mgda(world, "group")),
    "moca": (composing.method("moca"), lambda world: otca(world, when=False)),
    "otca": (composing.method("otca"), otca),
    "otca, centred": (
        composing.method("otca", centred=True, floor=0.1),
        lambda world: otca(world, centred=True, floor=0.1),
    ),
    "otca, recentred": (composing.method("otca", recentred=True), lambda world: otca(world, recentred=True)),
    "otca, objective floor": (composing.method("otca", objective_floor=0.4), lambda world: otca(world, bottom=0.4)),
    "otca, step mix": (
        composing.method("otca", step_mix=True, centred=True),
        lambda world: otca(world, step_mix=True, centred=True),
    ),
    "otca, all": (
        composing.method("otca", step_mix=True, recentred=True, objective_floor=0.2),
        lambda world: otca(world, step_mix=True, recentred=True, bottom=0.2),
    ),
    "pcpo": (composing.method("pcpo"), dance),
    "tcd": (composing.method("tcd"), lambda world: otca(world, mix=False)),
    "tempflow_grpo": (composing.method("tempflow_grpo"), lambda world: summed(world, scale="group")),
}


def test_every_method_has_a_twin():
    assert {method.type for method, _ in CASES.values()} == set(methods.names())


def drawn(seed):
    """A rollout with every size, a silent objective now and then, and samples without some or any score."""
    draw = np.random.default_rng(seed)
    P, G, K, N = draw.integers(1, 4), draw.integers(3, 13), draw.integers(1, 5), draw.integers(2, 9)
    rewards = draw.normal(size=(P, G, K)) * draw.choice([0.02, 1.0, 7.0], size=K)
    if seed % 3 == 0:
        rewards[draw.random((P, G, K)) < 0.1] = math.nan
    if seed % 4 == 0 and K > 1:
        rewards[0, :, 0] = 0.5
    trained = draw.random((P, G, N)) < 0.7
    trained[..., 0] = True
    return {
        "rewards": rewards,
        "weights": draw.choice([0.5, 1.0, 2.0], size=K),
        "similarity": np.cumsum(draw.uniform(-0.02, 0.15, size=(P, G, N + 1)), axis=-1),
        "clean": draw.uniform(0, 0.9, size=(P, G, N)),
        "trained": trained,
    }


@pytest.mark.parametrize(("method", "twin"), CASES.values(), ids=CASES)
def test_credit_of_a_whole_rollout(method, twin):
    for seed in range(12):
        world = drawn(seed)
        tensors = {name: torch.from_numpy(array) for name, array in world.items()}
        evidence = Evidence(
            rewards=tensors["rewards"],
            weights=tensors["weights"],
            trained=tensors["trained"],
            transitions=read_transitions("dance_sde", schedules.linear(world["trained"].shape[-1]), noise_level=0.3),
            seen={"similarity": tensors["similarity"], "clean_similarity": tensors["clean"]},
        )
        tolerance = 1e-5 if method.type == "mgda" else 1e-10
        per_step = method.credit(evidence).per_step.numpy()
        np.testing.assert_allclose(per_step, twin(world), rtol=0, atol=tolerance, err_msg=f"seed {seed}")


# --- constants of samplers, profiles


def constants(kernel, s, t, eta):
    """slope |b| and std of mean = a x + b v for one step s -> t, from the papers' formulas."""
    D = s - t
    if kernel == "cps":
        g = t * math.sin(eta * math.pi / 2)
        return abs(-s * (1 - t) + (1 - s) * math.sqrt(t**2 - g**2)), g
    if kernel == "ddim":
        before, after = ((1 - u) ** 2 / ((1 - u) ** 2 + u**2) for u in (s, t))
        sig = eta * math.sqrt((1 - after) / (1 - before) * (1 - before / after))
        c = math.sqrt((1 - t) ** 2 + t**2)
        return c * abs(-s * math.sqrt(after) + (1 - s) * math.sqrt(1 - after - sig**2)), c * sig
    g = eta if kernel == "dance_sde" else eta * math.sqrt(s / (1 - (t if s == 1 else s)))
    return D * (1 + (1 - s) * g**2 / (2 * s)), g * math.sqrt(D)


@pytest.mark.parametrize("kernel", ["flow_sde", "dance_sde", "cps", "ddim"])
@pytest.mark.parametrize("eta", [0.3, 0.7, 0.95])
def test_constants_and_factors_of_every_profile(kernel, eta):
    draw = np.random.default_rng(3)
    for N in (2, 5, 16):
        levels = schedules.shifted(N, shift=3)
        ours, s = read_transitions(kernel, levels, noise_level=eta), levels.tolist()
        pairs = [constants(kernel, s[n], s[n + 1], eta) for n in range(N - 1)]
        np.testing.assert_allclose(ours.slope[:-1], [slope for slope, _ in pairs], rtol=1e-10)
        np.testing.assert_allclose(ours.std[:-1], [std for _, std in pairs], rtol=1e-10)
        counts = np.append(draw.integers(0, 4, size=N - 1), 0.0)
        counts[0] = 2
        for which in ("native", "noise", "step_length", "uniform", "per_length", "error"):
            native, wanted = [], []
            for n, (slope, std) in enumerate(pairs):
                D = s[n] - s[n + 1]
                native.append(slope / std)
                wanted.append(
                    {"native": slope / std, "noise": slope, "step_length": D, "uniform": 1.0, "per_length": slope / D}
                    .get(which, 2 * slope * std)
                )  # fmt: skip
            on = [n for n in range(N - 1) if counts[n]]
            zeta = sum(counts[n] * native[n] for n in on) / sum(counts[n] * wanted[n] for n in on)
            mean = sum(counts[n] * wanted[n] / native[n] for n in on) / sum(counts[n] for n in on)
            for preserve, scale in (("gradient", zeta), ("factor", 1 / mean), ("nothing", 1.0)):
                expected = [scale * wanted[n] / native[n] if n in on else 1.0 for n in range(N - 1)] + [1.0]
                actual = profile.factors(
                    ours.slope, ours.std, ours.length, torch.from_numpy(counts), profile=which, preserve=preserve
                )
                np.testing.assert_allclose(actual, expected, rtol=1e-10)


@pytest.mark.parametrize("form", ["power", "matching", "linear"])
def test_log_ratios(form):
    draw = np.random.default_rng(5)
    old, move, noise = draw.normal(size=(3, 6, 4, 2))
    std, factor = draw.uniform(0.05, 2, size=6), draw.uniform(0.1, 3, size=6)
    expected = []
    for b in range(6):
        y, new = old[b] + std[b] * noise[b], old[b] + move[b]
        dense = np.mean(((y - old[b]) ** 2 - (y - new) ** 2) / (2 * std[b] ** 2))
        bias = np.mean((new - old[b]) ** 2) / (2 * std[b] ** 2)
        scaled = old[b] + factor[b] * move[b]
        expected.append({
            "power": factor[b] * dense,
            "matching": np.mean(((y - old[b]) ** 2 - (y - scaled) ** 2) / (2 * std[b] ** 2)),
            "linear": factor[b] * (dense + bias),
        }[form])  # fmt: skip
    drift = torch.from_numpy(move / std[:, None, None])
    actual = profile.log_ratio(drift, torch.from_numpy(noise), torch.from_numpy(factor), form=form)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-10)


def test_heads():
    draw = np.random.default_rng(7)
    limit = 0.1
    log_ratio, credit = draw.normal(size=(2, 400)) * [[0.2], [1.0]]
    kl = draw.uniform(0, 2 * limit, size=400)
    expected = {"clipped": [], "hinge": [], "unclipped": [], "trust_region": []}
    for step, A, far in zip(log_ratio, credit, kl, strict=True):
        rho = math.exp(step)
        expected["clipped"].append(max(-A * rho, -A * min(max(rho, 1 - limit), 1 + limit)))
        expected["hinge"].append(max(0.0, limit * abs(A) - A * step))
        expected["unclipped"].append(-A * step)
        away = (rho > 1 and A > 0) or (rho < 1 and A < 0)
        expected["trust_region"].append(0.0 if far >= limit and away else -A * rho)
    step, A = torch.from_numpy(log_ratio), torch.from_numpy(credit)
    actual = {
        "clipped": surrogate.clipped(step, A, clip=limit),
        "hinge": surrogate.hinge(step, A, clip=limit),
        "unclipped": surrogate.unclipped(step, A),
        "trust_region": surrogate.trust_region(step, A, torch.from_numpy(kl), limit=limit),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(actual[name], values, rtol=0, atol=1e-12, err_msg=name)
