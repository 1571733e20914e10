"""Maps over the plane that a run spans, first of all the phase diagram's, temperature and disorder."""

from collections.abc import Mapping
from typing import Literal

import matplotlib.style
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from phasejax.analysis.plane import plane_of
from phasejax.analysis.run import RunError, layer, members, require, settings, until
from phasejax.analysis.spectrum import memory, rate, trace_ratio
from phasejax.analysis.statistics import Statistic, final, left_out, summary
from phasejax.figures.style import (
    ALIGNMENT,
    HALF,
    MEMORY,
    ONE_COLUMN,
    ONE_LEVEL,
    RATE,
    STYLE_SHEET,
    TEST_LOSS,
    TWO_COLUMNS,
    NotDrawable,
    Panel,
    Scale,
    axis_of,
    colours,
    figure,
    label_cells,
    new_figure,
    panels,
    training_length,
)


def draw_map(
    ax: Axes,
    values: xr.DataArray,
    *,
    label: str = "",
    scale: Scale = "linear",
    limits: tuple[float, float] | None = None,
    statistic: Statistic | Literal["variance"] = "mean",
) -> QuadMesh:
    """Draw a statistic over the seeds as a map; cells that leave students out are hatched, and the title counts these.

    Args:
        ax: where.
        values: (two axes, seed), NaN for students that diverged, or for which it is not defined.
        label: what is drawn, above the map, which then has a colour bar.
        scale: of the colours; `signed` has zero in the middle.
        limits: of the colours; by default those of what is drawn.
        statistic: what of the seeds.
    """
    vertical, horizontal = plane_of(values)
    y, x = axis_of(values, vertical), axis_of(values, horizontal)
    values = values.sortby([y.coordinate, x.coordinate])
    drawn = values.var("seed") if statistic == "variance" else summary(values, statistic)[0]
    drawn = drawn.transpose(vertical, horizontal).values
    mesh = ax.pcolormesh(x.edges, y.edges, drawn, rasterized=True, **colours(drawn, scale, limits))
    hatch_missing(ax, values)
    ax.set(xscale=x.scale, yscale=y.scale, xlabel=x.label, ylabel=y.label)
    ax.set_title("\n".join(filter(None, [label, left_out(values)])))
    label_cells(ax.xaxis, x.values)
    label_cells(ax.yaxis, y.values)
    if label and ax.figure:
        ax.figure.colorbar(mesh, ax=ax)
    return mesh


def hatch_missing(ax: Axes, values: xr.DataArray) -> None:
    """Hatch the cells where values (two axes, seed) are NaN for some student."""
    vertical, horizontal = plane_of(values)
    missing = values.isnull().any("seed").transpose(vertical, horizontal).values
    if missing.any():
        x, y = axis_of(values, horizontal).edges, axis_of(values, vertical).edges
        # A hatch has the colour of its cell's edge, and would be as transparent as the cell with alpha = 0.
        clear = ListedColormap([(0, 0, 0, 0)])
        ax.pcolor(x, y, np.ma.masked_where(~missing, missing), hatch="//////", cmap=clear, edgecolor="#D55E00", linewidth=0)


