"""A reference is what its script makes of slabs, opens as a run, and a run is compared with it in units of its error."""

import dataclasses

import netCDF4
import numpy as np
import pytest
import xarray as xr
from conftest import small
from scipy.stats import ttest_ind, ttest_rel

import phasejax
from experiments import full_length, pages
from phasejax import Experiment, ExperimentError, RunError, cli
from phasejax.analysis import boundaries, spectrum
from phasejax.analysis.comparison import OBSERVABLES, compare
from phasejax.analysis.length import against_training
from phasejax.analysis.phases import PHASES
from phasejax.figures.comparison import deviations, heading, table
from phasejax.figures.style import NotDrawable
from phasejax.files.reading import load_run
from phasejax.studies.paper import figures


@pytest.fixture(scope="module")
def whole(finished):
    """The finished small run of three seeds."""
    return load_run(finished[1])


@pytest.fixture(scope="module")
def slabs(whole, tmp_path_factory):
    folder = tmp_path_factory.mktemp("slabs")
    for name, seeds in (("one", [0, 1]), ("two", [2])):
        whole.sel(seed=seeds).to_netcdf(folder / f"{name}.nc")
    return folder / "one.nc", folder / "two.nc"


@pytest.fixture(scope="module")
def reference(slabs, tmp_path_factory):
    return full_length.add(slabs, tmp_path_factory.mktemp("reference") / "small.nc")


def packed(file):
    """The numbers as they lie in a file."""
    with netCDF4.Dataset(file) as nc:
        nc.set_auto_maskandscale(False)
        return {name: variable[...] for name, variable in nc.variables.items()}


def test_the_reference_is_what_its_script_makes_of_two_slabs(whole, slabs, reference, tmp_path):
    for slab in slabs:
        one_by_one = full_length.add([slab], tmp_path / "small.nc")
    xr.testing.assert_allclose(one_by_one, reference, rtol=1e-4)
    kept = [name for name in reference.data_vars if "seed" in reference[name].dims]
    xr.testing.assert_identical(one_by_one[kept], reference[kept])
    assert one_by_one.attrs == reference.attrs
    assert "command_line" not in reference.attrs, "it has the paths of the machine"
    for name in full_length.LOGARITHMS:
        expected = spectrum.level_spacing(whole) if name == "level_spacing" else whole[name]
        ratio = reference[name] / expected.transpose(*reference[name].dims).clip(min=1e-12)
        known = np.isfinite(expected.values)
        assert np.abs(np.log10(ratio.values[known])).max() < 1.6e-4, name
    for name in full_length.CORRELATIONS:
        np.testing.assert_allclose(reference[name], whole[name], atol=1.6e-5)
    levels = whole.eigenvalues.astype(float)
    np.testing.assert_allclose(reference.eigenvalues_mean, levels.mean("seed"), rtol=1e-5)
    np.testing.assert_allclose(reference.eigenvalues_error, levels.std("seed", ddof=1) / np.sqrt(3), rtol=1e-4)
    for reading in whole.reading.values:
        xr.testing.assert_equal(
            boundaries.fraction(reference, reading).reset_coords(drop=True),
            boundaries.fraction(whole, reading).reset_coords(drop=True),
        )


def test_more_seeds_change_nothing_of_those_that_are_there(slabs, tmp_path):
    file = tmp_path / "small.nc"
    full_length.add(slabs[:1], file)
    before = packed(file)
    full_length.add(slabs, file)
    after, bytes_ = packed(file), file.read_bytes()
    for name in before:
        if name.removeprefix("log10_") in (*full_length.LOGARITHMS, *full_length.CORRELATIONS):
            np.testing.assert_array_equal(after[name][..., :2], before[name], err_msg=name)
    full_length.add(slabs, file)
    assert file.read_bytes() == bytes_


def test_slabs_of_another_run_are_refused_and_nothing_is_written(whole, slabs, tmp_path):
    file = tmp_path / "small.nc"
    full_length.add(slabs[:1], file)
    before = file.read_bytes()
    other = whole.sel(seed=[2])
    for changed, words in (
        (other.assign_attrs(engine="another"), "engine"),
        (other.assign_attrs(experiment=small(precision="float64").to_toml()), "run"),
        (other.isel(step=slice(0, -1)), "records"),
    ):
        changed.to_netcdf(tmp_path / "other.nc")
        with pytest.raises(RunError, match=words):
            full_length.add([tmp_path / "other.nc"], file)
    assert file.read_bytes() == before


