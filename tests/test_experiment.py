import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import optax
import pytest

from phasejax import (
    Digits,
    Experiment,
    ExperimentError,
    FromRun,
    FromTeacher,
    Grid,
    Network,
    Schedule,
    Sgd,
    TeacherStudent,
)
from phasejax.parts import Unresolved


def test_presets_are_the_papers_setup():
    paper, desk, quick = (Experiment.preset(name) for name in ("paper", "desk", "quick"))
    assert paper.schedule.steps == 10**8
    assert paper.sgd.order == desk.sgd.order == quick.sgd.order == "cyclic"
    assert paper.students == desk.students == 14_400
    assert paper.epoch_steps == 1000
    assert paper.grid.temperature == tuple(2.0**k for k in range(-5, 7))
    assert sorted(set(paper.cells()["learning_rate"])) == [2.0**k for k in range(-3, 9)]
    assert paper.grid.sigma_w == tuple(sorted(2.0**-k for k in range(-8, 4)))
    assert list(paper.grid.axes) == ["temperature", "sigma_w"]
    assert desk == Experiment()
    assert (quick.grid.seeds, quick.schedule.steps) == (10, 10_000)


@pytest.mark.parametrize(
    "experiment",
    [
        Experiment(),
        Experiment(
            network=Network((5, 7, 6, 4, 3, 2), "relu", (3, 1, 5), (0.1, 1.0, 1 / 3)),
            task=TeacherStudent(90, 7),
            sgd=Sgd(batch_size=9, order="shuffled"),
            grid=Grid(temperature=(0.1, 1e-7, 1e17), momentum=0.9, sigma_w=1 / 3, seeds=2, first_seed=5, replicas=2),
            schedule=Schedule(17, 3, rate=[(0, 1), (0.5, 1e-3)], weights="ends"),
            start=FromTeacher(1e-4),
            observe=("test_loss",),
            precision="float64",
        ),
        Experiment(sgd=Sgd(optimizer="adam"), grid=Grid(learning_rate=(0.1, 0.01), b2=[0.9, 0.99], sigma_w=1.0)),
        Experiment(task=Digits(), network=Network((64, 5, 10), ("sin",)), schedule=Schedule(5, rate="cosine")),
        Experiment(start=FromRun("runs/hot.nc", {"temperature": 64.0}, ("sigma_w",), 10, "00")),
    ],
)
def test_toml_round_trip(experiment):
    assert Experiment.from_toml(experiment.to_toml()) == experiment
    assert Experiment.from_toml(experiment.to_toml()).identity == experiment.identity
    assert dataclasses.replace(experiment, schedule=Schedule(18)).identity != experiment.identity


def test_temperature_counts_momentum_and_is_none_with_adam():
    heavy = Experiment(sgd=Sgd(batch_size=8), grid=Grid(temperature=(0.5,), momentum=0.75, sigma_w=1.0))
    assert heavy.cells()["learning_rate"] == [1.0]  # T = rate / (B (1 - mu))
    by_rate = dataclasses.replace(heavy, grid=Grid(learning_rate=(1.0,), momentum=0.75, sigma_w=1.0))
    assert by_rate.cells()["temperature"] == [0.5]
    adam = Experiment(sgd=Sgd(optimizer="adam"), grid=Grid(learning_rate=(0.1,), sigma_w=1.0))
    assert "temperature" not in adam.cells()


def test_the_cells_are_the_product_of_the_axes_in_their_order():
    experiment = Experiment(grid=Grid(sigma_w=[1.0, 2.0], temperature=0.25, momentum=[0.0, 0.5, 0.75]))
    assert list(experiment.grid.axes) == ["sigma_w", "momentum"]
    cells = experiment.cells()
    assert cells["sigma_w"] == [1, 1, 1, 2, 2, 2]
    assert cells["momentum"] == [0, 0.5, 0.75] * 2
    assert cells["learning_rate"] == [1, 0.5, 0.25] * 2
    assert experiment.depends_on("learning_rate") == ("momentum",)
    assert experiment.starts() == ([1.0, 2.0], [0, 0, 0, 1, 1, 1])
    assert experiment.students == 600


