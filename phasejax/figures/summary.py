"""Four observables and the boundaries between the three phases in one picture (Fig 9)."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from phasejax import boundaries
from phasejax.figures.boundary import ONE_SIGMA, Look, add_legend, draw_line
from phasejax.figures.density import before_training
from phasejax.figures.ensemble import Statistic, final, until
from phasejax.figures.maps import ALIGNMENT, MEMORY, RATE, TEST_LOSS, Scale, draw_map, growth_rate
from phasejax.figures.style import TWO_COLUMNS, house_style, new_figure, training_length

# As in the paper, the contour is hidden where T/sigma_W is at most this: disorder, not heat, keeps students from converging.
HIDDEN = 0.1
PAPER_LINE: Look = ("1.0", "--")
MEASURED_LINE: Look = ("1.0", ":")


def draw_jamming_lines(ax: Axes, dataset: xr.Dataset, boundary: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """The paper's 1/sigma_W = sqrt 2 and the measured line, up to the boundary where it is met and across the map if not."""
    view = ax.get_xlim(), ax.get_ylim()
    measured = boundaries.measured_jamming_line(before_training(dataset))
    lines = (
        (boundaries.PAPER_JAMMING_LINE, PAPER_LINE, r"$1/\sigma_W = \sqrt{2}$ (paper)"),
        (measured, MEASURED_LINE, rf"side peaks of $P(\phi)$, $1/\sigma_W = {measured:.2f}$ (measured)"),
    )
    for place, look, label in lines:
        if view[0][0] < place < view[0][1]:
            top = max((y for line in boundary if np.isfinite(y := meeting(place, *line))), default=view[1][1])
            draw_line(ax, np.full(2, place), np.array([view[1][0], top]), look, label)


def meeting(place: float, x: np.ndarray, y: np.ndarray) -> float:
    """The highest y at which the line (x, y) passes x = place, by interpolation in the logarithms; NaN if it does not."""
    at, log_x, log_y = np.log(place), np.log(x), np.log(y)
    (k,) = np.nonzero((log_x[:-1] <= at) != (log_x[1:] <= at))
    heights = log_y[k] + (at - log_x[k]) / (log_x[k + 1] - log_x[k]) * (log_y[k + 1] - log_y[k])
    heights = heights[np.isfinite(heights)]
    return float(np.exp(heights.max())) if heights.size else np.nan


@house_style("test_loss", "G_t0", "alignment", "eigenvalues", "feature_density", "restoring", "V_S", "temperature")
def phase_diagram(
    dataset: xr.Dataset, *, step: int | None = None, reading: str = "drift", statistic: Statistic = "mean"
) -> Figure:
    """Fig 9: test loss, memory, alignment and rate with both boundaries.

    Dash-dotted, the line at which 68 % of the students satisfy Eq 4.15, hidden where T/sigma_W <= 0.1; dashed, the paper's
    jamming line 1/sigma_W = sqrt 2; dotted, where this run's initial features start to have side peaks.
    """
    dataset = until(dataset, step)
    panels: dict[str, tuple[xr.DataArray, Scale]] = {
        TEST_LOSS: (dataset.test_loss, "log"),
        MEMORY: (dataset.G_t0, "linear"),
        ALIGNMENT: (dataset.alignment, "linear"),
        RATE: (growth_rate(dataset), "linear"),
    }
    share = boundaries.fraction(dataset.isel(step=[-1]), reading).fraction.isel(step=0)
    boundary = [(np.where(x * y > HIDDEN, x, np.nan), y) for x, y in boundaries.contours(share, boundaries.SIGMAS[0])]

    figure, axes = new_figure(TWO_COLUMNS, 5.2, 2, 2)
    for ax, (label, (values, scale)) in zip(axes.flat, panels.items(), strict=True):
        draw_map(ax, final(dataset, values), label=f"{statistic} {label}", scale=scale, statistic=statistic)
        for line in boundary:
            draw_line(ax, *line, ONE_SIGMA, f"68 % converged ({reading})")
        draw_jamming_lines(ax, dataset, boundary)
        ax.label_outer()
    add_legend(figure)
    figure.suptitle(training_length(dataset), fontsize=8)
    return figure