def test_the_paper_s_reference_comes_with_the_package():
    reference = phasejax.reference("paper")
    assert full_length.REFERENCE.stat().st_size < 4e6
    assert (reference.sizes["temperature"], reference.sizes["sigma_w"], int(reference.step[-1])) == (12, 12, 10**8)
    assert bool((reference.test_loss > 0).all())
    assert bool(np.isfinite(spectrum.rate(reference).isel(step=-1)).all())
    assert figures.training_needed(reference).axes
    with pytest.raises(ExperimentError, match="reference = 'lunch' is not possible: there is one of paper"):
        phasejax.reference("lunch")


def test_figures_that_a_reference_has_not_the_numbers_for_are_skipped(reference):
    for draw in (figures.eigenvalue_flow, figures.criterion):
        with pytest.raises(NotDrawable, match="is not recorded: a reference keeps"):
            draw(reference)
    for draw in (figures.loss_map, figures.rate_map, figures.convergence_boundaries, figures.phase_diagram):
        assert draw(reference).axes


@pytest.fixture(scope="module")
def alike(whole):
    """The small run, as if it were of the paper's data."""
    experiment = dataclasses.replace(Experiment(), grid=small().grid, schedule=small().schedule)
    run = whole.sel(step=whole.step.isin([stop.step for stop in experiment.stops() if stop.record]))
    return run.assign_attrs(experiment=experiment.to_toml()).assign_coords(epoch=run.step / 1000)


def by_seed(run, observable, phase):
    values = OBSERVABLES[observable][1](run).where(PHASES[phase](run))
    return values.mean(["temperature", "sigma_w"]).isel(step=-1)


def test_the_same_students_differ_by_rounding_alone(alike, reference):
    found = compare(alike, reference)
    assert (found.paired, found.seeds) == (True, 3)
    assert float(np.abs(found.difference).max()) < 2e-4
    assert float(np.abs(found.deviation).max()) < 2, "rounding is part of the error"
    assert found.cells.values.tolist() == [1, 2, 1]
    assert table(found).endswith("how the reference is rounded.")
    assert "2 seeds that both have, one by one (1 more left out)" in heading(compare(alike, reference.isel(seed=[0, 1])))


@pytest.mark.parametrize("paired", [True, False])
def test_a_difference_is_in_units_of_its_error(alike, reference, paired):
    noise = xr.DataArray([0.9, 1.1, 1.3], dims="seed")
    run = alike.assign(test_loss=alike.test_loss * 2 * noise)
    run = run if paired else run.assign_coords(seed=run.seed + 10)
    found = compare(run, reference)
    assert found.paired == paired
    for phase in PHASES:
        at = found.isel(step=-1).sel(phase=phase, observable="log10 test loss")
        ours, theirs = (by_seed(of, "log10 test loss", phase).values for of in (run, reference))
        test = (ttest_rel if paired else ttest_ind)(ours, theirs)
        np.testing.assert_allclose(at.deviation, test.statistic, rtol=1e-4)
        np.testing.assert_allclose(at.p_value, test.pvalue, rtol=1e-4)
    untouched = found.isel(step=-1).sel(observable="memory G(t,0)")
    assert float(np.abs(untouched.difference).max()) < 1e-4


def test_seeds_with_other_teachers_are_independent(alike, reference):
    assert not compare(alike.assign(target_eigenvalues=alike.target_eigenvalues * 1.01), reference).paired


def test_replicas_count_as_the_one_draw_that_they_are(alike, reference):
    found = compare(alike.assign_coords(teacher=("seed", [7, 7, 8])), reference)
    assert not found.paired
    assert found.freedom.values.max() == 3, "two teachers and three seeds"


def test_what_the_run_was_not_asked_to_record_is_left_out(alike, reference):
    asked = alike.drop_vars("alignment").assign_attrs(not_recorded="alignment is not recorded: nobody asked")
    assert set(OBSERVABLES) - set(compare(asked, reference).observable.values) == {"alignment"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda run: run.isel(seed=[0]), "single seed"),
        (lambda run: run.assign_coords(teacher=("seed", [7, 7, 7])), "replicas of one"),
        (lambda run: run.isel(step=[0]), "no record after step 0"),
        (lambda run: run.assign_coords(step=run.step + 1000), "no record after step 0"),
        (lambda run: run.assign_coords(temperature=run.temperature * 1.1), "no cell of a phase"),
        (lambda run: run.assign_attrs(experiment=small().to_toml()), "another number of samples"),
        (lambda run: run.isel(sigma_w=0).drop_vars("sigma_w").assign_attrs(axes="temperature"), "sigma_w"),
    ],
)
def test_what_cannot_be_compared_is_refused(alike, reference, change, words):
    with pytest.raises(RunError, match=words):
        compare(change(alike), reference)


