"""`python -m stepcredit`."""

from stepcredit.cli import main

main()
