"""Advice: what a plane of known shape is read as, when it is not known, and the way from an experiment to a setting."""

import dataclasses
import html
import math
from typing import Any

import numpy as np
import optax
import pytest
import xarray as xr
from conftest import small

import phasejax as pj
from phasejax.advice import pilot, reading, words
from phasejax.advice.advising import Advice
from phasejax.advice.report import report
from phasejax.claims import check
from phasejax.cli import main
from phasejax.observables.standard import constant_loss
from phasejax.studies.advice import claims as advice_claims
from phasejax.studies.advice import truth
from phasejax.tasks import mean_loss_of

T = 2.0 ** np.arange(-6, 6)
SIGMA_W = 2.0 ** np.arange(-2, 5)
CAP = -1.0


def plane(y, *, rates=T, sigma_w=SIGMA_W, lost=None, seeds=5, steps=(0, 25, 100), scatter=0.0):
    """A run whose log10 loss is y(step, T, sigma_W), with a shift of every seed."""
    shape = (len(steps), len(rates), len(sigma_w), seeds)
    grid = np.meshgrid(steps, rates, sigma_w, np.arange(seeds), indexing="ij")
    loss = 10 ** np.broadcast_to(y(*grid), shape)
    loss = loss * 10 ** (scatter * np.random.default_rng(0).standard_normal((1, *shape[1:])))
    diverged = np.full(shape, -1) if lost is None else np.where(lost(*grid), 7, -1)
    dims = ("step", "temperature", "sigma_w", "seed")
    experiment = pj.Experiment(
        grid=pj.Grid(temperature=rates, sigma_w=sigma_w, seeds=seeds), schedule=pj.Schedule(steps[-1])
    )
    return xr.Dataset(
        {"test_loss": (dims, loss), "diverged_step": (dims, diverged), "constant_loss": ("seed", np.full(seeds, 10**CAP))},
        {"step": list(steps), "temperature": rates, "sigma_w": sigma_w, "seed": np.arange(seeds),
         "inverse_sigma_w": ("sigma_w", 1 / sigma_w), "epoch": ("step", np.array(steps) / 1000)},
        {"experiment": experiment.to_toml(), "format_version": 2, "axes": "temperature sigma_w"},
    )  # fmt: skip


def step_at(centre, low=-4.0, width=0.5):
    """y that goes from `low` to the cap and is at the level of a boundary at `centre(sigma_W)`, of a seed beside it."""
    shift = width * math.log(reading.LEVEL / (1 - reading.LEVEL))
    return lambda step, t, s, seed: (
        low + (CAP - low) / (1 + np.exp(-(np.log2(t) - np.log2(centre(s)) + shift - 0.1 * (seed - 2)) / width))
    )


def test_a_boundary_is_found_where_it_is_put():
    found = reading.read(plane(step_at(lambda s: s**0.5)))
    assert set(found.columns.kind.values) == {"boundary"}
    assert np.allclose(np.log2(found.columns.T_c), 0.5 * np.log2(SIGMA_W), atol=0.1)
    assert (found.columns.low < SIGMA_W**0.5).all()
    assert (found.columns.high > SIGMA_W**0.5).all()
    assert np.allclose(found.columns.contrast, 3, atol=0.1)
    assert found.best.rate == T[0]


def test_the_last_rise_counts():
    def twice(step, t, s, seed):
        return np.where(t < 2**-4.5, -3.9, np.where(t < 2**-2.5, -1.5, np.where(t < 2**0.5, -4.0, CAP)))

    assert np.allclose(np.log2(reading.read(plane(twice)).columns.T_c), reading.LEVEL)


def test_of_cells_as_good_as_each_other_the_colder_is_taken_but_none_far_below():
    found = reading.read(
        plane(lambda step, t, s, seed: np.where(t > 1.5, CAP, -3 + 0.01 * np.abs(np.log2(t)) + 0.02 * (s != 2)))
    )
    assert found.best[:2] == (0.5, 2)
    found = reading.read(
        plane(lambda step, t, s, seed: np.where(t > 1.5, CAP, -3 + 0.1 * np.abs(np.log2(t)) + 0.2 * (s != 2)))
    )
    assert found.best[:2] == (1, 2)


