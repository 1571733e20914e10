"""How do the phases change with the number of nodes? Widths are no axis, so this is a study.

python -m experiments.extensions.widths
"""

from dataclasses import replace
from pathlib import Path

import phasejax as pj

BASE = replace(
    pj.Experiment(),
    grid=pj.Grid(temperature=[2.0**k for k in range(-5, 7)], sigma_w=[2.0**k for k in range(-3, 9)], seeds=4),
    schedule=pj.Schedule(steps=3000),
    observe=("test_loss", "diverged_step"),
)
NETWORKS = {f"{n} nodes": {"network": pj.Network((3, 2 * n, n, 1), trainable=(2,))} for n in (8, 16, 32, 64)}
STUDY = pj.Study(BASE, members=NETWORKS, question="How do the phases change with the number of nodes?")


def main(study: pj.Study = STUDY, out: str | Path = "runs/widths", folder: str | Path = "figures/extensions") -> list[Path]:
    """Train what is missing, and draw the four planes side by side."""
    return pj.figures.save(pj.plane(study.run(out), "test_loss", scale="log"), Path(folder) / "widths")


if __name__ == "__main__":
    main()
