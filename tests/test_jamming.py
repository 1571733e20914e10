"""Relaxation from large weights: a single erf node under gradient flow has a closed form, and so have its exponents."""

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from scipy.integrate import solve_ivp

import phasejax as pj
from phasejax.analysis.spectrum import memory
from phasejax.seed import make_task
from phasejax.studies.jamming import relaxation


def product(a, b):
    """<erf(a x) erf(b x)> over x ~ N(0, 1) (Williams; Saad and Solla, Phys. Rev. E 52 (1995) 4225)."""
    return 2 / np.pi * np.arcsin(2 * (a @ b) / np.sqrt((1 + 2 * (a @ a)) * (1 + 2 * (b @ b))))


def drift(w, teacher):
    """Minus the gradient of <(erf(w x) - erf(teacher x))^2> / 2 by w."""
    squared = w @ w
    overlap = 2 * (w @ teacher) / np.sqrt((1 + 2 * squared) * (1 + 2 * (teacher @ teacher)))
    along = 2 * teacher / np.sqrt((1 + 2 * squared) * (1 + 2 * (teacher @ teacher))) - 2 * overlap * w / (1 + 2 * squared)
    return 2 / np.pi * (along / np.sqrt(1 - overlap**2) - 2 * w / ((1 + 2 * squared) * np.sqrt(1 + 4 * squared)))


def forgets(start, teacher, until):
    """The time at which C(t, 0) = 1/2 in the flow."""

    def memory(_, w):
        return product(w, start) / np.sqrt(product(w, w) * product(start, start)) - 0.5

    memory.terminal = True
    found = solve_ivp(lambda _, w: drift(w, teacher), (0, until), start, events=memory, rtol=1e-8, atol=1e-10)
    return float(found.t_events[0][0]) if found.t_events[0].size else np.nan


def times(sigmas, seeds=range(8), width=8):
    """log10 of these times, (sigma_w, seed)."""
    found = []
    for seed in seeds:
        start, teacher = np.random.default_rng(seed).normal(size=(2, width)) / np.sqrt(width)
        start = start if start @ teacher < 0 else -start  # so that it has to turn
        found.append([np.log10(forgets(sigma * start, teacher, 1e8)) for sigma in sigmas])
    return xr.DataArray(np.transpose(found), dims=("sigma_w", "seed"), coords={"sigma_w": sigmas})


def test_a_saturated_node_turns_ballistically():
    """Without noise and on all inputs there are z = 2 exactly at large sigma_W, and no place where t* diverges."""
    found = times(2.0 ** np.arange(3, 10)).mean("seed")
    assert float(relaxation.exponent(found.sel(sigma_w=slice(64, None)), "sigma_w")) == pytest.approx(2, abs=0.03)
    assert abs(float(relaxation.bend(found, "sigma_w"))) < 0.2
    diverging = found + np.log10(600 / (600 - found.sigma_w))
    assert float(relaxation.bend(diverging, "sigma_w")) == float(relaxation.bend(diverging[::-1], "sigma_w")) > 1


def test_an_aligned_node_softens_with_the_cube():
    """At large sigma a node that points where its teacher does has d sigma^3/dt = -3/pi, without noise: z = 3."""
    teacher = np.array([1.0, 0.0])
    for sigma in (16.0, 64.0):
        cubed = 0.4 * sigma**3 * np.pi / 3
        found = solve_ivp(lambda _, w: drift(w, teacher), (0, cubed), sigma * teacher, rtol=1e-8)
        assert found.y[0, -1] ** 3 == pytest.approx(0.6 * sigma**3, rel=6 / sigma)


@pytest.mark.long
def test_students_in_the_flow_do_what_the_closed_form_says():
    """All samples at once, 4000 of them in the place of the mean over all inputs."""
    sigmas = [2.0, 8.0]
    experiment = pj.Experiment(
        network=pj.Network((4, 1, 1), "erf", trainable=(1,)),
        task=pj.TeacherStudent(samples=4000, test_samples=2000),
        sgd=pj.Sgd(batch_size=4000),
        grid=pj.Grid(learning_rate=[1.0], sigma_w=sigmas, seeds=2),
        schedule=pj.Schedule(300, records_per_decade=8, weights="ends"),
        observe=("G_t0", "G_00", "G_tt", "weights", "diverged_step"),
    )
    run = pj.simulate(experiment, engine="autodiff")
    measured = run.step.values * 1.0  # at learning rate 1
    for seed in range(2):
        task = make_task(experiment.network, experiment.task, 1, jnp.float32, jnp.int32(seed))
        teacher, readout = np.array(task.teacher["1"][0], float), float(task.teacher["2"][0, 0])
        for k, sigma in enumerate(sigmas):
            start = np.array(run.weights[0, 0, k, seed, 0], float)
            flow = solve_ivp(lambda _, w, v=readout, of=teacher: v**2 * drift(w, of), (0, 300), start, t_eval=measured)
            expected = [product(w, start) / np.sqrt(product(w, w) * product(start, start)) for w in flow.y.T]
            found = memory(run).isel(learning_rate=0, sigma_w=k, seed=seed)
            assert np.abs(found - expected).max() < 0.05, (seed, sigma)


@pytest.mark.parametrize(("mu", "shape"), [(1.0, lambda t, w: t / w), (0.0, lambda t, w: 1 + (t - w) / 3e5)])
def test_ageing_is_told_from_a_stationary_process(mu, shape):
    steps = np.concatenate([[0], np.unique(np.geomspace(1, 10**6, 61).astype(int))])
    waited, step = np.meshgrid(np.maximum(steps, 1), np.maximum(steps, 1), indexing="ij")
    c = np.where(step >= waited, shape(np.maximum(step, waited), waited) ** -0.1, np.nan)
    means = xr.DataArray(c, dims=("waited", "step"), coords={"waited": steps, "step": steps, "learning_rate": 0.5})
    assert float(relaxation.ageing_exponent(means)) == pytest.approx(mu, abs=0.05)


def test_a_block_of_large_batches_holds_few_of_them():
    """All of a block's samples are there at once."""
    flow, small = (pj.Experiment(sgd=pj.Sgd(batch_size=size)) for size in (4000, 4))
    assert (flow.epoch_steps, flow.ladder.block) == (1, 16)
    assert small.ladder.block == small.epoch_steps == 1000