def test_students_that_diverge_count_as_a_constant_and_say_so():
    run = plane(lambda step, t, s, seed: np.where(t > 1.5, np.nan, -4 + 0 * t), lost=lambda step, t, s, seed: t > 1.5)
    found = reading.read(run)
    assert set(found.columns.kind.values) == {"divergence"}
    assert np.allclose(np.log2(found.columns.T_c), reading.LEVEL)
    assert np.allclose(found.y.sel(temperature=[2.0, 32.0]), CAP)
    # infinite losses of students that never had a batch without a number are the same
    run = plane(lambda step, t, s, seed: np.where(t > 1.5, np.inf, -4 + 0 * t))
    assert np.allclose(np.log2(reading.read(run).columns.T_c), reading.LEVEL)


def test_worse_than_a_constant_is_as_good_as_one():
    found = reading.read(plane(lambda step, t, s, seed: np.where(t > 1.5, 5.0 * np.log2(t), -4 + 0 * t)))
    assert np.allclose(found.y.max(), CAP)
    assert set(found.columns.kind.values) == {"boundary"}


def test_no_boundary_where_the_hot_are_as_good():
    found = reading.read(plane(lambda step, t, s, seed: np.where(t > 1, -3.5, -4.0) + 0 * s))
    assert set(found.columns.kind.values) == {"none"}
    assert found.columns.T_c.isnull().all()


def test_a_plateau_that_is_not_reached_gives_no_number():
    rising = plane(lambda step, t, s, seed: -4 + np.maximum(0, np.log2(t) - 2))
    found = reading.read(rising)
    assert set(found.columns.kind.values) == {"no plateau"}
    assert found.columns.T_c.isnull().all()
    assert pilot.beyond(rising) == [64, 128, 256]


def test_more_of_a_plane_is_asked_for_where_it_ends_too_early():
    assert pilot.beyond(plane(step_at(lambda s: 0 * s + 1, width=2))) == [2**-9, 2**-8, 2**-7]
    deep = plane(lambda step, t, s, seed: np.where(t > 1, CAP, -3 + 0.1 * np.abs(np.log2(t) + 2)))
    assert pilot.beyond(deep) == []


def test_nothing_learned_is_said_with_what_would_do():
    # The gain grows as the square root of the steps: to be a decade it takes (1 / 0.04)^2 as many; 100 is the most said.
    run = plane(lambda step, t, s, seed: CAP - 0.004 * np.sqrt(step) * (t < 1))
    found = reading.read(run)
    assert not found.learned
    assert set(found.columns.kind.values) == {"nothing learned"}
    assert reading.budget_needed(run) == 100
    assert math.isnan(reading.budget_needed(plane(lambda step, t, s, seed: CAP + 0 * t)))


def test_the_jamming_boundary_lies_along_sigma_w():
    def jammed(step, t, s, seed):
        return np.maximum(step_at(lambda s: 0 * s + 1)(step, t, s, seed), np.where(s > 2.9, CAP, -4))

    found = reading.read(plane(jammed)).jamming
    assert float(np.log2(found.sigma_c)) == pytest.approx(1 + reading.JAMMING_LEVEL, abs=0.05)
    assert found.low < found.sigma_c < found.high
    assert np.isnan(reading.read(plane(step_at(lambda s: 0 * s + 1))).jamming.sigma_c)


def test_intervals_widen_with_the_scatter_of_seeds():
    quiet, noisy = (reading.read(plane(step_at(lambda s: 0 * s + 1), scatter=of)).columns for of in (0.0, 0.5))
    assert (np.log2(quiet.high / quiet.low) >= 2 * reading.SPREAD).all()
    assert np.log2(noisy.high / noisy.low).mean() > np.log2(quiet.high / quiet.low).mean() + 0.1
    single = reading.read(plane(step_at(lambda s: 0 * s + 1), seeds=1)).columns
    assert np.isinf(single.error).all()


