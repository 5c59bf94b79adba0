"""The picture of a comparison is written and has something on it."""

import numpy as np
import pytest
from PIL import Image

from drawn_runs import drawn_run
from stepcredit.runs.compare import compare
from stepcredit.runs.reader import RunReader
from stepcredit.viewer.comparison import draw


def runs(folder, methods, seeds, **settings):
    return [
        RunReader(
            drawn_run(folder / f"{method}-{seed}", method=method, seed=seed, gains={"hps": side + seed / 4}, **settings)
        )
        for side, method in enumerate(methods)
        for seed in seeds
    ]


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_curves_of_both_sides_are_drawn(tmp_path, seeds):
    sides = runs(tmp_path, ("otca", "dance_grpo"), seeds, rewards=["hps"], held_out=["diversity"])
    draw(compare(sides, by="method"), tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[1] > 900  # two panels
    for colour in ((0x24, 0x63, 0xC8), (0xB4, 0x56, 0x0A)):
        assert (pixels == colour).all(-1).sum() > 100
    band = (np.abs(pixels.astype(int) - (222, 232, 247)) <= 2).all(-1).sum()  # 15 % of the first colour on white
    assert (band > 3000) == (len(seeds) > 1)


def test_a_single_score_is_one_panel(tmp_path):
    comparison = compare(runs(tmp_path, ("otca", "tcd"), (0,), rewards=["hps"], held_out=[]), by="method")
    draw(comparison, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.size[0] < 700
