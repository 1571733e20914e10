"""One network without biases: pre-activations, features, output and loss (Eqs 2.2-2.6)."""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

import jax
import jax.numpy as jnp
from jax import Array


def draw(key: Array, widths: Sequence[int], dtype: jnp.dtype) -> tuple[Array, ...]:
    """Weights of unit scale, W^(l)_ij ~ N(0, 1/n_(l-1)) (Eqs 2.11, 3.1), drawn in float32 and then widened.

    Returns:
        One (n_l, n_(l-1)) matrix a layer l = 1 ... L.
    """
    sizes = [n_in * n_out for n_in, n_out in pairwise(widths)]
    xi = jax.random.normal(key, (sum(sizes),), jnp.float32).astype(dtype)
    ends = list(accumulate(sizes))
    return tuple(
        xi[end - size : end].reshape(n_out, n_in) / jnp.sqrt(jnp.asarray(n_in, dtype))
        for size, end, (n_in, n_out) in zip(sizes, ends, pairwise(widths), strict=True)
    )


def features(weights: Sequence[Array], x: Array, phi: Callable[[Array], Array]) -> Array:
    """Activations behind the given hidden layers, phi(W ... phi(W x)) (Eqs 2.2, 2.5).

    Args:
        weights: hidden layers, (n_l, n_(l-1)) each; with none, x is returned.
        x: (samples, n_0), what enters the first of them.
        phi: the activation function.

    Returns:
        (samples, n) of the last layer given.
    """
    for w in weights:
        x = phi(x @ w.T)
    return x


def output(readout: Array, phi: Array) -> Array:
    """Network output, linear in the last hidden layer's features (Eq 2.3): (samples, n_L)."""
    return phi @ readout.T


def loss(outputs: Array, targets: Array) -> Array:
    """Mean squared error with the factor one half (Eq 2.6), over samples of shape (samples, n_L)."""
    return 0.5 * jnp.mean(jnp.sum((targets - outputs) ** 2, axis=-1))