def test_the_jackknife_is_that_of_a_mean():
    """Where T_c is linear in the seeds its error is the standard error of their mean."""
    shifts = 0.1 * (np.arange(5) - 2)
    run = plane(lambda step, t, s, seed: np.clip(0.5 * (np.log2(t) - shifts[seed.astype(int)]) - 2.6, -4, -1.2))
    found = reading.read(run).columns
    assert np.allclose(found.error, shifts.std(ddof=1) / 5**0.5, atol=1e-6)


def advice_on(run, experiment=None):
    """Advice as it follows from a plane."""
    return Advice(experiment or pj.Experiment(schedule=pj.Schedule(10_000)), run, reading.read(run), 0.1)


def test_sentences_say_what_was_found():
    def jammed(step, t, s, seed):
        return np.maximum(step_at(lambda s: 0 * s + 1)(step, t, s, seed), np.where(s > 2.9, CAP, -4))

    said = str(advice_on(plane(jammed)))
    assert "Recommended: learning rate 0.0625 (temperature 0.0156)" in said
    assert "the least temperature that was tried" in said
    assert "At sigma_w 1 training is lost above temperature 0.99" in said
    assert "start too large to learn above sigma_w 2.83" in said
    assert "At sigma_w 4, 8, 16 nothing has been learned yet." in said
    assert "as much as 4.2 trainings of one student" in said
    falling = step_at(lambda s: 4 / s, width=0.2)
    sideways = str(advice_on(plane(lambda step, t, s, seed: np.minimum(falling(step, t, s, seed) - 0.1 * np.log2(t), CAP))))
    assert "where it meets the temperature boundary" in sideways
    assert "start too large" not in sideways
    nothing = str(advice_on(plane(lambda step, t, s, seed: CAP + 0 * t)))
    assert nothing.startswith("No advice: after 100 steps nothing has been learned")
    assert "try --budget 0.1," in nothing
    slow = str(advice_on(plane(lambda step, t, s, seed: CAP - 0.008 * np.sqrt(step) * (t < 1))))
    assert "--budget 1 should do" not in slow
    assert "about as many steps as are planned" in slow
    assert "Recommended" not in nothing


def test_a_loop_of_ones_own_gets_its_own_units():
    experiment = pj.Experiment(network=pj.Network((3, 8, 2), trainable=(2,)), grid=pj.Grid(temperature=1.0, momentum=0.75))
    found = advice_on(plane(step_at(lambda s: 0 * s + 1)), experiment)
    assert found.learning_rate == T[0] * 4 * 0.25
    assert dict(found.recommended.grid.numbers) == {"temperature": T[0], "sigma_w": found.sigma_w, "momentum": 0.75}
    said = " ".join(words.in_a_loop(found))
    assert f"torch.optim.SGD(parameters, lr={found.learning_rate:.4g}, momentum=0.75)" in said
    decayed = dataclasses.replace(experiment, grid=pj.Grid(temperature=1.0, momentum=0.75, weight_decay=1e-4))
    said_too = words.in_a_loop(advice_on(found.pilot, decayed))[0]
    assert f"optax.chain(optax.add_decayed_weights(0.0001), optax.sgd({found.learning_rate:.4g}, momentum=0.75))" in said_too
    assert f"lr={found.learning_rate:.4g}, momentum=0.75, weight_decay=0.0001)" in said_too
    stds = words.initial_stds(experiment, 0.5)
    assert stds == {"1": pytest.approx(3**-0.5), "2": pytest.approx(0.5 * 8**-0.5)}
    assert "times 1." in said  # half of two outputs


