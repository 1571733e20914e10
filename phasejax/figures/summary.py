"""Four observables and the boundaries between the three phases in one picture (Fig 9)."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke

from phasejax.analysis import boundaries
from phasejax.analysis.run import activation, layer, why_not_recorded
from phasejax.analysis.statistics import Statistic, final, nearest
from phasejax.figures.boundary import add_legend, draw_line, has_boundary
from phasejax.figures.density import before_training
from phasejax.figures.eigenvalue_flow import PHASES, lies_in
from phasejax.figures.maps import ALIGNMENT_PANEL, MEMORY_PANEL, RATE_PANEL, draw_map
from phasejax.figures.style import (
    MEASURED_LINE,
    ONE_SIGMA,
    PAPER_LINE,
    TEST_LOSS,
    TWO_COLUMNS,
    Panel,
    figure,
    new_figure,
    panels,
    power_of_two,
    training_length,
)

# As in the paper, the contour is hidden where T/sigma_W is at most this: disorder, not heat, keeps students from converging.
HIDDEN = 0.1


def draw_jamming_lines(ax: Axes, dataset: xr.Dataset, boundary: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """The paper's line and, in the middle of its bracket, the measured one; up to the boundary, or across the map.

    The paper's is drawn for tanh only. Where layers have scales of their own, sigma_W is the last trained layer's.
    """
    view = ax.get_xlim(), ax.get_ylim()
    low, high = boundaries.measured_jamming_line(before_training(dataset))
    between = rf"${power_of_two(low)} < 1/\sigma_W < {power_of_two(high)}$" if np.isfinite(low) else ""
    lines = [(float(np.sqrt(low * high)), MEASURED_LINE, rf"side peaks of $P(\phi)$ vanish: {between} (measured)")]
    if activation(dataset) == "tanh":
        scale = layer(dataset).scale
        words = rf"$1/\sigma_W = {'' if scale == 1 else f'{scale:g}'}\sqrt{{2}}$ (paper)"
        lines.insert(0, (boundaries.PAPER_JAMMING_LINE * scale, PAPER_LINE, words))
    for place, look, label in lines:
        if view[0][0] < place < view[0][1]:
            top = max((y for line in boundary if np.isfinite(y := meeting(place, *line))), default=view[1][1])
            draw_line(ax, np.full(2, place), np.array([view[1][0], top]), look, label)


def name_phases(ax: Axes, dataset: xr.Dataset) -> None:
    """The names of the phases at the cells of Fig 6, or the nearest there are if they lie in the phase."""
    for phase, (temperature, inverse_sigma) in PHASES.items():
        column = nearest(dataset.inverse_sigma_w, inverse_sigma)
        cell = dataset.isel(temperature=nearest(dataset.temperature, temperature), sigma_w=column)
        if lies_in(phase, cell):
            place = (float(cell.inverse_sigma_w), float(cell.temperature))
            side = "left" if column == 0 else "right"
            outline = [Stroke(linewidth=1.5, foreground="black"), Normal()]
            ax.text(*place, phase, color="white", fontsize=7, ha=side, va="center", path_effects=outline)


def meeting(place: float, x: np.ndarray, y: np.ndarray) -> float:
    """The highest y at which the line (x, y) passes x = place, by interpolation in the logarithms; NaN if it does not."""
    at, log_x, log_y = np.log(place), np.log(x), np.log(y)
    (k,) = np.nonzero((log_x[:-1] <= at) != (log_x[1:] <= at))
    heights = log_y[k] + (at - log_x[k]) / (log_x[k + 1] - log_x[k]) * (log_y[k + 1] - log_y[k])
    heights = heights[np.isfinite(heights)]
    return float(np.exp(heights.max())) if heights.size else np.nan


@figure(
    needs=["sigma_w"],
    caption="Summary: loss, memory, alignment and rate with both phase boundaries",
    number=9,
)
def phase_diagram(dataset: xr.Dataset, *, reading: str = "drift", statistic: Statistic = "mean") -> Figure:
    """Fig 9: test loss, memory, alignment and rate with both boundaries.

    Dash-dotted, the line at which 68 % of the students satisfy Eq 4.15, hidden where T/sigma_W <= 0.1; dashed, the paper's
    jamming line 1/sigma_W = sqrt 2; dotted, where this run's initial features have lost their side peaks. The names of the
    phases stand at the cells of Fig 6. Where no temperature is defined there are neither the first line nor the names.
    """
    loss: dict[str, Panel] = {TEST_LOSS: ("test_loss", lambda run: (run.test_loss, "log"))}
    found = panels(dataset, loss | MEMORY_PANEL | ALIGNMENT_PANEL | RATE_PANEL)
    boundary = []
    if has_boundary(dataset):
        share = boundaries.fraction(dataset.isel(step=[-1]), reading).fraction.isel(step=0)
        lines = boundaries.contours(share, boundaries.SIGMAS[0])
        boundary = [(np.where(x * y > HIDDEN, x, np.nan), y) for x, y in lines]

    rows = -(-len(found) // 2)
    figure, axes = new_figure(TWO_COLUMNS, 0.2 + 2.5 * rows, rows, 2, squeeze=False)
    for ax, (label, (values, scale)) in zip(axes.flat, found.items(), strict=False):
        draw_map(ax, final(dataset, values), label=f"{statistic} {label}", scale=scale, statistic=statistic)
        for line in boundary:
            draw_line(ax, *line, ONE_SIGMA, f"68 % converged ({reading})")
        if not why_not_recorded(dataset, "feature_density"):
            draw_jamming_lines(ax, dataset, boundary)
        ax.label_outer()
    if "temperature" in dataset.coords:
        name_phases(axes[0, 0], dataset)
    for ax in axes.flat[len(found) :]:
        ax.set_axis_off()
    add_legend(figure)
    figure.suptitle(training_length(dataset), fontsize=8)
    return figure
