"""What is drawn is what the Dataset says."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr
from conftest import FEW, small
from matplotlib.animation import FuncAnimation

import phasejax
from phasejax import Experiment, ExperimentError, Grid, Network, Schedule, Sgd, claims, figures
from phasejax.analysis import boundaries, spectrum
from phasejax.analysis.plane import plane_of
from phasejax.analysis.run import RunError, until
from phasejax.analysis.statistics import crossings, left_out, summary
from phasejax.figures.density import density
from phasejax.figures.slices import ORDERED
from phasejax.figures.style import colours, edges, geometric
from phasejax.figures.summary import meeting
from phasejax.studies.paper import figures as paper
from phasejax.studies.paper.claims import CLAIMS


@pytest.fixture(scope="module")
def run(finished):
    """The finished small run: 3 x 3 cells, 3 seeds, 60 steps."""
    with xr.open_dataset(finished[1]) as data:
        yield data.load()


@pytest.fixture
def crossing(run):
    """The run with a criterion that all students satisfy at the lowest T, 2 of 3 in the middle and none at the highest."""
    data = run.copy(deep=True)
    data["V_S"][:] = 1.0
    data["restoring"][:] = 0.0
    data["restoring"][:, 0] = np.inf
    data["restoring"][:, 1, :, :2] = np.inf
    return data


MAPS = {
    paper.loss_map: lambda d: [d.test_loss],
    paper.memory_and_alignment: lambda d: [d.G_t0, d.alignment],
    paper.rate_map: lambda d: [spectrum.rate(d)],
    paper.normalised_memory: lambda d: [d.G_t0, spectrum.memory(d)],
    paper.teacher_overlaps: lambda d: [d.teacher_overlap, d.feature_overlap, spectrum.trace_ratio(d)],
    paper.phase_diagram: lambda d: [d.test_loss, d.G_t0, d.alignment, spectrum.rate(d)],
}


def drawn_maps(figure, xscale="log"):
    """Axes of maps, without those of colour bars."""
    return [ax for ax in figure.axes if ax.get_xscale() == xscale and ax.get_label() != "<colorbar>" and ax.collections]


@pytest.mark.parametrize("draw", MAPS, ids=lambda draw: draw.__name__)
def test_maps_show_the_mean_over_the_seeds_at_the_record(run, draw):
    for step in (None, 10):
        figure = draw(run, step=step)
        axes, expected = drawn_maps(figure), MAPS[draw](run)
        assert len(axes) == len(expected)
        for ax, values in zip(axes, expected, strict=True):
            at = values.isel(step=-1) if step is None else values.sel(step=step)
            # Ascending in 1/sigma_W, as the axis is.
            np.testing.assert_allclose(ax.collections[0].get_array(), at.astype(float).mean("seed"), rtol=1e-6)
            assert ax.get_yscale() == "log"
        title = figure.get_suptitle()
        assert title == ("10 steps (0.5 epochs), 3 seeds" if step else "60 steps (3 epochs), 3 seeds")


def test_a_map_can_show_the_median(run):
    (ax,) = drawn_maps(paper.loss_map(run, statistic="median"))
    np.testing.assert_allclose(ax.collections[0].get_array(), run.test_loss.isel(step=-1).median("seed"), rtol=1e-6)


def test_variance_is_drawn_beside_the_mean(run):
    axes = drawn_maps(paper.seed_variance(run))
    assert len(axes) == 6
    expected = run.teacher_overlap.isel(step=-1).astype(float).var("seed")
    np.testing.assert_allclose(axes[5].collections[0].get_array(), expected, rtol=1e-5)


def test_axes_ascend_whatever_the_order_of_the_grid(run):
    shuffled = run.isel(temperature=[2, 0, 1], sigma_w=[1, 2, 0])
    (ours,), (plain,) = drawn_maps(paper.loss_map(shuffled)), drawn_maps(paper.loss_map(run))
    np.testing.assert_array_equal(ours.collections[0].get_array(), plain.collections[0].get_array())


def test_densities_of_the_features(run):
    figure = paper.feature_density(run)
    theory, wells, measured, function, bar = figure.axes
    assert [len(ax.get_lines()) for ax in (theory, wells, measured, function)] == [3, 3, 3, 2]
    assert (measured.get_yscale(), bar.get_yscale()) == ("log", "log")
    drawn = measured.get_lines()[0].get_ydata()
    expected = run.feature_density.isel(step_ends=0, temperature=0, sigma_w=0).mean("seed").values
    np.testing.assert_allclose(drawn, np.where(expected > 0, expected, np.nan), rtol=1e-6)
    assert "0 steps" in figure.get_suptitle()


@pytest.mark.parametrize("variance", [0.125, 0.5, 4.0])
def test_the_density_of_tanh_of_a_gaussian_is_one(variance):
    z = np.linspace(-12, 12, 20001) * np.sqrt(variance)
    phi = np.tanh(z)
    inside = np.abs(phi) < 1
    jacobian = 1 - phi[inside] ** 2
    assert np.trapezoid(density(phi[inside], variance) * jacobian, z[inside]) == pytest.approx(1, abs=1e-6)


def test_slices_show_the_median_of_every_sigma(run):
    figure = paper.temperature_slices(run)
    for ax, name in zip(figure.axes[:2], ("train_loss", "gradient_norm"), strict=True):
        assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
        drawn = [line.get_ydata() for line in ax.get_lines()]
        np.testing.assert_allclose(np.transpose(drawn), run[name].isel(step=-1).median("seed"), rtol=1e-6)


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_the_ordered_slice_has_error_bars(run, statistic):
    figure = paper.ordered_slice(run, statistic=statistic)
    here = run.sel(sigma_w=1 / ORDERED)
    expected = [here.train_loss.isel(step=-1), here.gradient_norm.isel(step=-1),
                run.full_gradient_norm.isel(step_ends=0, temperature=0)]  # fmt: skip
    assert len(figure.axes) == 3
    for ax, values in zip(figure.axes, expected, strict=True):
        points, _, (bars,) = ax.containers[0]
        values = values.astype(float)
        np.testing.assert_allclose(points.get_ydata(), getattr(values, statistic)("seed"), rtol=1e-6)
        error = values.std("seed", ddof=1) / np.sqrt(3)
        mean = values.mean("seed")
        low = mean - error if statistic == "mean" else values.quantile(0.16, "seed")
        np.testing.assert_allclose([segment[0, 1] for segment in bars.get_segments()], low, rtol=1e-5)
        assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")


def test_eigenvalue_flow_shows_every_student(run):
    figure = paper.eigenvalue_flow(run)
    cells = ((2**-5, 0.125), (1.0, 0.125), (2**-5, 256.0))  # the grid's nearest to the paper's
    assert len(figure.axes) == 3
    for ax, (temperature, sigma) in zip(figure.axes, cells, strict=True):
        assert len(ax.collections) == 16
        x = run.eigenvalues.sel(temperature=temperature, sigma_w=sigma)
        drawn = ax.collections[15].get_segments()
        assert len(drawn) == 3
        np.testing.assert_allclose([path[:, 1] for path in drawn], x.isel(level=15).transpose("seed", "step"))
    assert figure.axes[0].get_lines(), "the ordered phase shows where it should go"
    # T = 1 is no paramagnetic temperature, and a single sigma_W lies on one side only.
    assert [ax.get_title().split("\n")[0] for ax in figure.axes] == ["ordered", r"$T = 1$, $1/\sigma_W = 8$", "jammed"]
    one = paper.eigenvalue_flow(run.sel(sigma_w=[0.125]))
    assert not any("jammed" in ax.get_title() for ax in one.axes)


def test_every_trained_layer_has_its_flow(run):
    figure = paper.eigenvalue_flow(several_layers(run))
    assert len(figure.axes) == 6
    labels = [ax.get_ylabel() for ax in figure.axes if ax.get_ylabel()]
    assert [label.split(":")[0] for label in labels] == ["layer 1", "layer 2"]


def test_without_a_temperature_the_summary_has_its_maps(run):
    figure = paper.phase_diagram(with_adam(run))
    assert len(drawn_maps(figure)) == 4
    assert not any(line.get_label().startswith("68") for ax in figure.axes for line in ax.get_lines())
    assert not figure.axes[0].texts


def test_the_initial_spectrum_is_compared_with_marchenko_pastur(run):
    (ax,) = paper.initial_spectrum(run).axes
    x, y = ax.get_lines()[0].get_data()
    np.testing.assert_allclose(y, spectrum.marchenko_pastur(x, 1.0, 0.5))
    assert sum(bar.get_width() * bar.get_height() for bar in ax.patches) == pytest.approx(1)
    assert "48 eigenvalues" in ax.get_legend().get_texts()[0].get_text() + ax.get_legend().get_texts()[1].get_text()


def test_convergence_boundaries_are_where_the_criterion_puts_them(crossing):
    figure = paper.convergence_boundaries(crossing)
    titles = [ax.get_title().split("\n")[-1] for ax in (*figure.axes[1:3], *figure.axes[4:6])]
    assert titles == ["released, as published"] * 2 + ["drift"] * 2
    slice_, memory, alignment = figure.axes[3:6]
    share = boundaries.fraction(crossing).fraction.isel(step=-1)
    (expected,) = crossings(share.sel(sigma_w=0.125), 0.68, "temperature").dropna("crossing").values
    (line,) = [line for line in slice_.get_lines() if line.get_linestyle() == "-."]
    np.testing.assert_allclose(line.get_xdata(), expected)
    for ax, values in ((memory, crossing.G_t0), (alignment, crossing.alignment)):
        np.testing.assert_allclose(ax.collections[0].get_array(), values.isel(step=-1).mean("seed"), rtol=1e-6)
        assert [line.get_label() for line in ax.get_lines()] == [
            f"{level} % converged, not resolved by 3 seeds" for level in (68, 95, 99.7)
        ]
        heights = [line.get_ydata().mean() for line in ax.get_lines()]
        assert heights == sorted(heights, reverse=True), "fewer students converge higher up"
        np.testing.assert_allclose(ax.get_lines()[0].get_ydata(), expected)
    assert "criterion released and drift" in figure.get_suptitle()
    assert len(paper.convergence_boundaries(crossing, reading="released").axes) < len(figure.axes)
    brackets = [line.get_xdata() for line in slice_.get_lines() if line.get_marker() == "|"]
    for level, ends in zip((0.95, 0.997), brackets, strict=True):
        found = boundaries.transition(crossing.sel(sigma_w=[0.125]), level)
        np.testing.assert_allclose(ends, [float(found.T_below[0]), float(found.T_above[0])])
    assert [text.get_text() for text in slice_.texts] == ["95 %", "99.7 %"]


def test_the_criterion_in_all_readings(crossing):
    crossing["V_S"].loc[{"reading": "text"}] = -1.0
    # In one cell the spectrum has grown so far that students pass by S(t) and not by S(0).
    crossing["restoring"].loc[{"temperature": 1.0, "sigma_w": 0.125}] = 10.0
    shares = [boundaries.fraction(crossing, "drift", spacing).fraction.isel(step=-1) for spacing in ("initial", "current")]
    assert not shares[0].equals(shares[1])
    figure = paper.criterion(crossing)
    axes = np.reshape(drawn_maps(figure)[:12], (3, 4))
    assert [ax.get_title() for ax in axes[0]] == ["drift", "x_basis", "text", "released"]
    for (top, centre, bottom), reading in zip(axes.T, crossing.reading.values, strict=True):
        for ax, spacing in ((top, "initial"), (centre, "current")):
            share = boundaries.fraction(crossing, reading, spacing).fraction.isel(step=-1)
            np.testing.assert_allclose(ax.collections[0].get_array(), share)
        assert (bottom.collections[0].get_array() == (reading == "text")).all()


def test_the_reading_is_the_one_asked_for(crossing):
    crossing["restoring"].loc[{"reading": "released"}] = np.inf
    assert not drawn_maps(paper.phase_diagram(crossing, reading="released"))[0].get_lines()[0].get_label().startswith("68")
    assert "68 % converged (drift)" in [t.get_text() for t in paper.phase_diagram(crossing).legends[0].get_texts()]


def test_the_summary_draws_both_jamming_lines_up_to_the_boundary(crossing):
    figure = paper.phase_diagram(crossing)
    for ax in drawn_maps(figure):
        lines = {line.get_label(): line for line in ax.get_lines()}
        boundary = lines["68 % converged (drift)"]
        top = np.nanmax(boundary.get_ydata())
        upright = [line for label, line in lines.items() if not label.startswith("68")]
        places = [line.get_xdata()[0] for line in upright]
        low, high = boundaries.measured_jamming_line(crossing)
        np.testing.assert_allclose(places, [np.sqrt(2), np.sqrt(low * high)])
        assert [label.split("(")[-1] for label in lines if not label.startswith("68")] == ["paper)", "measured)"]
        for line, place in zip(upright, places, strict=True):
            met = top * place > 0.1  # elsewhere the boundary is hidden, and a line goes on to the map's end
            assert line.get_ydata()[1] == pytest.approx(top if met else ax.get_ylim()[1])
        hidden = crossing.temperature.values.max() * np.nan_to_num(boundary.get_xdata(), nan=np.inf) > 0.1
        assert hidden.all()
    assert [text.get_text() for text in figure.axes[0].texts] == ["ordered", "jammed"]
    assert not any("jammed" in ax.get_title() for ax in paper.eigenvalue_flow(with_relu(crossing)).axes)
    relu = paper.phase_diagram(with_relu(crossing))
    assert not relu.axes[0].texts
    assert [text.get_text() for text in relu.legends[0].get_texts()] == ["68 % converged (drift)"]


def test_where_a_boundary_is_met():
    x, y = np.array([0.5, 2.0, 8.0]), np.array([4.0, 1.0, np.nan])
    assert meeting(1.0, x, y) == pytest.approx(2)
    assert np.isnan(meeting(4.0, x, y))
    assert np.isnan(meeting(0.1, x, y))


def test_the_phase_diagram_against_training_length(crossing):
    figure = paper.against_length(crossing)
    axes = drawn_maps(figure)
    assert [ax.get_title() for ax in axes] == ["step 1", "step 10", "step 60"]
    for ax, step in zip(axes, (1, 10, 60), strict=True):
        expected = crossing.test_loss.sel(step=step).mean("seed")
        np.testing.assert_allclose(ax.collections[0].get_array(), expected, rtol=1e-6)
        assert ax.collections[0].norm.vmin == axes[0].collections[0].norm.vmin, "panels have one scale of colours"
        assert "68 % converged (drift)" in [line.get_label() for line in ax.get_lines()]


def test_the_animation_has_a_frame_a_record(crossing, tmp_path):
    short = crossing.isel(step=[0, 3, -1])
    (path,) = figures.draw_all(short, tmp_path, [paper.along_training])
    from PIL import Image

    with Image.open(path) as picture:
        assert picture.n_frames == 3


def test_diverged_students_are_hatched_counted_and_left_out(run):
    data = run.copy(deep=True)
    data.test_loss[-1, 2, 1, 0] = np.inf
    data.diverged_step[-1, 0, 0, 1] = 3
    (ax,) = drawn_maps(paper.loss_map(data))
    image, hatched = ax.collections
    last = data.test_loss[-1]
    assert image.get_array()[2, 1] == pytest.approx(float(last[2, 1, 1:].mean()), rel=1e-6)
    assert image.get_array()[0, 0] == pytest.approx(float(last[0, 0, [0, 2]].mean()), rel=1e-6)
    assert hatched.get_hatch()
    np.testing.assert_array_equal(np.argwhere(~hatched.get_array().mask), [[0, 0], [2, 1]])
    assert ax.get_title().splitlines()[1] == "2 of 27 not finite"
    assert "not finite" not in drawn_maps(paper.loss_map(data, step=1))[0].get_title(), "they had not diverged by then"
    assert "1 of 27 not finite" in paper.temperature_slices(data).get_suptitle()
    assert "1 of 27 not finite" in paper.criterion(data).get_suptitle()
    assert paper.criterion(data).axes[0].collections[1].get_hatch()
    assert "1 of 3" in paper.eigenvalue_flow(data).axes[2].get_title()


def test_a_run_whose_students_all_diverged_can_be_drawn(run):
    data = run.copy(deep=True)
    data["diverged_step"][1:] = 1
    for draw in (paper.loss_map, paper.temperature_slices, paper.ordered_slice, paper.eigenvalue_flow):
        draw(data).draw_without_rendering()


def test_at_step_takes_a_recorded_step_or_names_the_nearest(run, tmp_path):
    with pytest.raises(ExperimentError, match=r"at_step = 11 is not possible.*nearest is 10"):
        figures.draw_all(run, tmp_path / "no", paper.FIGURES, step=11)
    assert not (tmp_path / "no").exists()
    assert until(run, 10).step[-1] == 10
    assert until(run, 10).step_ends.values.tolist() == [0]
    for draw in paper.FIGURES:
        assert "step" in inspect.signature(draw).parameters


def several_layers(run):
    own = {name: f"{name}_2" for name in ("eigenvalues", "target_eigenvalues", "teacher_overlap", "weights", "level", "node",
                                          "input", "K_S", "V_S", "D_S", "restoring")}  # fmt: skip
    first = {f"{name}_1": run[name].rename(level="level_1") for name in ("eigenvalues", "target_eigenvalues")}
    # The last layer stands last in a file.
    run = run.assign(first).drop_vars(list(own)[:2]).assign({n: run[n] for n in list(own)[:2]}).rename(own)
    return of(run, network=Network(trainable=(1, 2)))


def of(run, **parts):
    """The run as if it were of another experiment."""
    experiment = dataclasses.replace(Experiment.from_toml(run.attrs["experiment"]), **parts)
    return run.assign_attrs(experiment=experiment.to_toml())


def with_adam(run):
    other = of(run, sgd=Sgd("adam"), grid=Grid(learning_rate=(0.1,)))
    return other.swap_dims(temperature="learning_rate").drop_vars("temperature")


def trained_readout(run):
    other = run.isel(level=[0], node=[0]).drop_vars(["K_S", "V_S", "D_S", "restoring"])
    return of(other, network=Network(trainable=(3,)))


def with_relu(run):
    return run.assign_attrs(experiment=run.attrs["experiment"].replace("tanh", "relu"))


@pytest.mark.parametrize(("other", "skipped"), [
    (lambda run: run.isel(temperature=[1], sigma_w=[1], seed=[0]),
     {"fig3", "fig4", "fig8", "seed_variance", "training_needed"}),
    (lambda run: run.isel(sigma_w=[1]), {"training_needed"}),
    (several_layers, set()),
    (with_relu, {"fig1"}),
    (trained_readout, {"fig7", "fig8", "criterion"}),
    (with_adam, {"fig8", "criterion", "training_needed"}),
    (lambda run: until(run, 0), {"fig3", "fig4", "fig7", "fig8", "training_needed", "against_length", "along_training"}),
], ids=["one cell", "one sigma", "layers", "relu", "readout", "adam", "untrained"])  # fmt: skip
def test_what_makes_no_sense_for_a_run_is_skipped_with_a_sentence(run, other, skipped):
    data = other(run.isel(step=[0, 1, -1]))
    reasons = {}
    for draw in paper.FIGURES:
        name = figures.file_name(draw)
        try:
            figure = draw(data)
        except figures.NotDrawable as reason:
            reasons[name] = str(reason)
            continue
        if isinstance(figure, FuncAnimation):
            figure._draw_was_started = True  # nobody will play it
    assert set(reasons) == skipped
    assert all(reasons.values())


def test_skipped_figures_are_said_and_unknown_ones_refused(run, tmp_path, capsys):
    data = until(run, 0)
    written = figures.draw_all(data, tmp_path / "out", figures.chosen([2, "fig3", 2], paper.FIGURES))
    assert [path.name for path in written] == ["fig2.pdf", "fig2.png"]
    assert capsys.readouterr().err.splitlines() == ["fig3 is skipped: before the first step there is no training loss."]
    for only, words in (([99], "only = 99"), ([], "there are figures 1, 2")):
        with pytest.raises(ExperimentError, match=words):
            figures.chosen(only, paper.FIGURES)
    with pytest.raises(RunError, match=r"Nothing is left to draw: fig3 is skipped: .*; fig7 is skipped: before"):
        figures.draw_all(data, tmp_path / "no", figures.chosen([3, 7], paper.FIGURES))
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("name", ["test_loss", "restoring", "diverged_step", "temperature"])
def test_what_a_file_should_have_and_has_not_is_refused(run, tmp_path, name):
    data = run.swap_dims(temperature="learning_rate") if name == "temperature" else run
    with pytest.raises(RunError, match=f"lacks the variable {name},"):
        figures.draw_all(data.drop_vars(name), tmp_path / "no", [paper.loss_map, paper.phase_diagram])
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(("axes", "words"), [
    ({"momentum": (0.0, 0.5)}, "one momentum first, for instance run.isel(momentum=0)."),
    ({"temperature": 1.0}, "the axes of this run are sigma_w: a number of the grid is an axis if it is given as a list."),
    ({"sigma_w": 1.0}, "the axes of this run are temperature: a number"),
    ({"temperature": 1.0, "sigma_w": 1.0}, "this run has no axes"),
], ids=["three", "sigma_w", "temperature", "none"])  # fmt: skip
def test_runs_of_other_axes_than_the_plane_end_in_a_sentence(tmp_path, axes, words):
    grid = Grid(**({"temperature": (0.5, 1.0), "sigma_w": (1.0, 2.0)} | axes), seeds=2)
    data = phasejax.simulate(small(grid=grid, schedule=Schedule(2), observe=FEW), progress=False)
    refused = [lambda: figures.draw_all(data, tmp_path / "no", paper.FIGURES), lambda: claims.check(data, CLAIMS)]
    for refuse in (*refused, *(lambda draw=draw: draw(data) for draw in paper.FIGURES)):
        with pytest.raises((RunError, figures.NotDrawable)) as refusal:
            refuse()
        assert words in str(refusal.value)
        assert str(refusal.value).startswith("The figures and claims are of the plane of temperature")
    assert not (tmp_path / "no").exists()
    if "momentum" in axes:
        labels = [drawn_maps(paper.loss_map(data.isel(momentum=k)))[0].get_ylabel() for k in (0, 1)]
        assert [r"(1 - \mu)" in label for label in labels] == [False, True]
        assert {v.verdict for v in claims.check(data.isel(momentum=1), CLAIMS)} == {claims.ABSENT}


def test_a_plane_given_by_learning_rates_is_the_same_plane(run):
    rates = run.assign_coords(learning_rate=4 * run.temperature).swap_dims(temperature="learning_rate")
    rates = of(rates, grid=Grid(learning_rate=tuple(rates.learning_rate.values), sigma_w=(0.125, 1.0, 256.0), seeds=3))
    rates.attrs["axes"] = "learning_rate sigma_w"
    for draw in (paper.loss_map, paper.phase_diagram):
        ours, plain = (drawn_maps(draw(data)) for data in (rates, run))
        for one, other in zip(ours, plain, strict=True):
            np.testing.assert_array_equal(one.collections[0].get_array(), other.collections[0].get_array())
            assert one.get_ylabel() == other.get_ylabel()
    assert [v.verdict for v in claims.check(rates, CLAIMS)] == [v.verdict for v in claims.check(run, CLAIMS)]


def test_what_a_run_was_not_asked_to_record_is_not_drawn_and_not_judged(tmp_path, capsys):
    grid = Grid(temperature=(0.5, 1.0), sigma_w=(1.0, 2.0), seeds=2)
    data = phasejax.simulate(small(grid=grid, schedule=Schedule(20), observe=FEW), progress=False)
    (tmp_path / "new").mkdir()
    written = figures.draw_all(data, str(tmp_path / "new"), figures.chosen([2, 3, 5], paper.FIGURES))
    assert [path.name for path in written] == ["fig2.pdf", "fig2.png", "fig3.pdf", "fig3.png"]
    assert all(path.exists() for path in written), "a folder may be named by a text"
    assert "fig5 is skipped: G_t0 is not recorded: it is not among what the run was asked" in capsys.readouterr().err
    ours = data.assign_attrs(experiment=dataclasses.replace(Experiment(), observe=FEW).to_toml())
    reasons = [v.reason for v in claims.check(ours, CLAIMS)]
    assert any("alignment is not recorded" in reason for reason in reasons)
    with pytest.raises(RunError, match="diverged_step is not recorded"):
        paper.loss_map(of(data.drop_vars("diverged_step"), observe=("test_loss",)))


@dataclasses.dataclass(frozen=True)
class Wave:
    """A network of one's own, with one trained matrix."""

    inputs: int = 3
    hidden: int = 4

    def init(self, key, dtype="float32"):
        return {"w": jax.random.normal(key, (self.hidden, self.inputs), dtype)}

    def apply(self, weights, x):
        features = jnp.sin(x @ weights["w"].T)
        return features.sum(1, keepdims=True), features


