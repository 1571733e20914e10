"""Spectral decompositions of one student's matrices, in a form that is fast, safe and NaN-proof under vmap.

On CPUs by a kernel of one-sided Jacobi rotations (`linalg.cc`), one student a vector lane; by LAPACK where no C++ compiler
is, and by JAX's own decompositions elsewhere. The two agree to rounding.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, custom_batching

from phasejax import compiled

# The kernel holds n (n + m) vectors of students, and is the faster one while they stay in a core's cache.
_KERNEL_SIZE = 2**14


def left_singular(w: Array) -> tuple[Array, Array]:
    """Singular values of w (n, m), ascending, and left singular vectors.

    Returns:
        values (n,), the first max(0, n - m) of them zero, and an orthogonal matrix (n, n) with the vectors in columns, signed
        such that the largest component of each is positive. All NaN if w is not finite.
    """
    n, m = w.shape
    # What a library answers to NaN is not specified; a student that diverged has no spectrum.
    finite = jnp.isfinite(w).all()
    values, vectors = jax.lax.platform_dependent(jnp.where(finite, w, 0), cpu=_on_cpu(w), default=_library)
    values = jnp.where(jnp.arange(n) < n - m, 0, values)
    # The component largest in size is positive, or there is one as large that is.
    vectors *= jnp.where(vectors.max(axis=0) < -vectors.min(axis=0), -1, 1)[None]
    return jnp.where(finite, values, jnp.nan), jnp.where(finite, vectors, jnp.nan)


def eigenvectors(symmetric: Array) -> Array:
    """Eigenvectors of a symmetric matrix (n, n) in columns, in the ascending order of their eigenvalues, signed likewise."""
    # No eigenvalue is below minus the largest sum of a row (Gershgorin), so those of the sum are its singular values.
    shift = jnp.abs(symmetric).sum(axis=1).max()
    return left_singular(symmetric + shift * jnp.eye(len(symmetric), dtype=symmetric.dtype))[1]


def _library(w: Array) -> tuple[Array, Array]:
    n, m = w.shape
    vectors, values, _ = jnp.linalg.svd(w, full_matrices=n > m)
    return jnp.pad(values, (0, n - len(values)))[::-1], vectors[:, ::-1]


def _on_cpu(w: Array) -> Callable[[Array], tuple[Array, Array]]:
    n, m = w.shape
    try:
        target = compiled.target("linalg.cc", w.dtype.name) if n * (n + m) <= _KERNEL_SIZE else ""
    except compiled.BuildError:
        target = ""
    if not target:
        # One student at a time: given a batch, jaxlib 0.10's LAPACK calls spread it over XLA's thread pool, and wait there
        # for ever if every thread of the pool is itself inside such a call (one device a core makes that happen).
        return custom_batching.sequential_vmap(_library)

    def kernel(w: Array) -> tuple[Array, Array]:
        shapes = [jax.ShapeDtypeStruct(shape, w.dtype) for shape in (w.shape[:-1], (*w.shape[:-1], w.shape[-2]))]
        return tuple(jax.ffi.ffi_call(target, shapes, vmap_method="broadcast_all")(w))

    return kernel
