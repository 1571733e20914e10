"""Loss against T / T_0, a curve a teacher; T_c of each against its T_0; and what carries learning on above T_0."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from phasejax.analysis.run import member
from phasejax.analysis.stability import relative, stability_edge
from phasejax.analysis.statistics import log10, sound, summary
from phasejax.figures.style import TEST_LOSS, TWO_COLUMNS, figure, in_powers_of_two, new_figure, training_length
from phasejax.studies.stability.numbers import edges

RELATIVE = "$T/T_0$"
_LOOKS = {"heated": ("C1", "o", "from the teacher"), "drawn": ("C0", "^", "from a draw"), "cooled": ("C2", "", "cooled")}
_RATIOS = np.exp2(np.arange(-12, 49) / 8)


def _losses(ax: Axes, tree: xr.DataTree) -> None:
    for name, (colour, _, words) in _LOOKS.items():
        run = member(tree, name)
        losses = relative(log10(sound(run, run.test_loss).isel(step=-1)), stability_edge(run), _RATIOS)
        ax.plot(_RATIOS, 10 ** losses.transpose("relative_temperature", "seed"), color=colour, alpha=0.2, linewidth=0.4)
        middle = losses.median("seed").where(losses.count("seed") > losses.sizes["seed"] / 2)
        ax.plot(_RATIOS, 10**middle, color=colour, linewidth=1.5, label=words)
    ax.axvline(1, color="0.3", linestyle="--", linewidth=0.8)
    ax.set_xscale("log", base=2)
    ax.set(yscale="log", xlabel=RELATIVE, ylabel=TEST_LOSS)
    in_powers_of_two(ax.xaxis)
    ax.legend(loc="lower right")


def _points(ax: Axes, tree: xr.DataTree) -> None:
    found = edges(tree).isel(step=-1)
    shown = {"lost identity": ("0.5", "s", "lost, identity"), "lost": ("C1", "s", "lost, from the teacher")}
    for way in ("heated", "drawn"):
        colour, marker, words = _LOOKS[way]
        shown[f"T_c {way}"] = colour, marker, f"$T_c$, {words}"
    for name, (colour, marker, words) in shown.items():
        edge = found["T_0 identity" if "identity" in name else "T_0"]
        if found[name].count() < found[name].size / 2:
            continue
        above = float((found[name] - edge).median())
        label = f"{words} ({above:+.1f} octaves)"
        ax.plot(2**edge, 2 ** found[name], marker, color=colour, markersize=2, alpha=0.8, markeredgewidth=0, label=label)
        ends = np.array([edge.min() - 0.2, edge.max() + 0.2])
        ax.plot(2**ends, 2 ** (ends + above), ":", color=colour, linewidth=0.8)
    whole = np.array([found["T_0 identity"].min() - 0.5, found["T_0"].max() + 0.5])
    ax.plot(2**whole, 2**whole, "--", color="0.3", linewidth=0.8)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    for axis in (ax.xaxis, ax.yaxis):
        in_powers_of_two(axis)
    ax.set(xlabel="$T_0$ of the teacher", ylabel="$T$")
    ax.set_ylim(top=ax.get_ylim()[1] * 8)
    ax.legend(loc="upper left", fontsize=6)


@figure(
    needs=["test_loss", "teacher_sharpness", "teacher_noise_sharpness"],
    over="study",
    caption=(
        "Test loss against temperature in units of each teacher's stability edge T_0, one thin line a teacher, and the "
        "median; right: the temperature at which a start at the teacher is lost, and T_c, at which the loss is a hundredth "
        "of that of no output, against T_0, no parameter fitted. The dashed line is T = T_0"
    ),
)
def stability_of_solutions(tree: xr.DataTree) -> Figure:
    """Every teacher's loss against T / T_0, by where students come from, and the temperatures that follow against T_0."""
    figure, axes = new_figure(TWO_COLUMNS, 2.9, columns=2)
    _losses(axes[0], tree)
    _points(axes[1], tree)
    figure.suptitle(training_length(member(tree, "heated")), fontsize=8)
    return figure


_PANELS = {
    "stability": ("stability $s$", ""),
    "sharpness": (r"sharpness $\lambda/\lambda_\mathrm{teacher}$", "teacher_sharpness"),
    "noise_sharpness": (r"noise sharpness $q/q_\mathrm{teacher}$", "teacher_noise_sharpness"),
}
_AT = (2**-0.5, 2.0, 4.0, 8.0)


@figure(
    needs=["stability", "sharpness", "noise_sharpness", "teacher_sharpness", "teacher_noise_sharpness"],
    over="study",
    caption=(
        "What carries learning on above T_0: stability s of students that started at their teacher, and the sharpness they "
        "feel over the teacher's, against training, at four T / T_0; medians, and 68 % of the teachers"
    ),
)
def flatter_minima(tree: xr.DataTree) -> Figure:
    """Stability, sharpness and noise sharpness of heated students against training."""
    run = member(tree, "heated")
    edge, trained = stability_edge(run), run.step > 0
    figure, axes = new_figure(TWO_COLUMNS, 2.5, columns=3)
    for ax, (name, (label, of)) in zip(axes, _PANELS.items(), strict=True):
        values = sound(run, run[name])
        if of:
            values = values / run[of]
        drawn = relative(log10(values.where(values > 0)), edge, _AT).isel(step=np.flatnonzero(trained))
        for k, ratio in enumerate(_AT):
            centre, low, high = (10**part for part in summary(drawn.isel(relative_temperature=k), "median"))
            (line,) = ax.plot(run.step[trained], centre, linewidth=1, label=f"${ratio:.2g}$", color=f"C{k}")
            ax.fill_between(run.step[trained], low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        ax.axhline(2 if name == "stability" else 1, color="0.3", linestyle="--", linewidth=0.8)
        ax.set(xscale="log", yscale="log", xlabel="steps", ylabel=label)
    axes[0].legend(title=RELATIVE, ncols=2)
    figure.suptitle(training_length(run), fontsize=8)
    return figure
