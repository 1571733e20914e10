"""Verdicts follow from the rule: on data made as the paper says, on each claim's own failure, and on shorter training."""

import dataclasses
import json
import re
import tomllib
from html import escape

import numpy as np
import pytest
import tomli_w
import xarray as xr

from phasejax import Experiment, ExperimentError, Grid, Network, Sgd, TeacherStudent, claims
from phasejax.analysis.run import RunError
from phasejax.claims import ABSENT, AGREES, DIFFERS, LONGER, PAPER_STEPS, Claim, Measure, writing
from phasejax.figures import page
from phasejax.studies.paper import claims as paper
from phasejax.studies.paper.figures import FIGURES

SEEDS = 8
STEPS = np.array([0, 1, 10_000, 30_000, 100_000, 10**7, 3 * 10**7, 10**8])
T = 2.0 ** np.arange(-5, 7)
X = 2.0 ** np.arange(-8, 4)
LONG = {"loss_range", "growth_hottest", "growth_fig6", "spectrum_arrival"}


def as_the_paper_says():
    """A run of 10^8 steps in which every statement holds at the end, and some only there: log m moves with log step."""
    t, x = np.meshgrid(T, X, indexing="ij")
    progress = np.log10(np.maximum(STEPS, 1))[:, None, None, None] / 8
    noise = np.linspace(-1, 1, SEEDS)
    hot, weak = 1 / (1 + t**-4), 1 / (1 + x**4)
    bad = (1 - (1 - hot) * (1 - weak))[None, :, :, None]
    line = (8 / x) ** 0.25  # T_c

    def spread(values):
        return np.broadcast_to(values, (len(STEPS), *t.shape, SEEDS)) * (1 + 0.01 * noise)

    growth = np.where(t >= 4, 7.4, np.where(x > 1.5, 2 * np.log10(np.maximum(x, 1)), 0.0))[None, :, :, None]
    levels = 0.05 + 2.56 * np.linspace(0, 1, 16)
    eigenvalues = spread(10 ** (growth * progress) / x[None, :, :, None] ** 2)[..., None] * levels
    # Eq 4.15 with V_S = 1: a student converges below T where restoring * bound >= T.
    bound = 4 * np.sqrt(0.5) / x**2 / 15
    follows = (line / bound)[..., None] * np.exp(0.3 * noise)
    ordered = ((t <= 2**-3) & (x > 1.5))[..., None] | (np.arange(SEEDS) < SEEDS // 2)
    restoring = np.stack([follows, np.where(ordered, 1e9, -1e9)], axis=-1)
    dims = ("step", "temperature", "sigma_w", "seed")
    gradient = (x**2 / (x**2 + 0.05))[..., None] * (1 + 0.01 * noise)
    variables = {
        "test_loss": (dims, spread(0.5 * 10 ** (-1 - 6 * (1 - bad) * progress))),
        "gradient_norm": (dims, spread(10 ** (-6 + 3 * bad))),
        "full_gradient_norm": (("step_ends", *dims[1:]), np.stack([gradient, gradient])),
        "G_t0": (dims, spread((weak / (1 + (t / line) ** 4))[None, :, :, None])),
        "alignment": (dims, spread(0.1 + 0.3 * (1 - bad))),
        "eigenvalues": ((*dims, "level"), eigenvalues),
        "target_eigenvalues": (("seed", "level"), np.tile(levels, (SEEDS, 1))),
        "V_S": ((*dims, "reading"), np.ones((len(STEPS), *t.shape, SEEDS, 2))),
        "restoring": ((*dims, "reading"), np.broadcast_to(restoring, (len(STEPS), *t.shape, SEEDS, 2)).copy()),
        "diverged_step": (dims, np.full((len(STEPS), *t.shape, SEEDS), -1)),
        "weights": (("node", "input"), np.zeros((16, 32))),
    }
    coords = {"step": STEPS, "epoch": ("step", STEPS / 1000), "temperature": T, "sigma_w": 1 / X,
              "inverse_sigma_w": ("sigma_w", X), "reading": ["drift", "released"]}  # fmt: skip
    return xr.Dataset(
        variables,
        coords,
        {"experiment": Experiment().to_toml(), "format_version": 2, "title": "<script>alert('x')</script>"},
    )


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch):
    monkeypatch.setattr(claims.judging, "_RESAMPLES", 100)


@pytest.fixture(scope="module")
def ideal():
    return as_the_paper_says()


