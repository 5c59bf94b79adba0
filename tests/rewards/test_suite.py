"""Rewards: a scorer that fails is NaN with a reason and harms nobody else; preprocessing is what it claims to be."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from fakes import (
    Brightness,
    Constant,
    Contrast,
    Infinite,
    NotANumber,
    Raising,
    WrongLength,
    batch,
    make_parts,
    noise_pictures,
)
from stepcredit.errors import RecipeError, RewardError, WeightsError
from stepcredit.records import Problem, Prompt, RewardBatch, RewardOutput, RewardTable
from stepcredit.rewards.aesthetic import Aesthetic, read_head
from stepcredit.rewards.clip import Clip, cropped, letterboxed
from stepcredit.rewards.custom import Custom
from stepcredit.rewards.diversity import Diversity
from stepcredit.rewards.suite import RewardSuite
from stepcredit.scenes.captions import parse
from stepcredit.scenes.exact import composition
from stepcredit.scenes.renderer import draw
from stepcredit.training.step import reward_metrics, step
from stepcredit.training.watch import watch_rewards

PICTURES = batch(noise_pictures(4))


class Several:
    """Two scores from one call; the second one is missing."""

    outputs = ("first", "second")

    def score(self, batch: RewardBatch) -> RewardOutput:
        return RewardOutput({"first": np.arange(len(batch.media), dtype=float)}, ("the second is out of order",))

    def fingerprint(self) -> dict[str, str]:
        return {"kind": "several"}


def table(name, scores, problems=()):
    return RewardTable((name,), torch.tensor(scores)[..., None], problems)


def sentences(problems):
    return tuple(map(str, problems))


# The suite


def test_columns_stand_in_the_order_of_the_names():
    suite = RewardSuite([Contrast("c"), Several(), Brightness("b")])
    scores, _ = suite.score(PICTURES)
    assert suite.names == ("c", "first", "second", "b")
    assert scores.shape == (4, 4)
    np.testing.assert_array_equal(scores[:, 0], Contrast().numbers(PICTURES))
    np.testing.assert_array_equal(scores[:, 1], [0, 1, 2, 3])
    np.testing.assert_array_equal(scores[:, 3], Brightness().numbers(PICTURES))


@pytest.mark.parametrize(
    ("broken", "missing", "reason"),
    [
        (Raising, 4, "broken: raised RuntimeError: the scorer ran out of ink"),
        (NotANumber, 4, "broken: returned NaN for 4 of 4 pictures"),
        (Infinite, 1, "broken: returned infinity for 1 of 4 pictures"),
        (WrongLength, 4, "broken: returned shape (3,) for 4 pictures"),
    ],
)
def test_a_reward_that_fails_is_nan_with_a_reason_and_the_others_are_as_without_it(broken, missing, reason):
    scores, problems = RewardSuite([Brightness("a"), broken("broken"), Contrast("c")]).score(PICTURES)
    assert np.isnan(scores[:, 1]).sum() == missing
    assert np.isfinite(scores[missing:, 1]).all()
    alone, none = RewardSuite([Brightness("a"), Contrast("c")]).score(PICTURES)
    np.testing.assert_array_equal(scores[:, [0, 2]], alone)
    assert none == ()
    assert sentences(problems) == (reason,)


def test_an_output_that_a_reward_forgets_is_nan_and_its_sibling_is_not():
    scores, problems = RewardSuite([Several()]).score(PICTURES)
    assert np.isfinite(scores[:, 0]).all()
    assert np.isnan(scores[:, 1]).all()
    assert problems == (
        Problem("first+second", (), "the second is out of order"),
        Problem("second", (), "returned no scores of this name, but 1 others: first"),
    )


class Two(Brightness):
    """Two outputs and what is said about them, as the test wants it."""

    outputs = ("first", "second")

    def __init__(self, first, second, errors=()):
        self.output = RewardOutput({"first": np.array(first), "second": np.array(second)}, errors)

    def score(self, batch):
        return self.output


NAN = np.nan
FINE = [1.0, 2.0, 3.0, 4.0]


def test_each_output_has_a_reason_of_its_own_for_what_it_could_not_score():
    """What is wrong with the first output says nothing about the second."""
    _, problems = RewardSuite([Two([1.0, 2.0, np.inf, 4.0], [NAN, 2.0, 3.0, NAN])]).score(PICTURES)
    assert problems == (
        Problem("first", (2,), "returned infinity for 1 of 4 pictures"),
        Problem("second", (0, 3), "returned NaN for 2 of 4 pictures"),
    )
    _, problems = RewardSuite([Two(FINE[:3], [NAN, *FINE[1:]])]).score(PICTURES)
    assert problems == (
        Problem("first", (), "returned shape (3,) for 4 pictures"),
        Problem("second", (0,), "returned NaN for 1 of 4 pictures"),
    )


def test_infinity_and_nan_in_one_column_are_two_problems():
    _, problems = RewardSuite([Two([NAN, 2.0, np.inf, 4.0], FINE)]).score(PICTURES)
    assert sentences(problems) == (
        "first: returned infinity for 1 of 4 pictures",
        "first: returned NaN for 1 of 4 pictures",
    )


@pytest.mark.parametrize(
    ("told", "unexplained"),
    [
        ("no ink", None),  # a sentence speaks of all outputs and rows
        (Problem("first+second", (), "no ink"), None),
        (Problem("first", (0, 2), "no ink"), None),
        (Problem("first", (0,), "no ink"), Problem("first", (2,), "returned NaN for 1 of 4 pictures")),
        (Problem("second", (0, 2), "no ink"), Problem("first", (0, 2), "returned NaN for 2 of 4 pictures")),
    ],
    ids=str,
)
def test_what_a_scorer_explains_itself_needs_no_other_reason(told, unexplained):
    _, problems = RewardSuite([Two([NAN, 2.0, NAN, 4.0], FINE, (told,))]).score(PICTURES)
    wanted = [told if isinstance(told, Problem) else Problem("first+second", (), told), unexplained]
    assert problems == tuple(problem for problem in wanted if problem)


def test_a_problem_concerns_the_outputs_that_it_names():
    problem = Problem("clip_t+hps", (), "ran out of ink")
    assert str(problem) == "clip_t+hps: ran out of ink"
    assert [problem.concerns(name) for name in ("clip_t", "hps", "clip", "clip_t+hps")] == [True, True, False, False]


def test_a_suite_knows_which_of_its_outputs_are_right_or_wrong():
    suite = RewardSuite([Brightness("a"), composition("c")]).joined(RewardSuite([Several()]))
    assert suite.exact == ("c",)


def test_a_suite_does_not_write_into_the_scores_of_a_reward():
    mine = np.array([np.inf, 1.0, 2.0, 3.0])

    class Kept(Brightness):
        def numbers(self, batch):
            return mine

    RewardSuite([Kept()]).score(PICTURES)
    assert np.isinf(mine[0])


def test_suites_join_in_order_and_have_fingerprints():
    suite = RewardSuite([Brightness("a")]).joined(RewardSuite([Several()]))
    assert suite.names == ("a", "first", "second")
    assert suite.fingerprints() == {"a": {"kind": "Brightness"}, "first+second": {"kind": "several"}}


def test_a_suite_without_rewards_scores_nothing():
    scores, problems = RewardSuite([]).score(PICTURES)
    assert scores.shape == (4, 0)
    assert problems == ()


def test_a_batch_needs_one_caption_and_one_group_per_picture():
    with pytest.raises(ValueError, match="got 4 samples, 1 prompts and 4 group numbers"):
        RewardBatch(noise_pictures(4), Prompt.listed(["a red circle"]), (0, 0, 0, 0))
    with pytest.raises(ValueError, match="3 group numbers"):
        RewardBatch(noise_pictures(4), Prompt.listed(["a red circle"] * 4), (0, 0, 0))


# What training makes of it


@pytest.mark.parametrize("method", ["otca", "moca", "tcd", "dance_grpo"])
@pytest.mark.parametrize("silent", [Constant, Raising, NotANumber, WrongLength])
def test_an_objective_without_an_opinion_leaves_the_credit_as_if_it_was_not_there(method, silent):
    settings = {"method": {"type": method, "shared_noise": False}}
    alone = step(make_parts([Brightness()], **settings), 0)
    beside = step(make_parts([Brightness(), silent("silent")], **settings), 0)
    assert alone.credit.per_step.abs().max() > 0
    torch.testing.assert_close(beside.credit.per_step, alone.credit.per_step, rtol=0, atol=1e-12)
    assert beside.credit.advantages[..., 1].isnan().all()
    assert beside.report.metrics["reward/silent/flat_groups"] == 2


def test_a_constant_reward_counts_every_group_as_flat():
    scores = torch.tensor([[0.25, 0.25, 0.25], [0.1, 0.2, 0.3], [0.5, torch.nan, torch.nan]])
    metrics = reward_metrics(table("r", scores.tolist()))
    assert metrics["reward/r/flat_groups"] == 2  # without spread, and with a single score
    assert metrics["reward/r"] == pytest.approx((0.75 + 0.6 + 0.5) / 7)
    assert metrics["reward/r/spread"] == pytest.approx((0 + 0.1) / 2)
    assert metrics["reward/r/missing"] == pytest.approx(2 / 9)


def test_a_reward_that_scored_nothing_has_no_mean():
    metrics = reward_metrics(table("r", [[float("nan")] * 2]))
    assert np.isnan(metrics["reward/r"])
    assert metrics["reward/r/missing"] == 1
    assert metrics["reward/r/flat_groups"] == 1


def test_a_run_stops_when_a_reward_is_silent_for_three_iterations_in_a_row():
    nothing = table("r", [[float("nan")] * 2], (Problem("r", (), "raised RuntimeError: no ink"),))
    silent = {"r": 0}
    watch_rewards(silent, nothing)
    watch_rewards(silent, nothing)
    with pytest.raises(
        RewardError, match=r"reward r could not score anything in 3 iterations in a row: r: raised.*no ink"
    ):
        watch_rewards(silent, nothing)


def test_one_score_breaks_the_silence():
    nothing, something = table("r", [[float("nan")] * 2]), table("r", [[float("nan"), 1.0]])
    silent = {"r": 0}
    for seen in (nothing, nothing, something, nothing, nothing):
        watch_rewards(silent, seen)
    assert silent == {"r": 2}
    with pytest.raises(RewardError, match="it returned NaN only"):
        watch_rewards(silent, nothing)


# Diversity and composition


def test_diversity_is_the_mean_distance_to_the_siblings():
    images = noise_pictures(5, seed=3)
    groups = (0, 1, 0, 0, 2)
    scores = Diversity().score(batch(images, groups=groups)).scores["diversity"]
    flat = images.astype(float) / 255

    def gap(a, b):
        return np.sqrt(np.mean((flat[a] - flat[b]) ** 2))

    assert scores[0] == pytest.approx((gap(0, 2) + gap(0, 3)) / 2, rel=1e-5)
    assert scores[3] == pytest.approx((gap(3, 0) + gap(3, 2)) / 2, rel=1e-5)
    assert np.isnan(scores[[1, 4]]).all()  # no siblings


def test_diversity_is_zero_for_copies_and_one_for_black_beside_white():
    copies = np.repeat(noise_pictures(1), 3, axis=0)
    np.testing.assert_array_equal(Diversity().score(batch(copies)).scores["diversity"], 0)
    opposites = np.stack([np.zeros((8, 8, 3)), np.full((8, 8, 3), 255)]).astype(np.uint8)
    np.testing.assert_allclose(Diversity().score(batch(opposites)).scores["diversity"], 1)


def test_composition_scores_scenes_and_names_foreign_captions():
    generator = np.random.default_rng(0)
    texts = ("a red circle", "a red circle", "a photo of a cat", "a photo of a cat")
    red, blue = (draw(parse(text), generator) for text in ("a red circle", "a blue square"))
    output = composition("c").score(batch(np.stack([red, blue, red, blue]), texts))
    np.testing.assert_array_equal(output.scores["c"], [1, 0, np.nan, np.nan])
    assert output.errors == (Problem("c", (2, 3), '"a photo of a cat" is not a caption of the scenes world'),)


# Rewards of one's own


@pytest.fixture
def their_module(their_lab):
    return their_lab(
        "rewards",
        "def darkness(images, prompts):\n"
        "    return [1 - image.mean() / 255 + len(prompt) for image, prompt in zip(images, prompts)]\n"
        "def spelling(images, texts, *, facts):\n"
        "    return [len(text) * len(known['word']) for text, known in zip(texts, facts)]\n"
        "class Callable:\n"
        "    def __call__(self, images, prompts): return [0.5] * len(images)\n"
        "instance = Callable()\n",
    )


def test_a_function_of_ones_own_scores_pictures_and_prompts(their_module):
    reward = Custom(f"{their_module}:darkness", name="dark")
    scores, problems = RewardSuite([reward]).score(PICTURES)
    wanted = [1 - image.mean() / 255 + len("a red circle") for image in PICTURES.media]
    np.testing.assert_allclose(scores[:, 0], wanted)
    assert problems == ()
    assert reward.fingerprint()["file"].endswith("rewards.py")


def test_a_function_with_a_parameter_facts_gets_those_of_each_sample(their_module):
    words = Prompt.listed(["a sign", "a sign", "a shop"], facts=lambda text: {"word": f"{text}!"})
    reward = Custom(f"{their_module}:spelling", name="spelling")
    scores, problems = RewardSuite([reward]).score(RewardBatch(noise_pictures(3), words, (0, 0, 1)))
    np.testing.assert_array_equal(scores[:, 0], [6 * 7] * 3)
    assert problems == ()


def test_a_builtin_without_a_signature_is_called_without_facts():
    assert Custom("builtins:max", name="x").fingerprint()["file"] == "unknown"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("their_lab.rewards.darkness", "has no colon; write it as package.module:function"),
        ("nowhere_at_all:f", "is the module on the Python path"),
        ("their_lab.rewards:lightness", 'their_lab.rewards has no "lightness"'),
        ("their_lab.rewards:", 'has no ""'),
    ],
)
def test_a_path_that_leads_nowhere_is_refused(their_module, path, reason):
    with pytest.raises(RecipeError, match=reason):
        Custom(path, name="x")


# The aesthetic head


class FakeClip(Clip):
    def __init__(self):
        """No model."""
        self.width = 6

    def pictures(self, images, *, letterbox=False):
        return F.normalize(torch.from_numpy(images.reshape(len(images), -1)[:, :6]).float(), dim=-1)

    def fingerprint(self):
        return {"weights": "fake"}


def layers(sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for index, (wide, narrow) in enumerate(pairwise(sizes)):
        number = (0, 2, 4, 6, 7)[index]  # the published head has dropout between its layers
        tensors[f"layers.{number}.weight"] = torch.randn(narrow, wide, generator=generator) / wide**0.5
        tensors[f"layers.{number}.bias"] = torch.randn(narrow, generator=generator)
    return tensors


@pytest.mark.parametrize("name", ["head.pth", "head.pt", "head.bin"])
def test_a_pickled_head_is_refused_without_being_read(tmp_path, name):
    with pytest.raises(WeightsError, match="a pickle can run code"):
        read_head(tmp_path / name)


def test_a_collapsed_head_of_five_layers_equals_running_the_layers(tmp_path):
    tensors = layers((768, 1024, 128, 64, 16, 1))
    save_file(tensors, tmp_path / "head.safetensors")
    weight, bias = read_head(tmp_path / "head.safetensors")
    x = F.normalize(torch.randn(7, 768, generator=torch.Generator().manual_seed(1)), dim=-1)
    run = x.double()
    for number in (0, 2, 4, 6, 7):
        run = F.linear(run, tensors[f"layers.{number}.weight"].double(), tensors[f"layers.{number}.bias"].double())
    assert weight.shape == (1, 768)
    torch.testing.assert_close(x @ weight.T + bias, run.float(), rtol=1e-5, atol=1e-5)


def test_an_affine_head_is_read_as_it_is_and_applied(tmp_path):
    head = {"weight": torch.arange(6.0)[None], "bias": torch.tensor([2.0])}
    save_file(head, tmp_path / "head.safetensors")
    clip = FakeClip()
    reward = Aesthetic(clip, tmp_path / "head.safetensors", name="beauty")
    scores = reward.score(PICTURES).scores["beauty"]
    np.testing.assert_allclose(scores, (clip.pictures(PICTURES.media) @ torch.arange(6.0) + 2).numpy(), rtol=1e-5)
    before = reward.fingerprint()
    save_file({**head, "bias": torch.tensor([3.0])}, tmp_path / "head.safetensors")
    assert Aesthetic(clip, tmp_path / "head.safetensors").fingerprint()["head"] != before["head"]


def test_a_head_that_is_missing_damaged_or_foreign_is_refused(tmp_path):
    path = tmp_path / "head.safetensors"
    with pytest.raises(WeightsError, match="there is no aesthetic head"):
        read_head(path)
    path.write_bytes(b"not safetensors at all")
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        read_head(path)
    save_file({"something": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="wanted `weight` and `bias`"):
        read_head(path)


# Preprocessing


@pytest.mark.parametrize(("height", "width"), [(8, 8), (40, 24), (24, 40), (224, 300), (17, 31)])
def test_a_crop_equals_pillow_resize_and_centre_crop(height, width):
    side = 16
    images = noise_pictures(2, 1, height, width)
    got = cropped(images, side)
    assert got.shape == (2, 3, side, side)
    for image, pixels in zip(images, got, strict=True):
        scale = side / min(height, width)
        pillow = Image.fromarray(image).resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
        left, top = (pillow.width - side) // 2, (pillow.height - side) // 2
        wanted = np.asarray(pillow.crop((left, top, left + side, top + side)))
        np.testing.assert_array_equal((pixels * 255).round().byte().permute(1, 2, 0).numpy(), wanted)


def test_a_picture_of_the_right_size_is_not_touched():
    images = noise_pictures(2, 1, 16, 16)
    wanted = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    assert torch.equal(cropped(images, 16), wanted)
    assert torch.equal(letterboxed(images, 16), wanted)


@pytest.mark.parametrize(("height", "width"), [(40, 20), (20, 40), (10, 5), (33, 16)])
def test_a_letterbox_keeps_the_whole_picture_between_bars_of_zeros(height, width):
    side = 20
    images = np.full((1, height, width, 3), 200, dtype=np.uint8)
    got = letterboxed(images, side)
    assert got.shape == (1, 3, side, side)
    rows, columns = round(height * side / max(height, width)), round(width * side / max(height, width))
    top, left = (side - rows) // 2, (side - columns) // 2
    inside = torch.zeros(side, side, dtype=torch.bool)
    inside[top : top + rows, left : left + columns] = True
    torch.testing.assert_close(got[0, :, inside], torch.full((3, int(inside.sum())), 200 / 255))
    assert (got[0, :, ~inside] == 0).all()


def test_a_crop_cuts_the_long_side_where_a_letterbox_keeps_it():
    images = np.zeros((1, 20, 40, 3), dtype=np.uint8)
    images[:, :, :8] = 255  # a stripe at the left edge
    assert cropped(images, 20).max() == 0
    assert letterboxed(images, 20).max() > 0.9


def test_letterboxed_bicubic_is_not_clamped():
    images = np.zeros((1, 40, 40, 3), dtype=np.uint8)
    images[:, 15:25, 15:25] = 255
    assert letterboxed(images, 30).max() > 1
    assert cropped(images, 30).max() == 1


# Known defects


@pytest.mark.parametrize("output", [None, RewardOutput.__new__(RewardOutput), "words"])
def test_a_reward_that_returns_something_else_is_nan_with_a_reason(output):
    class Odd(Brightness):
        def score(self, batch):
            if output != "words":
                return output
            fine = RewardOutput({"brightness": np.zeros(4)})
            object.__setattr__(fine, "scores", {"brightness": ["dark"] * 4})
            return fine

    scores, problems = RewardSuite([Odd()]).score(PICTURES)
    assert np.isnan(scores).all()
    assert problems


def test_nan_without_a_word_gets_a_reason():
    _, problems = RewardSuite([NotANumber("broken")]).score(PICTURES)
    assert "broken" in " ".join(sentences(problems))


def test_the_reason_of_silence_is_that_of_the_silent_reward():
    nothing = table("clip", [[float("nan")] * 2], (Problem("clip_t", (), "raised RuntimeError: another reward"),))
    silent = {"clip": 2}
    with pytest.raises(RewardError) as caught:
        watch_rewards(silent, nothing)
    assert "another reward" not in str(caught.value)


def test_a_callable_object_of_ones_own_has_a_fingerprint(their_module):
    reward = Custom(f"{their_module}:instance", name="x")
    assert RewardSuite([reward]).score(PICTURES)[1] == ()
    assert reward.fingerprint()["path"] == f"{their_module}:instance"


@pytest.mark.parametrize("path", [":f", ".relative:f", "sys:version"])
def test_other_paths_that_lead_nowhere_are_refused(path):
    with pytest.raises(RecipeError):
        Custom(path, name="x")


def test_a_head_with_half_a_layer_is_refused(tmp_path):
    tensors = layers((6, 4, 1))
    del tensors["layers.2.bias"]
    save_file(tensors, tmp_path / "head.safetensors")
    with pytest.raises(WeightsError):
        read_head(tmp_path / "head.safetensors")
