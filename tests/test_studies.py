"""A study makes experiments that differ in anything, trains them as any run, and opens them as one tree."""

import itertools
import json

import numpy as np
import pytest
import xarray as xr
from conftest import FEW, small

import phasejax as pj
from phasejax.claims import Null
from phasejax.cli import main
from phasejax.studies import Study, open_study
from phasejax.studies.folder import BUILT_IN, read_study

BASE = small(grid=pj.Grid(temperature=[2**-5, 0.25], sigma_w=1.0, seeds=2), observe=FEW)


def test_members_are_the_product_and_those_that_are_named():
    study = Study(
        BASE,
        vary={
            "sgd.batch_size": [1, 4],
            "network": [pj.Network((3, 8, 4, 1)), pj.Network((3, 8, 4, 1), "relu")],
        },
        members={"decayed": {"grid.weight_decay": 0.1, "sgd.order": "iid"}},
    )
    members = study.experiments()
    assert len(members) == 5
    assert {member.sgd.batch_size for member in members.values()} == {1, 4}
    assert members["decayed"].grid.weight_decay == 0.1
    assert members["decayed"].grid.temperature == (2**-5, 0.25)
    assert Study.from_toml(study.to_toml()) == study


def status(capsys, out):
    with pytest.raises(SystemExit) as left:
        main(["status", str(out)])
    assert left.value.code == 0
    return capsys.readouterr().out.splitlines()


def test_it_trains_what_is_missing_and_opens_all_of_it(tmp_path, capsys):
    study = Study(BASE, vary={"sgd.batch_size": [2, 4]}, question="Does B matter?")
    counter = itertools.count()
    with pytest.raises(pj.Interrupted):
        study.run(tmp_path / "batch", checkpoint_seconds=0, interrupted=lambda: next(counter) > 8)
    *_, later, words = status(capsys, tmp_path / "batch")
    assert later == "1 of 2 members have not been begun: batch_size=4."
    assert "the command that trains the study goes on" in words
    tree = study.run(tmp_path / "batch")
    assert [line.split()[-1] for line in status(capsys, tmp_path / "batch")] == ["left", "finished", "finished", "100.0%"]
    assert list(tree.children) == ["batch_size=2", "batch_size=4"]
    assert tree.attrs["question"] == "Does B matter?"
    alone = pj.simulate(study.experiments()["batch_size=4"])
    xr.testing.assert_identical(tree["batch_size=4"].to_dataset().drop_attrs().load(), alone.drop_attrs())
    before = (tmp_path / "batch" / "batch_size=2.nc").stat().st_mtime_ns
    study.run(tmp_path / "batch").close()
    assert (tmp_path / "batch" / "batch_size=2.nc").stat().st_mtime_ns == before
    assert pj.open(tmp_path / "batch").identical(open_study(tmp_path / "batch"))
    with pytest.raises(pj.StoreError, match="holds another study"):
        Study(BASE, vary={"sgd.batch_size": [8]}).run(tmp_path / "batch")
    with pytest.raises(pj.StoreError, match="holds no study"):
        open_study(tmp_path)


@pytest.mark.parametrize("clock", ["epochs", "time"])
def test_records_fall_together_on_the_clock(clock):
    members = Study(BASE, vary={"sgd.batch_size": [1, 4, 16]}, clock=clock).experiments()
    assert [member.schedule.steps for member in members.values()] == [240, 60, 15]
    times = [np.array(member.ladder.records()) * member.sgd.batch_size for member in members.values()]
    np.testing.assert_array_equal(times[0], times[2])
    np.testing.assert_array_equal(times[1], times[2])
    assert len(times[0]) > 5
    with pytest.raises(pj.ExperimentError, match="the steps of the member batch_size=7 would be"):
        Study(pj.Experiment(sgd=pj.Sgd(order="iid")), vary={"sgd.batch_size": [7, 4]}, clock=clock)


def test_what_time_is_not_of_all_cells_alike_is_refused():
    with pytest.raises(pj.ExperimentError, match="not those of the base times a number"):
        Study(BASE, members={"a": {"grid.temperature": [0.1, 0.3]}}, clock="time")


