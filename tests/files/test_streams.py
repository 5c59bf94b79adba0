"""Printing never raises because a pipe was closed, a terminal left or a disk full; that is said once, elsewhere."""

# ruff: noqa: T201 - printing is what is tested

import errno
import io
import os
import sys
from contextlib import suppress

import pytest
from rich.console import Console

from stepcredit.cli import main
from stepcredit.files.streams import unbroken


class Gone(io.StringIO):
    """Fails from the start."""

    def __init__(self, number):
        super().__init__()
        self._number = number
        self.tries = 0

    def write(self, text):
        self.tries += 1
        raise OSError(self._number, os.strerror(self._number))


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC, errno.EIO])
def test_output_that_is_gone_is_said_once_and_tried_no_more(monkeypatch, capsys, number):
    gone = Gone(number)
    monkeypatch.setattr(sys, "stdout", gone)
    with unbroken():
        for _ in range(3):
            print("a line")
            Console().print("[bold]another[/]")
    assert gone.tries == 1
    said = capsys.readouterr().err
    assert said.count("standard output is gone") == 1
    assert os.strerror(number) in said
    assert sys.stdout is gone


def test_a_stream_that_somebody_closed_is_gone_too(monkeypatch, capsys):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    with unbroken():
        stream.close()
        print("a line")
    assert "standard output is gone (I/O operation on closed file)" in capsys.readouterr().err


def test_with_both_gone_work_goes_on_in_silence(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Gone(errno.EPIPE))
    monkeypatch.setattr(sys, "stderr", Gone(errno.EPIPE))
    with unbroken():
        print("a line")
        print("an error", file=sys.stderr)


def test_without_any_stream_nothing_is_guarded(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with unbroken():
        print("a line")


def test_a_text_that_does_not_fit_is_no_stream_that_is_gone(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    with unbroken(), pytest.raises(UnicodeEncodeError):
        print("ü")
    assert capsys.readouterr().err == ""


def test_a_stream_that_works_is_asked_what_it_is_and_gets_everything(monkeypatch, capsys):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    with unbroken():
        guarded = sys.stdout
        with unbroken():
            assert sys.stdout is guarded  # a run inside a command
            print("a line")
        assert guarded.isatty() is False
    assert (stream.getvalue(), capsys.readouterr().err) == ("a line\n", "")


@pytest.mark.parametrize("command", [["recipes"], ["methods"]])
def test_a_command_whose_reader_has_gone_ends_as_if_somebody_read_it(monkeypatch, capsys, command):
    """As in `stepcredit methods | head -1`; rich would end the process with 1."""
    codes = []
    monkeypatch.setattr(sys, "stdout", Gone(errno.EPIPE))
    with suppress(SystemExit), pytest.MonkeyPatch.context() as ends:
        ends.setattr(sys, "exit", lambda code=0: codes.append(code))
        main(command)
    assert not any(codes)
    assert "Traceback" not in capsys.readouterr().err
