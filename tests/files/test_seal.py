"""Seals: whatever was changed is found, and what an older version wrote without one is read."""

import json

import pytest

from stepcredit.files.models import identity
from stepcredit.files.seal import is_as_sealed, opened, opened_line, read_json, sealed, sealed_line, sealed_text

RECORD = {"iteration": 3, "gain": 0.1 + 0.2, "names": ["ä", "b"], "none": None, "huge": 1e300}


def test_a_sealed_record_comes_back_from_json():
    assert opened(json.loads(json.dumps(sealed(RECORD), indent=2, ensure_ascii=False))) == RECORD
    assert opened(RECORD) == RECORD
    assert opened_line(sealed_line(RECORD)) == opened_line(json.dumps(RECORD)) == RECORD


@pytest.mark.parametrize("line", [True, False])
def test_every_flipped_bit_of_a_sealed_record_is_found_or_changes_none_of_it(tmp_path, line):
    path = tmp_path / "a.json"
    content = sealed_line(RECORD).encode() if line else json.dumps(sealed(RECORD)).encode()
    read = (lambda path: opened_line(path.read_text(encoding="utf-8"))) if line else read_json
    unnoticed = 0
    for place in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            record = read(path)
        except ValueError:
            continue
        # A flip in the name of the seal leaves a record without one, and all that it said.
        assert {key: record[key] for key in RECORD} == RECORD
        unnoticed += 1
    assert unnoticed < 8 * len("sha256") + 8


@pytest.mark.parametrize("text", ["[]", "3", "null", '"a"'])
def test_what_is_no_table_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match="no table"):
        read_json(tmp_path / "a.json")
    with pytest.raises(ValueError, match="no record"):
        opened_line(text)


def test_a_sealed_text_says_whether_it_was_edited():
    text = sealed_text("seed: 0\nname: ä\n")
    assert is_as_sealed(text)
    assert is_as_sealed("seed: 0\n")  # an older version's
    assert not is_as_sealed(text.replace("seed: 0", "seed: 1"))
    assert not is_as_sealed(text[:-10])


def test_weights_are_told_by_their_files(tmp_path):
    (tmp_path / "transformer").mkdir()
    (tmp_path / ".git").mkdir()
    for name in ("model_index.json", "transformer/weights.safetensors", "README.md", ".git/config.json"):
        (tmp_path / name).write_bytes(b"one")
    before = identity(str(tmp_path))
    assert list(before) == ["model_index.json", "transformer/weights.safetensors"]
    (tmp_path / "README.md").write_bytes(b"two")
    assert identity(str(tmp_path)) == before
    (tmp_path / "transformer" / "weights.safetensors").write_bytes(b"two")
    assert identity(str(tmp_path)) != before
    assert identity("owner/name-nobody-has", "v1") == {"hub": "owner/name-nobody-has@v1"}


def test_a_large_file_is_told_by_pieces_from_its_first_to_its_last_byte(tmp_path, monkeypatch):
    monkeypatch.setattr("stepcredit.files.models._WHOLE", 0)
    monkeypatch.setattr("stepcredit.files.models._PIECE", 4)
    path = tmp_path / "weights.safetensors"
    content = bytes(range(256)) * 4
    path.write_bytes(content)
    before = identity(str(path))
    for place in (0, len(content) - 1):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        assert identity(str(path)) != before
    path.write_bytes(content + b"\0")
    assert identity(str(path)) != before