@pytest.mark.parametrize(("parts", "words"), [
    ({"vary": {"sgd.batchsize": [1]}}, "sgd.batch_size"),
    ({"vary": {"batch_size": [1]}}, "name a field of an experiment"),
    ({"vary": {"sgd.batch_size": 3}}, "must be a list"),
    ({"vary": {"sgd.batch_size": [3]}}, "needs it to divide"),
    ({"vary": {"sgd.batch_size": [4, 4]}}, "two members have this name"),
    ({"vary": {"sgd.batch_size": [4]}, "clock": "hours"}, "steps, epochs, time"),
    ({"base": 3, "vary": {"sgd.batch_size": [4]}}, "it must be an Experiment"),
])  # fmt: skip
def test_nonsense_is_refused_in_one_sentence(parts, words):
    with pytest.raises(pj.ExperimentError, match=words) as refusal:
        Study(**({"base": BASE} | parts))
    assert str(refusal.value).endswith(".")
    assert "\n" not in str(refusal.value)


# -- a study as a folder -------------------------------------------------------------------------------------------------

STUDY = """
question = "Does the batch size <b>matter</b>?"
clock = "epochs"

[base]
observe = ["test_loss", "diverged_step", "measures:largest"]
grid = {temperature = [0.03125, 0.25], sigma_w = [0.5, 1.0], seeds = 2}
network = {widths = [3, 8, 4, 1], trainable = [2]}
task = {samples = 40, test_samples = 8}
schedule = {steps = 20, records_per_decade = 2}

[vary]
sgd.batch_size = [2, 4]

[[member]]
name = "relu"
network.activation = "relu"

[presets.short]
schedule.steps = 10

[presets.long]
grid.seeds = 3
"""
FILES = {
    "measures.py": """
import jax.numpy as jnp
import phasejax as pj
largest = pj.Observable("largest", lambda student, task: jnp.max(jnp.abs(student.outputs)), "largest output")
""",
    "figures.py": """
import phasejax as pj
@pj.figure(needs=["largest"], caption="The largest output")
def largest(run):
    return pj.plane(run, "largest")
@pj.figure(needs=["largest"], caption="All members", over="study")
def together(tree):
    return pj.plane(tree, "largest")
@pj.figure(needs=["alignment"], caption="Not recorded", over="study")
def absent(tree):
    raise AssertionError
""",
    "claims.py": """
from phasejax.claims import Claim, Measure, at_start
def grows(run):
    return run[["largest"]] / run.largest.sel(step=0, drop=True)
def both(tree):
    return (tree["batch_size=2"].to_dataset() - tree["batch_size=4"].to_dataset())[["largest"]]
mean = lambda x: x.largest.mean(["temperature", "sigma_w"])
CLAIMS = (
    Claim(key="grows", statement="Outputs grow", measures=(Measure("growth", grows, mean, low=1.0),), null=at_start),
    Claim(key="differ", statement="B matters", measures=(Measure("difference", both, mean, low=-1, high=1),), over="study"),
)
""",
}


