"""`python -m phasejax` is the command line of `phasejax.cli`."""

from phasejax.cli import main

main()
