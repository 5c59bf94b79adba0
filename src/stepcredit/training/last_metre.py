"""What a run can end without: a picture, a table, a goodbye. Its weights and numbers are never lost to one of them."""

from collections.abc import Callable


def attempt(act: Callable[[], object], tell: Callable[[str], None]) -> bool:
    """Do what a run can do without; if it fails, say so and go on. Returns whether it was done.

    tell   hears the end of a sentence that begins with what was to be made, such as "before_after.png"
    """
    try:
        act()
    except Exception as error:  # pictures, terminals and disks fail in foreign ways
        tell(f"could not be made ({type(error).__name__}: {error}); the run's weights and numbers are whole")
        return False
    return True
