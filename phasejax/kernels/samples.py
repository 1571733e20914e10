"""Sums over what a student makes of many samples.

On CPUs they come from kernels (`samples.cc`) where there is a C++ compiler, which go through the samples once
and write down nothing on the way; elsewhere from JAX's own products. The two agree to rounding.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from phasejax.kernels import build

# Longer vectors than this do not fit into a core's registers.
_KERNEL_SIZE = 64


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
        on_cpu = build.with_target(by_kernel, by_library, source, name, arrays[0].dtype.name, **sizes)
    return jax.lax.platform_dependent(*arrays, cpu=on_cpu, default=by_library)
