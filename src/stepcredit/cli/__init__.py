"""The command line: one file for each group of commands, registered in `app`.

This room and `--help` load no torch; each command imports what it needs when it runs.
"""

from stepcredit.cli.app import main

__all__ = ["main"]