def test_numbers_of_any_library_are_numbers():
    plain = Experiment(sgd=Sgd(batch_size=4), grid=Grid(temperature=(1.0, 2.0, 4.0), sigma_w=0.5, seeds=3))
    numpy = Experiment(sgd=Sgd(batch_size=np.int64(4)), grid=Grid(temperature=2 ** np.arange(3), sigma_w=np.float32(0.5),
                                                                  seeds=np.int32(3)))  # fmt: skip
    assert plain == numpy
    assert Grid(temperature=np.array(0.5)).temperature == 0.5
    assert Network(widths=np.array([3, 2])) == Network((3, 2))


def test_all_layers_are_trained_unless_said_otherwise():
    assert Network((784, 100, 10)).trainable == (1, 2)
    assert Experiment().network.trainable == (2,)
    assert Experiment.from_toml("[network]\nwidths = [784, 100, 10]").network.trainable == (1, 2)


@dataclass(frozen=True)
class Images:
    side: int = 4
    soften: Callable = abs
    loss: str = "cross_entropy"

    @property
    def samples(self):
        return self.side**2

    def load(self):
        raise NotImplementedError


def clipped(learning_rate, clip):
    return optax.chain(optax.clip_by_global_norm(clip), optax.sgd(learning_rate))


def test_parts_of_ones_own_are_written_by_name_and_stay_names_where_they_are_not_known():
    experiment = Experiment(
        task=Images(5, abs), sgd=Sgd(clipped, batch_size=5), grid=Grid(learning_rate=0.1, clip=[0.1, 1.0])
    )
    text = experiment.to_toml()
    assert 'kind = "test_experiment:Images"' in text
    assert 'optimizer = "test_experiment:clipped"' in text
    read = Experiment.from_toml(text)
    assert isinstance(read.task, Unresolved)
    assert read.to_toml() == text
    assert (read.students, read.task.samples, read.task.side) == (experiment.students, 25, 5)
    assert read.stops() == experiment.stops()
    with pytest.raises(ExperimentError, match=r"task = 'test_experiment:Images' is not possible: .*--use"):
        read.require_resolved()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Experiment.preset("lunch"), ("preset", "'lunch'", "quick, desk, paper")),
        (lambda: Grid(temperature=(1.0, -2.0)), ("grid.temperature", "-2.0", "positive")),
        (lambda: Grid(temperature=(0.0,)), ("grid.temperature", "0.0", "positive")),
        (lambda: Grid(temperature=(float("nan"),)), ("grid.temperature", "nan", "positive")),
        (lambda: Grid(temperature=(1.0, 1.0)), ("grid.temperature", "1.0", "more than once")),
        (lambda: Grid(temperature=()), ("grid.temperature", "[]", "empty")),
        (lambda: Grid(sigma_w=()), ("grid.sigma_w", "[]", "empty")),
        (lambda: Grid(sigma_w="12"), ("grid.sigma_w", "'12'", "list")),
        (lambda: Grid(seeds=0), ("grid.seeds", "0", "from 1")),
        (lambda: Schedule(steps=-1), ("schedule.steps", "-1", "from 0")),
        (lambda: Schedule(steps=1.5), ("schedule.steps", "1.5", "whole number")),
        (lambda: Schedule(steps=True), ("schedule.steps", "True", "whole number")),
        (lambda: Schedule(steps=float("inf")), ("schedule.steps", "inf", "whole number")),
        (lambda: Schedule(steps=2**31), ("schedule.steps", "2147483648", "2147483647")),
        (lambda: Network(widths=(3,)), ("network.widths", "[3]")),
        (lambda: Network(trainable=(4,)), ("network.trainable", "4", "layers 1 to 3")),
        (lambda: Network(trainable=(1, 1)), ("network.trainable", "[1, 1]")),
        (
            lambda: Network(activation="sine"),
            ("network.activation", "'sine'", "tanh, relu, gelu, erf, sigmoid, sin, identity"),
        ),
        (lambda: Network(sigma_w_scale=(1.0, 2.0)), ("network.sigma_w_scale", "one positive finite number a trained layer")),
        (lambda: Grid(momentum=1.0), ("grid.momentum", "1.0")),
        (
            lambda: Experiment(sgd=Sgd("adam"), grid=Grid(learning_rate=1, momentum=0.5)),
            ("grid.momentum", "adam", "nothing"),
        ),
        (lambda: Sgd(order="sorted"), ("sgd.order", "'sorted'", "cyclic, shuffled, iid")),
        (lambda: Experiment(sgd=Sgd(batch_size=5000)), ("sgd.batch_size", "5000", "4000")),
        (lambda: Experiment(sgd=Sgd(batch_size=7)), ("sgd.batch_size", "7", "cyclic", "divide", "iid", "3997 or 4004")),
        (lambda: Experiment(sgd=Sgd(batch_size=7, order="shuffled")), ("sgd.batch_size", "7", "shuffled", "divide")),
        (lambda: Experiment(sgd=Sgd(optimizer="adam")), ("sgd.optimizer", "'adam'", "grid.learning_rate")),
        (lambda: Experiment(precision="float16"), ("precision", "'float16'", "float32, float64")),
        (lambda: Experiment.from_toml("[grid]\nsedes = 3"), ("grid.sedes", "grid.seeds")),
        (lambda: Experiment(grid=Grid(temperatures=[1.0])), ("grid.temperatures", "did you mean grid.temperature")),
        (lambda: Grid(temperature=1.0, learning_rate=1.0), ("grid.temperature", "one follows")),
        (lambda: Grid(step=1.0), ("grid.step", "name of its own")),
        (lambda: Experiment(grid=Grid(temperature=[1e-46])), ("grid.temperature", "1e-46", "float32")),
        (lambda: Experiment(grid=Grid(sigma_w=[1.0, 1.0000000001])), ("grid.sigma_w", "1.0000000001", "same")),
        (lambda: Experiment(grid=Grid(temperature=1e38)), ("grid.learning_rate", "4e+38", "inf")),
        (lambda: Experiment(sgd=Sgd(clipped), grid=Grid(learning_rate=1.0)), ("grid.clip is missing", "clipped")),
        (lambda: Sgd(optimiser="sgd"), ("sgd.optimiser", "sgd.optimizer")),
        (lambda: Network(actvation="relu"), ("network.actvation", "network.activation")),
        (lambda: Network((3, 2, 2, 1), ("tanh",)), ("network.activation", "2 hidden layers")),
        (lambda: Experiment(steps=3), ("steps", "schedule")),
        (lambda: Experiment(network=3), ("network", "3", "init, apply")),
        (lambda: Experiment(task=clipped), ("task", "frozen dataclass")),
        (lambda: Experiment(start=FromTeacher(-1.0)), ("start.perturbation", "-1.0")),
        (lambda: Experiment(start=FromTeacher(0.1)), ("grid.sigma_w", "one number")),
        (lambda: Experiment(task=Digits(), start=FromTeacher(0.1), grid=Grid(sigma_w=1)), ("start", "no teacher")),
        (lambda: FromRun("/nowhere/run.nc"), ("start.path", "/nowhere/run.nc", "No such file")),
        (lambda: TeacherStudent(teacher="/nowhere/w.npz"), ("task.teacher", "No such file")),
        (lambda: Experiment(observe=[]), ("observe", "nothing")),
        (lambda: Experiment(observe=[3]), ("observe", "3")),
        (lambda: Schedule(rate="fast"), ("schedule.rate", "'fast'", "cosine")),
        (lambda: Schedule(rate=[(0, 1), (2, 1)]), ("schedule.rate", "2.0", "from 0 to 1")),
        (lambda: Schedule(rate=[(0.5, 1), (0.2, 1)]), ("schedule.rate", "0.2", "ascend")),
        (lambda: Schedule(rate=[(0, 0)]), ("schedule.rate", "0.0", "positive")),
        (lambda: Schedule(rate=[0.5]), ("schedule.rate", "list")),
        (lambda: Schedule(weights="never"), ("schedule.weights", "decades")),
        (lambda: Experiment.from_toml("[gird]\nseeds = 3"), ("gird", "grid")),
        (lambda: Experiment.from_toml("grid = 3"), ("grid", "3", "[grid]")),
        (lambda: Experiment.from_toml("[grid]\nseeds = = 3", "mine.toml"), ("mine.toml", "line 2")),
        (lambda: Experiment.read("/nowhere/mine.toml"), ("/nowhere/mine.toml", "No such file")),
    ],
)
def test_nonsense_is_refused_in_one_sentence(make, words):
    with pytest.raises(ExperimentError) as refusal:
        make()
    sentence = str(refusal.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    for word in words:
        assert word in sentence


def test_a_batch_need_not_divide_the_data_where_it_is_drawn_with_replacement():
    assert Experiment(sgd=Sgd(batch_size=7, order="iid")).epoch_steps == 4000 // 7


def test_records_are_even_on_a_log_axis_and_fall_on_whole_epochs():
    desk = Experiment()
    records = desk.ladder.records()
    assert records[:5] == [0, 1, 2, 3, 4]
    assert records[-1] == 100_000
    assert all(step % 1000 == 0 for step in records if step > 1000)
    assert sum(10_000 < step <= 100_000 for step in records) == 8
    assert len(records) == len(set(records))


@pytest.mark.parametrize("experiment", [
    Experiment(),
    Experiment(schedule=Schedule(1500)),
    Experiment(schedule=Schedule(2500, records_per_decade=30)),
    Experiment(schedule=Schedule(0)),
    Experiment(schedule=Schedule(7)),
    Experiment(task=TeacherStudent(samples=12), schedule=Schedule(20_000)),
])  # fmt: skip
def test_ladder_of_stops(experiment):
    stops, epoch = experiment.stops(), experiment.epoch_steps
    steps = [stop.step for stop in stops]
    assert steps == sorted(set(steps))
    assert [s.step for s in stops if s.record] == experiment.ladder.records()
    assert [s.step for s in stops if s.end] == sorted({0, experiment.schedule.steps})
    assert all(stop.record or stop.mark for stop in stops)
    unaveraged, mark = [], 0
    for stop in stops:
        if stop.record and stop.step - mark != min(stop.step, epoch):
            unaveraged.append(stop.step)
        if stop.mark:
            mark = stop.step
    assert experiment.schedule.steps not in unaveraged, "the last record has its averages"
    whole = experiment.schedule.steps <= epoch or experiment == Experiment()
    assert not (whole and unaveraged), "and so has every other, if no windows overlap"


def test_scales_stay_with_their_layers():
    assert Network(trainable=(3, 1), sigma_w_scale=(100.0, 1.0)) == Network(trainable=(1, 3), sigma_w_scale=(1.0, 100.0))


def test_of_overlapping_windows_one_is_open():
    def unaveraged(experiment):
        mark, without = 0, []
        for stop in experiment.stops():
            if stop.record and stop.step - mark != experiment.ladder.window(stop.step):
                without.append(stop.step)
            mark = stop.step if stop.mark else mark
        return without

    assert unaveraged(Experiment(schedule=Schedule(1500))) == [562, 750, 1000]
    assert unaveraged(Experiment(sgd=Sgd(batch_size=5))) == [1000, 10_000]


def test_decades_hold_the_powers_of_ten_and_the_ends():
    assert [s.step for s in Experiment().stops() if s.decade] == [0, 1, 10, 100, 1000, 10_000, 100_000]
    for other in (Experiment(schedule=Schedule(3000)), Experiment(schedule=Schedule(3000), sgd=Sgd(batch_size=5))):
        assert [s.step for s in other.stops() if s.decade] == [0, 1, 10, 100, 1000, 3000]


def test_the_factor_of_the_learning_rate_goes_by_its_knots():
    annealed = Schedule(1000, rate=[(0, 1), (1, 2**-10)])
    assert [annealed.factor(step) for step in (0, 100, 500, 1000)] == pytest.approx([1, 0.5, 2**-5, 2**-10])
    linear = Schedule(1000, rate=[(0, 1), (0.5, 0)], interpolation="linear")
    assert [linear.factor(step) for step in (0, 250, 500, 900)] == pytest.approx([1, 0.5, 0, 0])
    quench = Schedule(1000, rate=[(0.2, 1), (0.5, 1), (0.5, 0.1)])
    assert [quench.factor(step) for step in (0, 499, 500, 1000)] == pytest.approx([1, 1, 0.1, 0.1])
    cosine = Schedule(1000, rate="cosine")
    assert [cosine.factor(step) for step in (0, 500, 1000)] == pytest.approx([1, 0.5, 0])
    assert Schedule(10).factor(3) == 1
    assert Schedule(0, rate="cosine").factor(0) == 1
    # By the block, wherever it begins, and beyond the end.
    ladder = Experiment(schedule=annealed).ladder
    assert list(ladder.factors(500)) == [annealed.factor(step) for step in range(500, 1500)]


@pytest.mark.parametrize(("end", "last"), [(100_000, 1_000_000), (1000, 1_000_000), (56, 100), (560, 10_000)])
def test_where_a_shorter_run_may_end_does_not_depend_on_the_longer_one(end, last):
    ends = Experiment(schedule=Schedule(last)).ladder.ends_of_shorter_runs()
    assert (end in ends) == (end != 560)
    assert set(ends) <= set(Experiment(schedule=Schedule(last)).ladder.records())
