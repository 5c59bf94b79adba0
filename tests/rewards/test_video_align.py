"""VideoAlign: the tensor path is Qwen2-VL's own, and the embedded judge sees what the drawn world can get wrong."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from stepcredit.errors import RewardError, WeightsError
from stepcredit.files.folders import resolve
from stepcredit.protocols import Reward
from stepcredit.records import Problem, Prompt, RewardBatch
from stepcredit.rewards.video_align import (
    FORM,
    HEAD,
    MARKS,
    VideoAlign,
    VideoJudge,
    chosen_frames,
    fitted,
    load_video_align,
    patchify,
    read_marks,
)
from stepcredit.scenes.captions import balanced
from stepcredit.scenes.moving import FPS, draw, every_caption, parse

sys.path.append(str(Path(__file__).parents[2] / "scripts" / "assets"))

EMBEDDED = resolve("scenes", "video_align_scenes")
OPPOSITE = {"right": "left", "left": "right", "up": "down", "down": "up"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An untrained judge, written by the script that writes the embedded one."""
    from video_judge import build, save

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("judge")
    save(*build(layers=1), path, torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
    return path


@pytest.fixture
def copied(folder, tmp_path):
    """A copy of it that a test may damage."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def videos_of(prompts):
    dice = np.random.default_rng(0)
    return np.stack([draw(parse(prompt), dice) for prompt in prompts])


def batch_of(videos, prompts):
    return RewardBatch(videos, Prompt.listed(prompts), tuple(range(len(prompts))), fps=FPS)


def moving(count):
    captions = [c for c in every_caption() if len(c.parts) == 1 and "moving" in str(c)]
    return [str(c) for c in balanced(captions, count, seed=3)]


def rewritten(path, **changes):
    (path / FORM).write_text(json.dumps({**json.loads((path / FORM).read_text()), **changes}))
    return str(path)


PROMPTS = ("a red circle moving right", "a blue square standing still", "a red circle moving up")
BATCH = batch_of(videos_of(PROMPTS), PROMPTS)


# From frames to patches


def test_patches_of_a_standing_picture_are_those_of_transformers():
    picture = np.random.default_rng(0).integers(0, 256, (56, 84, 3), dtype=np.uint8)
    processor = Qwen2VLImageProcessorPil(min_pixels=4 * 28 * 28, max_pixels=6 * 28 * 28)
    theirs = processor(picture, return_tensors="pt")
    pixels = torch.from_numpy(picture).permute(2, 0, 1).float() / 255
    mean, std = (torch.tensor(c)[:, None, None] for c in (processor.image_mean, processor.image_std))
    ours, grid = patchify(((pixels - mean) / std).expand(1, 3, 3, 56, 84), patch=14, merge=2, temporal=2)
    assert grid == (2, *theirs["image_grid_thw"][0, 1:].tolist())
    torch.testing.assert_close(ours[0], theirs["pixel_values"].repeat(2, 1), atol=1e-6, rtol=0)


def test_patches_of_a_video_stand_in_the_order_of_time_rows_and_columns():
    video = torch.randn(2, 5, 3, 8, 16)
    ours, (t, h, w) = patchify(video, patch=2, merge=2, temporal=2)
    whole = torch.cat([video, video[:, -1:]], dim=1)
    loops = [
        whole[:, 2 * time : 2 * time + 2, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].transpose(1, 2)
        for time in range(t)
        for big_row in range(0, h, 2)
        for big_column in range(0, w, 2)
        for row in (big_row, big_row + 1)
        for column in (big_column, big_column + 1)
    ]
    assert (t, h, w) == (3, 4, 8)
    assert torch.equal(ours, torch.stack([loop.flatten(1) for loop in loops], dim=1))


@pytest.mark.parametrize(
    ("total", "fps", "count"),
    [(53, 16.0, 6), (53, 15.0, 8), (53, 8.0, 14), (81, 15.0, 10), (81, 16.0, 10), (33, 16.0, 4), (3, 8.0, 2)],
)
def test_two_frames_per_second_are_counted_as_the_published_reader_counts_them(total, fps, count):
    frames = chosen_frames(total, fps, wanted=2.0)
    assert len(frames) == count
    assert (frames[0], frames[-1]) == (0, total - 1)


def test_a_single_frame_is_no_video():
    with pytest.raises(RewardError, match="1 frame"):
        chosen_frames(1, 8.0, wanted=2.0)


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(240, 416, (252, 420)), (480, 832, (336, 588)), (720, 1280, (336, 588)), (256, 256, (336, 336))],
)
def test_sizes_are_those_of_the_published_reader(height, width, size):
    assert fitted(height, width, 28, least=128 * 784, most=200_704) == size
    assert smart_resize(height, width, 28, 128 * 784, 200_704) == size


def test_resizing_keeps_whole_grey_levels_and_fitting_sizes_are_left_alone(copied):
    judge = VideoJudge(rewritten(copied, image_mean=[0, 0, 0], image_std=[1, 1, 1]), "cpu")
    same, _ = judge.patches(BATCH.videos, FPS)
    pixels = torch.from_numpy(BATCH.videos).permute(0, 1, 4, 2, 3).float() / 255
    assert torch.equal(same, patchify(pixels, 4, 2, 2)[0])
    smaller, grid = judge.patches(np.repeat(BATCH.videos, 5, axis=2), FPS)
    assert grid == (5, 34, 6)  # 160 x 32 pixels are brought below 64 x 64
    levels = smaller * 255
    torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)


def test_chosen_frames_are_what_is_shown(copied):
    judge = VideoJudge(rewritten(copied, frames=None, fps=4.0), "cpu")
    shown, grid = judge.patches(BATCH.videos, fps=8.0)
    alone, _ = judge.patches(BATCH.videos[:, [0, 3, 5, 8]], fps=4.0)
    assert grid[0] == 2
    assert torch.equal(shown, alone)


# The score


def test_every_output_comes_from_one_forward(folder):
    reward = VideoAlign(load_video_align(str(folder)), outputs=("vq", "mq", "ta", "overall"))
    assert isinstance(reward, Reward)
    scores = reward.score(BATCH).scores
    assert tuple(scores) == reward.outputs == ("vq", "mq", "ta", "overall")
    assert all(column.shape == (3,) and np.isfinite(column).all() for column in scores.values())
    np.testing.assert_allclose(scores["overall"], scores["vq"] + scores["mq"] + scores["ta"])


def test_a_subset_of_outputs_has_the_same_numbers_under_the_prefix(folder):
    judge = load_video_align(str(folder))
    everything, some = VideoAlign(judge), VideoAlign(judge, outputs=("ta", "vq"), prefix="big")
    assert some.outputs == ("big.ta", "big.vq")
    scores = some.score(BATCH).scores
    for name in ("ta", "vq"):
        np.testing.assert_array_equal(scores[f"big.{name}"], everything.score(BATCH).scores[name])


def test_normalisation_is_that_of_the_folder(copied):
    plain = VideoJudge(str(copied), "cpu")
    raw = plain.logits(BATCH.videos, PROMPTS, FPS).numpy()
    mean, std = {"vq": 3.6757, "mq": 1.1646, "ta": 2.8105}, {"vq": 2.2476, "mq": 1.3811, "ta": 2.5121}
    scores = VideoAlign(VideoJudge(rewritten(copied, mean=mean, std=std), "cpu")).score(BATCH).scores
    for at, name in enumerate(MARKS):
        np.testing.assert_allclose(scores[name], (raw[:, at] - mean[name]) / std[name], rtol=1e-6)


def test_each_mark_is_read_by_its_own_row_of_the_head_or_all_by_one():
    ids, marks = torch.tensor([[5, 9, 7, 8, 0], [5, 5, 7, 9, 8]]), torch.tensor([7, 8, 9])
    hidden = torch.randn(2, 5, 4)
    states = torch.stack([hidden[0, [2, 3, 1]], hidden[1, [2, 4, 3]]])  # [B, 3, D]
    head = torch.randn(3, 4)
    torch.testing.assert_close(read_marks(hidden, ids, marks, head), (states * head).sum(-1))
    torch.testing.assert_close(read_marks(hidden, ids, marks, head[:1]), states @ head[0])


def test_a_head_of_one_row_is_read(copied):
    save_file({"weight": load_file(copied / HEAD)["weight"][:1].contiguous()}, copied / HEAD)
    judge = VideoJudge(rewritten(copied, output_dim=1), "cpu")
    assert torch.isfinite(judge.logits(BATCH.videos, PROMPTS, FPS)).all()


def test_a_prompt_with_a_mark_of_the_judge_is_not_scored_and_harms_nobody_else(folder):
    reward = VideoAlign(load_video_align(str(folder)))
    prompts = (PROMPTS[0], "a <|MQ_reward|> circle", PROMPTS[2])
    output, clean = reward.score(batch_of(BATCH.videos, prompts)), reward.score(BATCH)
    for name, column in output.scores.items():
        assert np.isnan(column).tolist() == [False, True, False]
        np.testing.assert_allclose(column[[0, 2]], clean.scores[name][[0, 2]], atol=1e-5)
    reason = 'the prompt "a <|MQ_reward|> circle" holds <|MQ_reward|>, which the judge reads as its own mark'
    assert output.errors == (Problem("vq+mq+ta", (1,), reason),)


def test_any_text_can_be_judged_and_braces_are_nothing_special(folder):
    prompts = ("", "Ein {prompt} über 37 Bögen!", "zebra " * 40)
    scores = VideoAlign(load_video_align(str(folder))).score(batch_of(BATCH.videos, prompts)).scores
    assert all(np.isfinite(column).all() for column in scores.values())


@pytest.mark.parametrize("size", [1, 2, 64])
def test_scores_do_not_depend_on_who_is_scored_together(folder, size):
    judge = load_video_align(str(folder))
    prompts = (PROMPTS[0], "a red circle moving right and a green square standing still", "x")
    batch = batch_of(BATCH.videos, prompts)
    for name, column in VideoAlign(judge, batch=size).score(batch).scores.items():
        np.testing.assert_allclose(column, VideoAlign(judge).score(batch).scores[name], atol=1e-5)


def test_pictures_are_refused(folder):
    pictures = RewardBatch(BATCH.videos[:, 0], Prompt.listed(PROMPTS), (0, 1, 2))
    with pytest.raises(RewardError, match="videos"):
        VideoAlign(load_video_align(str(folder))).score(pictures)


def test_an_unknown_output_is_refused(folder):
    with pytest.raises(RewardError, match="sharpness"):
        VideoAlign(load_video_align(str(folder)), outputs=("vq", "sharpness"))


# The folder


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", FORM, HEAD])
def test_a_partial_folder_says_what_is_missing(copied, name):
    (copied / name).unlink()
    with pytest.raises(WeightsError, match=name):
        VideoJudge(str(copied), "cpu")


def test_a_folder_without_a_model_is_no_judge(tmp_path):
    with pytest.raises(WeightsError, match="has no config"):
        VideoJudge(str(tmp_path), "cpu")
    with pytest.raises(WeightsError, match="there is no folder"):
        VideoJudge(str(tmp_path / "elsewhere"), "cpu")


def test_weights_that_are_not_there_are_not_made_up(copied):
    tensors = load_file(copied / "model.safetensors")
    tensors.pop("language_model.norm.weight")
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"norm\.weight"):
        VideoJudge(str(copied), "cpu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"template": "video: <|video_pad|> {prompt}"}, "VQ_reward"),
        ({"frames": None, "fps": None}, "fps"),
        ({"output_dim": 2}, "output_dim"),
        ({"std": {"vq": 1.0}}, "mean and std"),
        ({"output_dim": 1}, "wanted \\(1, 64\\)"),
    ],
)
def test_a_form_that_cannot_be_right_is_refused(copied, changes, message):
    with pytest.raises(WeightsError, match=message):
        VideoJudge(rewritten(copied, **changes), "cpu")


def test_the_fingerprint_tells_judges_apart(folder, copied):
    first, same = (VideoJudge(str(path), "cpu").fingerprint() for path in (folder, copied))
    assert first == same
    assert VideoJudge(rewritten(copied, fps=3.0), "cpu").fingerprint() != first


# The embedded judge


@pytest.fixture(scope="module")
def judge():
    return VideoAlign(load_video_align(EMBEDDED), outputs=("vq", "mq", "ta"))


def test_the_opposite_direction_agrees_less(judge):
    prompts = moving(40)
    reversed_ = [" ".join((*p.split()[:-1], OPPOSITE[p.split()[-1]])) for p in prompts]
    videos = videos_of(prompts)
    true, false = (judge.score(batch_of(videos, texts)).scores["ta"] for texts in (prompts, reversed_))
    assert (true > false).mean() >= 0.9


def test_noise_lowers_visual_quality(judge):
    prompts = moving(40)
    videos = videos_of(prompts)
    noise = np.random.default_rng(1).normal(0, 40, videos.shape)
    noisy = (videos + noise).round().clip(0, 255).astype(np.uint8)
    clean, spoiled = (judge.score(batch_of(v, prompts)).scores["vq"] for v in (videos, noisy))
    assert (clean > spoiled).mean() >= 0.9


def test_leaps_lower_the_quality_of_motion(judge):
    prompts = moving(40)
    videos = videos_of(prompts)
    leaping = videos[:, [0, 3, 1, 5, 2, 7, 4, 8, 6]]
    steady, shaken = (judge.score(batch_of(v, prompts)).scores["mq"] for v in (videos, leaping))
    assert (steady > shaken).mean() >= 0.9