def verdicts(dataset, step=None):
    return {v.claim.key: v.verdict for v in claims.check(dataset, paper.CLAIMS, step)}


def changed(dataset, **variables):
    return dataset.assign({name: dataset[name].copy(data=change(dataset[name])) for name, change in variables.items()})


def test_all_agree_where_the_paper_is_right(ideal):
    assert set(verdicts(ideal).values()) == {AGREES}


FAILURES = {
    "initial_edge": {"eigenvalues": lambda x: 2 * x},
    "initial_gradient": {"full_gradient_norm": np.ones_like},
    "initial_spread": {"eigenvalues": lambda x: 2 * x},
    "loss_range": {"test_loss": lambda x: 0.01 + 0 * x},
    "loss_jump": {"test_loss": lambda x: 0 * x + 0.01 * x.temperature},
    "gradient_jump": {"gradient_norm": lambda x: x.values[:, ::-1]},
    "hot_independence": {"gradient_norm": lambda x: x * x.inverse_sigma_w},
    "memory": {"G_t0": lambda x: 0.3 + 0 * x},
    "alignment": {"alignment": lambda x: 1 - x},
    "rate_order": {"eigenvalues": lambda x: x.values[:, ::-1]},
    "growth_hottest": {"eigenvalues": lambda x: x.isel(step=[0] * x.sizes["step"]).values},
    "growth_fig6": {"eigenvalues": lambda x: x.isel(step=[0] * x.sizes["step"]).values},
    "spectrum_flow": {"eigenvalues": lambda x: x.values[::-1]},
    "spectrum_arrival": {"eigenvalues": lambda x: x.isel(step=[0] * x.sizes["step"]).values},
    "boundary_drift": {"restoring": lambda x: x.values[:, :, ::-1]},
    "boundary_released": {"restoring": lambda x: np.full_like(x, 1e9)},
}


def test_every_claim_has_a_failure():
    assert set(FAILURES) == {claim.key for claim in paper.CLAIMS}


@pytest.mark.parametrize("key", FAILURES)
def test_a_claim_that_fails_at_the_papers_length_differs(ideal, key):
    (claim,) = (c for c in paper.CLAIMS if c.key == key)
    verdict = claims.judge(claim, changed(ideal, **FAILURES[key]), PAPER_STEPS)
    assert verdict.verdict == DIFFERS
    assert "times shorter" not in verdict.reason


def test_shorter_training_needs_a_trend(ideal):
    early = ideal.sel(step=STEPS[STEPS <= 100_000])
    found = claims.check(early, paper.CLAIMS)
    assert {v.claim.key for v in found if v.verdict == LONGER} == LONG
    assert {v.verdict for v in found} == {AGREES, LONGER}
    assert verdicts(ideal, 100_000) == {v.claim.key: v.verdict for v in found}, "an earlier record is that shorter run"
    (reason,) = (v.reason for v in found if v.claim.key == "loss_range")
    assert "training is 1,000 times shorter than the paper's 100,000,000 steps" in reason
    # The same end, reached before the last decade: the first of its records, at 10^4 steps, is as good as the last.
    still = early.isel(step=[0, 1, 4, 4, 4]).assign_coords(step=early.step)
    (claim,) = (c for c in paper.CLAIMS if c.key == "spectrum_arrival")
    assert claims.judge(claim, early, 100_000).verdict == LONGER
    assert claims.judge(claim, still, 100_000).verdict == DIFFERS
    assert claims.judge(claim, early.isel(step=[0, 4]), 100_000).verdict == DIFFERS, "one record has no trend"


def toy(slope, noise, level=1.0, seeds=20):
    """A run with one number, m = level + slope * (log10 step - 5), per student with this scatter at every record."""
    steps = np.array([0, 10_000, 30_000, 60_000, 100_000])
    m = level + slope * (np.log10(np.maximum(steps, 1)) - 5)
    scatter = noise * np.random.default_rng(3).standard_normal((len(steps), seeds))
    return xr.Dataset({"m": (("step", "seed"), m[:, None] + scatter)}, {"step": steps, "temperature": [1.0]},
                      {"experiment": Experiment().to_toml()})  # fmt: skip