def plane(
    data: xr.Dataset | xr.DataTree,
    name: str,
    *,
    step: int | None = None,
    statistic: Statistic = "mean",
    scale: Scale = "linear",
    label: str | None = None,
) -> Figure:
    """Map any observable of a run over its two axes, whatever they are; of a study, all members' side by side.

    Args:
        data: a run of two axes, or what is selected of one; or the tree of a study of such runs.
        name: of a variable with one number a student; of several trained layers, with or without the number of the last.
        step: the last record to look at; the last there is if None.
        statistic: of the seeds.
        scale: of the colours, which all maps share; `signed` has zero in the middle.
        label: what the map is called; the variable's long name, or its name, if None.

    Raises:
        RunError: there is no such variable, or a run or the variable has other axes than two and its seeds.
    """
    runs = {member: until(run, step) for member, run in members(data).items()}
    found = {member: _of_students(run, name) for member, run in runs.items()}
    drawn = [summary(values, statistic)[0].values for values in found.values()]
    shown = np.concatenate([values[np.isfinite(values) & ((values > 0) | (scale != "log"))] for values in drawn])
    limits = (float(shown.min()), float(shown.max())) if shown.size and len(found) > 1 else None
    label = f"{statistic} {label or _long_name(next(iter(found.values())), name)}"
    columns = min(len(found), 4)
    rows = -(-len(found) // columns)
    with matplotlib.style.context(STYLE_SHEET):
        size = (ONE_COLUMN, 2.75) if len(found) == 1 else (TWO_COLUMNS, 0.5 + 8 / columns * rows)
        figure, axes = new_figure(*size, rows, columns, squeeze=False, sharex=len(found) > 1, sharey=len(found) > 1)
        for ax, (member, values) in zip(axes.flat, found.items(), strict=False):
            mesh = draw_map(ax, values, label="" if member else label, scale=scale, limits=limits, statistic=statistic)
            if member:
                ax.set_title("\n".join(filter(None, [member.replace("_", " "), ax.get_title()])))
                ax.label_outer()
        for ax in axes.flat[len(found) :]:
            ax.set_axis_off()
        words = " or ".join(
            dict.fromkeys(training_length(runs[member], int(values.step)) for member, values in found.items())
        )
        if next(iter(found)):
            figure.colorbar(mesh, ax=axes)
            words = f"{label}\n{words}"
        figure.suptitle(words, fontsize=8)
    return figure


def _of_students(run: xr.Dataset, name: str) -> xr.DataArray:
    """One number of every student at the last record, (two axes, seed)."""
    require(run, name)
    axes = plane_of(run)
    values = run[name if name in run else name + layer(run).suffix]
    when = next((str(dim) for dim in values.dims if str(dim).startswith("step")), "step")
    own = [str(dim) for dim in values.dims if dim not in (when, *axes, "seed")]
    if own:
        raise RunError(f"{name} has {' and '.join(own)} too, and a plane shows one number a student: select one first, "
                       f"for instance run.isel({', '.join(f'{dim}=0' for dim in own)}).")  # fmt: skip
    if lacking := [dim for dim in (when, *axes, "seed") if dim not in values.dims]:
        raise RunError(f"{name} has no {' and no '.join(lacking)}: a plane shows what every student has at every record.")
    return final(run, values.rename({when: "step"}))


def _long_name(values: xr.DataArray, name: str) -> str:
    return str(values.attrs.get("long_name", "")) or name


def maps(dataset: xr.Dataset, wanted: Mapping[str, Panel], statistic: Statistic) -> Figure:
    """A row of maps at the last record, by title: what each needs, and its values (step, axis, sigma_w, seed) and scale."""
    found = panels(dataset, wanted)
    width = ONE_COLUMN if len(found) == 1 else TWO_COLUMNS
    figure, axes = new_figure(width, 2.75 if len(found) < 3 else 2.3, columns=len(found), squeeze=False)
    for ax, (label, (values, scale)) in zip(axes[0], found.items(), strict=True):
        draw_map(ax, final(dataset, values), label=f"{statistic} {label}", scale=scale, statistic=statistic)
        ax.label_outer()
    figure.suptitle(training_length(dataset), fontsize=8)
    return figure


MEMORY_PANEL: dict[str, Panel] = {MEMORY: ("G_t0", lambda run: (run.G_t0, "linear"))}
ALIGNMENT_PANEL: dict[str, Panel] = {ALIGNMENT: ("alignment", lambda run: (run.alignment, "linear"))}
RATE_PANEL: dict[str, Panel] = {RATE: ("level_spacing", lambda run: (growth_rate(run), "linear"))}
C_PANEL: dict[str, Panel] = {"memory $C$": ("G_t0 G_00 G_tt", lambda run: (memory(run), "linear"))}


def _overlap(run: xr.Dataset) -> tuple[xr.DataArray, Scale]:
    return run["teacher_overlap" + layer(run).suffix], "signed"


@figure(
    needs=["test_loss", "sigma_w"],
    caption=(
        "Mean test loss in the plane of temperature and inverse disorder, with the factor 1/2 of Eq 2.6; the "
        "published map shows twice this"
    ),
    number=2,
)
def loss_map(dataset: xr.Dataset, *, statistic: Statistic = "mean") -> Figure:
    """Fig 2: test loss in the (1/sigma_W, T) plane, with the factor 1/2 of Eq 2.6 (twice this is published) if it is mse."""
    half = HALF if settings(dataset)["task"].get("loss", "mse") == "mse" else ""
    return maps(dataset, {TEST_LOSS + half: ("test_loss", lambda run: (run.test_loss, "log"))}, statistic)


@figure(
    needs=["sigma_w"],
    caption="Memory G(t_f, 0) of the initial features, and alignment of features and field",
    number=5,
)
def memory_and_alignment(dataset: xr.Dataset, *, statistic: Statistic = "mean") -> Figure:
    """Fig 5: memory G(t_f, 0) of the initial features (Eq 3.4) and their alignment with the target field (Eq 3.5)."""
    return maps(dataset, MEMORY_PANEL | ALIGNMENT_PANEL, statistic)


@figure(
    needs=["sigma_w"],
    caption="Time-averaged rate of the mean level spacing",
    number=7,
)
def rate_map(dataset: xr.Dataset, *, statistic: Statistic = "mean") -> Figure:
    """Fig 7: time-averaged rate of the level spacing (Eq 4.7)."""
    return maps(dataset, RATE_PANEL, statistic)


@figure(
    needs=["sigma_w"],
    caption="Memory G, small wherever the features start small, beside C = G(t,0)/sqrt(G(0,0) G(t,t))",
)
def normalised_memory(dataset: xr.Dataset, *, statistic: Statistic = "mean") -> Figure:
    """Memory G(t_f, 0), which must be small wherever the features start small, beside C = G(t,0) / sqrt(G(0,0) G(t,t))."""
    return maps(dataset, MEMORY_PANEL | C_PANEL, statistic)


@figure(
    needs=["sigma_w"],
    caption="What of the teacher is found: overlap of the weights, overlap of the features, ratio of the traces",
)
def teacher_overlaps(dataset: xr.Dataset, *, statistic: Statistic = "mean") -> Figure:
    """What of the teacher is found: overlap R of the weights, overlap Q of the features, and the ratio of tr X."""
    wanted: dict[str, Panel] = {
        "overlap $R$": ("teacher_overlap", _overlap),
        "overlap $Q$": ("feature_overlap", lambda run: (run.feature_overlap, "signed")),
        r"$\mathrm{tr}\,X/\mathrm{tr}\,\overline{X}$": (
            "eigenvalues target_eigenvalues",
            lambda run: (trace_ratio(run), "log"),
        ),
    }
    return maps(dataset, wanted, statistic)


@figure(
    needs=["sigma_w"],
    caption="Mean over the seeds (top) and variance between them (bottom) of loss, memory and overlap",
)
def seed_variance(dataset: xr.Dataset) -> Figure:
    """Mean (top) and variance over the seeds (bottom) of the test loss, the memory C and the overlap R."""
    if dataset.sizes["seed"] < 2:
        raise NotDrawable("a single seed has no variance")
    wanted: dict[str, Panel] = {
        TEST_LOSS: ("test_loss", lambda run: (run.test_loss, "log")),
        **C_PANEL,
        "overlap $R$": ("teacher_overlap", _overlap),
    }
    found = panels(dataset, wanted)
    figure, axes = new_figure(TWO_COLUMNS, 4.2, 2, len(found), squeeze=False)
    for column, (label, (values, scale)) in zip(axes.T, found.items(), strict=True):
        values = final(dataset, values)
        draw_map(column[0], values, label=f"mean {label}", scale=scale)
        draw_map(column[1], values, label=f"variance of {label}", scale="log", statistic="variance")
        for ax in column:
            ax.label_outer()
    figure.suptitle(training_length(dataset), fontsize=8)
    return figure


def growth_rate(dataset: xr.Dataset) -> xr.DataArray:
    """The rate of the level spacing at every record, where there is one."""
    if layer(dataset).nodes < 2:
        raise NotDrawable(ONE_LEVEL)
    if int(dataset.step[-1]) == 0:
        raise NotDrawable("before the first step there is no rate")
    return rate(dataset)
