"""Tables of the studies hold the right numbers, by scipy's Student t; pictures show every rule and every row."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from stepcredit.studies.side_by_side import SideBySide, Verdict
from stepcredit.viewer import benchmarks, credit_maps
from stepcredit.viewer.benchmarks import against, gains_table, mean_and_half, oracle_table, proxy_table


def cells(table):
    """Rows of a Markdown table without bold, the head first."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    return [texts(line) for line in (lines[0], *lines[2:])]  # the second says how columns are aligned


def texts(line):
    return [text.strip() for text in line.replace("**", "").strip("|").split("|")]


def colours(path):
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    return lambda colour: int((pixels == tuple(bytes.fromhex(colour[1:]))).all(-1).sum()), pixels.shape


@pytest.mark.parametrize("count", [2, 3, 10])
def test_the_interval_is_scipys(count):
    values = np.random.default_rng(count).normal(size=count)
    mean, half = mean_and_half(values.tolist())
    low, high = stats.t.interval(0.95, count - 1, loc=values.mean(), scale=stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert mean_and_half([3.0])[0] == 3.0
    assert np.isnan(mean_and_half([3.0])[1])


def rows(cosine=0.5, samplers=("a", "b")):
    return [
        {"rule": rule, "sampler": sampler, "problem": "quadratic", "qualities": qualities(cosine + k / 10)}
        for k, rule in enumerate(("first", "second"))
        for sampler in samplers
    ]


def qualities(cosine):
    """Of three seeds."""
    return [
        {"cosine": cosine + seed / 100, "bias": 0.1 * (seed + 1), "snr": 2.0 + seed, "cost": 100.0} for seed in range(3)
    ]


def test_the_table_of_the_oracle():
    table = oracle_table(rows(), "quadratic")
    head, first, second = cells(table)
    assert head == ["rule", "cost of a group", *(f"{s} {what}" for s in "ab" for what in ("E[cos]", "bias", "SNR"))]
    half = stats.t.ppf(0.975, 2) * 0.01 / np.sqrt(3)
    assert first == ["first", "100", *[f"0.510 ± {half:.3f}", "0.200", "3.00"] * 2]
    assert second[2] == f"0.610 ± {half:.3f}"
    assert table.count("**0.610") == 2  # the best of each sampler, and nothing else
    assert "**0.510" not in table


def test_the_picture_of_the_oracle_shows_every_sampler_also_below_zero(tmp_path):
    for cosine in (0.5, -0.9):
        benchmarks.draw_oracle(rows(cosine), tmp_path / "out.png")
        count, shape = colours(tmp_path / "out.png")
        assert count("#2463c8") > 60
        assert count("#b4560a") > 60
        assert shape[1] > 700


def study(seeds=3):
    random = np.random.default_rng(0)
    curve = {"forwards": [100.0, 200.0, 300.0], "hps": [1.0, 1.1, 1.2]}
    arms = {
        name: {
            "seeds": list(range(seeds)),
            "gains": {"hps": (gain + 0.01 * random.normal(size=seeds)).tolist(), "held": [0.0] * seeds},
            "forwards": [3000.0] * seeds,
            "iterations": [3] * seeds,
            "curves": [curve] * seeds,
        }
        for name, gain in {"dance_grpo": 0.1, "otca": 0.2}.items()
    }
    return {"base": {"hps": 1.5, "held": 0.25}, "trained": ["hps"], "pictures": 8, "arms": arms}


def test_the_table_of_gains():
    results = study()
    head, base, dance, otca = cells(gains_table(results))
    assert head == ["method", "iterations", "forwards", "hps (trained)", "held (held out)"]
    assert [cell.strip() for cell in base] == ["base (no training)", "", "", "1.5000", "0.2500"]
    for name, row in {"dance_grpo": dance, "otca": otca}.items():
        gains = results["arms"][name]["gains"]["hps"]
        half = stats.t.ppf(0.975, 2) * stats.sem(gains)
        assert row == [name, "3", "3 k", f"{np.mean(gains):+.4f} ± {half:.4f}", "+0.0000 ± 0.0000"]
    assert f"**{np.mean(results['arms']['otca']['gains']['hps']):+.4f}" in gains_table(results)
    assert "±" not in gains_table(study(seeds=1))


def test_pairs_share_a_seed():
    results = study()
    arm = results["arms"]["otca"]
    arm["seeds"] = [2, 0, 7]  # its gains are of these
    otca = dict(zip(arm["seeds"], arm["gains"]["hps"], strict=True))
    dance = results["arms"]["dance_grpo"]["gains"]["hps"]
    differences = [otca[seed] - dance[seed] for seed in (2, 0)]
    head, row = cells(against(results, "dance_grpo"))
    assert head == ["minus dance_grpo", "hps", "held"]
    half = stats.t.interval(0.95, 1, scale=stats.sem(differences))[1]
    assert row == ["otca", f"{np.mean(differences):+.4f} ± {half:.4f}", "+0.0000 ± 0.0000"]


def test_bold_leaves_out_zero_and_a_single_seed_is_never_bold():
    assert "**" in against(study(), "dance_grpo").splitlines()[2]
    assert "**+0.0000" not in against(study(), "dance_grpo")
    assert "**" not in against(study(seeds=1), "dance_grpo")
    results = study()
    results["arms"]["otca"]["seeds"] = [7, 8, 9]
    assert len(cells(against(results, "dance_grpo"))) == 1  # no seed in common, no row


def test_the_table_of_the_proxy():
    keys = ("pearson", "spearman", "argmax_distance", "recall_3", "recall_5")
    within = dict(zip(keys, (0.1, 0.2, 3.0, 0.4, 0.5), strict=True))
    row = {"within": within, "null": dict.fromkeys(keys, 0.0625), "residual": -0.5, "trajectories": 8}
    head, line = cells(proxy_table({"rows": {"hps": {"noisy latent": row}}}))
    assert head[2:] == [
        "Pearson",
        "Spearman",
        "argmax distance",
        "recall@3",
        "recall@5",
        "Pearson left without step means",
    ]
    wanted = [f"{value:.3f} (null 0.062)" for value in within.values()]
    assert line == ["hps", "noisy latent", *wanted, "-0.500"]


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_curves_show_every_row(tmp_path, seeds):
    results = study(seeds)
    for arm, gain in zip(results["arms"].values(), (0.0, 0.5), strict=True):
        arm["curves"] = [
            {"forwards": [100.0, 200.0, 300.0], "hps": [1.0 + gain, None, 1.2 + gain + seed / 10]}
            for seed in range(seeds)
        ]
        arm["curves"][0]["hps"][1] = 1.1 + gain
    benchmarks.draw_curves(results, tmp_path / "out.png")
    count, _ = colours(tmp_path / "out.png")
    assert count("#2463c8") > 100
    assert count("#b4560a") > 100


@pytest.mark.parametrize("count", [1, 2, 8, 30])
def test_smoothing_keeps_length_and_level(count):
    assert benchmarks._smoothed(np.full(count, 2.5)) == pytest.approx(np.full(count, 2.5))
    wanted = np.arange(count, dtype=float)
    np.testing.assert_allclose(benchmarks._smoothed(wanted)[4:-4], wanted[4:-4])


def test_what_could_not_be_scored_leaves_no_hole():
    values = np.full(20, 2.5)
    values[7] = np.nan
    assert benchmarks._smoothed(values) == pytest.approx(np.full(20, 2.5))
    assert np.isnan(benchmarks._smoothed(np.full(3, np.nan))).all()


def side_by_side(names=("otca", "dance_grpo"), silent=False):
    generator = torch.Generator().manual_seed(0)
    verdicts = {}
    for name in names:
        effective = torch.randn(2, 6, 5, generator=generator).double()
        effective[..., -1] = 0
        verdicts[name] = Verdict(effective * (not silent), 0.25, 0.125, float("nan"), 0.5, -0.126)
    agreement = np.full((len(names), len(names)), np.nan if silent else 0.5)
    return SideBySide(verdicts, agreement)


def test_the_table_of_rules_side_by_side():
    head, *lines = cells(credit_maps.markdown(side_by_side()))
    assert head == ["rule", "zero credit", "sign against the sum", "Pareto share", "in the first half", "mean credit"]
    assert lines == [[name, "25%", "12%", "nan%", "50%", "-0.13"] for name in ("otca", "dance_grpo")]


@pytest.mark.parametrize("names", [("otca",), tuple(f"a_rule_with_a_long_name_{n}" for n in range(25))])
@pytest.mark.parametrize("silent", [False, True])
def test_maps_of_any_number_of_rules_are_drawn(tmp_path, names, silent):
    credit_maps.draw(side_by_side(names, silent), tmp_path / "out.png", prompt="a very long caption " * 20)
    count, shape = colours(tmp_path / "out.png")
    assert shape[:2][1] == 1690
    assert count("#d4d4d4") > 1000  # the step that nobody trains


def test_rules_that_agree_share_a_line(tmp_path, monkeypatch):
    """And those that treat all steps alike a dotted one."""
    drawn = []
    monkeypatch.setattr(credit_maps.Figure, "savefig", lambda figure, path, format: drawn.append(figure))
    rules = side_by_side(("one", "two", "even", "also_even", "silent"))
    verdicts = dict(rules.verdicts)
    verdicts["two"] = verdicts["one"]
    for name in ("even", "also_even", "silent"):
        level = float(name != "silent")
        verdicts[name] = Verdict(torch.full((2, 6, 5), level).double(), *[0.0] * 5)
    credit_maps.draw(SideBySide(verdicts, rules.agreement), tmp_path / "x.png", prompt="")
    legend = next(axes.get_legend() for axes in drawn[0].axes if axes.get_legend())
    assert [text.get_text() for text in legend.get_texts()] == ["one,\ntwo", "even,\nalso_even"]
