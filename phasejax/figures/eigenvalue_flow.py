"""Flow of the eigenvalues of X = W W^T during training (Fig 6)."""

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from phasejax.figures.style import TWO_COLUMNS, house_style, new_figure, power_of_two, temperature_axis, training_length

# The paper's cells: temperature (or learning rate) and 1/sigma_W.
PHASES = {"ordered": (2**-5, 8), "paramagnetic": (4, 8), "jammed": (2**-5, 2**-8)}


@house_style
def eigenvalue_flow(dataset: xr.Dataset) -> Figure:
    """Fig 6: eigenvalues of all students against time in the three phases; dashed, the teachers' mean eigenvalues.

    On a grid without the paper's cells the nearest ones are drawn. Of several trained layers, the last.
    """
    name = [str(v) for v in dataset.data_vars if str(v).startswith("eigenvalues")][-1]
    axis, _ = temperature_axis(dataset)
    steps = dataset.step.values
    # Time starts at 0 on a logarithmic axis: draw the initial state where step 1/5 would be.
    time = np.where(steps == 0, 0.2, steps)

    figure, axes = new_figure(TWO_COLUMNS, 2.8, columns=len(PHASES))
    for ax, (phase, (temperature, inverse_sigma)) in zip(axes, PHASES.items(), strict=True):
        cell = dataset[name].isel(
            {
                axis: nearest(dataset[axis].values, temperature),
                "sigma_w": nearest(dataset.inverse_sigma_w.values, inverse_sigma),
            }
        )
        levels = cell.transpose(..., "seed", "step").values
        count = levels.shape[0]
        colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.95, count))
        for colour, seeds in zip(colours, levels, strict=True):
            paths = [np.column_stack([time, path]) for path in np.where(seeds > 0, seeds, np.nan)]
            ax.add_collection(LineCollection(paths, colors=[colour], linewidths=0.3, alpha=0.35, rasterized=True))
        targets = dataset["target_" + name].mean("seed").values
        low, high = np.nanmin(levels[levels > 0], initial=np.inf), np.nanmax(levels, initial=0)
        if phase == "ordered":  # the one phase that flows towards the teacher: show where to
            high = max(high, targets.max())
        for target in targets[(targets > low) & (targets <= high)]:
            ax.axhline(target, color="black", linestyle="--", linewidth=0.4)
        ax.set(xscale="log", yscale="log", xlim=(0.15, time[-1] * 1.3), xlabel="SGD steps")
        if high > 0:
            ax.set_ylim(low / 1.5, high * 1.5)
        decades = np.arange(0, np.log10(max(time[-1], 1)) + 0.01, dtype=int)
        ax.set_xticks([0.2, *(10.0**decades)], ["0", *(f"$10^{{{k}}}$" for k in decades)])
        symbol = "T" if axis == "temperature" else r"\epsilon"
        where = (
            f"${symbol} = {power_of_two(float(cell[axis]))}$, $1/\\sigma_W = {power_of_two(float(cell.inverse_sigma_w))}$"
        )
        ax.set_title(f"{phase}\n{where}")
    axes[0].set_ylabel("eigenvalues $x_i$ of " + "$W W^T$")
    figure.suptitle(training_length(dataset, int(steps[-1])), fontsize=8)
    return figure


def nearest(values: np.ndarray, wanted: float) -> int:
    """Index of the value nearest to `wanted` on a logarithmic axis."""
    return int(np.argmin(np.abs(np.log(values / wanted))))
