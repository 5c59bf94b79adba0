"""Looks: what is read is what was written, bit for bit; half a look is none; a damaged one is named."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepcredit.errors import RunError
from stepcredit.runs import looks
from stepcredit.runs.looks import Look


def made_look(captions=("a red circle", "zwei Äpfel", "a red circle"), seed=0, **changed):
    """Two scores and two questions; every third score and every second answer is missing."""
    generator = np.random.default_rng(seed)
    rows = tuple(2 * index + 1 for index in range(len(captions)))
    scores = generator.normal(size=(len(rows), 2)) / 3
    scores.ravel()[::3] = np.nan
    number = np.where(np.arange(len(rows)) % 2, np.nan, 1.0)
    look = Look(
        iteration=12,
        weights="average",
        names=("clip_t", "taste"),
        rows=rows,
        prompts=tuple(captions),
        scores=scores,
        pictures={row: generator.integers(0, 256, (8, 6, 3), dtype=np.uint8) for row in rows},
        answers={"number": number, "colour": np.zeros(len(rows))},
        errors=("taste: ran out of ink",),
        kinds=("single", None, "single") if len(rows) == 3 else (),
    )
    return replace(look, **changed)


def assert_same(got, wanted, kept):
    for name in ("iteration", "weights", "names", "rows", "prompts", "errors", "kinds"):
        assert getattr(got, name) == getattr(wanted, name)
    assert got.scores.tobytes() == np.where(np.isnan(wanted.scores), np.nan, wanted.scores).tobytes()
    assert list(got.answers) == list(wanted.answers)
    assert all(np.array_equal(got.answers[name], wanted.answers[name], equal_nan=True) for name in wanted.answers)
    assert set(got.pictures) == set(kept)
    assert all(np.array_equal(got.pictures[row], wanted.pictures[row]) for row in kept)


def test_a_look_comes_back_bit_for_bit_with_the_pictures_that_were_kept(tmp_path):
    look = made_look()
    looks.write(tmp_path / "000012", look, [5, 1])
    assert_same(looks.read(tmp_path / "000012"), look, [1, 5])
    assert looks.read(tmp_path / "000012", pictures=False).pictures == {}
    assert "NaN" not in (tmp_path / "000012" / "scores.jsonl").read_text(encoding="utf-8")


@given(
    st.lists(st.floats(allow_infinity=False), min_size=2, max_size=8),
    st.text(st.characters(exclude_categories=["Cs"])),
)
def test_any_number_and_any_caption_come_back(tmp_path_factory, numbers, caption):
    numbers = np.array(numbers[: len(numbers) // 2 * 2]).reshape(-1, 2)
    look = made_look([caption] * len(numbers), scores=numbers)
    folder = tmp_path_factory.mktemp("samples") / "000012"
    looks.write(folder, look, [])
    assert_same(looks.read(folder), look, [])


def test_a_caption_with_the_line_ends_of_unicode_stays_one_line(tmp_path):
    look = made_look(["one\u2028two", "three\x85four", "five\r\nsix"])
    looks.write(tmp_path / "000012", look, [])
    assert looks.read(tmp_path / "000012").prompts == look.prompts


def test_a_look_without_answers_comes_back_without(tmp_path):
    looks.write(tmp_path / "000012", made_look(answers={}), [])
    assert looks.read(tmp_path / "000012").answers == {}


def test_a_look_of_a_version_without_kinds_can_be_read(tmp_path):
    looks.write(tmp_path / "000012", made_look(), [])
    path = tmp_path / "000012" / "scores.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line.pop("kind") for line in lines] == ["single", None, "single"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    about = json.loads((path.parent / "look.json").read_text(encoding="utf-8"))
    for later in ("files", "sha256"):  # nor did it seal anything
        del about[later]
    (path.parent / "look.json").write_text(json.dumps(about), encoding="utf-8")
    assert_same(looks.read(path.parent), made_look(kinds=()), [])


def test_writing_again_replaces_the_whole(tmp_path):
    looks.write(tmp_path / "000012", made_look(), [1, 3, 5])
    second = made_look(["a blue square"], seed=1)
    looks.write(tmp_path / "000012", second, [])
    assert_same(looks.read(tmp_path / "000012"), second, [])
    assert [path.name for path in tmp_path.iterdir()] == ["000012"]


@pytest.mark.parametrize("place", ["pathlib.Path.write_text", "PIL.Image.Image.save", "os.replace"])
def test_a_look_that_cannot_be_finished_is_not_there(tmp_path, monkeypatch, place):
    def killed(*arguments, **settings):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(place, killed)
        with pytest.raises(KeyboardInterrupt):
            looks.write(tmp_path / "000012", made_look(), [1])
    assert not list(tmp_path.glob("[0-9]*"))
    looks.write(tmp_path / "000012", made_look(), [1])  # and what it left is not in the way
    assert [path.name for path in tmp_path.iterdir()] == ["000012"]


def edit(old, new):
    return lambda path: path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("look.json", lambda path: path.unlink()),
        ("look.json", lambda path: path.write_text("[]")),
        ("look.json", edit('"weights"', '"wights"')),
        ("scores.jsonl", lambda path: path.unlink()),
        ("scores.jsonl", lambda path: path.write_text("")),
        ("scores.jsonl", lambda path: path.write_bytes(path.read_bytes()[:-20])),
        ("scores.jsonl", lambda path: path.write_bytes(b"\xff" + path.read_bytes())),
        ("scores.jsonl", edit('"taste"', '"tast"')),
        ("scores.jsonl", edit("null", '"nothing"')),
        ("0001.png", lambda path: path.write_bytes(path.read_bytes()[:60])),
        ("0001.png", lambda path: path.write_text("not a picture")),
        ("0001.png", lambda path: path.rename(path.with_name("first.png"))),
    ],
)
def test_a_damaged_look_is_an_error_with_its_name(tmp_path, name, harm):
    folder = tmp_path / "000012"
    looks.write(folder, made_look(), [1])
    harm(folder / name)
    with pytest.raises(RunError, match=r"000012 cannot be read \([\s\S]*; put it back"):
        looks.read(folder)


def test_a_flipped_byte_of_a_picture_is_an_error_of_the_run_or_nothing(tmp_path):
    folder = tmp_path / "000012"
    looks.write(folder, made_look(), [1])
    path = folder / "0001.png"
    content = path.read_bytes()
    refused = 0
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 32]) + content[at + 1 :])
        try:
            looks.read(folder)
        except RunError:
            refused += 1
    assert refused > len(content) / 2


def test_a_part_has_the_rows_that_are_asked_for_in_their_order(tmp_path):
    part = made_look().among([5, 1, 99])
    whole = made_look()
    assert part.rows == (1, 5)
    assert part.prompts == ("a red circle", "a red circle")
    assert part.kinds == ("single", "single")
    np.testing.assert_array_equal(part.scores, whole.scores[[0, 2]])
    np.testing.assert_array_equal(part.answers["number"], [1.0, 1.0])
    assert set(part.pictures) == {1, 5}


def test_means_leave_out_what_could_not_be_scored():
    scores = np.array([[1.0, np.nan], [np.nan, np.nan], [4.0, np.nan]])
    means = made_look(scores=scores).means()
    assert means["clip_t"] == 2.5
    assert math.isnan(means["taste"])
