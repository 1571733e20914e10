"""Why tanh networks jam: the density of the features and its change from one well to two (Fig 1)."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from phasejax.analysis import boundaries
from phasejax.analysis.run import activation, layer
from phasejax.figures.style import (
    INVERSE_SIGMA,
    TWO_COLUMNS,
    VARIANCES,
    NotDrawable,
    disorder_colours,
    figure,
    label_cells,
    new_figure,
    power_of_two,
    temperature_axis,
    training_length,
)


def density(phi: np.ndarray, variance: float) -> np.ndarray:
    """Density of phi = tanh z for z ~ N(0, variance) (Eq 2.21), for phi inside (-1, 1)."""
    return np.exp(-potential(phi, variance)) / np.sqrt(2 * np.pi * variance)


def potential(phi: np.ndarray, variance: float) -> np.ndarray:
    """V(phi) = atanh^2 phi / (2 sigma_z^2) + ln(1 - phi^2), two wells for sigma_z^2 > 1/2 (Eqs 2.21, 2.22)."""
    return np.arctanh(phi) ** 2 / (2 * variance) + np.log1p(-(phi**2))


def before_training(dataset: xr.Dataset) -> xr.Dataset:
    """The density of the features without its temperature axis, which means nothing yet at step 0."""
    return dataset[["feature_density"]].isel({temperature_axis(dataset)[0]: 0})


@figure(
    needs=["feature_density", "sigma_w"],
    caption=("Density of the features, and tanh with its vanishing gradient: from one well to two as sigma_W grows"),
    number=1,
)
def feature_density(dataset: xr.Dataset) -> Figure:
    """Fig 1: density and potential of tanh of a Gaussian, the run's initial features for every sigma_W, and tanh itself.

    The measured densities are pooled over test inputs, nodes and seeds.
    """
    if activation(dataset) != "tanh":
        raise NotDrawable(f"it is about tanh, and the activation is {activation(dataset)}")
    initial = before_training(dataset)
    low, high = boundaries.measured_jamming_line(initial)
    phi = np.linspace(-1, 1, 1001)[1:-1]

    figure, ((theory, wells), (measured, function)) = new_figure(TWO_COLUMNS, 4.6, 2, 2)
    for variance, (colour, line) in VARIANCES.items():
        label = rf"$\sigma_z^2 = {variance:g}$"
        theory.plot(phi, density(phi, variance), line, color=colour, label=label)
        wells.plot(phi, potential(phi, variance), line, color=colour, label=label)
    theory.set(ylabel=r"$P(\phi)$", ylim=(0, 3), title=r"$\phi = \tanh z$, $z \sim N(0, \sigma_z^2)$")
    wells.set(ylabel=r"$V(\phi)$", ylim=(-2, 2), title=r"one well up to $\sigma_z^2 = 1/2$, then two")
    theory.legend()

    mappable = disorder_colours(dataset.inverse_sigma_w.values)
    for k, inverse_sigma in enumerate(dataset.inverse_sigma_w.values):
        values = initial.feature_density.isel(step_ends=0, sigma_w=k).mean("seed")
        measured.plot(dataset.feature, values.where(values > 0), linewidth=0.8, color=mappable.to_rgba(inverse_sigma))
    found = rf"${power_of_two(low)} < 1/\sigma_W < {power_of_two(high)}$" if np.isfinite(low) else "nowhere on this grid"
    paper = boundaries.PAPER_JAMMING_LINE * layer(dataset).scale
    title = rf"side peaks vanish: {found} (paper: ${paper:.2f}$)"
    measured.set(ylabel=r"$P(\phi)$ at initialisation", yscale="log", title=title)
    for ax in (theory, wells, measured):
        ax.set(xlabel=r"$\phi$", xlim=(-1, 1), xticks=(-1, -0.5, 0, 0.5, 1))
    bar = figure.colorbar(mappable, ax=measured, label=INVERSE_SIGMA)
    label_cells(bar.ax.yaxis, dataset.inverse_sigma_w.values)
    for place, style in ((paper, "--"), (low, ":"), (high, ":")):
        if mappable.norm.vmin < place < mappable.norm.vmax:  # pyright: ignore
            bar.ax.axhline(place, color="white", linestyle=style)

    z = np.linspace(-4, 4, 401)
    function.axvspan(-1, 1, color="C5", alpha=0.3, linewidth=0)
    function.plot(z, np.tanh(z), color="black", label=r"$\phi(z) = \tanh z$")
    function.plot(z, 1 - np.tanh(z) ** 2, color="C1", linestyle="--", label=r"$\phi'(z)$")
    for x, words in ((0, "linear"), (-2.6, "vanishing\ngradient"), (2.6, "vanishing\ngradient")):
        function.text(x, -0.62 if x else -0.9, words, ha="center", va="center", fontsize=7)
    function.set(xlabel="$z$", xlim=(-4, 4), title="activation")
    function.legend(loc="upper left")
    figure.suptitle(training_length(dataset, 0), fontsize=8)
    return figure
