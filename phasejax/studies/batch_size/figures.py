"""The stability edge, the loss of solutions and T_c against the batch size, and in units of T_0."""

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from phasejax.analysis.statistics import bootstrap, summary
from phasejax.figures.style import TWO_COLUMNS, figure, in_powers_of_two, new_figure
from phasejax.studies.batch_size.numbers import by_batch_size, edges

_LOOKS = {
    "lost": ("C1", "s", "solution lost"),
    "T_c heated": ("C2", "o", "$T_c$, from the teacher"),
    "T_c drawn": ("C0", "^", "$T_c$, from a draw"),
}


def _against(ax: Axes, found: xr.Dataset) -> None:
    batch = found.batch.values
    for name, (colour, marker, words) in {"T_0": ("0.3", "", "stability edge $T_0$"), **_LOOKS}.items():
        centre, low, high = (2**part for part in summary(found[name], "median"))
        ax.plot(batch, centre, marker=marker, markersize=4, linewidth=1, color=colour, label=words)
        ax.fill_between(batch, low, high, color=colour, alpha=0.15, linewidth=0)
    middle = 2 ** float(found["T_c heated"].isel(batch=2).median()) * batch[2] * 2
    ax.plot(batch[2:], middle / batch[2:], ":", color="0.5", linewidth=0.8)
    ax.annotate(r"same $\epsilon$", (batch[3], middle / batch[3]), (4, 3), textcoords="offset points", color="0.5")
    ax.set_ylabel("$T$")
    ax.legend(loc="lower left")


def _over_edge(ax: Axes, found: xr.Dataset) -> None:
    for name, (colour, marker, words) in _LOOKS.items():
        above = found[name] - found["T_0"]
        means = 2 ** above.weighted(bootstrap(above, 300)).mean("seed")
        centre, ends = means.isel(resample=0), means.isel(resample=slice(1, None)).quantile([0.16, 0.84], "resample")
        ax.errorbar(
            found.batch, centre, abs(ends - centre).values, marker=marker, markersize=4, linewidth=1, capsize=1.5,
            color=colour, label=words,
        )  # fmt: skip
    ax.axhline(1, color="0.3", linewidth=1)
    ax.set_ylabel("$T/T_0$, geometric mean of the teachers")


@figure(
    needs=["test_loss", "teacher_sharpness", "teacher_noise_sharpness"],
    over="study",
    caption=(
        "Left: the stability edge T_0 at the teacher, the temperature at which a start there is lost, and T_c, at which "
        "the loss is a hundredth of that of no output, against the batch size; medians, and 68 % of the teachers. Right: "
        "the same in units of each teacher's T_0; means and their errors"
    ),
)
def batch_sizes(tree: xr.DataTree) -> Figure:
    """Temperatures against B, and in units of T_0."""
    found = edges(tree)
    figure, axes = new_figure(TWO_COLUMNS, 2.9, columns=2)
    _against(axes[0], found)
    _over_edge(axes[1], found)
    for ax in axes:
        ax.set_xscale("log", base=2)
        ax.set_yscale("log", base=2)
        ax.set(xlabel="batch size $B$", xticks=found.batch.values)
        in_powers_of_two(ax.xaxis)
        in_powers_of_two(ax.yaxis)
    longest = by_batch_size(tree)["drawn"][int(found.batch[0])]
    figure.suptitle(f"{float(longest.epoch[-1]):,g} epochs, {longest.sizes['seed']} seeds", fontsize=8)
    return figure
