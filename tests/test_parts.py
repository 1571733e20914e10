"""Parts of one's own: what the documentation shows, at small size, and what makes each of them mean what it says."""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr
from conftest import COLD, FEW, small

import phasejax as pj
from phasejax import engines, training
from phasejax.observables import choose
from phasejax.observables.standard import standard

T = (2**-5, 0.25)


def test_a_preset_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(pj.Experiment, "preset", classmethod(lambda cls, name: small(schedule=pj.Schedule(2), observe=FEW)))
    assert pj.simulate("paper", tmp_path / "paper").sizes["seed"] == 3


@pytest.mark.long
def test_digits_with_cross_entropy_and_all_layers_trained():
    experiment = pj.Experiment(
        task=pj.Digits(), network=pj.Network((64, 32, 10), "relu"), sgd=pj.Sgd(batch_size=16),
        grid=pj.Grid(learning_rate=[0.01, 0.1, 1], sigma_w=[0.5, 1], seeds=2), schedule=pj.Schedule(180),
    )  # fmt: skip
    run = pj.simulate(experiment)
    assert run.test_accuracy.dims == ("step", "learning_rate", "sigma_w", "seed")
    last = run.isel(step=-1)
    assert float(last.test_accuracy.sel(learning_rate=0.1, sigma_w=1).mean()) > 0.8
    assert float(last.test_loss.sel(learning_rate=0.1, sigma_w=1).mean()) < 0.7
    assert {"eigenvalues_1", "weights_2", "K_S_2", "alignment", "G_t0"} <= set(run.data_vars)
    assert not {"teacher_overlap_1", "feature_overlap", "target_eigenvalues_1"} & set(run.data_vars)
    assert "feature_overlap is not recorded: the task has no teacher" in run.attrs["not_recorded"]
    # Against NumPy, from the weights in the file.
    _, _, x, y = pj.Digits().load()
    w1, w2 = (run[f"weights_{k}"].isel(step_decades=-1, learning_rate=1, sigma_w=1, seed=1).values for k in (1, 2))
    logits = np.maximum(x @ w1.T, 0) @ w2.T
    here = last.isel(learning_rate=1, sigma_w=1, seed=1)
    assert float(here.test_accuracy) == pytest.approx(np.mean(logits.argmax(1) == y), abs=1e-6)
    exact = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y])
    assert float(here.test_loss) == pytest.approx(exact, rel=1e-5)


def test_a_list_is_an_axis_and_a_number_is_not():
    experiment = small(grid=pj.Grid(temperature=T, momentum=[0.5, 0.9], sigma_w=1.0, seeds=2), observe=FEW)
    run = pj.simulate(experiment)
    assert run.test_loss.dims == ("step", "temperature", "momentum", "seed")
    assert run.sigma_w.dims == ()
    assert run.learning_rate.dims == ("temperature", "momentum")
    np.testing.assert_allclose(run.learning_rate, 4 * run.temperature * (1 - run.momentum))
    alone = small(grid=pj.Grid(temperature=0.25, momentum=0.9, sigma_w=1.0, seeds=2), observe=FEW)
    one = pj.simulate(alone)
    assert one.test_loss.dims == ("step", "seed")
    assert (one.attrs["axes"], run.attrs["axes"]) == ("", "temperature momentum")
    same = run.sel(temperature=0.25, momentum=0.9)
    np.testing.assert_allclose(one.test_loss, same.test_loss, rtol=1e-4)
    three = small(grid=pj.Grid(sigma_w=[1.0, 0.5], momentum=[0.0, 0.5], temperature=T, seeds=2), observe=FEW)
    assert pj.simulate(three).test_loss.dims == ("step", "sigma_w", "momentum", "temperature", "seed")


def test_axes_in_any_order_are_the_same_students():
    one = small(grid=pj.Grid(temperature=T, sigma_w=[0.125, 1.0, 8.0], seeds=2))
    other = small(grid=pj.Grid(sigma_w=[8.0, 0.125, 1.0], temperature=T[::-1], seeds=2))
    a, b = pj.simulate(one), pj.simulate(other)
    b = b.sel(temperature=a.temperature, sigma_w=a.sigma_w).transpose(*a.dims)
    for name in FEW:
        np.testing.assert_array_equal(a[name], b[name].transpose(*a[name].dims), name)


