"""Advice as files: a map, a page, and a settings file that is ready for a run."""

from html import escape
from pathlib import Path

import matplotlib.style
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke

from phasejax.advice.advising import Advice
from phasejax.advice.reading import scores
from phasejax.advice.words import sentences
from phasejax.figures import save
from phasejax.figures.maps import draw_map
from phasejax.figures.page import STYLE, embedded
from phasejax.figures.style import ONE_COLUMN, STYLE_SHEET, new_figure, temperature_axis, training_length
from phasejax.files.durable import atomically

SETTINGS, PAGE, MAP = "recommended.toml", "index.html", "map"
"""Names of the files."""


def report(advice: Advice, folder: str | Path) -> list[Path]:
    """Write the map, the page and the settings into a folder; returns the files.

    There are no settings where nothing was learned.
    """
    folder = Path(folder)
    files = save(advice_map(advice), folder / MAP)
    if advice.reading.learned:
        _write(folder / SETTINGS, advice.recommended.to_toml())
        files.append(folder / SETTINGS)
    _write(folder / PAGE, _page(advice, folder / f"{MAP}.png"))
    return [*files, folder / PAGE]


def advice_map(advice: Advice) -> Figure:
    """The pilot's plane of log10 loss with both boundaries and the recommended cell; a curve where there is one sigma_w."""
    y = scores(advice.pilot)
    y = y.assign_coords(inverse_sigma_w=1 / y.sigma_w)
    with matplotlib.style.context(STYLE_SHEET):
        if y.sizes["sigma_w"] > 1:
            figure, ax = new_figure(ONE_COLUMN * 1.3, 3.4)
            _draw_plane(ax, advice, y)
        else:
            figure, ax = new_figure(ONE_COLUMN, 2.75)
            _draw_curve(ax, advice, y)
        figure.suptitle(f"{training_length(advice.pilot)}; {advice.experiment.schedule.steps:,} steps planned", fontsize=8)
        if ax.get_legend_handles_labels()[0]:
            figure.legend(loc="outside lower center", ncols=2)
    return figure


_LABEL = r"mean $\log_{10}$ test loss, at most a constant's"


def _draw_plane(ax: Axes, advice: Advice, y: xr.DataArray) -> None:
    draw_map(ax, y, label=_LABEL)
    view = ax.get_xlim(), ax.get_ylim()
    columns, reading = advice.boundary, advice.reading
    known = columns.isel(sigma_w=np.flatnonzero(np.isfinite(columns.T_c)))
    if known.sizes["sigma_w"]:
        ends = np.abs(np.stack([known.low, known.high]) - known.T_c.values)
        name = "temperature boundary" if reading.rate == "temperature" else "boundary"
        outlined(ax.errorbar(1 / known.sigma_w, known.T_c, ends, color="white", marker="o", markersize=3, label=name))
    if np.isfinite(float(reading.jamming.sigma_c)):
        low, middle, high = (1 / float(reading.jamming[end]) for end in ("low", "sigma_c", "high"))
        ends = [[middle - high], [low - middle]]
        outlined(ax.errorbar([middle], [reading.best.rate], xerr=ends, color="#56B4E9", marker="s", markersize=4,
                             label="jamming boundary"))  # fmt: skip
    if reading.learned:
        ax.plot(1 / reading.best.sigma_w, reading.best.rate, "*", color="#D55E00", markeredgecolor="white", markersize=10,
                label="recommended", zorder=5)  # fmt: skip
    ax.set(xlim=view[0], ylim=view[1])


def outlined(drawn: ErrorbarContainer) -> None:
    """Make a line with bars one that can be seen on dark and on light colours."""
    for part in (drawn.lines[0], *drawn.lines[1], *drawn.lines[2]):
        part.set_path_effects([Stroke(linewidth=2.6, foreground="black"), Normal()])


def _draw_curve(ax: Axes, advice: Advice, y: xr.DataArray) -> None:
    reading, column = advice.reading, advice.boundary.isel(sigma_w=0)
    mean, error = y.isel(sigma_w=0).mean("seed"), y.isel(sigma_w=0).std("seed", ddof=1) / np.sqrt(y.sizes["seed"])
    ax.errorbar(mean[reading.rate], mean, error, marker="o", markersize=3, label="mean over seeds")
    if np.isfinite(float(column.T_c)):
        ax.axvspan(float(column.low), float(column.high), color="C1", alpha=0.3, linewidth=0)
        ax.axvline(float(column.T_c), color="C1", label="boundary")
    if reading.learned:
        ax.plot(reading.best.rate, reading.best.y, "*", color="#D55E00", markersize=11, label="recommended")
    ax.set(xscale="log", xlabel=temperature_axis(advice.pilot)[1], ylabel=_LABEL)


def _page(advice: Advice, picture: Path) -> str:
    found = "".join(f"<li>{escape(sentence)}</li>\n" for sentence in sentences(advice))
    settings = ""
    if advice.reading.learned:
        settings = (f'<h2>Settings</h2>\n<p>Ready for <code>phasejax run --config {SETTINGS}</code>:</p>\n'
                    f"<pre>{escape(advice.recommended.to_toml())}</pre>\n")  # fmt: skip
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Advice from a pilot</title>
<style>{STYLE}</style>
</head>
<body>
<h1>Advice from a pilot</h1>
<ul>
{found}</ul>
<figure class="first">{embedded(picture, "The pilot's plane, its boundaries, and the recommended cell")}<figcaption>The
pilot's loss over learning rate and initial scale, mean over seeds.</figcaption></figure>
{settings}</body>
</html>
"""


def _write(path: Path, content: str) -> None:
    with atomically(path, path.parent) as temporary:
        temporary.write_text(content, "utf-8")
