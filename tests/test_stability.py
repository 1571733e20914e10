"""Sharpness, its noise and the edge of stability, against matrices written out, and against what they are to predict."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from conftest import small
from jax.flatten_util import ravel_pytree

import phasejax as pj
from phasejax.analysis import run as of_run
from phasejax.analysis.stability import edge_where_s_is_2, stability_edge
from phasejax.network import initial
from phasejax.observables import choose, stability
from phasejax.observables.stability import curvature
from phasejax.observables.standard import standard
from phasejax.tasks import cross_entropy, mse

ASKED = ("test_loss", "sharpness", "noise_sharpness", "stability", "teacher_sharpness", "teacher_noise_sharpness",
         "diverged_step")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Linear:
    """y = w . x, of which v is x itself."""

    inputs: int = 6

    def init(self, key):
        return {"w": jax.random.normal(key, (1, self.inputs)), "gain": jnp.ones((1, 1))}

    trained = ("w",)

    def apply(self, weights, x):
        return x @ weights["w"].T * weights["gain"], x


def dense(network, loss, trained, frozen, x, y):
    """lambda, q and H, from every sample's own J^T S J."""
    flat, shaped = ravel_pytree(trained)

    def outputs(w, one):
        return network.apply({**frozen, **shaped(w)}, one[None])[0][0]

    @jax.jit
    @jax.vmap
    def parts(one, target):
        second = jax.hessian(lambda o: loss(o[None], target[None])[0])(outputs(flat, one))
        return jax.jacobian(outputs)(flat, one), second

    jacobian, second = map(np.asarray, parts(x, y))
    curved = jacobian.transpose(0, 2, 1) @ second @ jacobian
    values, vectors = np.linalg.eigh(curved.mean(0))
    return values[-1], ((curved @ vectors[:, -1]) ** 2).sum(1).mean() / values[-1], curved


CASES = {
    "one layer": (pj.Network((3, 8, 6, 1), trainable=(2,)), mse),
    "all layers, three outputs": (pj.Network((3, 8, 6, 3), ("gelu", "tanh")), mse),
    "classes": (pj.Network((3, 8, 6, 4), "relu"), cross_entropy),
    "one's own": (Linear(3), mse),
}
LONG = ("one layer", "all layers, three outputs", "classes")


@pytest.mark.parametrize(
    ("network", "loss"),
    [pytest.param(*case, id=name, marks=[pytest.mark.long] * (name in LONG)) for name, case in CASES.items()],
)
def test_curvature_is_that_of_the_matrices_written_out(network, loss, monkeypatch):
    with jax.enable_x64(True):
        arrays = initial(network, jax.random.key(1), jnp.float64)
        names = getattr(network, "trained", None) or sorted(arrays)
        trained = {name: arrays[name] for name in names}
        frozen = {name: array for name, array in arrays.items() if name not in names}
        x = jax.random.normal(jax.random.key(2), (40, 3), jnp.float64)
        y = jnp.arange(40) % 4 if loss is cross_entropy else jnp.zeros((40, 1))
        sharpness, noise, _ = dense(network, loss, trained, frozen, x, y)
        monkeypatch.setattr(stability, "_AT_A_TIME", 7 * sum(array.size for array in trained.values()))  # 40 in sevens
        both = jax.jit(jax.vmap(lambda k: curvature(network, loss, jax.tree.map(lambda a: k * a, trained), frozen, x, y)))
        found = both(jnp.array([0.5, 1.0]))
        assert float(found.sharpness[1]) == pytest.approx(sharpness, rel=1e-4)
        assert float(found.noise_sharpness[1]) == pytest.approx(noise, rel=1e-3)


def test_isotropic_gaussian_gradients_have_the_known_curvature():
    """v ~ N(0, lambda I) in d dimensions: q = (d + 2) lambda, so that epsilon_c = 2 B / (lambda (d + B + 1))."""
    x = jax.random.normal(jax.random.key(0), (100_000, 6)) * 0.5
    weights = initial(Linear(), jax.random.key(1), jnp.float32)
    arrays = {"w": weights["w"]}, {"gain": weights["gain"]}, x, jnp.zeros((100_000, 1))
    found = jax.jit(curvature, static_argnums=(0, 1))(Linear(), mse, *arrays)
    assert float(found.sharpness) == pytest.approx(0.25, rel=0.02)
    assert float(found.noise_sharpness) == pytest.approx(8 * 0.25, rel=0.02)


def test_students_that_feel_nothing_are_stable_and_those_that_diverged_have_no_curvature():
    network, x = pj.Network((3, 8, 6, 1), trainable=(2,)), jnp.ones((4, 8))
    for weights, expected in ((1e6, 0.0), (jnp.nan, jnp.nan)):
        found = jax.jit(curvature, static_argnums=(0, 1))(
            network, mse, {"2": jnp.full((6, 8), weights)}, {"3": jnp.ones((1, 6))}, x, jnp.zeros((4, 1))
        )
        np.testing.assert_array_equal(np.array(found), expected)