def test_momentum_and_weight_decay_of_zero_are_plain_sgd_and_small_ones_are_not():
    plain = pj.simulate(small(observe=FEW))
    zero = pj.simulate(
        small(grid=pj.Grid(**dict(small().grid.numbers), momentum=0.0, weight_decay=0.0, seeds=3), observe=FEW)
    )
    xr.testing.assert_identical(plain.drop_attrs(), zero.drop_vars(("momentum", "weight_decay")).drop_attrs())
    decayed = small(grid=pj.Grid(temperature=0.25, sigma_w=1.0, weight_decay=[0.0, 0.3], seeds=2), observe=FEW)
    weights = np.abs(pj.simulate(decayed).weights.isel(step_decades=-1)).mean(("seed", "node", "input"))
    assert float(weights[1]) < 0.3 * float(weights[0])


def test_annealing_is_training_at_every_rate_on_the_way():
    """Against a loop written out, in double precision."""
    rates = pj.Schedule(60, rate=[(0, 1), (1, 2**-5)], records_per_decade=1)
    experiment = small(
        grid=pj.Grid(temperature=[0.25], sigma_w=1.0, seeds=1), schedule=rates, precision="float64", observe=FEW
    )
    run = pj.simulate(experiment)
    np.testing.assert_allclose(run.learning_rate_factor, 2.0 ** (-5 * run.step / 60))
    with training.settings_of(experiment):
        advance = engines.autodiff.advance(experiment, jax.devices())
        bench = training.Training(experiment, advance, (), jax.devices())
        w, frozen = bench.state.weights["2"][0, 0], {"3": bench.tasks.frozen["3"][0]}
        batches = jax.tree.map(lambda array: array[0], bench.batches())
        weights, gradients, losses = {"2": w}, [], []

        def loss(weights, k):
            outputs = experiment.network.apply(frozen | weights, batches.features[k])[0]
            return 0.5 * jnp.mean(jnp.sum((outputs - batches.targets[k]) ** 2, -1))

        for k in range(60):
            value, gradient = jax.value_and_grad(loss)(weights, k)
            weights = {"2": weights["2"] - 2.0 ** (-5 * k / 60) * gradient["2"]}
            gradients.append(np.array(gradient["2"]))
            losses.append(float(value))
    found = run.isel(temperature=0, seed=0)
    np.testing.assert_allclose(found.weights.isel(step_decades=-1), weights["2"], rtol=1e-10)
    assert float(found.gradient_norm[-1]) == pytest.approx(np.linalg.norm(sum(gradients[-20:])) / 20, rel=1e-10)
    assert float(found.train_loss[-1]) == pytest.approx(sum(losses[-20:]) / 20, rel=1e-10)


@pytest.mark.parametrize("rate", [[(0, 1), (1, 0.1)], "cosine"])
def test_cutting_resuming_and_sharding_change_no_bit_under_a_schedule(tmp_path, rate):
    experiment = small(
        schedule=pj.Schedule(60, rate=rate), grid=pj.Grid(temperature=[1.0], sigma_w=[1.0], seeds=4), observe=FEW
    )
    expected = pj.simulate(experiment).drop_attrs()
    calls = iter([False] * 6 + [True] * 100)
    with pytest.raises(pj.Interrupted):
        pj.simulate(experiment, tmp_path / "run", checkpoint_seconds=0, interrupted=lambda: next(calls))
    for k in (0, 1):
        pj.simulate(experiment, tmp_path / "run", resume=True, shard=(k, 2)).close()
    pj.merge(tmp_path / "run")
    xr.testing.assert_identical(pj.open(tmp_path / "run").drop_attrs(), expected)


def clipped(learning_rate, clip):
    return optax.chain(optax.clip_by_global_norm(clip), optax.sgd(learning_rate))