@pytest.mark.parametrize(("run", "steps", "expected"), [
    (toy(0, 0.1, 2.5), PAPER_STEPS, AGREES),
    (toy(0.5, 0.1), PAPER_STEPS, LONGER),
    (toy(-0.5, 0.1, 5.0), PAPER_STEPS, LONGER),
    (toy(-0.5, 0.1), PAPER_STEPS, DIFFERS),
    (toy(0.05, 2.0), PAPER_STEPS, DIFFERS),  # moves no more than its error
    (toy(0.5, 0.1), 100_000, DIFFERS),  # the statement was made at this length
    (toy(0.5, 0.1, np.nan), PAPER_STEPS, DIFFERS),
])  # fmt: skip
def test_the_rule(run, steps, expected):
    claim = Claim("toy", "m is between 2 and 3", "", "", steps, (Measure("m", lambda d: d[["m"]], lambda x: x.m, 2, 3),))
    verdict = claims.judge(claim, run, 100_000)
    assert verdict.verdict == expected
    (m,) = verdict.measured
    if np.isfinite(m.value):
        scatter = float(run.m.isel(step=-1).std(ddof=1)) / np.sqrt(run.sizes["seed"])
        assert m.value == pytest.approx(float(run.m.isel(step=-1).mean()))
        assert m.error == pytest.approx(scatter, rel=0.2), "the bootstrap error of a mean is its standard error"


def test_one_failing_number_without_a_trend_is_enough_to_differ():
    good, bad = (Measure(n, lambda d: d[["m"]], lambda x, s=s: s * x.m, 2, 3) for n, s in (("m", 1), ("-m", -1)))
    run = toy(0.5, 0.01)
    assert claims.judge(Claim("a", "", "", "", PAPER_STEPS, (good,)), run, 100_000).verdict == LONGER
    assert claims.judge(Claim("b", "", "", "", PAPER_STEPS, (good, bad)), run, 100_000).verdict == DIFFERS


def test_numbers_near_the_end_of_an_interval_and_on_their_way_out_are_said_to_be():
    def reason(run):
        measure = Measure("m", lambda d: d[["m"]], lambda x: x.m, 2, 3)
        return claims.judge(Claim("toy", "", "", "", PAPER_STEPS, (measure,)), run, 100_000).reason

    assert "more seeds could turn it" in reason(toy(0, 1.0, 2.05))
    assert reason(toy(0, 0.001, 2.5)) == ""
    assert "changes by +0.3 per decade, with 3 decades" in reason(toy(0.3, 0.001, 2.5))


def test_the_last_crossing_is_the_highest_temperature_of_one():
    rng = np.random.default_rng(0)
    values = xr.DataArray(rng.random((5, 12)), dims=("sigma_w", "temperature"), coords={"temperature": T})
    found = paper._last_crossing(values, 0.5)
    for row, log_t in zip(values.values, found, strict=True):
        (at,) = np.nonzero((row[1:] >= 0.5) != (row[:-1] >= 0.5))
        k = at[-1]
        share = (0.5 - row[k]) / (row[k + 1] - row[k])
        assert 10 ** float(log_t) == pytest.approx(T[k] * (T[k + 1] / T[k]) ** share)
    assert np.isnan(paper._last_crossing(values, 2.0)).all()


@pytest.mark.parametrize(("parts", "reason"), [
    ({"task": TeacherStudent(samples=80)}, "another number of samples"),
    ({"network": Network((3, 6, 4, 1), "relu", (1, 2)), "sgd": Sgd(batch_size=8)}, "another network and batch size"),
    ({"sgd": Sgd(optimizer="adam"), "grid": Grid(learning_rate=(0.1,), sigma_w=(1.0,), seeds=2)}, "no temperature"),
])  # fmt: skip
def test_other_systems_are_not_in_this_run(ideal, tmp_path, parts, reason):
    run = ideal.assign_attrs(experiment=dataclasses.replace(Experiment(), **parts).to_toml())
    run = run.rename(temperature="learning_rate") if "grid" in parts else run
    found = claims.check(run, paper.CLAIMS)
    assert {v.verdict for v in found} == {ABSENT}
    assert all(reason in v.reason for v in found)
    claims.write(found, run, tmp_path)
    assert ABSENT in page.index_page(tmp_path, run, found, [], (), "A run").read_text("utf-8")


