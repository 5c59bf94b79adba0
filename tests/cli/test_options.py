"""Options outside recipes have limits, a mistake is one sentence with exit code 2, and so is what nobody foresaw."""

import errno
import io
import sys

import pytest
from test_cli import run

from drawn_runs import drawn_run
from stepcredit.cli import app as cli
from stepcredit.cli import last_resort
from stepcredit.errors import readable, shown

SAMPLE = ("sample", "somewhere", "--prompt", "a red circle")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("frobnicate",), "Unknown command"),
        ((*SAMPLE, "--bogus", "3"), "Unknown option: --bogus"),
        (("show", "x" * 300), "there is no folder"),
        (("train", "x" * 300), "there is no recipe"),
        (("train", "--resume", "x" * 300), "is not a run"),
        ((*SAMPLE, "--out", "x" * 300 + ".png"), "no file can be called so"),
        ((*SAMPLE, "--count", "many"), "--count"),
        ((*SAMPLE, "--count", "0"), "--count. Wanted at least 1"),
        ((*SAMPLE, "--seed", "-1"), "--seed. Wanted at least 0"),
        ((*SAMPLE, "--seed", str(2**64)), "--seed"),
        ((*SAMPLE, "--reward-guidance", "nan"), "--reward-guidance"),
        ((*SAMPLE, "--also", "x=nan"), "FOLDER=STRENGTH"),
        ((*SAMPLE, "--also", "x"), "FOLDER=STRENGTH"),
        ((*SAMPLE, "--out", "x.txt"), "--out"),
        ((*SAMPLE, "--out", "."), "is a folder"),
        ((*SAMPLE, "--out", "nowhere/x.png"), "There is no folder nowhere"),
        (("sample", "somewhere", "--prompt", "  "), "empty prompt"),
        (("evaluate", "somewhere", "--count", "0"), "--count. Wanted at least 2"),
        (("evaluate", "somewhere", "--checkpoint", "-3"), "--checkpoint"),
        (("export", "somewhere", "--checkpoint", "-3"), "--checkpoint"),
        (("report", "somewhere", "--out", "."), "is a folder"),
        (("compare", "a", "b", "--out", "."), "is a folder"),
        (("compare", "a", "b", "--cost", "love"), "--cost"),
        (("compare", "--dump", "."), "is a folder"),
        (("bench", "credit", "--groups", "0"), "--groups"),
        (("bench", "credit", "--seeds", "0"), "--seeds"),
        (("bench", "paper", "--workers", "0"), "--workers"),
        (("bench", "paper", "--budget", "-1"), "--budget"),
        (("train", "--dry-run", "--peak_tflops", "0"), "--peak_tflops"),
        (("train", "--dry-run", "--peak_tflops", "nan"), "--peak_tflops"),
        (("train", "--dry-run", "--utilisation", "2"), "--utilisation"),
        (("train", ""), "there is no recipe"),
        (("train", "--dry-run", "--seed", "1", "--seed", "2"), "--seed is given twice, 1 and 2"),
        (("doctor", "x"), "Unused"),
    ],
)
def test_an_option_beyond_its_limits_is_one_sentence(arguments, wanted, capsys):
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert wanted in captured.err
    assert captured.out == ""


def fails_with(monkeypatch, error):
    def broken(arguments):
        raise error

    monkeypatch.setattr(cli, "app", broken)


@pytest.mark.parametrize("error", [KeyError("watch"), RecursionError("too deep"), ValueError("x\x1b[31m" * 50_000)])
def test_what_nobody_foresaw_is_one_sentence_and_a_file(error, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fails_with(monkeypatch, error)
    assert run("train", "--seed", "3") == last_resort.CODE
    message = capsys.readouterr().err
    (log,) = tmp_path.glob("stepcredit-fault-*.log")
    assert "a fault in stepcredit, not in your command" in message
    assert str(log) in message
    assert "Traceback" not in message
    assert "\x1b" not in message
    assert len(message.splitlines()) <= 20
    report = log.read_text(encoding="utf-8")
    assert "stepcredit train --seed 3" in report
    assert "Traceback" in report
    assert f"Python {sys.version.split()[0]}" in report


def test_the_file_lies_in_the_run_folder_that_the_command_names(tmp_path, monkeypatch, capsys):
    folder = drawn_run(tmp_path / "run")
    fails_with(monkeypatch, KeyError("x"))
    assert run("show", str(folder)) == 70
    assert run("train", f"--resume={folder}") == 70
    assert len(list(folder.glob("stepcredit-fault-*.log"))) == 2
    assert str(folder) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "runs/x"), "the disk is full (runs/x)"),
        (MemoryError(), "main memory ran out"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "permission was denied (x)"),
    ],
)
def test_what_the_machine_refuses_is_not_called_a_fault(error, wanted, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fails_with(monkeypatch, error)
    assert run("train") == 70
    message = capsys.readouterr().err
    assert wanted in message
    assert "fault in stepcredit" not in message


def test_the_traceback_is_shown_on_request(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(last_resort.SHOW, "1")
    fails_with(monkeypatch, KeyError("x"))
    assert run("train") == 70
    assert "Traceback" in capsys.readouterr().err


def test_a_terminal_of_another_encoding_and_twenty_columns_fails_at_nothing(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(written, encoding="ascii"))
    monkeypatch.setenv("COLUMNS", "20")
    assert run("methods") == 0
    assert run("train", "--séed", "3") == 2
    sys.stderr.flush()
    assert "s\\xe9ed: unknown key" in written.getvalue().decode()


def test_foreign_text_is_made_readable():
    assert readable("a\x1b[31mred\x1b[0m\x1b]0;title\x07 \x00\u202e\ud800\u2028.") == "ared \\x00\\x202e\\xd800\\x2028."
    assert readable("é ü 画\n\tx") == "é ü 画\n\tx"
    for text in ("x" * 10**6, "line\n" * 10**4, f"short\n{'y' * 10**5}"):
        lines = readable(text).split("\n")
        assert sum(-(-len(line) // 120) for line in lines) <= 20
        assert lines[-1] == f"... ({len(text):,} characters in all)"


def test_a_number_that_python_refuses_to_write_is_shown():
    assert shown(10**5000) == "a number of about 5,001 digits"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(True, "true"), (None, "null"), (0.5, "0.5"), ("a\nb", '"a\\nb"'), ({"a": [1, None]}, '{"a": [1, null]}')],
        *[("x" * 100, f'"{"x" * 57}..."'), ({1}, "a set")],
    ],
)
def test_values_are_shown_as_a_recipe_would_have_them(value, text):
    assert shown(value) == text
