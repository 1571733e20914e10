import dataclasses
from itertools import pairwise

import pytest

from phasejax import Experiment, ExperimentError, Grid, Network, Schedule, Sgd, TeacherStudent, register_activation


def test_presets_are_the_papers_setup():
    paper, desk, quick = (Experiment.preset(name) for name in ("paper", "desk", "quick"))
    assert paper.schedule.steps == 10**8
    assert paper.sgd.order == desk.sgd.order == quick.sgd.order == "cyclic"
    assert paper.students == desk.students == 14_400
    assert paper.epoch_steps == 1000
    assert paper.temperatures == tuple(2.0**k for k in range(-5, 7))
    assert paper.learning_rates == tuple(2.0**k for k in range(-3, 9))
    assert tuple(1 / s for s in paper.grid.sigma_w) == tuple(2.0**k for k in range(-8, 4))
    assert desk == Experiment()
    assert (quick.grid.seeds, quick.schedule.steps) == (10, 10_000)


@pytest.mark.parametrize(
    "experiment",
    [
        Experiment(),
        Experiment(
            network=Network((5, 7, 6, 4, 3, 2), "relu", (3, 1, 5), (0.1, 1.0, 1 / 3)),
            task=TeacherStudent(90, 7),
            sgd=Sgd(momentum=0.9, batch_size=9, order="shuffled"),
            grid=Grid(temperatures=(0.1, 1e-7, 1e17), sigma_w=(1 / 3,), seeds=2, first_seed=5),
            schedule=Schedule(17, 3),
            precision="float64",
        ),
        Experiment(sgd=Sgd(optimiser="adam"), grid=Grid(learning_rates=(0.1, 0.01))),
    ],
)
def test_toml_round_trip(experiment):
    assert Experiment.from_toml(experiment.to_toml()) == experiment
    assert Experiment.from_toml(experiment.to_toml()).identity == experiment.identity
    assert dataclasses.replace(experiment, schedule=Schedule(18)).identity != experiment.identity


def test_temperature_counts_momentum_and_is_none_with_adam():
    heavy = Experiment(sgd=Sgd(momentum=0.75, batch_size=8), grid=Grid(temperatures=(0.5,)))
    assert heavy.learning_rates == (1.0,)  # T = rate / (B (1 - mu))
    by_rate = dataclasses.replace(heavy, grid=Grid(learning_rates=(1.0,)))
    assert by_rate.temperatures == (0.5,)
    assert Experiment(sgd=Sgd(optimiser="adam"), grid=Grid(learning_rates=(0.1,))).temperatures is None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Experiment.preset("lunch"), ("preset", "'lunch'", "quick, desk, paper")),
        (lambda: Grid(temperatures=(1.0, -2.0)), ("grid.temperatures", "-2.0", "positive")),
        (lambda: Grid(temperatures=(0.0,)), ("grid.temperatures", "0.0", "positive")),
        (lambda: Grid(temperatures=(float("nan"),)), ("grid.temperatures", "nan", "positive")),
        (lambda: Grid(temperatures=(1.0, 1.0)), ("grid.temperatures", "1.0", "more than once")),
        (lambda: Grid(temperatures=()), ("grid.temperatures", "[]", "empty")),
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
        (lambda: Network(trainable=()), ("network.trainable", "[]")),
        (lambda: Network(activation="sine"), ("network.activation", "'sine'", "tanh, relu, gelu, erf, identity")),
        (lambda: Network(sigma_w_scale=(1.0, 2.0)), ("network.sigma_w_scale", "one positive finite number a trained layer")),
        (lambda: Sgd(momentum=1.0), ("sgd.momentum", "1.0")),
        (lambda: Sgd(optimiser="adam", momentum=0.5), ("sgd.momentum", "0.5", "adam")),
        (lambda: Sgd(order="sorted"), ("sgd.order", "'sorted'", "cyclic, shuffled, iid")),
        (lambda: Experiment(sgd=Sgd(batch_size=5000)), ("sgd.batch_size", "5000", "4000")),
        (lambda: Experiment(sgd=Sgd(batch_size=7)), ("sgd.batch_size", "7", "cyclic", "divide")),
        (lambda: Experiment(sgd=Sgd(batch_size=7, order="shuffled")), ("sgd.batch_size", "7", "shuffled", "divide")),
        (lambda: Experiment(sgd=Sgd(optimiser="adam")), ("sgd.optimiser", "'adam'", "grid.learning_rates")),
        (lambda: Experiment(precision="float16"), ("precision", "'float16'", "float32, float64")),
        (lambda: Experiment.from_toml("[grid]\nsedes = 3"), ("grid.sedes", "grid.seeds")),
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


def test_registered_activations_are_names_like_others():
    def cube(z):
        return z**3

    register_activation("cube", cube)
    register_activation("cube", cube)  # saying the same twice is fine
    assert Network(activation="cube").activation == "cube"
    with pytest.raises(ValueError, match="taken"):
        register_activation("cube", lambda z: z)
    with pytest.raises(ValueError, match="taken"):
        register_activation("tanh", cube)


def test_records_are_even_on_a_log_axis_and_fall_on_whole_epochs():
    desk = Experiment()
    records = desk.record_steps()
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
    assert [s.step for s in stops if s.record] == experiment.record_steps()
    assert [s.step for s in stops if s.end] == sorted({0, experiment.schedule.steps})
    block = epoch * experiment.block_epochs
    assert all(a // block == (b - 1) // block for a, b in pairwise(steps)), "a stretch crosses a block's end"
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
            if stop.record and stop.step - mark != experiment.window_steps(stop.step):
                without.append(stop.step)
            mark = stop.step if stop.mark else mark
        return without

    assert unaveraged(Experiment(schedule=Schedule(1500))) == [562, 750, 1000]
    assert unaveraged(Experiment(sgd=Sgd(batch_size=5))) == [1000, 10_000]


def test_decades_hold_the_powers_of_ten_and_the_ends():
    assert [s.step for s in Experiment().stops() if s.decade] == [0, 1, 10, 100, 1000, 10_000, 100_000]
    for other in (Experiment(schedule=Schedule(3000)), Experiment(schedule=Schedule(3000), sgd=Sgd(batch_size=5))):
        assert [s.step for s in other.stops() if s.decade] == [0, 1, 10, 100, 1000, 3000]
