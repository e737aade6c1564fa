"""`python -m edgewright` is the command line."""

from edgewright.cli import main

main(prog_name="edgewright")
