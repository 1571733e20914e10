"""All engines = a plain NumPy loop, where trajectories can be compared, and one step at a time elsewhere."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import COLD, small

from phasejax import Experiment, ExperimentError, Grid, Network, Schedule, Sgd, TeacherStudent, engines
from phasejax.engines import pallas
from phasejax.network import ACTIVATIONS
from phasejax.training import Training

ENGINES = ("autodiff", "native", "pallas")


def numpy_loop(w, features, targets, readout, rates):
    """Train one student per rate, written out: W <- W - rate / B sum_b (yhat - y) [w3 o (1 - phi^2)] phi1^T."""
    w = np.broadcast_to(w, (len(rates), *w.shape[-2:])).copy()
    rates = np.asarray(rates)[:, None, None]
    for phi1, y in zip(features, targets[..., 0], strict=True):
        phi = np.tanh(phi1 @ w.transpose(0, 2, 1))  # (students, B, n2)
        error = phi @ readout[0] - y
        delta = error[..., None] * readout[0] * (1 - phi**2)
        w -= rates / len(y) * (delta.transpose(0, 2, 1) @ phi1)
    return w


def advance_of(experiment, engine):
    """The engine's `advance`: without a GPU the kernel of pallas is interpreted, without a compiler the test is skipped."""
    devices = jax.devices()
    on_gpu = devices[0].platform == "gpu"
    if engine == "pallas" and not on_gpu:
        return pallas.advance(experiment, devices, interpret=True)
    try:
        return engines.choose(experiment, engine, devices).engine.advance(experiment, devices)
    except ExperimentError as reason:
        if "compiler" not in str(reason) and not (engine == "native" and on_gpu):
            raise
        pytest.skip(str(reason))


class Bench(Training):
    """An ensemble that trains a number of steps more, and what is looked at of it."""

    def __init__(self, experiment, engine):
        super().__init__(experiment, advance_of(experiment, engine), (), jax.devices())
        self.rates = experiment.cells()["learning_rate"]

    def advance(self, steps):
        self.train_to(self.step + steps)
        return self

    def put(self, state):
        self._now = (state, self.step)

    @property
    def weights(self):
        (w,) = self.state.weights.values()
        return np.array(w)

    @property
    def readout(self):
        return np.array(self.tasks.frozen[self.experiment.network.readout])


