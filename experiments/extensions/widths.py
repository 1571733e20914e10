"""How do the phases change with the number of nodes? Widths are no axis, so this is a study.

python -m experiments.extensions.widths
"""

from dataclasses import replace
from pathlib import Path

import matplotlib.style
from matplotlib.figure import Figure

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
    tree = study.run(out)
    with matplotlib.style.context(pj.figures.STYLE_SHEET):
        figure = Figure(figsize=(7, 2.2))
        axes = figure.subplots(1, len(tree.children), squeeze=False, sharey=True)[0]
    for ax, (name, node) in zip(axes, tree.children.items(), strict=True):
        loss = node.test_loss.isel(step=-1).mean("seed").transpose("temperature", "sigma_w")
        image = ax.pcolormesh(1 / loss.sigma_w, loss.temperature, loss, norm="log", shading="nearest", vmin=1e-4, vmax=1)
        ax.set(xscale="log", yscale="log", xlabel=r"$1/\sigma_W$", title=name.replace("_", " "))
    axes[0].set_ylabel("temperature")
    figure.colorbar(image, ax=axes, label="mean test loss")
    return pj.figures.save(figure, Path(folder) / "widths")


if __name__ == "__main__":
    main()