@pytest.mark.long
def test_a_network_of_ones_own_is_drawn_as_far_as_it_goes(tmp_path, capsys):
    grid = Grid(temperature=(0.01, 0.1), sigma_w=(1.0, 2.0), seeds=2)
    data = phasejax.simulate(small(network=Wave(), grid=grid, schedule=Schedule(20)), progress=False)
    drawn = {path.stem for path in figures.draw_all(data, tmp_path, paper.FIGURES)}
    assert {"fig2", "fig3", "fig4", "fig6", "fig7", "teacher_overlaps", "against_length"} <= drawn
    skipped = capsys.readouterr().err.splitlines()
    assert {line.split()[0].strip(":") for line in skipped} | drawn == set(map(figures.file_name, paper.FIGURES))
    assert "fig5: a panel is left out: alignment is not recorded: the network is not a phasejax.Network." in skipped
    assert {v.verdict for v in claims.check(data, CLAIMS)} == {claims.ABSENT}


def test_an_empty_selection_is_refused(run, tmp_path):
    for selection, words in (({"seed": []}, "has no seed"), ({"step": []}, "has no step"), ({"sigma_w": 0}, "with a list")):
        with pytest.raises(RunError, match=words):
            figures.draw_all(run.isel(selection), tmp_path / "no", [paper.loss_map])
    assert not (tmp_path / "no").exists()