def test_any_optax_chain_whose_keywords_are_numbers_of_a_cell():
    experiment = small(
        sgd=pj.Sgd(optimizer=clipped), grid=pj.Grid(learning_rate=[0.1, 1.0], clip=[1e-6, 1.0], sigma_w=1.0, seeds=2)
    )
    run = pj.simulate(experiment)
    assert run.test_loss.dims == ("step", "learning_rate", "clip", "seed")
    assert run["clip"].attrs["long_name"] == "clip, of the optimizer test_parts:clipped"
    moved = np.abs(run.weights.isel(step_decades=-1) - run.weights.isel(step_decades=0)).max(("node", "input"))
    assert float(moved.sel(clip=1e-6).max()) <= 60 * 1e-6 * 1.01
    assert float(moved.sel(clip=1.0).min()) > 1e-3


@dataclass(frozen=True)
class Residual:
    width: int = 8
    inputs: int = 3

    def init(self, key):
        a, b, c = jax.random.split(key, 3)
        return {
            "into": jax.random.normal(a, (self.width, self.inputs), jnp.float32) / np.sqrt(self.inputs),
            "inner": jax.random.normal(b, (self.width, self.width), jnp.float32) / np.sqrt(self.width),
            "gain": jnp.ones(self.width, jnp.float32),
            "out": jax.random.normal(c, (1, self.width), jnp.float32) / np.sqrt(self.width),
        }

    def apply(self, weights, x):
        h = jnp.tanh(x @ weights["into"].T)
        h = h + weights["gain"][None] * jnp.tanh(h @ weights["inner"].T)
        return h @ weights["out"].T, h


def test_a_network_of_ones_own_learns_from_a_teacher_of_its_kind():
    run = pj.simulate(
        small(network=Residual(), grid=pj.Grid(temperature=T, sigma_w=[0.5, 2.0], seeds=2), precision="float64")
    )
    assert {"eigenvalues_inner", "weights_gain", "teacher_overlap_out", "feature_overlap", "test_loss"} <= set(run.data_vars)
    assert not {"K_S_inner", "alignment"} & set(run.data_vars)
    start = run.isel(step_decades=0)
    ratio = start.weights_inner.sel(sigma_w=2.0) / start.weights_inner.sel(sigma_w=0.5)
    np.testing.assert_allclose(ratio, 4, rtol=1e-12)
    assert (start.weights_gain == 1).all(), "sigma_W scales matrices, not gains"
    matrix = start.weights_inner.isel(temperature=0, sigma_w=0, seed=1).values
    np.testing.assert_allclose(run.eigenvalues_inner.isel(step=0, temperature=0, sigma_w=0, seed=1),
                               np.linalg.eigvalsh(matrix @ matrix.T), rtol=1e-9, atol=1e-12)  # fmt: skip
    assert float(run.test_loss.isel(step=-1).mean()) < float(run.test_loss.isel(step=0).mean())


def test_observables_are_chosen_by_name_and_by_object():
    rank = pj.Observable("rank", lambda student, task: jnp.sum(student.eigenvalues["2"]) / student.eigenvalues["2"][-1])
    run = pj.simulate(small(), observe=["test_loss", rank])
    assert set(run.data_vars) == {"test_loss", "rank"}
    everything = pj.simulate(small(), observe=["standard", rank])
    assert set(everything.data_vars) > {"rank", "K_S"}
    np.testing.assert_array_equal(everything.test_loss, run.test_loss)
    np.testing.assert_allclose(
        run["rank"], everything.eigenvalues.sum("level") / everything.eigenvalues.isel(level=-1), rtol=1e-5
    )
    layers = small(network=pj.Network((3, 4, 4, 1)), observe=("eigenvalues",))
    assert set(pj.simulate(layers).data_vars) == {f"eigenvalues_{k}" for k in (1, 2, 3)}
    ends = pj.simulate(small(observe=("full_gradient_norm", "weights"), schedule=pj.Schedule(60, weights="records")))
    assert ends.weights.dims[0] == "step"
    assert ends.sizes["step"] == len(small().ladder.records())


