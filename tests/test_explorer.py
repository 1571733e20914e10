"""The explorer: its numbers are the file's, its page works in a browser that is clicked, and needs and trusts nobody."""

import csv
import io
import shutil
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import xarray as xr

import phasejax as pj
from phasejax import cli
from phasejax.analysis import boundaries
from phasejax.explorer import page
from phasejax.explorer.tables import tables

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
HOSTILE = "</script><script>window.stolen=1</script><img/src=x/onerror='window.stolen=1'>\"+alert(1)//${1}"


def read(text):
    """The rows of a CSV as dicts of numbers, NaN where nothing is."""
    return [{name: float(value or "nan") for name, value in row.items()} for row in csv.DictReader(io.StringIO(text))]


@pytest.fixture(scope="module")
def run(finished):
    with pj.open(finished[1]) as dataset:
        yield dataset.load()


def lose(run, seed):
    """The run with one student of every cell at the last temperature lost from the third record on."""
    lost = run.diverged_step.copy()
    lost[{"step": slice(3, None), "temperature": -1, "seed": seed}] = 2
    return run.assign(diverged_step=lost)


def three_axes(run):
    """The run with a third axis, along which the loss is ten times itself."""
    found = xr.concat([run, run.assign(test_loss=10 * run.test_loss)], "clip").assign_coords(clip=[0.5, 1.0])
    found["target_eigenvalues"] = run.target_eigenvalues
    return found.assign_attrs(axes="clip temperature sigma_w")


def without_plane(run):
    return run.isel(temperature=1, sigma_w=1)


