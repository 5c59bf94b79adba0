"""Pictures and videos as files and in pages."""

import base64
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stepcredit.files import media
from stepcredit.runs import looks
from stepcredit.runs.looks import Look


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


@settings(max_examples=20)
@given(frames=st.integers(1, 7), fps=st.sampled_from([3.0, 8.0, 12.5, 16.0, 24.0]), repeats=st.lists(st.integers(0, 6)))
def test_a_small_video_is_read_back_as_it_was(tmp_path_factory, frames, fps, repeats):
    path = tmp_path_factory.mktemp("media") / "video.webp"
    video = noise(frames, 6, 9)
    video = video[[at % frames for at in sorted(repeats)]] if repeats else video  # frames that stay
    media.save(path, video, fps)
    assert np.array_equal(media.load(path, fps, len(video)), video)


def test_a_picture_is_read_back_as_it_was(tmp_path):
    picture = noise(100, 70)
    media.save(tmp_path / "picture.png", picture, None)
    assert np.array_equal(media.load(tmp_path / "picture.png", None), picture)


def test_a_large_video_is_smaller_and_close(tmp_path):
    column = np.linspace(0, 255, 120, dtype=np.uint8)
    video = np.stack([np.roll(np.broadcast_to(column[:, None, None], (120, 90, 3)), 5 * at, axis=1) for at in range(5)])
    media.save(tmp_path / "video.webp", np.ascontiguousarray(video), 8.0)
    loaded = media.load(tmp_path / "video.webp", 8.0, 5)
    assert loaded.shape == video.shape
    assert np.abs(loaded.astype(int) - video).mean() < 5


@pytest.mark.parametrize(
    ("shape", "fps", "kind"), [((20, 30), None, "png"), ((200, 300), None, "webp"), ((4, 100, 200), 8.0, "webp")]
)
def test_a_page_gets_what_it_can_show_in_the_size_it_asked_for(shape, fps, kind):
    uri = media.data_uri(noise(*shape), fps, side=64)
    head, _, content = uri.partition(",")
    assert head == f"data:image/{kind};base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        assert max(image.size) <= 64
        assert getattr(image, "n_frames", 1) == (shape[0] if fps else 1)


def test_a_still_view_of_a_video_shows_its_first_and_last_frame():
    video = noise(9, 4, 5)
    strip = media.still(video, frames=3)
    assert np.array_equal(strip, np.concatenate([video[0], video[4], video[8]], axis=1))
    assert media.still(video[0]) is not None
    assert np.array_equal(media.still(video[0]), video[0])


def test_a_look_at_videos_is_written_and_read(tmp_path):
    videos = {row: noise(5, 8, 8, seed=row) for row in (0, 3)}
    videos[3][:] = videos[3][:1]  # nothing moves
    look = Look(
        iteration=7,
        weights="average",
        names=("vq", "motion"),
        rows=(0, 3),
        prompts=("a", "b"),
        scores=np.array([[0.5, np.nan], [1.0, 0.0]]),
        pictures=videos,
        fps=8.0,
    )
    looks.write(tmp_path / "look", look, [0, 3])
    again = looks.read(tmp_path / "look")
    assert again.fps == 8.0
    assert sorted(path.name for path in (tmp_path / "look").glob("0*")) == ["0000.webp", "0003.webp"]
    assert all(np.array_equal(again.pictures[row], videos[row]) for row in videos)
    assert looks.read(tmp_path / "look", pictures=False).pictures == {}