@pytest.mark.parametrize(("observe", "words"), [
    (["test_los"], "observe: test_los.*did you mean observe: test_loss"),
    (["test_accuracy"], "nothing is left to record; test_accuracy is not recorded: the targets are no labels"),
    ([pj.Observable("mine", lambda s, t: 1 / 0)], "The observable mine fails: ZeroDivisionError: division by zero"),
    ([pj.Observable("mine", lambda s, t: s.nothing)], "The observable mine fails: AttributeError"),
    ([pj.Observable("mine", lambda s, t: s.step, needs=("luck",))], "its `needs` has 'luck'; choose from teacher"),
    ([pj.Observable("mine", lambda s, t: s.step), pj.Observable("mine", lambda s, t: s.step)], "two observables have this"),
])  # fmt: skip
def test_what_cannot_be_observed_is_one_sentence(tmp_path, observe, words):
    with pytest.raises(pj.ExperimentError, match=words):
        pj.simulate(small(), tmp_path / "run", observe=observe)
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_a_record_of_a_wide_network_costs_the_loss_and_the_spectra_only():
    experiment = small(network=pj.Network((10, 128, 128, 1)), observe=("test_loss", "eigenvalues"))
    whole = dataclasses.replace(experiment, observe=("standard",))
    texts = []
    for one in (experiment, whole):
        chosen = choose(one, standard(one.network, one.task)).observables
        with training.settings_of(one):
            advance = engines.autodiff.advance(one, jax.devices())
            ensemble = training.Training(one, advance, chosen, jax.devices()).ensemble
            function = ensemble.observe["records"]
            texts.append(function.lower(*ensemble.shapes(one)["observe records"]).compile().as_text())
    assert "end_rows" not in texts[0]
    assert "tanh" in texts[0]
    assert texts[0].count("gesdd") <= 3
    # One level dynamics a layer, with a symmetric decomposition each, are what is saved.
    assert len(texts[1]) > 2 * len(texts[0])
    assert "syevd" in texts[1]
    assert "syevd" not in texts[0]


# -- data ------------------------------------------------------------------------------------------------------------------


def regression(samples=40, seed=0):
    rng = np.random.default_rng(seed)
    x, test_x = rng.standard_normal((samples, 5)).astype(np.float32), rng.standard_normal((7, 5)).astype(np.float32)
    return x, x[:, :2] ** 2, test_x, test_x[:, :2] ** 2


def test_arrays_are_the_same_from_memory_and_from_a_file(tmp_path):
    names = ("x", "y", "test_x", "test_y")
    arrays = regression()
    np.savez(tmp_path / "mine.npz", **dict(zip(names, arrays, strict=True)))
    network = pj.Network((5, 6, 2), "tanh")
    runs = [
        pj.simulate(small(task=task, network=network, observe=FEW, grid=pj.Grid(temperature=T, sigma_w=1.0, seeds=3)))
        for task in (pj.Arrays(*arrays), pj.Arrays(path=str(tmp_path / "mine.npz")))
    ]
    xr.testing.assert_identical(runs[0].drop_attrs(), runs[1].drop_attrs())
    assert runs[0].test_loss.notnull().all()
    read = pj.Experiment.from_toml(runs[1].attrs["experiment"])
    assert read.task == pj.Arrays(path=str(tmp_path / "mine.npz"))
    assert (read.task.loss, read.task.samples) == ("mse", 40)
    np.savez(tmp_path / "mine.npz", **dict(zip(names, regression(seed=1), strict=True)))
    with pytest.raises(pj.ExperimentError, match=r"task.path = .*the file is not the one it was"):
        pj.simulate(read)
    with pytest.raises(pj.ExperimentError, match="known by their digest only"):
        pj.simulate(pj.Experiment.from_toml(runs[0].attrs["experiment"]))