def test_other_grids_keep_what_they_have(ideal):
    one = verdicts(ideal.sel(sigma_w=[0.125]))
    assert one["loss_jump"] == one["growth_fig6"] == one["initial_spread"] == AGREES
    assert one["memory"] == one["initial_edge"] == one["boundary_drift"] == ABSENT
    coarse = verdicts(ideal.isel(temperature=[0, 2, 4, 6, 7, 9, 11], sigma_w=[0, 3, 6, 9, 11]))
    assert set(coarse.values()) == {AGREES}
    assert set(verdicts(ideal.isel(seed=[0])).values()) == {ABSENT}
    start = verdicts(ideal.isel(step=[0]))
    assert start["initial_edge"] == start["initial_gradient"] == start["initial_spread"] == AGREES
    assert start["spectrum_flow"] == start["rate_order"] == DIFFERS
    with pytest.raises(ExperimentError, match=r"at_step = 18000 .* 10000"):
        claims.check(ideal, paper.CLAIMS, 18_000)


@pytest.mark.parametrize("name", ["G_t0", "eigenvalues", "restoring", "V_S", "full_gradient_norm", "diverged_step"])
def test_a_file_that_lacks_what_its_experiment_records_is_refused(ideal, name):
    with pytest.raises(RunError, match=f"lacks the variable {name},"):
        claims.check(ideal.drop_vars(name), paper.CLAIMS)


def test_an_activation_registered_elsewhere_is_another_network(ideal):
    run = ideal.assign_attrs(experiment=ideal.attrs["experiment"].replace("tanh", "mine:cube"))
    assert set(verdicts(run).values()) == {ABSENT}
    # Of format 1, in which a registered one had a name alone.
    tables = tomllib.loads(ideal.attrs["experiment"].replace("tanh", "cube"))
    tables["grid"] = {"temperatures": tables["grid"]["temperature"], "sigma_w": tables["grid"]["sigma_w"]}
    tables = {name: tables[name] for name in ("network", "task", "sgd", "grid", "precision")}
    old = ideal.drop_attrs()
    old.attrs = {"experiment": tomli_w.dumps(tables)}
    assert set(verdicts(old).values()) == {ABSENT}


def test_diverged_students_are_counted_and_left_out(ideal):
    run = ideal.copy(deep=True)
    run.test_loss[-1, 11, :, 0] = np.inf
    run.diverged_step[-2:, 11, :, 0] = 2 * 10**7
    assert writing.diverged(run, PAPER_STEPS) == "12 of 1,152 students diverged"
    assert writing.diverged(run, 10**7) == "0 of 1,152 students diverged"
    assert verdicts(run)["hot_independence"] == AGREES


def test_files_say_the_same(ideal, tmp_path):
    early = ideal.sel(step=STEPS[STEPS <= 100_000])
    found = claims.check(early, paper.CLAIMS)
    text, data = (path.read_text("utf-8") for path in claims.write(found, early, tmp_path))
    data = json.loads(data)
    assert data["step"] == 100_000
    table = [line for line in text.splitlines() if line.startswith("|")][2:]
    assert len(table) == len(data["claims"]) == len(paper.CLAIMS)
    for line, claim, verdict in zip(table, data["claims"], found, strict=True):
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        assert cells[:2] == [claim["statement"], claim["verdict"]] == [verdict.claim.statement, verdict.verdict]
        assert claim["rule"] in text
        for m in claim["measured"]:
            assert m["name"] in cells[-1]
            low, high = (np.inf * s if m[end] is None else m[end] for end, s in (("low", -1), ("high", 1)))
            assert m["agrees"] == (low < m["value"] < high)


def test_the_page_holds_everything_and_asks_for_nothing(ideal, tmp_path):
    drawn = [tmp_path / name for name in ("fig1.pdf", "fig1.png", "fig2.png", "seed_variance.png", "along_training.gif")]
    for path in (*drawn, tmp_path / "fig3.png"):  # the last is of another day
        path.write_bytes(bytes.fromhex("89504e470d0a1a0a") + bytes(10) + b"\x04\x00")
    html = page.index_page(tmp_path, ideal, claims.check(ideal, paper.CLAIMS), drawn, FIGURES, "<script>").read_text("utf-8")
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", html)
    assert [caption.split()[:2] for caption in captions] == [["Fig", "1."], ["Fig", "2."], ["Mean", "over"], ["The", "same"]]
    assert html.count('<img width="512" src="data:image/png;base64,iVBORw0KGgo') == 3
    assert not re.findall(r"""(?:src|srcset|data|action)\s*=\s*["'](?!data:)|url\(|@import|<link|<script|<iframe""", html)
    assert set(re.findall(r"""<(\w+)[^>]*https?:""", html)) <= {"a"}
    assert "&lt;script&gt;" in html
    for claim in paper.CLAIMS:
        assert escape(writing.symbols(claim.statement)) in html
