"""Functions of a run's spectra and correlations, Dataset in, DataArray out (Sec 4)."""

import numpy as np
import xarray as xr

from phasejax.analysis.run import layer


def level_spacing(dataset: xr.Dataset) -> xr.DataArray:
    """Mean level spacing S = (x_N - x_1) / (N - 1) of the last trained layer (Eq 4.5).

    (step, temperature, sigma_w, seed). A reference has it in place of every student's eigenvalues.
    """
    if "level_spacing" in dataset:
        return dataset.level_spacing
    own = layer(dataset).suffix
    level, x = f"level{own}", dataset[f"eigenvalues{own}"]
    spacing = (x.isel({level: -1}, drop=True) - x.isel({level: 0}, drop=True)) / (dataset.sizes[level] - 1)
    return spacing.rename("level_spacing").assign_attrs(units="1", long_name="mean level spacing S")


def rate(dataset: xr.Dataset) -> xr.DataArray:
    """Time-averaged rate of the level spacing, log(S(t) / S(0)) / t with t in epochs (Eq 4.7); NaN at step 0.

    (step, temperature, sigma_w, seed).
    """
    spacing = level_spacing(dataset)
    growth = np.log(spacing / spacing.sel(step=0, drop=True))
    found = growth / dataset.epoch.where(dataset.epoch > 0)
    return found.rename("rate").assign_attrs(units="1", long_name="time-averaged rate of the level spacing, per epoch")


def memory(dataset: xr.Dataset) -> xr.DataArray:
    """Normalised memory C(t) = G(t,0) / sqrt(G(0,0) G(t,t)) of the features, (step, temperature, sigma_w, seed)."""
    found = dataset.G_t0 / np.sqrt(dataset.G_00 * dataset.G_tt)
    return found.rename("memory").assign_attrs(units="1", long_name="normalised memory C of the initial features")


def trace_ratio(dataset: xr.Dataset) -> xr.DataArray:
    """tr X of the student over tr X of its teacher, last trained layer, (step, temperature, sigma_w, seed)."""
    own = layer(dataset).suffix
    level = f"level{own}"
    found = dataset[f"eigenvalues{own}"].sum(level) / dataset[f"target_eigenvalues{own}"].sum(level)
    return found.rename("trace_ratio").assign_attrs(units="1", long_name="tr X of the student over tr X of the teacher")


GOE_RATIO = 0.5307
"""Mean spacing ratio of large real symmetric Gaussian matrices (Atas et al., Phys. Rev. Lett. 110 (2013) 084101)."""


def spacing_ratio(dataset: xr.Dataset) -> xr.DataArray:
    """Mean over neighbouring gaps of the smaller over the larger, last trained layer; 2 log 2 - 1 for independent levels.

    (step, temperature, sigma_w, seed). Three levels at least. It needs no unfolding: a smooth density drops out.
    """
    level = f"level{layer(dataset).suffix}"
    gaps = dataset[f"eigenvalues{layer(dataset).suffix}"].astype(float).diff(level).drop_vars(level, errors="ignore")
    below, above = gaps.isel({level: slice(None, -1)}), gaps.isel({level: slice(1, None)})
    ratios: xr.DataArray = xr.where(below < above, below / above, above / below)
    return (
        ratios.mean(level, skipna=False)
        .rename("spacing_ratio")
        .assign_attrs(units="1", long_name="mean ratio of neighbouring gaps")
    )


def layer_sigma_w(dataset: xr.Dataset) -> xr.DataArray:
    """sigma_W at which the last trained layer itself starts, the grid's times the layer's own scale: (sigma_w,)."""
    return dataset.sigma_w * layer(dataset).scale


def marchenko_pastur_edges(sigma_w: float, ratio: float) -> tuple[float, float]:
    """Edges `x_-, x_+` = sigma_W^2 (1 -+ sqrt(r))^2 of the spectrum of a large random matrix, r = n_l / n_(l-1) (Eq 4.2)."""
    return sigma_w**2 * (1 - np.sqrt(ratio)) ** 2, sigma_w**2 * (1 + np.sqrt(ratio)) ** 2


def marchenko_pastur(x: np.ndarray, sigma_w: float, ratio: float) -> np.ndarray:
    """Marchenko-Pastur density of the eigenvalues of W W^T (Eq 4.2), 0 outside its edges.

    Args:
        x: eigenvalues, any shape.
        sigma_w: scale of W, with W_ij ~ N(0, sigma_W^2 / n_(l-1)).
        ratio: r = n_l / n_(l-1), at most 1.
    """
    low, high = marchenko_pastur_edges(sigma_w, ratio)
    inside = np.clip((high - x) * (x - low), 0, None)
    return np.sqrt(inside) / (2 * np.pi * sigma_w**2 * ratio * np.where(x > 0, x, np.inf))