@pytest.mark.parametrize(("arrays", "words"), [
    ((np.zeros((4, 2)), np.zeros((3, 1)), np.zeros((1, 2)), np.zeros((1, 1))), "do not fit together"),
    ((np.zeros((4, 2)), np.zeros(4), np.zeros((1, 2)), np.zeros(1)), "task.y = .*integer labels"),
    ((np.array([["a"]]), np.zeros((1, 1)), np.zeros((1, 1)), np.zeros((1, 1))), "task.x = .*numbers"),
    ((np.zeros((0, 2)), np.zeros((0, 1)), np.zeros((1, 2)), np.zeros((1, 1))), r"task.x = \(0, 2\)"),
])  # fmt: skip
def test_arrays_that_are_no_data_are_refused(arrays, words):
    with pytest.raises(pj.ExperimentError, match=words):
        pj.Arrays(*arrays)


@pytest.mark.long
def test_shared_data_train_as_a_task_that_has_a_copy_a_seed():
    """Indices gathered in the step against batches made beforehand, to the bit."""
    arrays = regression()

    for order in ("cyclic", "shuffled", "iid"):
        parts = {
            "network": pj.Network((5, 6, 2)), "sgd": pj.Sgd(order=order), "observe": FEW,
            "grid": pj.Grid(temperature=T, sigma_w=1.0, seeds=3),
        }  # fmt: skip
        shared, own = (pj.simulate(small(task=task, **parts)) for task in (pj.Arrays(*arrays), Copies()))
        # Cast again behind the axis of seeds the same products may be taken in another order.
        for name in ("weights_1", "weights_2", "test_loss"):
            np.testing.assert_allclose(shared[name], own[name], rtol=2e-5, atol=2e-6)
        assert not (shared.weights_1.isel(seed=0, step_decades=0) == shared.weights_1.isel(seed=1, step_decades=0)).any()


@dataclass(frozen=True)
class Copies:
    samples: int = 40
    loss: str = "mse"

    def draw(self, keys, network, dtype):
        return pj.Data(*(jnp.asarray(array, dtype) for array in regression())), {}


def test_a_teacher_from_a_file(tmp_path):
    experiment = small(observe=FEW)
    teacher = experiment.network.init(jax.random.key(7))
    np.savez(tmp_path / "teacher.npz", **{name: np.array(array) for name, array in teacher.items()})
    given = pj.TeacherStudent(80, 16, teacher=str(tmp_path / "teacher.npz"))
    run = pj.simulate(dataclasses.replace(experiment, task=given))
    w = np.array(teacher["2"], float)
    np.testing.assert_allclose(run.target_eigenvalues, np.tile(np.linalg.eigvalsh(w @ w.T), (3, 1)), rtol=1e-4)
    (tmp_path / "teacher.npz").write_bytes(b"")
    with pytest.raises(pj.ExperimentError, match="not the one it was"):
        pj.simulate(dataclasses.replace(experiment, task=given))
    np.savez(tmp_path / "other.npz", **{"1": np.zeros((2, 2))})
    with pytest.raises(pj.ExperimentError, match=r"its array 1 must be of shape \(32, 3\), and is there \(2, 2\)"):
        pj.simulate(dataclasses.replace(experiment, task=pj.TeacherStudent(80, 16, teacher=str(tmp_path / "other.npz"))))


@pytest.mark.parametrize("order", ["cyclic", "iid"])
def test_replicas_share_teacher_and_data_and_nothing_else(order):
    grid = pj.Grid(temperature=0.25, sigma_w=1.0, seeds=6, first_seed=3, replicas=3)
    run = pj.simulate(small(grid=grid, sgd=pj.Sgd(order=order), observe=("weights", "target_eigenvalues", "train_loss")))
    assert run.teacher.values.tolist() == [1, 1, 1, 2, 2, 2]
    target = run.target_eigenvalues
    assert (target[0] == target[1]).all()
    assert not (target[0] == target[3]).any()
    start = run.weights.isel(step_decades=0)
    assert not (start.isel(seed=0) == start.isel(seed=1)).any()
    # Label 1 of a grid without replicas has the data of the replicas of teacher 1.
    alone = pj.simulate(
        small(grid=pj.Grid(temperature=0.25, sigma_w=1.0, seeds=1, first_seed=1), observe=("target_eigenvalues",))
    )
    assert (alone.target_eigenvalues[0] == target[0]).all()


# -- starts ----------------------------------------------------------------------------------------------------------------