def test_a_layers_own_scale_is_in_its_initial_spectrum(run):
    (plain,), (scaled,) = (paper.initial_spectrum(data).axes
                           for data in (run, of(run.assign(eigenvalues=4 * run.eigenvalues),
                                                network=Network(trainable=(2,), sigma_w_scale=(2.0,)))))  # fmt: skip
    np.testing.assert_allclose([bar.get_height() for bar in scaled.patches], [bar.get_height() for bar in plain.patches])


def test_statistics_of_the_seeds():
    values = xr.DataArray([[1.0, 2.0, 3.0, np.nan]], dims=("cell", "seed"))
    mean, low, high = (float(v[0]) for v in summary(values, "mean"))
    assert (mean, high - mean, mean - low) == pytest.approx((2, 1 / np.sqrt(3), 1 / np.sqrt(3)))
    median, low, high = (float(v[0]) for v in summary(values, "median"))
    assert (low, median, high) == pytest.approx((1.32, 2, 2.68))
    assert left_out(values) == "1 of 4 not finite"
    assert left_out(values[:, :3]) == ""


def test_scales_of_colours():
    values = np.array([-1.0, 0.5, 4.0])
    assert (colours(values, "log")["norm"].vmin, colours(values, "log")["norm"].vmax) == (0.5, 4)
    assert (colours(values, "signed")["norm"].vmin, colours(values, "signed")["norm"].vmax) == (-4, 4)
    assert colours(np.array([np.nan]), "linear") == {}


