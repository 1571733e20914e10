"""What a student makes of many samples, and sums over them.

On CPUs the sums come from kernels (`samples.cc`, `engines/native.cc`) where there is a C++ compiler, which go through the
samples once and write down nothing on the way; elsewhere from JAX's own products. The two agree to rounding.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from phasejax import compiled
from phasejax.activations import activation
from phasejax.experiment import Network

# Longer vectors than this do not fit into a core's registers.
_KERNEL_SIZE = 64


class Samples(NamedTuple):
    """One student on A samples. Samples run fastest, which is how the products over them are quick."""

    u: tuple[Array, ...]
    """u_a = W phi_a of each layer, (n_l, A)."""
    g: tuple[Array, ...]
    """g_a = d loss_a / d u_a of each layer, (n_l, A)."""
    entering: tuple[Array, ...]
    """What enters each layer, phi_a for a hidden one's, (n_(l-1), A)."""


def on_samples(network: Network, layers: Sequence[Array], x: Array, y: Array) -> Samples:
    """Pre-activations, their gradients and the features.

    Args:
        network: for its activation.
        layers: weights from the one that x enters to the readout.
        x: (A, f), what enters the first of the layers.
        y: (A, n_L), targets.
    """
    phi = activation(network.activation)

    def summed_loss(shifts: Sequence[Array]) -> tuple[Array, tuple[tuple[Array, ...], tuple[Array, ...]]]:
        us, entering = [], [x.T]
        for w, shift in zip(layers, shifts, strict=True):
            us.append(w @ entering[-1] + shift)
            entering.append(phi(us[-1]))
        return 0.5 * jnp.sum((us[-1] - y.T) ** 2), (tuple(us), tuple(entering[:-1]))

    zeros = tuple(jnp.zeros((len(w), len(x)), x.dtype) for w in layers)
    g, (u, entering) = jax.grad(summed_loss, has_aux=True)(zeros)
    return Samples(u, g, entering)


def mean_gradient(network: Network, layers: Sequence[Array], x: Array, y: Array) -> tuple[Array, ...]:
    """Gradient of the loss over all the samples with respect to each trained layer, at fixed weights.

    Args:
        network: which layers are trained, and how.
        layers: weights from the first trained one to the readout.
        x: (D, f), what enters the first of the layers. Under `vmap` students share it, or those of each leading axis do: the
            kernel refuses samples that differ along a later axis only.
        y: (D, n_L), targets, likewise.
    """
    first = network.trainable[0]

    def by_library(x: Array, y: Array, *layers: Array) -> tuple[Array, ...]:
        samples = on_samples(network, layers, x, y)
        products = (samples.g[k - first] @ samples.entering[k - first].T for k in network.trainable)
        return tuple(product / len(x) for product in products)

    def by_kernel(target: str, x: Array, y: Array, w: Array, readout: Array) -> tuple[Array, ...]:
        shape = jax.ShapeDtypeStruct(w.shape, w.dtype)
        return (jax.ffi.ffi_call(target, shape, vmap_method="expand_dims")(w, x, y[:, 0], readout[0]),)

    n, m = layers[0].shape
    sizes = {"N1": m, "N2": n, "BATCH": 4}  # the usual batch, for which the engine has been built already
    kernel = ("engines/native.cc", "mean_gradient", sizes) if network.soft_committee else None
    return _summed(kernel, by_kernel, by_library, x, y, *layers)


def products(u: Array, g: Array) -> Array:
    """Means over the samples of u g^T, u^2 (g^2)^T and (u g)(u g)^T, for u and g (n, A): (3, n, n)."""

    def by_library(u: Array, g: Array) -> Array:
        both = u * g
        return jnp.stack([u @ g.T, u**2 @ (g**2).T, both @ both.T]) / u.shape[1]

    def by_kernel(target: str, u: Array, g: Array) -> Array:
        shape = jax.ShapeDtypeStruct((3, len(u), len(u)), u.dtype)
        return jax.ffi.ffi_call(target, shape, vmap_method="broadcast_all")(u, g)

    return _summed(_kernel("products", u), by_kernel, by_library, u, g)


def end_rows(basis: Array, u: Array, g: Array) -> tuple[Array, Array]:
    """First and last row of the samples' matrices U^T (u g^T + g u^T) U: means of the elements, and of their squares.

    Args:
        basis: U, (n, n).
        u: (n, A).
        g: (n, A).

    Returns:
        (2, n) each.
    """

    def by_library(basis: Array, u: Array, g: Array) -> tuple[Array, Array]:
        along_u, along_g = basis.T @ u, basis.T @ g
        rows = along_u[[0, -1], None] * along_g[None] + along_g[[0, -1], None] * along_u[None]
        return rows.mean(axis=-1), (rows**2).mean(axis=-1)

    def by_kernel(target: str, basis: Array, u: Array, g: Array) -> tuple[Array, Array]:
        shape = jax.ShapeDtypeStruct((2, len(u)), u.dtype)
        means, squares = jax.ffi.ffi_call(target, (shape, shape), vmap_method="broadcast_all")(basis, u, g)
        return means, squares

    return _summed(_kernel("end_rows", u), by_kernel, by_library, basis, u, g)


def _kernel(name: str, u: Array) -> tuple[str, str, dict[str, int]] | None:
    return ("samples.cc", name, {"N": len(u)}) if len(u) <= _KERNEL_SIZE else None


def _summed(
    kernel: tuple[str, str, dict[str, int]] | None, by_kernel: Callable, by_library: Callable, *arrays: Array
) -> Any:
    """By a kernel, of this source, name and sizes, on CPUs where it can be built; by the library elsewhere."""
    on_cpu = by_library
    if kernel:
        source, name, sizes = kernel
        on_cpu = compiled.with_target(by_kernel, by_library, source, name, arrays[0].dtype.name, **sizes)
    return jax.lax.platform_dependent(*arrays, cpu=on_cpu, default=by_library)
