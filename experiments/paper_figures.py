"""Draw the paper's figures: `python -m experiments.paper_figures runs/desk.nc`."""

import sys

from phasejax.cli import figures

if __name__ == "__main__":
    figures(sys.argv[1:])