OTHER = ("test_loss", "eigenvalues", "target_eigenvalues", "diverged_step")


@pytest.fixture(scope="module")
def heavy():
    """A plane of momentum and temperature."""
    grid = Grid(momentum=(0.9, 0.0, 0.5), temperature=(0.1, 1.0), sigma_w=1.0, seeds=2)
    return phasejax.simulate(small(grid=grid, schedule=Schedule(10), observe=OTHER), progress=False)


def clipped(learning_rate, clip):
    return optax.chain(optax.clip_by_global_norm(clip), optax.sgd(learning_rate))


def test_any_observable_is_mapped_over_any_two_axes(heavy):
    (ax,) = drawn_maps(phasejax.plane(heavy, "test_loss", scale="log"), "linear")
    expected = heavy.test_loss.isel(step=-1).mean("seed").sortby("momentum").transpose("temperature", "momentum")
    np.testing.assert_allclose(ax.collections[0].get_array(), expected, rtol=1e-6)
    assert (ax.get_xlabel(), ax.get_xscale(), ax.get_yscale()) == ("heavy-ball momentum mu", "linear", "log")
    assert r"(1 - \mu)" in ax.get_ylabel()
    assert [text.get_text() for text in ax.get_xticklabels()] == ["$0$", "$0.5$", "$0.9$"]
    assert ax.get_title() == "mean test loss, half the mean squared error"

    grid = Grid(clip=(1e-3, 1.0, 1e3), learning_rate=(0.1, 1.0), sigma_w=1.0, seeds=3)
    run = phasejax.simulate(small(grid=grid, sgd=Sgd(clipped), schedule=Schedule(10), observe=OTHER), progress=False)
    figure = phasejax.plane(run.isel(level=-1), "eigenvalues", step=1, statistic="median", label="largest")
    (ax,) = drawn_maps(figure)
    expected = run.eigenvalues.isel(level=-1).sel(step=1).median("seed").transpose("learning_rate", "clip")
    np.testing.assert_allclose(ax.collections[0].get_array(), expected, rtol=1e-6)
    assert (ax.get_xlabel(), ax.get_yscale()) == ("clip, of the optimizer test_figures:clipped", "log")
    assert (ax.get_title(), figure.get_suptitle()) == ("median largest", "1 step (0.05 epochs), 3 seeds")


