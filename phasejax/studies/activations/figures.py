"""What is drawn of it."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from phasejax.analysis.run import each, members
from phasejax.analysis.stability import relative
from phasejax.figures.maps import plane
from phasejax.figures.style import TWO_COLUMNS, figure, new_figure, training_length
from phasejax.studies.activations.lines import (
    COLD,
    LEARNT,
    NODES,
    STUCK,
    along_disorder,
    critical_temperature,
    edge,
    order_to_chaos,
    remaining,
)

RATIOS = 2.0 ** np.arange(-3, 5.1, 0.25)
"""Of T to T_0, that are looked at."""
LEAST, MOST = 1e-6, 1.0
"""Losses that have a colour of their own."""


@figure(
    needs=["test_loss", "teacher_sharpness", "teacher_noise_sharpness", "temperature", "sigma_w"],
    caption=(
        "What other nodes change. Left: share of the teacher's variance left against T / T_0 of each teacher, median, at "
        "the smallest sigma_W. Centre: T_c / T_0, a point a teacher, bars the median. Right: the same share against sigma_W "
        "at a quarter of the median T_0; triangles: where a perturbation grows in the trained layer (chi = 1). The identity "
        "learns all there is, below the frame"
    ),
    over="study",
)
def boundaries(tree: xr.DataTree) -> Figure:
    """Both boundaries, activation by activation."""
    drawn, axes = new_figure(TWO_COLUMNS, 2.9, columns=3)
    for k, (name, run) in enumerate(members(tree).items()):
        colour, left, log_edge = f"C{k}", remaining(run), edge(run)
        weak = left.isel(sigma_w=int(left.sigma_w.values.argmin()))
        curves = relative(weak, 2**log_edge, RATIOS)
        curve = 10 ** curves.median("seed").where(curves.notnull().mean("seed") > 0.5)
        axes[0].plot(curve.relative_temperature, curve, color=colour, label=name)
        octaves = critical_temperature(left) - log_edge
        spread = np.linspace(-0.2, 0.2, octaves.size)
        axes[1].plot(k + spread, 2**octaves, ".", color=colour, markersize=3)
        axes[1].plot([k - 0.3, k + 0.3], [2 ** float(octaves.median())] * 2, color=colour, linewidth=1.5)
        at = along_disorder(run, left).mean("seed")
        axes[2].plot(at.sigma_w, 10**at, ".-", color=colour, label=name)
        if name in NODES:
            axes[2].plot(order_to_chaos(name), 1.25, "v", color=colour, markersize=4, clip_on=False)
    for ax, level in ((axes[0], LEARNT), (axes[2], STUCK)):
        ax.axhline(10**level, color="0.7", linewidth=0.6, zorder=0)
    axes[0].set(xscale="log", yscale="log", xlabel="$T/T_0$", ylabel="share of variance left", title=r"smallest $\sigma_W$",
                ylim=(1e-5, 2))  # fmt: skip
    axes[1].set(yscale="log", ylabel="$T_c/T_0$", title="boundary of each teacher")
    axes[1].set_xticks(range(len(tree.children)), list(tree.children), rotation=45)
    axes[1].axhline(1, color="0.7", linewidth=0.6, zorder=0)
    axes[2].set(xscale="log", yscale="log", xlabel=r"$\sigma_W$", ylabel="share of variance left",
                title=f"$T \\approx T_0/{COLD:g}$", ylim=(1e-5, 3))  # fmt: skip
    axes[2].legend(fontsize=6)
    drawn.suptitle(training_length(next(iter(members(tree).values()))), fontsize=8)
    return drawn


@figure(
    needs=["test_loss", "temperature", "sigma_w"],
    caption=(
        "Median test loss over the plane, member by member, below 1e-6 and above 1 in one colour; hatched cells lost "
        "students, whose outputs overflowed"
    ),
    over="study",
)
def planes(tree: xr.DataTree) -> Figure:
    """The planes side by side."""
    # What lies below is as good as learnt and what lies above is lost, and these would take up all colours.
    shown = each(tree, lambda run: run.assign(test_loss=run.test_loss.clip(LEAST, MOST)))
    return plane(shown, "test_loss", scale="log", statistic="median", label="test loss, half the mean squared error")
