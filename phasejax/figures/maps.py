"""Maps over the plane of temperature and disorder, the phase diagram's own plane."""

import numpy as np
import xarray as xr
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from phasejax.figures.style import INVERSE_SIGMA, ONE_COLUMN, house_style, new_figure, temperature_axis, training_length


@house_style
def loss_map(dataset: xr.Dataset) -> Figure:
    """Fig 2: mean test loss at the end in the (1/sigma_W, T) plane, with the factor 1/2 of Eq 2.6; dark is low.

    The mean is over the seeds whose loss is finite; cells with seeds that diverged are hatched.
    """
    last = dataset.test_loss.isel(step=-1)
    axis, label = temperature_axis(dataset)
    finite = np.isfinite(last)
    mean = last.where(finite).mean("seed").transpose(axis, "sigma_w")
    x, y = dataset.inverse_sigma_w.values, dataset[axis].values

    figure, ax = new_figure(ONE_COLUMN, 2.9)
    positive = mean.where(mean > 0)
    norm = LogNorm(float(positive.min()), float(positive.max())) if positive.notnull().any() else None
    mesh = ax.pcolormesh(edges(x), edges(y), positive.values, norm=norm, rasterized=True)
    if not finite.all():
        diverged = (~finite).any("seed").transpose(axis, "sigma_w").values
        ax.pcolor(edges(x), edges(y), np.ma.masked_where(~diverged, diverged), hatch="////", alpha=0)
    ax.set(xscale="log", yscale="log", xlabel=INVERSE_SIGMA, ylabel=label)
    ax.set_title(training_length(dataset, int(last.step)))
    figure.colorbar(mesh, ax=ax, label=r"mean test loss $\mathbb{E}_\mathcal{S}[\mathcal{L}]$")
    return figure


def edges(centres: np.ndarray) -> np.ndarray:
    """Edges of the cells around values on a logarithmic axis: (n + 1,) for (n,)."""
    logs = np.log(np.asarray(centres, float))
    if logs.size == 1:
        return np.exp(logs[0] + np.array([-0.5, 0.5]) * np.log(2))
    middles = (logs[1:] + logs[:-1]) / 2
    return np.exp(np.concatenate([[2 * logs[0] - middles[0]], middles, [2 * logs[-1] - middles[-1]]]))
