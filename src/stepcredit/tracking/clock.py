"""The clock of all trackers: everything is shown at the number of finished iterations."""


def finished_after(iteration: int) -> int:
    """Where the iteration of this index (from 0) is shown.

    Not at the index itself: the pictures of the base come before any iteration and need a place of their own, 0, and
    services take no step below it. Training rewards therefore lie one step after the update whose pictures they score.
    """
    return iteration + 1