def test_a_start_at_the_teacher_is_its_weights_and_a_perturbation():
    grid = pj.Grid(temperature=list(COLD[:2]), sigma_w=1.0, seeds=2)
    runs = [pj.simulate(small(grid=grid, start=pj.FromTeacher(size))) for size in (0.0, 1e-3)]
    exact, near = (run.isel(step=0, step_decades=0) for run in runs)
    assert float(exact.test_loss.max()) < 1e-13
    np.testing.assert_allclose(exact.teacher_overlap, 1, rtol=1e-6)
    drawn = pj.simulate(small(grid=grid, schedule=pj.Schedule(0))).weights.isel(step_decades=0)
    np.testing.assert_allclose(near.weights - exact.weights, 1e-3 * drawn, rtol=0, atol=1e-6)
    assert float(runs[0].test_loss.max()) < 1e-13, "at the teacher's weights nothing moves"


@pytest.mark.long
def test_a_start_at_another_runs_weights(tmp_path):
    hot = small(grid=pj.Grid(temperature=[1.0, 4.0], sigma_w=[0.125, 1.0], seeds=3), observe=FEW)
    pj.simulate(hot, tmp_path / "hot").close()
    path = str(tmp_path / "hot.nc")
    start = pj.FromRun(path, at={"temperature": 4.0}, along=("sigma_w",))
    cold = small(grid=pj.Grid(temperature=list(T), sigma_w=[1.0, 0.125], seeds=2, first_seed=1), start=start)
    run = pj.simulate(cold, tmp_path / "cold")
    with xr.open_dataset(path) as source:
        expected = source.weights.isel(step_decades=-1).sel(temperature=4.0, seed=[1, 2])
        begun = run.weights.isel(step_decades=0)
        for temperature in T:
            here = begun.sel(temperature=temperature).sel(sigma_w=[0.125, 1.0])
            np.testing.assert_array_equal(here, expected.sel(sigma_w=[0.125, 1.0]).transpose(*here.dims))
    first = run.isel(step=0)
    np.testing.assert_allclose(first.G_t0, first.G_00, rtol=1e-6)
    again = pj.Experiment.from_toml(run.attrs["experiment"])
    xr.testing.assert_identical(pj.simulate(again).drop_attrs(), run.drop_attrs().load())
    for start, words in (
        (pj.FromRun(path, along=("sigma_w",)), "has the axes temperature, sigma_w"),
        (pj.FromRun(path, at={"temperature": 3.0}, along=("sigma_w",)), "that run has temperature = 1.0, 4.0"),
        (pj.FromRun(path, at={"temperature": 4.0}, along=("sigma_w",), step=7), "recorded weights at 0, 1, 10, 60"),
    ):
        with pytest.raises(pj.ExperimentError, match=words):
            pj.simulate(dataclasses.replace(cold, start=start))
    with pytest.raises(pj.ExperimentError, match=r"weights 2 are \(16, 32\), and \(4, 4\) is needed"):
        pj.simulate(dataclasses.replace(cold, network=pj.Network((3, 4, 4, 1), trainable=(2,))))
    (tmp_path / "hot.nc").unlink()
    with pytest.raises(pj.ExperimentError, match="cannot be read"):
        pj.simulate(cold)


# -- engines of one's own --------------------------------------------------------------------------------------------------


class Lazy:
    """Leaves students as they are."""

    name = "lazy"

    def why_not(self, experiment, devices):
        return "it is tired" if experiment.precision == "float64" else None

    def advance(self, experiment, devices):
        return lambda state, tasks, batches, cells, clock: state


def test_an_engine_is_an_object():
    run = pj.simulate(small(), engine=Lazy(), observe=["weights"])
    assert (run.weights == run.weights.isel(step_decades=0)).all()
    assert run.attrs["engine"] == "lazy"
    with pytest.raises(pj.ExperimentError, match="engine = 'lazy' is not possible: it is tired"):
        pj.simulate(small(precision="float64"), engine=Lazy())
    with pytest.raises(pj.ExperimentError, match="has no name"):
        pj.simulate(small(), engine=object())
