"""`python -m stepcredit`."""

from stepcredit.cli.app import main

main()
