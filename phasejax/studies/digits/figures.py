"""What is drawn of it."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from phasejax.analysis.run import member
from phasejax.analysis.spectrum import marchenko_pastur
from phasejax.analysis.statistics import final
from phasejax.figures.boundary import draw_contours
from phasejax.figures.maps import draw_map
from phasejax.figures.style import (
    TWO_COLUMNS,
    Scale,
    cell_label,
    figure,
    new_figure,
    training_length,
)
from phasejax.studies.digits.levels import RANDOM, bulk, outliers, shape

WORDS = {"labels": "labels", "shuffled": "shuffled labels"}


def _members(tree: xr.DataTree) -> dict[str, xr.Dataset]:
    return {name: member(tree, name) for name in WORDS}


@figure(
    needs=["test_accuracy", "train_loss", "stability", "eigenvalues"],
    caption=(
        "The plane of temperature and inverse disorder for handwritten digits (top) and for the same images with shuffled "
        "labels (bottom): test accuracy, training loss, stability s (white: s = 2), and how many levels stand off: of W1 "
        "off its own bulk, of W2 off that of the start"
    ),
    over="study",
)
def planes(tree: xr.DataTree) -> Figure:
    """Accuracy, loss, stability and outliers over the plane, for labels and for shuffled ones."""
    runs = _members(tree)
    panels: dict[str, tuple[Scale, tuple[float, float]]] = {
        "test accuracy": ("linear", (0.0, 1.0)),
        "training loss": ("log", (1e-4, 10.0)),
        "stability $s$": ("log", (0.02, 200.0)),
        "outliers of $W^{(1)}$": ("linear", (0.0, 32.0)),
        "outliers of $W^{(2)}$": ("linear", (0.0, 10.0)),
    }
    drawn, axes = new_figure(TWO_COLUMNS, 3.6, 2, len(panels), sharex=True, sharey=True)
    for row, (name, run) in zip(axes, runs.items(), strict=True):
        values = (run.test_accuracy, run.train_loss, run.stability, *(outliers(run, layer) for layer in RANDOM))
        for ax, (label, (scale, limits)), of in zip(row, panels.items(), values, strict=True):
            mesh = draw_map(ax, final(run, of), scale=scale, limits=limits, statistic="median")
            if of.name == "stability":
                draw_contours(ax, final(run, of).median("seed"), 2.0, ("1.0", "-"), "")
            if name == "shuffled":
                drawn.colorbar(mesh, ax=list(axes[:, list(panels).index(label)]), label=label, location="bottom")
            ax.set_title(WORDS[name] if ax is row[0] else "")
            ax.label_outer()
    drawn.suptitle(f"medians; {training_length(runs['labels'])}", fontsize=8)
    return drawn


def best(run: xr.Dataset) -> dict[str, int]:
    """The cell of the highest mean accuracy at the end."""
    accuracy = final(run, run.test_accuracy).mean("seed").fillna(0.0)
    return {str(axis): int(index) for axis, index in dict(accuracy.argmax(...)).items()}  # pyright: ignore


@figure(
    needs=["test_accuracy", "eigenvalues"],
    caption=(
        "Levels of both layers in the cell of the highest accuracy, at the start (grey) and at the end, all seeds; lines: "
        "Marchenko and Pastur's density of the start (grey) and of the bulk that is left at the end (orange); "
        "dotted: the edge that counts"
    ),
    over="study",
)
def spectra(tree: xr.DataTree) -> Figure:
    """Spectra of both layers beside random ones, for labels and for shuffled ones."""
    runs = _members(tree)
    at = best(runs["labels"])
    drawn, axes = new_figure(TWO_COLUMNS, 4.0, 2, len(RANDOM), sharex="col")
    for row, (name, whole) in zip(axes, runs.items(), strict=True):
        run = whole.isel(at)
        for ax, (layer, of) in zip(row, RANDOM.items(), strict=True):
            levels = run[f"eigenvalues_{layer}"]
            first, last = (levels.isel(step=k).values.ravel() for k in (0, -1))
            bins = np.geomspace(min(first.min(), last.min()), max(first.max(), last.max()) * 1.1, 40)
            ax.hist(first, bins, density=True, color="0.85", label="start")
            ax.hist(last, bins, density=True, histtype="step", color="C0", label="end")
            x, (nodes, inputs) = np.geomspace(bins[0], bins[-1], 800), shape(run, layer)
            for name_of, colour in dict.fromkeys([("start", "0.4"), (of, "C1" if of == "bulk" else "0.4")]):
                found = bulk(run, layer, name_of).isel(step=-1).mean("seed")
                k = round(float(found.outliers)) if name_of == "bulk" else 0
                sigma, left = np.sqrt(float(found.scale) * (inputs - k) / inputs), (nodes - k) / (inputs - k)
                density = marchenko_pastur(x, sigma, left) * (nodes - k) / nodes
                ax.plot(x, np.where(density > 0, density, np.nan), color=colour)
                if name_of == of:
                    ax.axvline(float(found.edge), color=colour, linestyle=":")
            count = float(found.outliers)
            ax.set(xscale="log", yscale="log", title=f"{WORDS[name]}, $W^{{({layer})}}$: {count:.1f} outliers")
            if name == "shuffled":
                ax.set_xlabel("level of $WW^T$")
        row[0].set_ylabel("density")
    axes[0, 0].legend()
    drawn.suptitle(f"{cell_label(run)}\n{training_length(runs['labels'])}", fontsize=8)
    return drawn
