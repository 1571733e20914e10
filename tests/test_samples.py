"""Gradients and sums over samples, by the kernels and by the library, against NumPy in double precision."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import skip_without_compiler

from phasejax import Network
from phasejax.kernels import build, samples
from phasejax.observables.gradient import mean_gradient
from phasejax.observables.student import on_samples
from phasejax.tasks import cross_entropy, mse


@pytest.fixture(params=["kernel", "library"])
def route(request, monkeypatch):
    if request.param == "library":
        monkeypatch.setattr(build, "target", no_compiler)
        monkeypatch.setattr(build, "_stand_ins", {})  # or later tests would be told of it
    else:
        skip_without_compiler("samples.cc", "products", N=16)
    return request.param


def no_compiler(*_, **__):
    raise build.BuildError("no C++ compiler was found")


def draw(*shapes):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape) for shape in shapes]


def close(found, exact, precision, terms):
    """Sums of so many terms of order one, each exact to rounding."""
    assert found.dtype == precision
    np.testing.assert_allclose(found, exact, rtol=0, atol=8 * terms**0.5 * np.finfo(precision).eps * np.abs(exact).max())


def vmapped(function, *arrays, axes=0):
    """Traced anew, whatever the route was before."""
    return jax.tree.map(np.array, jax.jit(jax.vmap(lambda *a: function(*a), in_axes=axes))(*map(jnp.asarray, arrays)))


def test_gradients_of_every_layer_are_those_by_its_weights():
    rng = np.random.default_rng(0)
    layers = [rng.normal(size=s) / np.sqrt(s[1]) for s in ((7, 5), (4, 7), (1, 4))]
    x, y = rng.normal(size=(60, 5)), rng.normal(size=(60, 1))
    network = Network((5, 7, 4, 1), "gelu", (1, 2, 3))
    with jax.enable_x64(True):

        def loss(layers):
            h = x
            for w in layers[:-1]:
                h = jax.nn.gelu(h @ w.T, approximate=False)
            return 0.5 * jnp.sum((h @ layers[-1].T - y) ** 2)

        exact = jax.grad(loss)([jnp.asarray(w) for w in layers])
        named = {str(k): jnp.asarray(w) for k, w in enumerate(layers, 1)}
        made = on_samples(network, mse, named, jnp.asarray(x), jnp.asarray(y))
        inputs = x
        for name, w, gradient in zip("123", layers, exact, strict=True):
            np.testing.assert_allclose(made.u[name].T, inputs @ w.T, rtol=1e-12)
            np.testing.assert_allclose(made.g[name] @ inputs, gradient, rtol=1e-10)
            last, inputs = inputs, np.array(jax.nn.gelu(inputs @ w.T, approximate=False))
        np.testing.assert_allclose(made.entering["3"].T, last, rtol=1e-12)


def test_gradients_in_chunks_are_those_of_all_samples_at_once():
    """9001 samples are three chunks, the last of which overlaps the one before."""
    rng = np.random.default_rng(0)
    network = Network((5, 7, 3), "relu")
    with jax.enable_x64(True):
        weights = {name: jnp.asarray(w) for name, w in network.init(jax.random.key(0), "float64").items()}
        x, y = jnp.asarray(rng.normal(size=(9001, 5))), jnp.asarray(rng.integers(0, 3, 9001), jnp.int32)
        found = mean_gradient(network, cross_entropy, weights, {}, x, y)
        exact = jax.grad(lambda w: cross_entropy(network.apply(w, x)[0], y).mean())(weights)
    for name in weights:
        np.testing.assert_allclose(found[name], exact[name], rtol=1e-10, atol=1e-14)


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize(("n", "count"), [(16, 128), (4, 33), (65, 3)])
def test_products_and_rows(n, count, precision):
    u, g, basis = draw((7, n, count), (7, n, count), (7, n, n))
    with jax.enable_x64(precision == "float64"):
        u, g, basis = (part.astype(precision) for part in (u, g, basis))
        found = vmapped(samples.products, u, g)
        means, squares = vmapped(samples.end_rows, basis, u, g)
    u, g, basis = (part.astype(float) for part in (u, g, basis))
    exact = [np.einsum("zia,zja->zij", a, b) / count for a, b in ((u, g), (u**2, g**2), (u * g, u * g))]
    close(found, np.stack(exact, 1), precision, count)
    matrices = np.einsum("zia,zja->zaij", u, g)
    turned = np.einsum("zik,zaij,zjl->zakl", basis, matrices + matrices.swapaxes(2, 3), basis)[:, :, [0, -1]]
    close(means, turned.mean(1), precision, n * count)
    close(squares, (turned**2).mean(1), precision, n * count)


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("count", [4000, 6, 1])
def test_mean_gradient(route, count, precision):
    """Twenty-one students of each of two tasks, and of one that all share."""
    network = Network((3, 32, 16, 1), trainable=(2,))
    w, readout, x, y = draw((2, 21, 16, 32), (2, 1, 16), (2, count, 32), (2, count, 1))
    with jax.enable_x64(precision == "float64"):
        w, readout, x, y = (part.astype(precision) / 4 for part in (w, readout, x, y))

        def gradient(w, readout, x, y):
            return mean_gradient(network, mse, {"2": w}, {"3": readout}, x, y)["2"]

        def of_task(w, readout, x, y):
            return jax.vmap(gradient, in_axes=(0, None, None, None))(w, readout, x, y)

        found = vmapped(of_task, w, readout, x, y)
        shared = vmapped(of_task, w, readout[1], x[1], y[1], axes=(0, None, None, None))
        alone = vmapped(gradient, w[1, 3:4], readout[1], x[1], y[1], axes=(0, None, None, None))
    w, readout, x, y = (part.astype(float) for part in (w, readout, x, y))
    f = np.tanh(np.einsum("tsij,taj->tsai", w, x))
    error = np.einsum("tki,tsai->tsak", readout, f) - y[:, None]
    exact = np.einsum("tsai,taj->tsij", error * readout[:, None] * (1 - f**2), x) / count
    close(found, exact, precision, count)
    close(shared[1], exact[1], precision, count)
    if route == "kernel":
        assert (shared[1] == found[1]).all()
    close(alone[0], exact[1, 3], precision, count)


def test_samples_that_students_share_otherwise_are_refused(route):
    """Here along the last axis of students only; the kernel takes a vector's students through the same samples."""
    w, readout, x, y = (part.astype(np.float32) for part in draw((3, 4, 16, 32), (1, 16), (4, 8, 32), (4, 8, 1)))

    def gradient(w, x, y):
        network = Network((3, 32, 16, 1), trainable=(2,))
        return mean_gradient(network, mse, {"2": w}, {"3": jnp.asarray(readout)}, x, y)["2"]

    apart = jax.vmap(jax.vmap(gradient), in_axes=(0, None, None))
    with pytest.raises(Exception, match="do not fit together") if route == "kernel" else contextlib.nullcontext():
        jax.block_until_ready(apart(w, x, y))
