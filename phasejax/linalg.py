"""Spectral decompositions of one student's matrices, from the library, in a form that is safe and NaN-proof under vmap."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import Array, custom_batching

T = TypeVar("T")


def singular_values(w: Array) -> Array:
    """Singular values of w, descending; NaN if w is not finite."""
    return _lapack(lambda m: jnp.linalg.svd(m, compute_uv=False), w)


def eigenbasis(symmetric: Array) -> tuple[Array, Array]:
    """Eigenvalues, ascending, and eigenvectors in columns of a symmetric matrix; NaN if it is not finite."""
    return _lapack(lambda m: tuple(jnp.linalg.eigh(m, symmetrize_input=False)), symmetric)


def _lapack(decompose: Callable[[Array], T], matrix: Array) -> T:
    # What LAPACK answers to NaN is not specified; a student that diverged has no spectrum.
    finite = jnp.isfinite(matrix).all()
    # On CPUs one student at a time: given a batch, jaxlib 0.10's LAPACK calls spread it over XLA's thread pool, and wait
    # there for ever if every thread of the pool is itself inside such a call (one device a core makes that happen).
    one_by_one = custom_batching.sequential_vmap(decompose)
    found = jax.lax.platform_dependent(jnp.where(finite, matrix, 0), cpu=one_by_one, default=decompose)
    return jax.tree.map(lambda part: jnp.where(finite, part, jnp.nan), found)
