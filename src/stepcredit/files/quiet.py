"""Loading without the progress bars of other libraries."""

from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def quiet_loading() -> Generator[None]:
    """Inside, diffusers and transformers show no bars; afterwards each is as it was.

    A dozen bars for files of a few megabytes hide the one bar that matters. They belong to the process, which may be
    somebody else's: importing this package must not switch them off for good.
    """
    import diffusers.utils.logging
    import transformers.utils.logging

    libraries = (diffusers.utils.logging, transformers.utils.logging)
    silenced = [library for library in libraries if library.is_progress_bar_enabled()]
    for library in silenced:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in silenced:
            library.enable_progress_bar()
