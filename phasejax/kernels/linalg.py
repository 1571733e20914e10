"""Spectral decompositions of one student's matrices, in a form that is fast, safe and NaN-proof under vmap.

By one-sided Jacobi rotations: on CPUs in a kernel (`linalg.cc`), one student a vector lane, or by LAPACK where no C++
compiler is; elsewhere in XLA's own operations, for cuSOLVER takes most matrices one after another, and TPUs have no such
library. All agree to rounding.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, custom_batching

from phasejax.kernels import build

# The kernel holds n (n + m) vectors of students, and is the faster one while they stay in a core's cache.
_KERNEL_SIZE = 2**12
# Sweeps converge quadratically, after a few; rows that vanish take some more to do so.
_MOST_SWEEPS = 30


def left_singular(w: Array) -> tuple[Array, Array]:
    """Singular values of w (n, m), ascending, and left singular vectors.

    Returns:
        values (n,), the first max(0, n - m) of them zero, and an orthogonal matrix (n, n) with the vectors in columns, each
        signed such that an even number of its components is negative, not counting the last if n is even. All NaN if w is
        not finite.
    """
    n, m = w.shape

    def by_library(w: Array) -> tuple[Array, Array]:
        vectors, values, _ = jnp.linalg.svd(w, full_matrices=n > m)
        return jnp.pad(values, (0, n - len(values)))[::-1], vectors[:, ::-1]

    values, vectors = _decompose(w, _kernel, by_library, _rotated)
    null = jnp.arange(n) < n - m
    return jnp.where(null & ~jnp.isnan(values), 0, values), _signed(vectors)


def singular_values(w: Array) -> Array:
    """Singular values of w (n, m), ascending, (n,), the first max(0, n - m) of them zero; all NaN if w is not finite."""
    n, m = w.shape
    if n * (n + m) <= _KERNEL_SIZE:
        return left_singular(w)[0]

    def by_library(w: Array) -> Array:
        values = jnp.linalg.svd(w, compute_uv=False)
        return jnp.pad(values, (0, n - len(values)))[::-1]

    return _decompose(w, _kernel, by_library, lambda w: _rotated(w, vectors=False)[0])


def eigenvectors(symmetric: Array) -> Array:
    """Eigenvectors of a symmetric matrix (n, n) in columns, in the ascending order of their eigenvalues, signed likewise."""

    def shifted(symmetric: Array) -> Array:
        # No eigenvalue is below minus the largest sum of a row (Gershgorin), so those of the sum are its singular values.
        shift = jnp.abs(symmetric).sum(axis=1).max()
        return symmetric + shift * jnp.eye(len(symmetric), dtype=symmetric.dtype)

    return _signed(
        _decompose(
            symmetric,
            lambda target, s: _kernel(target, shifted(s))[1],
            lambda s: jnp.linalg.eigh(s, symmetrize_input=False)[1],
            lambda s: _rotated(shifted(s))[1],
        )
    )


def used_for(shapes: Mapping[str, tuple[int, ...]], on_cpu: bool) -> str:
    """What decomposes matrices of these shapes, by name, in this process: "1 by linalg.cc, 2 by LAPACK" for instance."""

    def library(n: int, m: int) -> str:
        if not on_cpu:
            return "JAX"
        built = not any(sentence.startswith("linalg.cc") for sentence in build.stand_ins())
        return "linalg.cc" if built and n * (n + m) <= _KERNEL_SIZE else "LAPACK"

    return ", ".join(f"{name} by {library(*shape)}" for name, shape in shapes.items())


def _signed(vectors: Array) -> Array:
    # Signs are arbitrary, but sums over products of vectors (V_S of two readings) would show a preference: with the largest
    # component positive, say, they come out positive too. This rule, on an odd number of components, prefers no direction.
    odd = vectors[: len(vectors) - 1 + len(vectors) % 2]
    return vectors * jnp.where(odd < 0, -1, 1).prod(axis=0)[None]


def _kernel(target: str, w: Array) -> tuple[Array, Array]:
    shapes = [jax.ShapeDtypeStruct(shape, w.dtype) for shape in (w.shape[:1], (len(w), len(w)))]
    values, vectors = jax.ffi.ffi_call(target, shapes, vmap_method="broadcast_all")(w)
    return values, vectors


def _rotated(w: Array, vectors: bool = True) -> tuple[Array, Array]:
    """Singular values of w (n, m), ascending, and left singular vectors in columns, (n, n), or (n, 0) without `vectors`.

    Rows are turned in pairs until all are orthogonal: their lengths then are the singular values, the small ones accurate
    relative to themselves where rows are of different lengths. A round turns n / 2 pairs at once, and n - 1 rounds, between
    which the rows move on like players of a tournament, are a sweep that meets each pair once.
    """
    n, m = w.shape
    half = (n + 1) // 2
    epsilon = jnp.finfo(w.dtype).eps
    largest = jnp.abs(w).max()
    # Squares of very large and very small entries would not be numbers any more.
    scale = jnp.where(largest > 0, largest, 1)
    rows = jnp.concatenate([w / scale, jnp.eye(n, n if vectors else 0, dtype=w.dtype)], axis=1)
    rows = jnp.pad(rows, ((0, 2 * half - n), (0, 0)))

    def turn(_: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        upper, lower, turned = carry
        p, q = upper[:, :m], lower[:, :m]
        aa, bb, ab = (p * p).sum(axis=1), (q * q).sum(axis=1), (p * q).sum(axis=1)
        due = jnp.abs(ab) > epsilon * jnp.sqrt(aa) * jnp.sqrt(bb)
        zeta = (bb - aa) / jnp.where(due, 2 * ab, 1)
        tangent = jnp.where(zeta < 0, -1, 1) / (jnp.abs(zeta) + jnp.hypot(zeta, 1.0))
        tangent = jnp.where(due, tangent, 0)
        cosine = 1 / jnp.sqrt(1 + tangent**2)
        c, s = cosine[:, None], (cosine * tangent)[:, None]
        upper, lower = c * upper - s * lower, s * upper + c * lower
        # The first stays where it is, and all others move on by one place, along one row of seats and back along the other.
        return (
            jnp.concatenate([upper[:1], lower[:1], upper[1:-1]])[:half],
            jnp.concatenate([lower[1:], upper[-1:]]) if half > 1 else lower,
            turned | due.any(),
        )

    def sweep(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        upper, lower, _, sweeps = carry
        return *jax.lax.fori_loop(0, 2 * half - 1, turn, (upper, lower, jnp.zeros_like(largest, bool))), sweeps + 1

    begun = (rows[:half], rows[half:], largest > 0, jnp.zeros_like(largest, jnp.int32))
    upper, lower, *_ = jax.lax.while_loop(lambda carry: carry[2] & (carry[3] < _MOST_SWEEPS), sweep, begun)
    rows = jnp.concatenate([upper, lower])[:n]
    values = jnp.sqrt((rows[:, :m] ** 2).sum(axis=1))
    order = jnp.argsort(values)
    return values[order] * scale, rows[order, m:].T


def _decompose(
    matrix: Array,
    by_kernel: Callable[[str, Array], Any],
    by_library: Callable[[Array], Any],
    elsewhere: Callable[[Array], Any],
) -> Any:
    n, m = matrix.shape
    # On CPUs the library one student at a time: given a batch, jaxlib 0.10's LAPACK calls spread it over XLA's thread pool,
    # and wait there for ever if every thread of the pool is itself inside such a call (one device a core makes that happen).
    on_cpu = custom_batching.sequential_vmap(by_library)
    if n * (n + m) <= _KERNEL_SIZE:
        on_cpu = build.with_target(by_kernel, on_cpu, "linalg.cc", "left_singular", matrix.dtype.name)
    # What they answer to NaN is not specified; a student that diverged has no spectrum.
    finite = jnp.isfinite(matrix).all()
    found = jax.lax.platform_dependent(jnp.where(finite, matrix, 0), cpu=on_cpu, default=elsewhere)
    return jax.tree.map(lambda part: jnp.where(finite, part, jnp.nan), found)