@pytest.fixture
def outsider(tmp_path, monkeypatch):
    """A folder of somebody's own study, in the working folder."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "batches"
    folder.mkdir()
    for name, text in {"study.toml": STUDY, **FILES}.items():
        (folder / name).write_text(text)
    return folder


def command(*arguments):
    from phasejax import cli

    with pytest.raises(SystemExit) as leave:
        cli.study([*map(str, arguments)])
    return leave.value.code


@pytest.mark.long
def test_a_folder_of_ones_own_goes_from_toml_to_page(outsider, tmp_path, capfd):
    assert command("batches", "--preset", "short", "--shard", "0/2") == 0
    assert not (tmp_path / "figures").exists(), "a shard draws nothing"
    assert command(outsider, "--preset", "short") == 0
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    members = ["batch_size=2", "batch_size=4", "relu"]
    assert {f"runs/batches-short/{name}.nc" for name in members} < files
    assert {f"figures/batches-short/{name}/largest.png" for name in members} < files
    assert {f"figures/batches-short/{name}" for name in ("together.pdf", "claims.md", "index.html")} < files
    assert "absent is skipped: alignment is not recorded" in capfd.readouterr().err
    page = (tmp_path / "figures/batches-short/index.html").read_text("utf-8")
    assert "<h1>Does the batch size &lt;b&gt;matter&lt;/b&gt;?</h1>" in page
    assert page.count("<img") == 4
    assert page.index("The largest output") < page.index("All members"), "as they are declared"
    claims = json.loads((tmp_path / "figures/batches-short/claims.json").read_text("utf-8"))["claims"]
    assert [(claim["key"], claim["member"]) for claim in claims] == [("differ", ""), *(("grows", name) for name in members)]
    assert {claim["null"] for claim in claims} == {"", "differs"}
    tree = pj.open("runs/batches-short")
    assert [node.sizes["step"] for node in tree.children.values()] == [node.sizes["step"] for node in tree.children.values()]
    before = {name: (tmp_path / f"runs/batches-short/{name}.nc").stat().st_mtime_ns for name in members}
    assert command("batches", "--preset", "short", "--figures", "again") == 0
    assert before == {name: (tmp_path / f"runs/batches-short/{name}.nc").stat().st_mtime_ns for name in members}
    assert (tmp_path / "again/index.html").exists()


@pytest.mark.parametrize(("change", "arguments", "words"), [
    ({}, ["nowhere"], ", or a folder with a study.toml"),
    ({}, ["batches", "--preset", "huge"], "preset = 'huge' is not possible: choose from short, long"),
    ({"study.toml": "clock = 3"}, ["batches"], "study.clock"),
    ({"study.toml": "quest = 1"}, ["batches"], "a study has question"),
    ({"study.toml": "[[member]]\\n"}, ["batches"], "with a name each"),
    ({"study.toml": "member = 3"}, ["batches"], "write [[member]]"),
    ({"study.toml": "presets = 3"}, ["batches"], "study.presets"),
    ({"study.toml": "base = 3"}, ["batches"], "study.base"),
    ({"study.toml": "[vary]\\nsgd.batch_size = 4"}, ["batches"], "must be a list"),
    ({"study.toml": "[presets.a]\\nsgd.size = 4"}, ["batches"], "sgd.size"),
    ({"study.toml": '[base]\\nobserve = ["nothing:there"]'}, ["batches"], "nothing of that name is known"),
])  # fmt: skip
def test_a_folder_that_is_wrong_is_one_sentence(outsider, tmp_path, capsys, change, arguments, words):
    for name, text in change.items():
        (outsider / name).write_text(text.replace("\\n", "\n"))
    assert command(*arguments) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not list(tmp_path.rglob("*.nc"))


def test_what_a_folder_holds_is_code_for_the_command_alone(outsider, tmp_path):
    (outsider / "figures.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    pj.Study.read(outsider / "study.toml")
    assert not (tmp_path / "sprung").exists()
    pj.read_study(outsider)
    assert (tmp_path / "sprung").exists()


def test_the_papers_study_is_its_presets():
    paper = pj.read_study("paper")
    assert [name for name, _ in paper.study.presets] == ["quick", "desk", "paper"]
    for name, _ in paper.study.presets:
        assert paper.study.at(name).experiments() == {"base": pj.Experiment.preset(name)}
    assert {draw.number for draw in paper.figures} == {None, *range(1, 10)}
    assert len(paper.claims) == len({claim.key for claim in paper.claims}) >= 16
    assert all(claim.null for claim in paper.claims)


@pytest.mark.parametrize("name", BUILT_IN)
def test_studies_of_the_package_can_be_trained_drawn_and_judged(name):
    study = read_study(name)
    assert study.study.question
    assert study.figures
    assert study.claims
    for preset in ("quick", "desk"):
        for member in study.study.at(preset).experiments().values():
            member.require_resolved()


def test_a_null_may_change_a_tree_as_a_whole():
    run = xr.Dataset({"x": ("step", [1.0])})
    tree = xr.DataTree.from_dict({"one": run, "two": 2 * run})
    swapped = Null("one in the place of both", lambda tree: xr.DataTree.from_dict({"two": tree["one"]}), over="study")
    assert float(swapped.of(tree)["two"].x[0]) == 1
    doubled = Null("twice as much", lambda run: 2 * run)
    assert float(doubled.of(tree)["two"].x[0]) == 4