@pytest.mark.parametrize("order", ["cyclic", "shuffled", "iid"])
@pytest.mark.parametrize("engine", ENGINES)
def test_two_hundred_cold_steps_equal_a_numpy_loop(engine, order):
    experiment = small(
        grid=Grid(temperature=COLD, sigma_w=(256.0, 1.0, 0.125), seeds=3), sgd=Sgd(order=order), precision="float64"
    )
    with jax.enable_x64(True):
        bench = Bench(experiment, engine)
        start = bench.weights
        batches = bench.batches()
        trained = bench.advance(200).weights
    for seed in range(3):
        features, targets = np.array(batches.features[seed, :200]), np.array(batches.targets[seed, :200])
        for k in range(3):
            cells = slice(k, None, 3)  # sigma_W runs fastest
            expected = numpy_loop(start[seed, k], features, targets, bench.readout[seed], bench.rates[cells])
            scale = np.abs(expected).max((1, 2), keepdims=True)
            np.testing.assert_allclose(trained[seed, cells] / scale, expected / scale, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
@pytest.mark.parametrize("engine", ENGINES)
def test_one_step_in_every_cell_of_the_grid(engine, precision, tolerance):
    """From states taken along a run, in all 144 cells, chaotic ones included."""
    grid = dataclasses.replace(Grid(), seeds=2)
    experiment = small(grid=grid, sgd=Sgd(order="shuffled"), precision=precision)
    with jax.enable_x64(precision == "float64"):
        bench = Bench(experiment, engine)
        for steps in (0, 1, 30, 169):
            bench.advance(steps)
            before, step = bench.weights.astype(np.float64), bench.step
            batches = bench.batches()
            first = step % experiment.ladder.block
            after = bench.advance(1).weights.astype(np.float64)
            for seed in range(2):
                features = np.array(batches.features[seed, first : first + 1], np.float64)
                targets = np.array(batches.targets[seed, first : first + 1], np.float64)
                readout, cells = bench.readout[seed].astype(np.float64), before[seed]
                expected = np.stack([
                    numpy_loop(w, features, targets, readout, [rate])[0] for w, rate in zip(cells, bench.rates, strict=True)
                ])  # fmt: skip
                biggest = np.abs(cells).max((1, 2)), np.abs(expected - cells).max((1, 2))
                scale = np.maximum(*biggest)[:, None, None]
                difference = np.abs(after[seed] - expected) / scale
                assert difference.max() < tolerance


@pytest.mark.parametrize("engine", ENGINES)
def test_training_loss_is_summed_before_each_update(engine):
    experiment = small(grid=Grid(temperature=(0.25,), sigma_w=(1.0,), seeds=2), precision="float64")
    with jax.enable_x64(True):
        bench = Bench(experiment, engine)
        start, batches, readout = bench.weights[0, 0], bench.batches(), bench.readout[0]
        summed = float(bench.advance(3).state.loss_sum[0, 0])
    expected = 0.0
    for k in range(3):
        features, targets = np.array(batches.features[0, :k]), np.array(batches.targets[0, :k])
        w = numpy_loop(start, features, targets, readout, [1.0])[0]
        outputs = np.tanh(np.array(batches.features[0, k]) @ w.T) @ readout[0]
        expected += 0.5 * np.mean((np.array(batches.targets[0, k, :, 0]) - outputs) ** 2)
    assert summed == pytest.approx(expected, rel=1e-12)


def with_an_infinite_rate(experiment, engine, cells=None):
    """A bench whose first cells, those of the first temperature if not so many, have an infinite learning rate."""
    bench = Bench(experiment, engine)
    rates, first = bench.cells.numbers["learning_rate"], cells or len(experiment.grid.axes["sigma_w"])
    numbers = bench.cells.numbers | {"learning_rate": rates.at[:first].set(jnp.inf)}
    bench.cells = bench.cells._replace(numbers=numbers)
    return bench


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_cells_that_fill_no_vector_share_one_with_other_seeds_unharmed(precision):
    """Seven seeds a device, and four cells too many for whole vectors: a seed trains to the same bits as alone."""
    temperatures, sigma_w = (128.0, 64.0, 1.0, 0.25, 2**-5), (0.125, 0.5, 1.0, 256.0)
    experiment = small(grid=Grid(temperature=temperatures, sigma_w=sigma_w, seeds=14), precision=precision)

    def trained(experiment):
        bench = with_an_infinite_rate(experiment, "native").advance(50)
        return [bench.weights, np.array(bench.state.loss_sum), np.array(bench.state.diverged_step)]

    with jax.enable_x64(precision == "float64"):
        together = trained(experiment)
        assert (together[-1][:, :4] >= 0).all()
        assert (together[-1][:, 4:] < 0).all()
        for label in (0, 2, 6, 7, 13):
            alone = trained(
                dataclasses.replace(experiment, grid=dataclasses.replace(experiment.grid, seeds=1, first_seed=label))
            )
            for a, b in zip(together, alone, strict=True):
                np.testing.assert_array_equal(a[label], b[0])


def test_auto_takes_the_fastest_that_applies_and_says_why_not():
    chosen = engines.choose(small(network=Network((3, 8, 1), jnp.arctan)), "auto", jax.devices())
    assert chosen.engine.name == "autodiff"
    assert "Not native" in chosen.passed_over
    assert engines.choose(small(), "auto", jax.devices()).engine.name in ("native", "autodiff")
    with pytest.raises(ExperimentError, match=r"engine = 'pallas'.*autodiff can be used"):
        engines.choose(small(), "pallas", jax.devices())
    with pytest.raises(ExperimentError, match=r"engine = 'magic'.*auto"):
        engines.choose(small(), "magic", jax.devices())


@pytest.mark.long
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_momentum_and_adam_are_optaxs(optimizer):
    import optax

    more = {"momentum": 0.9} if optimizer == "sgd" else {}
    grid = Grid(learning_rate=(0.05, 0.01), sigma_w=(1.0,), seeds=2, **more)
    experiment = small(sgd=Sgd(optimizer), grid=grid, precision="float64", network=Network((3, 5, 4, 2), "gelu", (1, 3)))
    with jax.enable_x64(True):
        bench = Bench(experiment, "autodiff")
        task = jax.tree.map(lambda a: a[1], bench.tasks)
        weights = jax.tree.map(lambda a: a[1, 1], bench.state.weights)
        batches = jax.tree.map(lambda a: a[1], bench.batches())
        rule = optax.adam(0.01) if optimizer == "adam" else optax.sgd(0.01, momentum=0.9)
        moments = rule.init(weights)

        def loss(weights, x, y):
            h = jax.nn.gelu(jax.nn.gelu(x @ weights["1"].T, approximate=False) @ task.teacher["2"].T, approximate=False)
            return 0.5 * jnp.mean(jnp.sum((h @ weights["3"].T - y) ** 2, axis=1))

        gradients = []
        for k in range(30):
            gradients.append(jax.grad(loss)(weights, batches.features[k], batches.targets[k]))
            updates, moments = rule.update(gradients[-1], moments, weights)
            weights = optax.apply_updates(weights, updates)
        state = bench.advance(30).state
    for layer, expected in weights.items():
        np.testing.assert_allclose(state.weights[layer][1, 1], expected, rtol=1e-10, atol=1e-12)
        total = sum(np.array(g[layer]) for g in gradients)
        np.testing.assert_allclose(state.gradient_sum[layer][1, 1], total, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "activation",
    [
        *(pytest.param(name, marks=pytest.mark.long) for name in ACTIVATIONS),
        ("tanh", "relu", "sin", "gelu"),
    ],
)
def test_any_depth_activation_and_layers_train(activation):
    network = Network((3, 6, 5, 5, 6, 2), activation)
    bench = Bench(small(network=network, grid=Grid(temperature=(2**-7,), sigma_w=(0.5,), seeds=2)), "autodiff")
    start = {name: np.array(w) for name, w in bench.state.weights.items()}
    losses = np.array(bench.advance(20).state.loss_sum), np.array(bench.advance(1000).state.loss_sum)
    assert all(np.abs(np.array(w) - start[name]).max() > 0 for name, w in bench.state.weights.items())
    assert (losses[1] - losses[0] < 1000 / 20 * losses[0]).all()


def test_steady_state_of_sgd_on_a_quadratic_loss():
    """One linear weight with unit input noise: stationary variance T v / (lambda (2 - epsilon lambda)) under iid batches.

    The network y = w3 W x, with n = 1 everywhere and identity activations, has the loss 1/2 (w3 (W - W*) x)^2. With a
    target of its own noise the gradient is lambda (W - W*) plus noise of variance v / B. The noise is put into the targets.
    """
    samples, batch, students = 2000, 4, 400
    experiment = Experiment(
        network=Network((1, 1, 1), "identity", (1,)),
        task=TeacherStudent(samples=samples, test_samples=1),
        sgd=Sgd(batch_size=batch, order="iid"),
        grid=Grid(learning_rate=(0.1, 0.5), sigma_w=(1.0,), seeds=students),
        schedule=Schedule(300),
        precision="float64",
    )
    with jax.enable_x64(True):
        bench = Bench(experiment, "autodiff")
        # x = 1 and a readout of 1 make lambda = 1; the targets are pure noise, so the best weight is 0 and v = 1.
        noise = np.random.default_rng(1).standard_normal((students, samples, 1))
        noise = (noise - noise.mean(1, keepdims=True)) / noise.std(1, keepdims=True)
        ones = jax.tree.map(jnp.ones_like, bench.tasks)
        own = ones.own._replace(targets=bench.ensemble.place(noise))
        bench.tasks = ones._replace(label=bench.tasks.label, own=own)
        weights = bench.advance(300).weights[:, :, 0, 0]
    for k, rate in enumerate(bench.rates):
        expected = rate / batch / (2 - rate)
        # The variance of a Gaussian estimated from n draws has a standard error of sqrt(2 / n) of itself.
        assert weights[:, k].var() == pytest.approx(expected, rel=4 * np.sqrt(2 / students))
        assert abs(weights[:, k].mean()) < 4 * np.sqrt(expected / students)


def one_weight(engine, u, precision):
    """Batch loss of students with the single weight u, feature 1, readout 1 and target 0: tanh(u)^2 / 2."""
    experiment = small(
        network=Network((1, 1, 1, 1), "tanh", (2,)), sgd=Sgd(batch_size=1), precision=precision,
        grid=Grid(temperature=(1.0,), sigma_w=tuple(range(1, len(u) + 1)), seeds=1),
    )  # fmt: skip
    bench = Bench(experiment, engine)
    ones = jax.tree.map(jnp.ones_like, bench.tasks)
    bench.tasks = ones._replace(label=bench.tasks.label, own=ones.own._replace(targets=jnp.zeros_like(ones.own.targets)))
    ((name, old),) = bench.state.weights.items()
    weights = jnp.broadcast_to(jnp.asarray(u, precision).reshape(1, -1, 1, 1), old.shape)
    bench.put(bench.state._replace(weights={name: jax.device_put(weights, old.sharding)}))
    return np.array(bench.advance(1).state.loss_sum[0])


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("engine", ["native", "pallas"])
def test_tanh_is_good_to_a_few_ulp_and_saturates(engine, precision):
    if engine == "pallas" and jax.devices()[0].platform != "gpu":
        pytest.skip("interpreted it has the tanh of XLA; its own is that of a GPU")
    u = np.concatenate([np.logspace(-6, 1, 300), -np.linspace(0.01, 9, 200), [25.0, -1000.0]]).astype(precision)
    with jax.enable_x64(precision == "float64"):
        loss = one_weight(engine, u, precision)
    exact = np.tanh(u.astype(np.longdouble)) ** 2 / 2
    # Squaring doubles the relative error of tanh; halving it is exact.
    ulp = np.finfo(precision).eps
    assert np.abs(loss / exact - 1).max() < 2 * 5 * ulp
    assert (loss[-2:] == 0.5).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_student_that_overflows_is_dated_and_alone(engine):
    """An infinite learning rate makes the first update the last finite one."""
    experiment = small(grid=Grid(temperature=(1.0, 2**-5), sigma_w=(1.0, 0.125), seeds=2))
    bench = with_an_infinite_rate(experiment, engine).advance(25)
    diverged = np.array(bench.state.diverged_step)[:2]
    assert (diverged[:, :2] == 1).all()
    assert (diverged[:, 2:] == -1).all()
    assert np.isfinite(bench.weights[:2, 2:]).all()


def test_a_mark_opens_the_window_anew():
    bench = Bench(small(grid=Grid(temperature=(0.1,), sigma_w=(1.0,), momentum=0.5, seeds=2)), "autodiff").advance(3)
    assert float(jnp.abs(bench.state.gradient_sum["2"]).max()) > 0
    bench.mark()
    assert bench.marked_step == 3
    assert not np.array(bench.state.loss_sum).any()
    assert not np.array(bench.state.gradient_sum["2"]).any()
    assert (np.array(bench.state.mark["2"]) == bench.weights).all()