def test_the_table_and_the_picture_say_the_same(alike, reference):
    found = compare(alike.assign(G_t0=alike.G_t0 * 0.5), reference)
    lines = table(found).splitlines()
    assert len(lines) == 3 + len(PHASES) * len(OBSERVABLES)
    (line,) = (line for line in lines if line.startswith("jammed") and "memory" in line)
    at = found.isel(step=-1).sel(phase="jammed", observable="memory G(t,0)")
    assert f"{float(at.deviation):+.1f}" in line
    jammed = deviations(found).axes[1]
    assert jammed.get_title() == "jammed, 2 cells"
    row = list(OBSERVABLES).index("memory G(t,0)")
    drawn = jammed.collections[0].get_array()[row]
    np.testing.assert_allclose(drawn, found.deviation.sel(phase="jammed", observable="memory G(t,0)")[1:])


def test_a_run_is_compared_from_the_command_line(alike, finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    alike.to_netcdf("mine.nc")
    with pytest.raises(SystemExit) as left:
        cli.main(["compare", "mine.nc"])
    said = capsys.readouterr().out
    assert (left.value.code, "paramagnetic log10 test loss" in said) == (0, True)
    assert (tmp_path / "figures/mine/compare.png").stat().st_size > 1000
    with pytest.raises(SystemExit) as left:
        cli.main(["compare", str(finished[1])])
    assert left.value.code == 2
    assert capsys.readouterr().err == (
        "The run cannot be compared with the reference. The run has another number of samples than the paper.\n"
    )


def test_lines_against_training_are_those_of_the_records(alike):
    t, x = alike.temperature, alike.inverse_sigma_w
    # log10 of the loss is linear in log 1/sigma_W: halfway, and a tenth of the start, are known.
    time = xr.DataArray(np.log10(np.maximum(alike.step, 1)), coords={"step": alike.step})
    loss = 10 ** -(time * (np.log10(x) + 3) / 4 + 0 * t) * xr.ones_like(alike.seed, float)
    run = alike.assign(test_loss=loss.transpose(*alike.test_loss.dims))
    found = against_training(run).isel(step=-1).sel(bound="centre")
    ends = np.log10(x.values)
    np.testing.assert_allclose(np.log10(found.halfway_line), (ends.min() + ends.max()) / 2, atol=1e-6)
    np.testing.assert_allclose(np.log10(found.learnt_line), 4 / time.values[-1] - 3, atol=1e-6)
    np.testing.assert_allclose(found.lowest_loss, loss.isel(step=-1).min(), rtol=1e-6)
    assert float(found.lowest_inverse_sigma_w) == float(x.max())
    expected = boundaries.transition(run).T_c.sel(sigma_w=0.125)
    np.testing.assert_allclose(found.T_c, expected)


def test_the_page_s_numbers_are_those_of_the_runs(tmp_path):
    reference = phasejax.reference("paper").load()
    desk = reference.sel(step=slice(0, 10**5))
    table = full_length.tabled(desk, reference)
    rows = {line.split(" | ")[0].removeprefix("| "): line.split(" | ")[1:] for line in table.splitlines()}
    assert len(rows["log10 test loss, jammed"]) == 7
    expected = np.log10(reference.test_loss.sel(step=10**8)).where(PHASES["jammed"](reference)).mean()
    assert float(rows["log10 test loss, jammed"][-1].split(" ± ")[0]) == pytest.approx(float(expected), abs=0.05)
    assert rows["memory G(t,0), ordered"][0] == rows["memory G(t,0), ordered"][3], "desk ends at 10^5"
    (line,) = [line for line in full_length.changes(reference).splitlines() if line.startswith("| log10 test loss, jammed")]
    before = np.log10(reference.test_loss.sel(step=10**7)).where(PHASES["jammed"](reference)).mean()
    change, error = (float(part.strip(" |")) for part in line.split(" | ")[-1].split(" ± "))
    assert change == pytest.approx(float(expected - before), abs=error / 5)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- numbers -->\nold\n<!-- end of numbers -->\nafter\n")
    pages.put("numbers", table, page)
    assert page.read_text() == f"before\n<!-- numbers -->\n{table}\n<!-- end of numbers -->\nafter\n"
