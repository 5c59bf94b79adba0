"""Other libraries' progress bars: off while we load, and as they were afterwards, whoever imported us."""

import subprocess
import sys

import diffusers.utils.logging
import pytest
import transformers.utils.logging

from stepcredit.files.quiet import quiet_loading

LIBRARIES = (diffusers.utils.logging, transformers.utils.logging)


@quiet_loading()
def fail_while_loading():
    assert not any(library.is_progress_bar_enabled() for library in LIBRARIES)
    raise ValueError("inside")


@pytest.mark.parametrize("on", [True, False])
def test_bars_are_off_inside_and_as_before_outside(on):
    before = [library.is_progress_bar_enabled() for library in LIBRARIES]
    for library in LIBRARIES:
        library.enable_progress_bar() if on else library.disable_progress_bar()
    try:
        with pytest.raises(ValueError, match="inside"):
            fail_while_loading()
        assert all(library.is_progress_bar_enabled() == on for library in LIBRARIES)
    finally:
        for library, enabled in zip(LIBRARIES, before, strict=True):
            library.enable_progress_bar() if enabled else library.disable_progress_bar()


def test_importing_the_package_switches_nobodys_bars_off():
    words = (
        "import stepcredit; stepcredit.train; import diffusers.utils.logging as d, transformers.utils.logging as t; "
        "assert d.is_progress_bar_enabled() and t.is_progress_bar_enabled()"
    )
    subprocess.run([sys.executable, "-c", words], check=True)
