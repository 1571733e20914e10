"""The gradient over a whole training set at fixed weights (Eq 3.3)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from phasejax.kernels import native
from phasejax.state import Weights

# More samples than this are taken in chunks, whose activations are all that has to be held at a time.
_CHUNK = 4096


def mean_gradient(network: Any, loss: Callable, trained: Weights, frozen: Weights, x: Array, y: Array) -> Weights:
    """Gradient of the mean loss over all the samples with respect to the trained arrays.

    Args:
        network: how outputs are made.
        loss: of each sample.
        trained: the arrays to differentiate by.
        frozen: the others.
        x: (D, f), what enters them. Under `vmap` students share it, or those of each leading axis do: the kernel refuses
            samples that differ along a later axis only.
        y: (D, n_L) or (D,), targets, likewise.
    """

    def by_library(trained: Weights) -> Weights:
        chunks = -(-len(x) // _CHUNK)
        size = -(-len(x) // chunks)

        def summed(trained: Weights, first: Array) -> Array:
            # The last chunk begins earlier, to be whole, and does not count again what it has from the one before.
            begin = jnp.minimum(first, len(x) - size)
            part, targets = (jax.lax.dynamic_slice_in_dim(a, begin, size) for a in (x, y))
            losses = loss(network.apply({**frozen, **trained}, part)[0], targets)
            return jnp.sum(jnp.where(begin + jnp.arange(size) >= first, losses, 0))

        def add(total: Weights, first: Array) -> tuple[Weights, None]:
            return jax.tree.map(jnp.add, total, jax.grad(summed)(trained, first)), None

        total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, trained), jnp.arange(chunks) * size)
        return jax.tree.map(lambda array: array / len(x), total)

    if native.unknown(network, loss):
        return by_library(trained)
    return native.mean_gradient(network, loss, trained, frozen, x, y, by_library)
