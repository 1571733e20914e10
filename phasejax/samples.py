"""What a student makes of many samples, and its gradient over all of them.

The gradient of the paper's topology comes from a kernel (`kernels/native.cc`) on CPUs where there is a C++ compiler, all
else from JAX's own products. The two agree to rounding.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from phasejax.activations import activation
from phasejax.experiment import Network
from phasejax.kernels.samples import summed


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
    kernel = ("native.cc", "mean_gradient", sizes) if network.soft_committee else None
    return summed(kernel, by_kernel, by_library, x, y, *layers)
