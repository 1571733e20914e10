"""Singular values and vectors by the kernel and by the library, against NumPy in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import skip_without_compiler

from phasejax.kernels import build, linalg

SHAPES = [(16, 32), (5, 3), (2, 2), (1, 7), (7, 1), (17, 20)]


def test_a_run_says_what_decomposes_its_matrices(monkeypatch):
    shapes = {"1": (16, 32), "2": (64, 64)}
    monkeypatch.setattr(build, "_stand_ins", {})
    assert linalg.used_for(shapes, on_cpu=True) == "1 by linalg.cc, 2 by LAPACK"
    assert linalg.used_for(shapes, on_cpu=False) == "1 by JAX, 2 by JAX"
    monkeypatch.setattr(build, "_stand_ins", {"a target": ("linalg.cc", "no compiler")})
    assert linalg.used_for(shapes, on_cpu=True) == "1 by LAPACK, 2 by LAPACK"


def elsewhere(*arrays, default, **_):
    """`jax.lax.platform_dependent` as on a device that is no CPU."""
    return default(*arrays)


@pytest.fixture(params=["kernel", "library", "accelerator"])
def route(request, monkeypatch):
    if request.param == "library":
        monkeypatch.setattr(linalg, "_KERNEL_SIZE", 0)
    elif request.param == "accelerator":
        monkeypatch.setattr(jax.lax, "platform_dependent", elsewhere)
    else:
        skip_without_compiler("linalg.cc", "left_singular")


def batch(function, matrices):
    """All of them at once, traced anew whatever the route was before."""
    return jax.tree.map(np.array, jax.jit(jax.vmap(lambda w: function(w)))(jnp.asarray(matrices)))


def matrices(shape, dtype, scale=1.0):
    """Random ones, and the awkward: zero, of low rank, repeated values, graded over many decades."""
    n, m = shape
    w = np.random.default_rng(0).standard_normal((21, n, m))
    w[3] = 0
    w[5, :, : m // 2 + 1] = 0
    w[6] = w[6, 0]
    w[7] = np.eye(n, m)
    w[8] *= np.logspace(0, -6, n)[:, None]
    return (w * scale).astype(dtype)


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_decompositions_are_good_to_rounding(shape, precision):
    n, m = shape
    with jax.enable_x64(precision == "float64"):
        tolerance = 4 * max(n, 4) * np.finfo(precision).eps
        scales = np.repeat([1.0, 1e3, 1e-3, 1e15, 1e-15], 21)
        w = np.concatenate([matrices(shape, precision, scale) for scale in scales[::21]])
        values, vectors = (part.astype(np.float64) for part in batch(linalg.left_singular, w))
    w = w / scales[:, None, None]
    exact = np.pad(np.linalg.svd(w, compute_uv=False)[:, ::-1], ((0, 0), (max(0, n - m), 0)))
    size = exact[:, -1:]
    assert (np.abs(values / scales[:, None] - exact) <= tolerance * size).all()
    assert not values[:, : max(0, n - m)].any()
    transposed = vectors.transpose(0, 2, 1)
    assert np.abs(transposed @ vectors - np.eye(n)).max() < tolerance
    x = (transposed @ w) @ (transposed @ w).transpose(0, 2, 1)
    assert (np.abs(x - np.eye(n) * exact[:, None] ** 2).max((1, 2)) <= tolerance * size[:, 0] ** 2).all()


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_eigenvectors_of_symmetric_matrices(precision):
    with jax.enable_x64(precision == "float64"):
        for n in (1, 2, 5, 16):
            w = np.concatenate([matrices((n, n), precision, scale) for scale in (1e12, 1.0, 1e-12)])
            k = w + w.transpose(0, 2, 1)
            found = batch(linalg.eigenvectors, k).astype(np.float64)
            k = k.astype(np.float64)
            exact = np.linalg.eigvalsh(k)
            rotated = found.transpose(0, 2, 1) @ k @ found
            error = np.abs(rotated - np.eye(n) * exact[:, None]).max((1, 2))
            assert (error <= 4 * max(n, 4) * np.finfo(precision).eps * np.abs(exact).max(1)).all()


@pytest.mark.usefixtures("route")
def test_signs_follow_the_rule_and_prefer_no_direction():
    """Two eigenvectors of one matrix with the largest component of each positive, say, would both be near (1, 1, 1 ...)."""
    for n in (5, 16):
        w = np.random.default_rng(3).standard_normal((1000, n, n)).astype(np.float32)
        found = batch(linalg.eigenvectors, w + w.transpose(0, 2, 1))
        assert ((found[:, : n - 1 + n % 2] < 0).sum(1) % 2 == 0).all()
        assert (np.abs(found.mean(0)) < 5 / np.sqrt(n * len(w))).all()


@pytest.mark.parametrize("shape", [*SHAPES, (70, 40)])
def test_values_alone_are_those_with_vectors(shape):
    """Beyond the kernel's size the library is not asked for vectors."""
    w = matrices(shape, "float32")
    values, vectors = batch(linalg.singular_values, w), batch(linalg.left_singular, w)[0]
    np.testing.assert_allclose(values, vectors, rtol=0, atol=1e-5 * np.abs(vectors).max())
    text = jax.jit(jax.vmap(linalg.singular_values)).lower(jnp.asarray(w)).as_text()
    assert ("lapack" in text) == (shape == (70, 40) or "left_singular" not in text)


@pytest.mark.usefixtures("route")
def test_what_is_not_finite_has_no_spectrum_and_its_neighbours_theirs():
    w = matrices((16, 32), "float32")
    clean = batch(linalg.left_singular, w)
    w[4, 2, 3], w[12, 0, 0] = np.nan, np.inf
    values, vectors = batch(linalg.left_singular, w)
    sick = np.isin(np.arange(len(w)), [4, 12])
    assert np.isnan(values[sick]).all()
    assert np.isnan(vectors[sick]).all()
    assert (values[~sick] == clean[0][~sick]).all()
    assert (vectors[~sick] == clean[1][~sick]).all()


def test_a_students_spectrum_depends_on_no_neighbour():
    """To the bit, though a vector's other students need more sweeps, or fewer."""
    skip_without_compiler("linalg.cc", "left_singular")
    w = matrices((16, 32), "float32")
    values, vectors = batch(linalg.left_singular, w)
    for k in (0, 3, 7, 8, 20):
        alone = batch(linalg.left_singular, w[k : k + 1])
        assert (alone[0][0] == values[k]).all()
        assert (alone[1][0] == vectors[k]).all()
    order = np.random.default_rng(1).permutation(len(w))
    assert (batch(linalg.left_singular, w[order])[0] == values[order]).all()


@pytest.mark.parametrize("order", ["falling", "rising", "any"])
@pytest.mark.parametrize("route", ["kernel", "accelerator"], indirect=True)
def test_small_singular_values_are_accurate_relative_to_themselves(route, order):
    """Rows of very different lengths: the library knows the small values to rounding of the largest only."""
    rng = np.random.default_rng(2)
    lengths = np.logspace(0, -5, 16)
    lengths = {"falling": lengths, "rising": lengths[::-1], "any": rng.permutation(lengths)}[order]
    single = (rng.standard_normal((8, 16, 32)) * lengths[:, None]).astype(np.float32)
    exact = np.linalg.svd(single.astype(np.float64), compute_uv=False)[:, ::-1]
    assert np.abs(batch(linalg.left_singular, single)[0] / exact - 1).max() < 1e-5