def test_numbers_are_those_of_the_file(run):
    found = tables(lose(run, seed=1))
    rows = read(found.students)
    assert len(rows) == 9 * run.sizes["step"]
    k = [of.name for of in found.observables].index("alignment")
    ordered = run.sortby("inverse_sigma_w").sortby("temperature")
    for cell, record in ((0, 0), (4, 5), (7, run.sizes["step"] - 1)):
        (row,) = [row for row in rows if (row["cell"], row["record"]) == (cell, record)]
        values = ordered.alignment.isel(step=record, temperature=cell // 3, sigma_w=cell % 3)
        values = values.isel(seed=[0, 2]) if cell // 3 == 2 and record >= 3 else values
        assert row[f"n{k}"] == values.size
        expected = {"m": values.mean(), "e": values.std(ddof=1) / np.sqrt(values.size), "c": values.median(),
                    "l": values.quantile(0.16), "h": values.quantile(0.84)}  # fmt: skip
        for kind, value in expected.items():
            np.testing.assert_allclose(row[f"{kind}{k}"], float(value), rtol=0.05 if kind == "e" else 1e-3)
        level = ordered.eigenvalues.isel(step=record, temperature=cell // 3, sigma_w=cell % 3, level=7).sel(seed=values.seed)
        np.testing.assert_allclose(row["x0_7"], float(level.median()), rtol=1e-3)
    np.testing.assert_allclose(found.flows[0].teacher, run.target_eigenvalues.mean("seed"), rtol=1e-6)
    assert found.cells[0].startswith("T = 2⁻⁵, 1/σ_W = 2⁻⁸")
    assert found.cells[7].endswith("1 of 3 lost")


def test_the_boundaries_are_at_every_record(run):
    found = tables(run)
    for record in (0, run.sizes["step"] - 1):
        share = boundaries.fraction(run.isel(step=[record])).fraction.isel(step=0)
        expected = [line for level in boundaries.SIGMAS for line in boundaries.contours(share, level)]
        lines = [line for line in found.lines if line.record == record]
        for line, (x, y) in zip(lines, expected, strict=True):
            np.testing.assert_allclose([line.x, line.y], np.log10([x, y]))
    assert {line.kind for line in found.lines if line.record is None} == {"1/σ_W = √2 (paper)", "side peaks vanish"}


def test_what_a_run_does_not_have_is_left_out(run):
    nobody = tables(run.drop_vars(["target_eigenvalues", "teacher_overlap", "feature_overlap", "V_S"]).assign_attrs(
        not_recorded="V_S is not recorded: of no interest"))  # fmt: skip
    assert nobody.flows[0].teacher == []
    assert not {"converged", "trace_ratio", "teacher_overlap"} & {of.name for of in nobody.observables}
    assert not [line for line in nobody.lines if line.record is not None]
    assert len(tables(run.isel(sigma_w=0)).axes) == 1
    assert len(tables(without_plane(run)).cells) == 1
    with pytest.raises(pj.RunError, match="every student"):
        tables(run[["diverged_step"]])
    with pytest.raises(pj.RunError, match="not a run"):
        pj.explore(xr.Dataset())


def test_the_command_writes_a_page_and_without_the_extra_says_what_to_install(finished, tmp_path, capsys, monkeypatch):
    with pytest.raises(SystemExit) as done:
        cli.main(["explore", str(finished[1]), "--out", str(tmp_path / "new" / "page.html")])
    assert done.value.code == 0
    assert capsys.readouterr().out == f"{tmp_path / 'new' / 'page.html'}\n"
    page._library.cache_clear()
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(SystemExit) as done:
        cli.main(["explore", str(finished[1]), "--out", str(tmp_path / "page.html")])
    assert done.value.code == 2
    assert 'pip install "phasejax[explore]"' in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_a_study_writes_it_beside_its_index_which_links_to_it(run, tmp_path):
    link = '<a href="explore.html">Explore</a>'
    pj.report(run, tmp_path, figures=(), claims=())
    assert link not in (tmp_path / "index.html").read_text("utf-8")
    files = pj.report(run, tmp_path, figures=(), claims=(), explored=True)
    assert [path.name for path in files] == ["explore.html", "index.html"]
    pj.report(run, tmp_path, figures=(), claims=())
    assert link in (tmp_path / "index.html").read_text("utf-8")


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        pytest.skip("no Chromium is installed: make browser installs Debian's")
    from playwright.sync_api import sync_playwright

    quiet = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=quiet)
        yield browser
        browser.close()


@contextmanager
def opened(browser, shown, path):
    """A page in the browser, which has asked for nothing but itself and complained of nothing when it is closed."""
    shown.save(path)
    tab = browser.new_page(viewport={"width": 1440, "height": 900})
    tab.set_default_timeout(10_000)
    asked, complaints = [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto(path.as_uri())
    tab.wait_for_selector("#view svg")
    yield tab
    assert asked == [path.as_uri()]
    assert complaints == []
    tab.close()


def drawn(tab, name):
    """What the marks of a view look like."""
    marks = ", ".join(f"#view .role-mark[class*=' {name}_'] {kind}" for kind in ("path", "line"))
    return tab.eval_on_selector_all(
        marks, "all => all.map(one => ['d', 'fill', 'transform', 'x2', 'y2'].map(name => one.getAttribute(name)).join())"
    )


def click(tab, cell, **options):
    tab.locator("#view .plane_cells_0_marks path").nth(cell).click(**options)
    tab.wait_for_timeout(300)


def tooltip(tab, cell):
    tab.locator("#view .plane_cells_0_marks path").nth(cell).hover()
    tab.wait_for_selector("#vg-tooltip-element.visible")
    return " ".join(tab.inner_text("#vg-tooltip-element").split())


def test_a_click_changes_the_other_views_and_the_slider_the_plane(browser, run, tmp_path):
    views = ("plane_layer_1", "flow_A", "flow_B", "along_across", "along_up", "against_time_0", "against_time_2")
    with opened(browser, pj.explore(run), tmp_path / "page.html") as tab:
        before = {view: drawn(tab, view) for view in views}
        assert len(before["plane_layer_1"]) == 9
        assert all(before[view] for view in views)
        assert "A: T = 2⁻⁵, 1/σ_W = 8" in tab.inner_text("#view")

        click(tab, 3)  # the coldest cells are first
        after = {view: drawn(tab, view) for view in views}
        assert "A: T = 1, 1/σ_W = 2⁻⁸" in tab.inner_text("#view")
        assert [view for view in views if after[view] == before[view]] == ["plane_layer_1", "flow_B"]

        click(tab, 8, modifiers=["Shift"])
        both = {view: drawn(tab, view) for view in views}
        assert "B: T = 64, 1/σ_W = 8" in tab.inner_text("#view")
        assert [view for view in views if both[view] == after[view]] == ["plane_layer_1"]
        assert len(both["against_time_0"]) == 2 * len(after["against_time_0"]) - 1  # one line says where in time one is

        tab.locator("input[name=record]").fill("4")
        tab.wait_for_timeout(300)
        earlier = {view: drawn(tab, view) for view in views}
        assert f"after {int(run.step[4])} steps" in tab.inner_text("#view")
        assert earlier["plane_layer_1"] != both["plane_layer_1"]
        assert earlier["along_up"] != both["along_up"]

        tab.locator("select[name=shown]").select_option(label="alignment h·φ/‖h‖‖φ‖")
        tab.wait_for_timeout(300)
        assert "alignment h·φ/‖h‖‖φ‖" in tab.inner_text("#view")
        assert drawn(tab, "plane_layer_1") != earlier["plane_layer_1"]

        click(tab, 5, modifiers=["Shift"])  # on a line with the one before
        rings = "#view .role-mark[class*=' along_up_layer_3'] path"
        assert len(set(tab.eval_on_selector_all(rings, "all => all.map(one => one.getAttribute('stroke'))"))) == 2

        told = tooltip(tab, 4)
        mean = run.alignment.isel(step=4).sel(temperature=1, sigma_w=1).mean()
        assert f"{float(mean):.4g} ± ".replace("-", "−") in told
        assert "3 of 3" in told


def test_a_third_axis_has_a_slider_and_the_plane_may_be_another(browser, run, tmp_path):
    with opened(browser, pj.explore(three_axes(run)), tmp_path / "three.html") as tab:
        first = drawn(tab, "plane_layer_1")
        assert "clip = 1" in tab.inner_text("#view")
        assert "clip 1 " in tooltip(tab, 4)
        tab.locator("input[name=place0_1]").fill("0")
        tab.wait_for_timeout(300)
        assert "clip = 0.5" in tab.inner_text("#view")
        assert "clip 0.5 " in tooltip(tab, 5)
        assert len(drawn(tab, "plane_layer_1")) == len(first) == 9
        tab.locator("select[name=plane0]").select_option(label="clip over 1/σ_W")
        tab.wait_for_timeout(300)
        assert len(drawn(tab, "plane_layer_1")) == 6


@pytest.mark.long
@pytest.mark.parametrize(("reduced", "cells"), [(lambda run: run.isel(sigma_w=1), 3), (without_plane, 0)])
def test_one_axis_or_none(browser, run, tmp_path, reduced, cells):
    with opened(browser, pj.explore(reduced(run)), tmp_path / "page.html") as tab:
        assert len(drawn(tab, "plane_layer_1")) == cells
        assert drawn(tab, "flow_A")
        assert drawn(tab, "against_time_0")


@pytest.mark.long
def test_a_study_has_its_planes_side_by_side_and_one_slider(browser, run, tmp_path):
    short = run.isel(step=slice(None, -2))
    tree = xr.DataTree.from_dict({"batch_size=4": run, HOSTILE.replace("/", ""): short}, name="batch")
    tree.attrs["question"] = HOSTILE
    with opened(browser, pj.explore(tree), tmp_path / "study.html") as tab:
        views = ("plane_layer_1", "plane1_layer_1")
        last = [drawn(tab, view) for view in views]
        assert [len(marks) for marks in last] == [9, 9]
        for record, seen in ((1, int(run.step[1])), (run.sizes["step"] - 1, int(short.step[-1]))):
            tab.locator("input[name=record]").fill(str(record))
            tab.wait_for_timeout(300)
            assert f"after {seen} step" in tab.inner_text("#view")
        tab.locator("input[name=record]").fill("1")
        tab.wait_for_timeout(300)
        assert all(drawn(tab, view) != before for view, before in zip(views, last, strict=True))
        assert "</script>" in tab.inner_text("header")
        assert tab.evaluate("window.stolen") is None


def test_names_never_become_markup(browser, run, tmp_path):
    hostile = lose(run, 0).assign(rank=run.alignment).drop_vars(["V_S", "temperature"])
    hostile = hostile.rename(temperature=HOSTILE).assign_coords({HOSTILE: [1.0, 2.0, 5.0]})
    hostile["rank"].attrs["long_name"] = hostile[HOSTILE].attrs["long_name"] = HOSTILE
    hostile.attrs |= {"axes": f"{HOSTILE} sigma_w", "title": HOSTILE}
    hostile.encoding["source"] = f"{HOSTILE.replace('/', '')}.nc"
    with opened(browser, pj.explore(hostile), tmp_path / "page.html") as tab:
        click(tab, 4)
        assert HOSTILE[:30] in tooltip(tab, 5)
        assert tab.evaluate("window.stolen") is None
        assert tab.locator("img").count() == 0
        assert tab.locator("script").count() == 2
        assert HOSTILE[:30] in tab.inner_text("#controls")
        assert HOSTILE[:30] in tab.inner_text("#view")


@pytest.mark.long
def test_a_notebook_shows_it_in_a_frame_of_its_own(browser, run):
    shown = pj.explore(run)
    tab = browser.new_page()
    tab.set_content(f"<h1>cell</h1>{shown._repr_html_()}")
    tab.frame_locator("iframe").locator("#view svg").wait_for()
    assert tab.locator("iframe").get_attribute("sandbox") == "allow-scripts"
    tab.close()