def test_the_plane_of_a_run_lies_as_the_papers_does(run, heavy):
    assert plane_of(run) == plane_of(run.test_loss) == ("temperature", "sigma_w")
    assert plane_of(run.transpose("sigma_w", ...)) == ("temperature", "sigma_w")
    assert plane_of(heavy) == plane_of(heavy.test_loss) == ("temperature", "momentum")
    np.testing.assert_array_equal(
        drawn_maps(phasejax.plane(run, "test_loss", scale="log"))[0].collections[0].get_array(),
        drawn_maps(paper.loss_map(run))[0].collections[0].get_array(),
    )


def test_what_is_no_plane_ends_in_a_sentence_that_says_what_to_select(run, heavy):
    three = run.expand_dims(momentum=[0.0, 0.5]).assign_attrs(axes="momentum temperature sigma_w")
    for data, name, words in (
        (
            three,
            "test_loss",
            r"spans temperature, momentum, sigma_w, .* one momentum first, .* run.isel\(momentum=0\).",
        ),
        (heavy.isel(momentum=0), "test_loss", "its only axis is temperature: a number of the grid is an axis if"),
        (heavy.isel(momentum=0, temperature=0), "test_loss", "it has no axes"),
        (heavy, "eigenvalues", r"eigenvalues has level too, .* for instance run.isel\(level=0\)."),
        (heavy, "target_eigenvalues", "level"),
        (heavy, "rank", "rank is not recorded"),
        (heavy, "momentum", "momentum has no step and no temperature and no seed"),
    ):
        with pytest.raises(RunError, match=words):
            phasejax.plane(data, name)


