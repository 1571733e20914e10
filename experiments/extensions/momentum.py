"""Is T = learning rate / (B (1 - momentum)) the temperature? The plane of momentum and temperature.

python -m experiments.extensions.momentum
"""

from dataclasses import replace
from pathlib import Path

import phasejax as pj

HEAVY = replace(
    pj.Experiment(),
    grid=pj.Grid(temperature=[2.0**k for k in range(-5, 7)], momentum=[0, 0.5, 0.75, 0.9, 0.95], sigma_w=0.125, seeds=10),
    schedule=pj.Schedule(steps=10_000),
    observe=("test_loss", "diverged_step"),
)


def main(experiment: pj.Experiment = HEAVY, folder: str | Path = "figures/extensions") -> list[Path]:
    """Train, and draw the loss over the plane: where T is the parameter, its lines are level."""
    run = pj.simulate(experiment)
    return pj.figures.save(pj.plane(run, "test_loss", scale="log"), Path(folder) / "momentum")


if __name__ == "__main__":
    main()