def test_optimizers_are_told_apart_by_whether_updates_vanish_with_gradients():
    def clipped(learning_rate, clip):
        return optax.chain(optax.clip_by_global_norm(clip), optax.sgd(learning_rate))

    plain = pj.Grid(learning_rate=0.1)
    grids = {"sgd": pj.Grid(learning_rate=0.1, momentum=0.9), "adam": plain, optax.rmsprop: plain,
             clipped: pj.Grid(learning_rate=0.1, clip=1.0)}  # fmt: skip
    found = [pilot.normalises(pj.Experiment(sgd=pj.Sgd(of), grid=grid)) for of, grid in grids.items()]
    assert found == [False, True, True, False]


def test_where_updates_do_not_vanish_boundary_and_best_rate_are_carried_on():
    run = plane(step_at(lambda s: 0 * s + 1)).rename(temperature="learning_rate")
    adam = pj.Experiment(sgd=pj.Sgd("adam"), grid=pj.Grid(learning_rate=T, b2=0.99), schedule=pj.Schedule(10_000))
    run.attrs.update(experiment=adam.to_toml(), axes="learning_rate sigma_w")
    short, long = reading.read(run, 0.0), reading.read(run, 2.0)
    assert np.allclose(long.columns.T_c, short.columns.T_c / 100**reading.BOUNDARY_FALLS)
    assert (long.best.rate, long.found) == (pytest.approx(short.best.rate / 100**reading.BEST_FALLS), short.best.rate)
    said = " ".join(words.sentences(Advice(adam, run, long, math.nan)))
    assert f"the pilot's own best was {T[0]:.3g}" in said
    assert "torch.optim.Adam(parameters, lr=0.002476, betas=(0.9, 0.99))" in said
    assert "temperature" not in said


def test_a_network_of_ones_own_is_drawn_to_see_its_stds():
    @dataclasses.dataclass(frozen=True)
    class Own:
        def init(self, key):
            return {"w": 3 * np.ones((4, 4), "float32") * np.array([1, -1, 1, -1]), "b": np.zeros(4, "float32")}

        def apply(self, weights, x):
            return x @ weights["w"], x

    assert words.initial_stds(pj.Experiment(network=Own()), 2.0) == {"w": pytest.approx(6), "b": 0}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"grid": pj.Grid(momentum=[0, 0.9])}, "grid.momentum"),
        ({"start": pj.FromTeacher(), "grid": pj.Grid(sigma_w=1)}, "start = 'FromTeacher'"),
        ({"schedule": pj.Schedule(500)}, "budget = 0.01 is not possible: of 500 steps it leaves 5"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(change, said, tmp_path):
    with pytest.raises(pj.ExperimentError, match=said.replace("(", r"\(")):
        pj.advise(dataclasses.replace(small(schedule=pj.Schedule(10_000)), **change), tmp_path / "advice")
    assert not (tmp_path / "advice").exists()


@pytest.mark.parametrize("budget", [0, -1, 1.5, math.nan])
def test_a_budget_is_a_share(budget):
    with pytest.raises(pj.ExperimentError, match="budget"):
        pilot.pilot(pj.Experiment(), budget, 0.1)


def test_the_pilot_is_the_experiment_but_short():
    experiment = pj.Experiment(grid=pj.Grid(temperature=[1, 2], sigma_w=[0.5, 1], weight_decay=1e-4, seeds=30, first_seed=9))
    found = pilot.pilot(experiment, 0.02, 0.11)
    assert found.schedule.steps == 2000
    assert found.grid.axes == {"temperature": tuple(2.0**k for k in range(-7, 5)), "sigma_w": (0.5, 1)}
    assert (found.grid.weight_decay, found.grid.seeds, found.grid.first_seed) == (1e-4, 5, 9)
    adam = dataclasses.replace(experiment, sgd=pj.Sgd("adam"), grid=pj.Grid(learning_rate=0.1, sigma_w=1))
    assert list(pilot.pilot(adam, 0.1).grid.axes) == ["learning_rate"]


OURS = small(network=pj.Network((3, 8, 1)), grid=pj.Grid(learning_rate=0.5, sigma_w=(0.5, 1.0, 2.0), seeds=7),
             schedule=pj.Schedule(4000), task=pj.TeacherStudent(samples=400, test_samples=32))  # fmt: skip


@pytest.fixture(scope="module")
def advised(tmp_path_factory):
    """A small network's advice from a pilot of a tenth, and its folder."""
    folder = tmp_path_factory.mktemp("advice")
    return pj.advise(OURS, folder, budget=0.1), folder


def test_from_an_experiment_to_a_setting(advised):
    found, folder = advised
    assert found.pilot.sizes["step"] > 3
    assert found.cost == pytest.approx(found.reading.y.size * 5 * 0.1)
    assert found.learning_rate == 4 * found.temperature
    # asked in learning rates, answered in learning rates, and all else as it was
    expected = pj.Grid(learning_rate=found.learning_rate, sigma_w=found.sigma_w, seeds=7)
    assert found.recommended == dataclasses.replace(OURS, grid=expected)
    with xr.open_dataset(folder / "pilot.nc") as run:
        assert run.attrs["experiment"]  # a run like any other


def test_the_guess_is_the_edge_at_the_start_of_sigma_w_one(advised):
    found, folder = advised
    with xr.open_dataset(folder / "start.nc") as run:
        assert float(run.sigma_w) == 1
        each = 2 / (run.noise_sharpness + 3 * run.sharpness)
        assert np.allclose(found.edge, np.exp(np.log(each).mean()))
    assert 2.0 ** round(math.log2(found.edge)) in found.pilot.temperature


def test_what_is_there_is_not_trained_again(advised):
    found, folder = advised
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = pj.advise(OURS, folder, budget=0.1)
    assert str(again) == str(found)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir() if path in before} == before
    with pytest.raises(pj.StoreError):
        pj.advise(OURS, folder, budget=0.05)


