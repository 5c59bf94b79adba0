"""Writing text: whole or not at all, and a word about what to do."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from stepcredit.errors import RunError
from stepcredit.files.text import resume_line, write_json, write_text


def test_text_and_json_come_back(tmp_path):
    path = tmp_path / "new" / "folder" / "a.json"
    write_json(path, {"ä": [1, None]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"ä": [1, None]}
    write_text(path, "ü\n")
    assert path.read_text(encoding="utf-8") == "ü\n"
    assert [item.name for item in path.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize("place", ["pathlib.Path.open", "os.replace"])
def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path, monkeypatch, place):
    path = tmp_path / "a.txt"
    write_text(path, "before")

    def full(*arguments, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(place, full)
    with pytest.raises(RunError, match=r"a\.txt could not be written \(.*No space left.*\); make room"):
        write_text(path, "after")
    with pytest.raises(RunError, match=r"; buy a disk$"):
        write_json(path, 1, advice="buy a disk")
    monkeypatch.undo()
    assert path.read_text() == "before"
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]


def test_writing_text_loads_nothing_heavy():
    program = (
        "import sys, stepcredit.files.text\n"
        "print(sorted({'torch', 'numpy', 'pydantic', 'yaml', 'safetensors'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", ["run", "my runs/first try", "it's", "$HOME", "a;b", "*"])
def test_a_line_that_resumes_works_when_it_is_copied(name):
    assert shlex.split(resume_line(Path(name))) == ["stepcredit", "train", "--resume", name]
    assert resume_line(Path("runs/otca-0")) == "stepcredit train --resume runs/otca-0"