def test_a_figure_of_ones_own_is_one_declaration(heavy, tmp_path, capsys):
    @phasejax.figure(needs=["test_loss", "momentum"], caption="What is lost")
    def lost(dataset):
        return phasejax.plane(dataset, "test_loss")

    @phasejax.figure(needs=["rank"], caption="What is not there")
    def rank(dataset):
        raise AssertionError

    written = figures.draw_all(heavy, tmp_path, [lost, rank], step=1)
    assert [path.name for path in written] == ["lost.pdf", "lost.png"]
    assert capsys.readouterr().err.startswith("rank is skipped: rank is not recorded")
    assert lost(heavy, step=1).get_suptitle().startswith("1 step")
    assert (lost.caption, lost.number) == ("What is lost", None)
    with pytest.raises(ExperimentError, match="there are figures lost, rank"):
        figures.chosen(["fig2"], [lost, rank])


@pytest.mark.parametrize(("values", "expected"), [
    ([0.1, 0.3, 1.0], True), ([1.0, 2.0, 4.0], True), ([0.1, 10.0], True),
    ([0.1, 0.5, 0.9], False), ([1.0, 2.0, 3.0], False), ([0.0, 0.1, 10.0], False), ([-4.0, 1.0], False), ([2.0], False),
])  # fmt: skip
def test_an_axis_is_logarithmic_if_its_values_look_like_it(values, expected):
    assert geometric(np.array(values)) == expected


def test_edges_lie_halfway_on_a_logarithmic_axis():
    np.testing.assert_allclose(edges(np.array([1.0, 4.0, 16.0])), [0.5, 2, 8, 32])
    np.testing.assert_allclose(edges(np.array([3.0])), [3 / np.sqrt(2), 3 * np.sqrt(2)])
    np.testing.assert_allclose(edges(np.array([0.0, 1.0, 4.0]), log=False), [-0.5, 0.5, 2.5, 5.5])
