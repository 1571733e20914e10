"""Train a grid: `python -m experiments.grid --preset quick --out runs/quick`."""

import sys

from phasejax.cli import run

if __name__ == "__main__":
    run(sys.argv[1:])