# -- the edge ------------------------------------------------------------------------------------------------------------


def radius(curved, rate, batch, momentum=0.0, replacement=True):
    """Spectral radius of the map of second moments, of weights that are off by w and velocities, written out.

    With replacement p = 1 / B is the share of what one sample does twice, without (D - B) / (B (D - 1)).
    """
    samples, d = len(curved), curved.shape[-1]
    p = 1 / batch if replacement else (samples - batch) / (batch * (samples - 1))
    mean, one = curved.mean(0), np.eye(d)
    twice = p * np.einsum("aij,akl->ikjl", curved, curved).reshape(d * d, d * d) / samples + (1 - p) * np.kron(mean, mean)
    if not momentum:
        alone = np.eye(d * d) - rate * (np.kron(mean, one) + np.kron(one, mean)) + rate**2 * twice
        return np.abs(np.linalg.eigvals(alone)).max()
    # m' = mu m + H w, w' = w - epsilon m'; moments in the order ww, wm, mw, mm.
    hh, h1, i1 = twice, np.kron(mean, one), np.kron(one, mean)
    ii, mu, e = np.kron(one, one), momentum, rate
    mm = [hh, mu * h1, mu * i1, mu**2 * ii]
    mixed = [[h1, 0 * ii, mu * ii, 0 * ii], [i1, mu * ii, 0 * ii, 0 * ii]]  # m'w, wm' before w moves
    ww = [ii - e * (h1 + i1) + e**2 * hh, -e * mu * ii + e**2 * mu * h1, -e * mu * ii + e**2 * mu * i1, e**2 * mu**2 * ii]
    wm = [a - e * b for a, b in zip(mixed[1], mm, strict=True)]
    mw = [a - e * b for a, b in zip(mixed[0], mm, strict=True)]
    return np.abs(np.linalg.eigvals(np.block([ww, wm, mw, mm]))).max()


def edge_of(curved, batch, momentum=0.0, replacement=True):
    """Learning rate at which the radius is 1, by halving."""
    low, high = 0.0, 4 * (1 + momentum) / np.linalg.eigvalsh(curved.mean(0))[-1]
    for _ in range(40):
        middle = (low + high) / 2
        stays = radius(curved, middle, batch, momentum, replacement) <= 1 + 1e-9
        low, high = (middle, high) if stays else (low, middle)
    return low


def rate_where_s_is_2(sharpness, noise, batch, momentum=0.0):
    return batch * (1 - momentum) * edge_where_s_is_2(sharpness, noise, batch, momentum)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("batch", [1, 4, 64])
def test_the_edge_is_exact_for_isotropic_gaussian_gradients(batch, momentum):
    """Moments of which close: E[(v v^T) M (v v^T)] = lambda^2 (2 M + tr M), so that traces alone are to be followed."""
    d, sharpness = 6, 0.25
    rate = rate_where_s_is_2(sharpness, (d + 2) * sharpness, batch, momentum)

    def growth(rate):
        h, hh, mu, e = sharpness, sharpness**2 * (1 + (d + 1) / batch), momentum, rate
        mm = np.array([hh, 2 * mu * h, mu**2])  # of tr ww, tr wm, tr mm
        wm = np.array([h, mu, 0]) - e * mm
        ww = np.array([1, 0, 0]) - 2 * e * np.array([h, mu, 0]) + e**2 * mm
        return np.abs(np.linalg.eigvals(np.array([ww, wm, mm]))).max()

    assert growth(rate * (1 - 1e-6)) < 1 < growth(rate * (1 + 1e-6))
    if momentum == 0:
        assert rate == pytest.approx(2 * batch / (sharpness * (d + batch + 1)))


def test_the_edge_of_full_batches_is_that_of_gradient_descent():
    """epsilon lambda = 2, and 2 (1 + mu) with momentum: of the map, and of s where the noise has gone."""
    v = np.random.default_rng(0).normal(size=(10, 3))
    curved = v[:, :, None] * v[:, None, :]
    sharpness = np.linalg.eigvalsh(curved.mean(0))[-1]
    for momentum in (0.0, 0.5):
        edge = edge_of(curved, 10, momentum, replacement=False)
        assert edge * sharpness == pytest.approx(2 * (1 + momentum), rel=1e-6)
        assert rate_where_s_is_2(sharpness, 7.0, 1e9, momentum) * sharpness == pytest.approx(2 * (1 + momentum), rel=1e-6)