def test_the_report_has_a_map_a_page_and_settings(advised, tmp_path):
    found, _ = advised
    written = report(found, tmp_path)
    assert {path.name for path in written} == {"map.png", "map.pdf", "recommended.toml", "index.html"}
    assert pj.Experiment.read(tmp_path / "recommended.toml") == found.recommended
    page = (tmp_path / "index.html").read_text()
    assert all(html.escape(sentence) in page for sentence in str(found).splitlines())


def test_a_single_sigma_w_is_a_curve(tmp_path):
    run = plane(step_at(lambda s: 0 * s + 1)).isel(sigma_w=[2])
    found = advice_on(run)
    assert "jamming" not in str(found)
    assert len(report(found, tmp_path)) == 4


def test_the_constant_loss_is_that_of_the_mean_and_of_the_shares():
    network = pj.Network((3, 4, 2))
    draw: Any = {"1": np.zeros((4, 3), "float32"), "2": np.zeros((2, 4), "float32")}
    x: Any = np.zeros((8, 3), "float32")
    y: Any = np.arange(16, dtype="float32").reshape(8, 2)
    ones: Any = np.ones((8, 2), "float32")
    labels: Any = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    test: Any = np.array([0, 1, 1, 1, 1, 1, 1, 1])
    zero: Any = np.int32(0)
    task = pj.Task(zero, {}, draw, {}, {}, (), pj.Data(x, y, x, ones), ())
    assert np.allclose(constant_loss(network, mean_loss_of(pj.TeacherStudent()), task), 0.5 * (6**2 + 7**2))
    task = task._replace(own=pj.Data(x, labels, x, test))
    found = constant_loss(network, mean_loss_of(pj.TeacherStudent(loss="cross_entropy")), task)
    assert np.allclose(found, -(np.log(3 / 8) + 7 * np.log(5 / 8)) / 8)


