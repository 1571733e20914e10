"""What is drawn of it."""

import math

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke

from phasejax.advice.pilot import SEEDS
from phasejax.advice.reading import Reading
from phasejax.advice.report import outlined
from phasejax.analysis.run import members
from phasejax.figures.boundary import add_legend, draw_line
from phasejax.figures.maps import draw_map
from phasejax.figures.style import TWO_COLUMNS, figure, new_figure
from phasejax.studies.advice.truth import BUDGET, Truth, advice_of, pilot_and_truth

_ACROSS = 4


@figure(
    needs=["test_loss", "constant_loss", "sigma_w"],
    caption="log10 of the final loss of the seeds that no pilot saw, each network's in its own colours from its best to a "
    "constant output's; on it the boundary after the whole training (line), what a pilot of a hundredth of the steps and of "
    "other seeds says of it (points with 90 % intervals), the cell that it recommends (star), and the best cell (circle)",
    over="study",
)
def advice_and_truth(tree: xr.DataTree) -> Figure:
    """A map a network, with the advice and the truth on it."""
    runs = members(tree)
    rows = -(-len(runs) // _ACROSS)
    drawn, axes = new_figure(TWO_COLUMNS, 0.6 + 1.75 * rows, rows, _ACROSS, squeeze=False)
    for ax, (name, run) in zip(axes.flat, runs.items(), strict=False):
        pilot, whole = pilot_and_truth(run)
        _draw(ax, Truth(whole), advice_of(pilot, int(run.step[-1])))
        ax.set_title(name.replace("-", " "))
    for ax in axes.flat[len(runs) :]:
        ax.set_axis_off()
    for k, ax in enumerate(axes.flat):
        if k + _ACROSS < len(runs):
            ax.set_xlabel("")
        if k % _ACROSS and ax.get_ylabel() == axes.flat[k - 1].get_ylabel():
            ax.set_ylabel("")
    add_legend(drawn)
    drawn.suptitle(_lengths(runs), fontsize=8)
    return drawn


def _lengths(runs: dict[str, xr.Dataset]) -> str:
    steps = max(int(run.step[-1]) for run in runs.values())
    return f"{steps:,} steps, pilots {BUDGET * steps:,.0f}; {SEEDS} seeds of pilots, and others"


def _draw(ax: Axes, truth: Truth, found: Reading) -> None:
    draw_map(ax, truth.y.assign_coords(inverse_sigma_w=1 / truth.y.sigma_w))
    view = ax.get_xlim(), ax.get_ylim()
    there = truth.columns["at"].where(truth.columns.contrast > 1)
    draw_line(ax, 1 / there.sigma_w.values, there.values, ("1.0", "-"), "boundary at the end")
    ours = found.columns
    ends = np.abs(np.stack([ours.low, ours.high]) - ours.T_c.values)
    bars = ax.errorbar(1 / ours.sigma_w, ours.T_c, ends, color="#56B4E9", marker="o", markersize=2, linestyle="none")
    bars.lines[0].set_label("boundary by the pilot")
    outlined(bars)
    outline = [Stroke(linewidth=2, foreground="black"), Normal()]
    ax.plot(1 / truth.best[1], truth.best[0], "o", color="white", fillstyle="none", markersize=8, path_effects=outline,
            label="best at the end")  # fmt: skip
    ax.plot(1 / found.best.sigma_w, found.best.rate, "*", color="#D55E00", markeredgecolor="white", markeredgewidth=0.4,
            markersize=8, label="recommended")  # fmt: skip
    ax.set(xlim=view[0], ylim=view[1])


@figure(
    needs=["test_loss", "constant_loss", "sigma_w"],
    caption="Regret, the decades of final loss by which a setting is worse than the best cell: of the pilot's cell, of "
    "T = 1/8 (Adam: 10^-3) at sigma_W = 1, and of random search and successive halving that cost as much as the pilot; the "
    "best is chosen by half of the seeds and all are looked at by the other half",
    over="study",
)
def regrets(tree: xr.DataTree) -> Figure:
    """Regret of each network, by the way a setting was found."""
    rows = {}
    for name, run in members(tree).items():
        pilot, whole = pilot_and_truth(run)
        truth, found = Truth(whole), advice_of(pilot, int(run.step[-1]))
        cost = BUDGET * found.y.size * pilot.sizes["seed"]
        rows[name] = {
            "the pilot's cell": truth.regret(found.best.rate, found.best.sigma_w) if found.learned else math.nan,
            "constant": truth.regret(1 / 8 if truth.rate == "temperature" else 1e-3, 1.0),
            "random search": truth.searched(cost, halving=False),
            "successive halving": truth.searched(cost, halving=True),
        }
    drawn, ax = new_figure(TWO_COLUMNS, 0.9 + 0.2 * len(rows))
    for k, way in enumerate(next(iter(rows.values()))):
        values = [row[way] for row in rows.values()]
        ax.plot(values, range(len(rows)), "*osD"[k], color=f"C{k}", markersize=9 if k == 0 else 5, label=way,
                zorder=3 if k == 0 else 2)  # fmt: skip
    ax.set_yticks(range(len(rows)), [name.replace("-", " ") for name in rows])
    ax.invert_yaxis()
    ax.axvline(0, color="0.7", linewidth=0.8, zorder=1)
    ax.set(xscale="symlog", xlabel="regret (decades of test loss)")
    ax.grid(axis="y", color="0.9")
    add_legend(drawn)
    drawn.suptitle(_lengths(members(tree)), fontsize=8)
    return drawn


FIGURES = (advice_and_truth, regrets)
"""The page opens with the first."""