def test_gaussian_gradients_have_their_edge_where_the_sum_is_one():
    """sum_j epsilon lambda_j / (2 B - epsilon (B + 1) lambda_j) = 1, of the map for v ~ N(0, diag lambda)."""
    values, batch = np.array([0.1, 0.4, 1.0]), 4

    def grows(rate):
        # E[v v^T M v v^T] = 2 H M H + H tr(H M); the diagonal of M is closed.
        a = np.diag(1 - 2 * rate * values + rate**2 * (1 + 1 / batch) * values**2)
        return np.abs(np.linalg.eigvals(a + rate**2 / batch * np.outer(values, values))).max()

    def total(rate):
        return (rate * values / (2 * batch - rate * (batch + 1) * values)).sum()

    rates = np.linspace(0.01, 1.5, 2000)
    edge = rates[np.argmax([total(rate) > 1 for rate in rates])]
    assert grows(edge - 1e-3) < 1 < grows(edge + 1e-3)
    estimate = rate_where_s_is_2(1.0, 2 + values.sum(), batch)
    # What grows in a first step need not go on, so that the estimate is the lower.
    assert estimate <= edge < 1.1 * estimate


def test_typical_students_are_lost_above_the_edge_of_the_mean_square():
    """E log|1 - epsilon c| = 0, c the mean square of B numbers, one direction: an octave above 2 B / (B + 2) at B = 4."""
    batch = 4

    def lyapunov(rate):
        def of(c):  # of a chi-square distribution over B
            return np.log(abs(1 - rate * c)) * scipy.stats.chi2.pdf(c * batch, batch) * batch

        return scipy.integrate.quad(of, 0, 1 / rate)[0] + scipy.integrate.quad(of, 1 / rate, np.inf)[0]

    assert lyapunov(2.3) < 0 < lyapunov(3.1)
    assert rate_where_s_is_2(1.0, 3.0, batch) == pytest.approx(2 * batch / (batch + 2))
    assert 0.75 < np.log2(2.3 / (2 * batch / (batch + 2))) < np.log2(3.1 / (2 * batch / (batch + 2))) < 1.25


def test_a_teachers_edge_is_near_that_of_its_map():
    """s = 2 is an estimate, within a quarter of an octave of the spectral radius."""
    network = pj.Network((3, 4, 2, 1), trainable=(2,))
    for number in range(3):
        with jax.enable_x64(True):
            teacher = network.init(jax.random.key(number), jnp.float64)
            x = jnp.tanh(jax.random.normal(jax.random.key(9 + number), (60, 3), jnp.float64) @ teacher["1"].T)
            y = jnp.zeros((60, 1))
            sharpness, noise, curved = dense(network, mse, {"2": teacher["2"]}, {"3": teacher["3"]}, x, y)
        exact = edge_of(curved, 4)
        assert abs(np.log2(exact / rate_where_s_is_2(sharpness, noise, 4))) < 0.25


def test_runs_record_it_by_name_and_know_their_edge():
    grid = pj.Grid(temperature=[2**-5, 1.0], momentum=[0.0, 0.5], sigma_w=[1.0, 0.125], seeds=2)
    run = pj.simulate(small(grid=grid, schedule=pj.Schedule(0), observe=ASKED))
    assert dict(run.sizes) | {"temperature": 2, "momentum": 2, "sigma_w": 2, "seed": 2} == dict(run.sizes)
    at_start = stability_edge(run, "start")
    assert set(at_start.dims) == {"momentum", "sigma_w", "seed"}
    np.testing.assert_allclose(run.stability.sel(step=0) * at_start / run.temperature, 2, rtol=1e-5)
    teacher = stability_edge(run)
    assert set(teacher.dims) == {"momentum", "seed"}


@pytest.mark.long
def test_students_that_start_at_their_teacher_have_its_edge():
    began = small(grid=pj.Grid(temperature=2**-5, sigma_w=1.0, seeds=2), schedule=pj.Schedule(0), observe=ASKED,
                  start=pj.FromTeacher())  # fmt: skip
    at_teacher = pj.simulate(began)
    np.testing.assert_allclose(stability_edge(at_teacher, "start"), stability_edge(at_teacher), rtol=1e-5)


def test_it_is_no_part_of_what_is_standard():
    for experiment in (small(), small(sgd=pj.Sgd("adam"), grid=pj.Grid(learning_rate=[0.1], seeds=2))):
        known = standard(experiment.network, experiment.task)
        assert {one.name for one in known if one.by_name} == set(of_run.BY_NAME)
        assert not {one.name for one in choose(experiment, known).observables} & set(of_run.BY_NAME)
    asked = dataclasses.replace(experiment, observe=("standard", "sharpness", "stability"))
    chosen = choose(asked, known)
    assert "sharpness" in {one.name for one in chosen.observables}
    assert "stability is not recorded: the optimizer defines no temperature" in chosen.left_out