def test_regret_is_counted_from_the_best_cell_that_half_of_the_seeds_choose():
    def bowl(step, t, s, seed):
        return -4 + 0.1 * np.abs(np.log2(t)) + 0.2 * np.abs(np.log2(s)) + 0.01 * (seed % 2)

    found = truth.Truth(plane(bowl, seeds=6))
    assert found.best == (1, 1)
    assert found.regret(1, 1) == pytest.approx(0)
    assert found.regret(4, 0.5) == pytest.approx(0.4)
    assert found.regret(3.9, 0.51) == pytest.approx(0.4)  # the nearest cell
    # One draw of one cell: the mean over the plane.
    assert found.searched(1.0, halving=False, draws=4000) == pytest.approx(float((found.y - found.y.min()).mean()), abs=0.05)
    assert found.searched(5.0, halving=True) < found.searched(5.0, halving=False) < found.searched(1.0, halving=False)


def test_a_run_is_cut_into_pilot_and_truth():
    run = plane(step_at(lambda s: 0 * s + 1), seeds=11, steps=(0, 10, 100, 300, 10_000, 30_000))
    short, whole = truth.pilot_and_truth(run)
    assert (short.seed.values.tolist(), int(short.step[-1])) == ([0, 1, 2, 3, 4], 300)
    assert (whole.seed.values.tolist(), int(whole.step[-1])) == ([5, 6, 7, 8, 9, 10], 30_000)


def test_the_study_reads_a_pilot_as_advice_does():
    run = plane(step_at(lambda s: 0 * s + 1))
    assert truth.advice_of(run, 10_000).best.rate == reading.read(run).best.rate
    run = run.rename(temperature="learning_rate")
    adam = pj.Experiment(sgd=pj.Sgd("adam"), grid=pj.Grid(learning_rate=T), schedule=pj.Schedule(100))
    run.attrs |= {"experiment": adam.to_toml(), "axes": "learning_rate sigma_w"}
    assert truth.advice_of(run, 10_000).best.rate == reading.read(run, 2.0).best.rate != reading.read(run).best.rate


def test_the_study_says_whether_pilots_were_right():
    """Pilots and truths have one boundary, and one best cell; without its temperatures in order no pilot has."""

    def moving(step, t, s, seed):
        y = step_at(lambda s: s**0.25, width=0.05)(step, t, s, seed % 5)
        return y + 0.2 * np.abs(np.log2(t) + 2) + 0.3 * np.abs(np.log2(s)) + 0.02 * np.sin(seed * 7)

    run = plane(moving, seeds=11, steps=(0, 300, 30_000))
    tree = xr.DataTree.from_dict({"a": run, "b": run})
    found = {verdict.claim.key: verdict for verdict in check(tree, advice_claims.CLAIMS)}
    assert {key: verdict.verdict for key, verdict in found.items()} == {"boundary": "agrees", "best_cell": "agrees"}
    assert found["best_cell"].measured[0].value == pytest.approx(0, abs=1e-3)
    assert found["boundary"].null == "differs"


def test_the_command_refuses_in_a_sentence(capsys, tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text("[schedule]\nsteps = 100\n")
    for argv, said in (
        (["--config", str(mine), "--out", str(tmp_path / "a")], "budget = 0.01"),
        (["--config", str(mine), "--preset", "desk"], "cannot go together"),
        (["--config", str(mine), "--sgd.batch-size", "8"], "--out is missing"),
        (["--config", str(tmp_path / "none.toml")], "cannot be read"),
        (["--budget", "much"], "it must be a number"),
    ):
        with pytest.raises(SystemExit) as left:
            main(["advise", *argv])
        assert left.value.code == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


@pytest.mark.long
def test_the_command_prints_and_writes(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(OURS.to_toml())
    with pytest.raises(SystemExit) as left:
        main(["advise", "--config", "mine.toml", "--budget", "0.1"])
    assert left.value.code == 0
    said = capsys.readouterr().out
    assert "Recommended: learning rate" in said
    assert "runs/mine-advice/recommended.toml" in said
    with pytest.raises(SystemExit) as left:
        main(["run", "--config", "runs/mine-advice/recommended.toml", "--schedule.steps", "10", "--out", "runs/ours"])
    assert left.value.code == 0
