"""The command line: what it makes, how it refuses, and how fast its help comes."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import xarray as xr

import phasejax

TINY = ["--task.samples", "40", "--task.test-samples", "8", "--grid.temperature", "0.25", "1.0", "--grid.sigma-w", "[1.0]",
        "--grid.seeds", "2", "--schedule.steps", "20"]  # fmt: skip


def command(*arguments, cwd=None, module="phasejax"):
    return subprocess.run([sys.executable, "-m", module, *map(str, arguments)], capture_output=True, text=True, cwd=cwd)


@pytest.mark.parametrize("asked", ["run", "status", "merge", "figures", "compare", ""])
def test_help_imports_neither_jax_nor_xarray(asked):
    probe = (
        f"import sys\nfrom phasejax.cli import main\n"
        f"try: main({[asked, '--help'] if asked else ['--help']})\nexcept SystemExit as leave: code = leave.code\n"
        "print([m for m in ('jax', 'xarray', 'numpy', 'netCDF4', 'matplotlib') if m in sys.modules], code)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] 0"
    words = {"run": ["--schedule.steps", "--task.kind", "Digits", "momentum"], "figures": ["--at-step"]}
    for word in words.get(asked, ["phasejax"]):
        assert word in done.stdout


@pytest.mark.parametrize("asked", ["--help", "run --help", "figures --help"])
def test_who_has_seen_enough_may_close_the_pipe(asked):
    line = f"set -o pipefail; {sys.executable} -m phasejax {asked} | head -c 1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert (done.returncode, len(done.stdout), done.stderr) == (0, 1, "")


def test_the_version_is_said():
    done = command("--version")
    assert (done.returncode, done.stdout) == (0, f"phasejax {phasejax.__version__}\n")


def test_a_run_from_the_command_line(tmp_path):
    done = command("run", *TINY, "--sgd.order", "iid", "--sgd.batch-size", 8, "--precision", "float64", "--out", "r/tiny",
                   cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 'xarray.open_dataset("r/tiny.nc")' in done.stdout
    assert "\r" not in done.stderr, "no progress bar where there is no terminal"
    with xr.open_dataset(tmp_path / "r/tiny.nc") as data:
        experiment = phasejax.Experiment.from_toml(data.attrs["experiment"])
        assert "--sgd.order iid" in data.attrs["command_line"]
    assert (experiment.sgd.order, experiment.sgd.batch_size, experiment.precision) == ("iid", 8, "float64")

    (tmp_path / "again.toml").write_text(data.attrs["experiment"])
    assert command("run", "--config", "again.toml", "--device", "cpu", cwd=tmp_path).returncode == 0
    with xr.open_dataset(tmp_path / "r/tiny.nc") as first, xr.open_dataset(tmp_path / "runs/again.nc") as second:
        xr.testing.assert_identical(first.drop_attrs(), second.drop_attrs())

    done = command("figures", "r/tiny.nc", "--only", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "figures/tiny/fig2.pdf").stat().st_size > 1000
    done = command("run", "--resume", "r/tiny", cwd=tmp_path)
    assert (done.returncode, "finished" in done.stdout) == (0, True)


@pytest.mark.long
def test_a_deep_relu_network_runs_through_the_same_command(tmp_path):
    deep = ["--network.widths", "3", "6", "5", "1", "--network.activation", "relu", "--network.trainable",
            *"123"]  # fmt: skip
    done = command("run", *TINY, *deep, "--engine", "autodiff", "--out", "deep", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with xr.open_dataset(tmp_path / "deep.nc") as data:
        assert data.attrs["engine"] == "autodiff"
        assert [data.sizes[f"level_{layer}"] for layer in range(1, 4)] == [6, 5, 1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--preset", "lunch"], ["preset", "'lunch'", "quick, desk, paper"]),
        (["--preset"], ["--preset"]),
        (["--grid.sedes", "3"], ["grid.sedes", "did you mean grid.seeds"]),
        (["--grd.seeds", "3"], ["--grd.seeds", "is not an option", "grid"]),
        (["--network.width", "3"], ["network.width", "did you mean network.widths"]),
        (["--sede", "3"], ["--sede"]),
        (["--grid.temperature", "-1"], ["grid.temperature", "-1.0", "positive"]),
        (["--grid.temperature", "0"], ["grid.temperature", "0.0", "positive"]),
        (["--grid.temperature", "hot"], ["grid.temperature", "hot"]),
        (["--grid.temperature"], ["grid.temperature", "empty"]),
        (["--grid.temperature", "1,2,1"], ["grid.temperature = 1.0", "more than once"]),
        (["--grid.temperature", "1", "--grid.learning-rate", "4"], ["grid.temperature", "grid.learning_rate"]),
        (["--grid.momentum", "1.5"], ["grid.momentum = 1.5", "1"]),
        (["--grid.clip", "1", "--out", "new"], ["grid.clip", "optimizer sgd"]),
        (["--sgd.optimizer", "adm", "--out", "new"], ["sgd.optimizer = 'adm'", "adam"]),
        (
            ["--sgd.optimizer", "mine:clip", "--grid.learning-rate", "0.1", "--out", "new"],
            ["sgd.optimizer = 'mine:clip'", "--use"],
        ),
        (["--sgd.optimizer", "mine:clip", "--out", "new"], ["sgd.optimizer = 'mine:clip'", "grid.learning_rate"]),
        (["--use", "missing.py", "--out", "new"], ["--use missing.py", "exists"]),
        (["--use", "broken.toml", "--out", "new"], ["--use broken.toml", "Python file"]),
        (["--network.widths", "64", "32", "10"], ["network.trainable", "--network.trainable 1 2"]),
        (["--task.kind", "Digitz"], ["task.kind = 'Digitz'", "TeacherStudent, Digits, Arrays"]),
        (["--schedule.rate", "fast"], ["schedule.rate = 'fast'", "cosine"]),
        (["--observe", "test_los", "--out", "new"], ["observe: test_los", "did you mean observe: test_loss"]),
        (["--precision", "float16"], ["precision = 'float16'", "float32, float64"]),
        (["--time-limit", "soon", "--out", "new"], ["time_limit = 'soon'", "3h50m"]),
        (["--shard", "5/2", "--out", "new"], ["shard"]),
        (["--sgd.batch-size", "5000"], ["sgd.batch_size", "5000", "4000"]),
        (["--sgd.batch-size", "7"], ["sgd.batch_size", "7", "divide"]),
        (["--sgd.order", "sorted"], ["sgd.order", "sorted", "cyclic"]),
        (["--network.trainable", "4"], ["network.trainable", "4", "1 to 3"]),
        (["--network.activation", "sine"], ["network.activation", "'sine'", "tanh"]),
        (["--schedule.steps", "-1"], ["schedule.steps", "-1", "whole number"]),
        (["--schedule.steps", "1.5"], ["schedule.steps", "1.5", "whole number"]),
        (["--config", "broken.toml"], ["broken.toml", "line 2"]),
        (["--config", "unknown.toml"], ["grid.sedes", "grid.seeds"]),
        (["--config", "missing.toml"], ["missing.toml"]),
        (["--preset", "desk", "--config", "broken.toml"], ["--preset", "--config"]),
        (["--out", "precious.nc"], ["precious.nc", "--resume", "--overwrite"]),
        (["--out", "precious"], ["precious.nc", "--resume", "--overwrite"]),
        (["--out", "broken.toml/run"], ["cannot be written to"]),
        (["--resume", "nothing"], ["nothing"]),
        (["--resume", "precious"], ["precious.nc", "not a run"]),
        (["--device", "gpu"], ["device", "gpu", "cpu"]),
        (["--device", "quantum"], ["device", "quantum", "cpu"]),
        (["--engine", "pallas", "--out", "new"], ["engine", "pallas", "autodiff"]),
        (["--grid.seeds", "3"], ["--out", "desk"]),
        (["--resume", "precious", "--out", "new"], ["--resume", "--out"]),
        (["--out", "notes"], ["notes", "not a run"]),
        (["--out", "notes", "--overwrite"], ["notes", "not a run"]),
        (["--out", ""], ["output"]),
        (["--out", "..", "--overwrite"], ["output"]),
    ],
)
def test_refusals_are_one_sentence_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, words):
    from phasejax import cli

    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.toml").write_text("[grid]\nseeds = = 3\n")
    (tmp_path / "unknown.toml").write_text("[grid]\nsedes = 3\n")
    (tmp_path / "precious.nc").write_bytes(b"precious")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.tex").write_text("years of work")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as leave:
        cli.run(arguments)
    printed = capsys.readouterr()
    assert leave.value.code == 2
    assert printed.out == ""
    assert len(printed.err.strip().splitlines()) == 1, printed.err
    for word in words:
        assert word in printed.err
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before, "nothing made, nothing lost"


MINE = """
from dataclasses import dataclass
import jax, jax.numpy as jnp, optax
import phasejax

def clipped(learning_rate, clip):
    return optax.chain(optax.clip_by_global_norm(clip), optax.sgd(learning_rate))

@dataclass(frozen=True)
class Wave:
    inputs: int = 3
    hidden: int = 4

    def init(self, key, dtype="float32"):
        return {"w": jax.random.normal(key, (self.hidden, self.inputs), dtype)}

    def apply(self, weights, x):
        features = jnp.sin(x @ weights["w"].T)
        return features.sum(1, keepdims=True), features

size = phasejax.Observable("size", lambda student, task: jnp.sum(student.weights["w"] ** 2))
other = size
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder with the file of parts of one's own, and a run of an optimizer of one's own, interrupted at once."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "mine.py").write_text(MINE)
    arguments = ["--use", "mine.py", "--sgd.optimizer", "mine:clipped", "--grid.learning-rate", "0.1,0.2",
                 "--observe", "standard", "test_accuracy", "--grid.clip", "0.1,1", "--grid.sigma-w", "1"]  # fmt: skip
    done = command("run", *TINY[:4], *arguments, "--grid.seeds", 2, "--schedule.steps", 20, "--out", "clip",
                   "--time-limit", "0s", cwd=folder)  # fmt: skip
    assert done.returncode == 124, done.stderr
    assert "--resume clip --use mine.py goes on" in done.stderr
    return folder


@pytest.mark.long
def test_an_optimizer_of_ones_own_from_the_command_line(own):
    # What it is called is known to none of these.
    going = command("status", "clip", cwd=own)
    assert (going.returncode, going.stderr) == (0, "")
    assert going.stdout.splitlines()[2] == "Not recorded: test_accuracy (the targets are no labels of classes)."
    assert "was not cut" in command("merge", "clip", cwd=own).stderr
    refused = command("run", "--resume", "clip", cwd=own)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert "mine:clipped" in refused.stderr
    assert "--use" in refused.stderr
    other = command("run", "--resume", "clip", "--use", "mine.py", "--grid.seeds", 3, cwd=own)
    assert (other.returncode, other.stderr.count("\n")) == (2, 1)
    assert "another experiment" in other.stderr

    done = command("run", "--resume", "clip", "--use", "mine.py", cwd=own)
    assert done.returncode == 0, done.stderr
    with phasejax.open(own / "clip.nc") as data:
        assert (data.attrs["axes"], data.sizes["clip"], float(data.sigma_w)) == ("learning_rate clip", 2, 1.0)
        assert "temperature" not in data.coords
    finished = command("status", "clip", cwd=own)
    assert [line.split()[0] for line in finished.stdout.splitlines()] == ["run", "clip.nc", "Not"]
    refused = command("figures", "clip.nc", cwd=own)
    assert (refused.returncode, len(refused.stderr.splitlines()), refused.stdout) == (2, 1, "")
    assert "select one clip first" in refused.stderr


@pytest.mark.long
def test_parts_of_ones_own_from_a_settings_file(own):
    (own / "wave.toml").write_text("""
        observe = ["test_loss", "diverged_step", "mine:size"]
        network = {kind = "mine:Wave", hidden = 6}
        task = {samples = 40, test_samples = 8}
        grid = {temperature = [0.01, 0.1], sigma_w = [1.0, 2.0], seeds = 2}
        schedule = {steps = 20}
    """)
    for shard in ("0/2", "1/2"):
        done = command("run", "--config", "wave.toml", "--use", "mine.py", "--shard", shard, cwd=own)
        assert done.returncode == 0, done.stderr
        assert not command("status", "runs/wave", cwd=own).stderr
    assert command("merge", "runs/wave", cwd=own).returncode == 0
    with phasejax.open(own / "runs/wave.nc") as data:
        assert {"test_loss", "size"} < set(data.data_vars)
        assert "alignment" not in data
    done = command("figures", "runs/wave.nc", "--only", "2", "5", cwd=own)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(
        "fig5 is skipped: G_t0 is not recorded: it is not among what the run was asked to observe; "
    )
    assert done.stderr.count("\n") == 1
    for setting, words in (({"--observe": "mine:other"}, "what its own name is"), ({"--network.hiden": 3}, "network.hidden"),
                           ({"--start.kind": "mine:Wave"}, "FromDraw")):  # fmt: skip
        ((option, value),) = setting.items()
        done = command("run", "--config", "wave.toml", "--use", "mine.py", option, value, "--out", "no", cwd=own)
        assert (done.returncode, done.stderr.count("\n"), words in done.stderr) == (2, 1, True), done.stderr


@pytest.fixture(scope="module")
def damaged(finished, tmp_path_factory):
    """A folder of files and folders that are no runs, or not whole ones, made from a finished run, and of that run."""
    folder = tmp_path_factory.mktemp("damaged")
    with contextlib.chdir(folder):
        spoil(finished[1])
    return folder


def spoil(run):
    whole = run.read_bytes()
    Path("run.nc").write_bytes(whole)
    Path("other.nc").write_bytes(b"other")
    Path("empty.nc").write_bytes(b"")
    Path("short.nc").write_bytes(whole[: len(whole) // 2])
    # What HDF5 opens without complaint: no compressed block begins as it should.
    Path("hole.nc").write_bytes(whole.replace(b"\x78\x01", b"\x78\x02"))
    Path("folder").mkdir()
    Path("headless").mkdir()
    Path("headless/records-5.nc").write_bytes(whole)
    Path("file").write_text("a file")
    Path("going").mkdir()
    Path("going/records-60.nc").write_bytes(whole)
    with xr.open_dataset(run) as data:
        Path("going/experiment.toml").write_text(data.attrs["experiment"])
        data.drop_attrs(deep=False).to_netcdf("foreign.nc")
        data.assign_attrs(experiment="[network]\nname = 'another'").to_netcdf("stranger.nc")
        data.drop_vars("alignment").to_netcdf("lacking.nc")
        data.isel(seed=slice(0)).drop_encoding().to_netcdf("nobody.nc")
        data.isel(temperature=[0]).to_netcdf("cold.nc")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.nc"], ["missing.nc", "holds no run"]),
        ([], ["PATH"]),
        (["other.nc"], ["other.nc", "not a netCDF file"]),
        (["empty.nc"], ["empty.nc", "not a netCDF file"]),
        (["short.nc"], ["short.nc", "not a whole one"]),
        (["hole.nc"], ["hole.nc", "damaged"]),
        (["folder"], ["folder", "holds no run"]),
        (["file"], ["file is no run", "ends in .nc"]),
        (["headless"], ["headless", "experiment.toml"]),
        (["foreign.nc"], ["foreign.nc", "not a run of phasejax"]),
        (["stranger.nc"], ["stranger.nc", "not a run of phasejax"]),
        (["lacking.nc"], ["lacks the variable alignment"]),
        (["nobody.nc"], ["empty", "no seed"]),
        (["cold.nc", "--only", "3", "8"], ["fig3 is skipped", "single temperature", "fig8 is skipped"]),
        (["run.nc", "--at-step", "3000"], ["at_step = 3000", "nearest is 60"]),
        (["run.nc", "--at-step", "soon"], ["at-step", "soon"]),
        (["run.nc", "--reading", "aloud"], ["reading", "aloud", "drift"]),
        (["run.nc", "--only", "two"], ["only", "'two'"]),
        (["run.nc", "--only", "12"], ["only", "'12'", "1, 2, 3", "seed_variance"]),
        (["run.nc", "--only"], ["only", "figures 1, 2"]),
        (["run.nc", "--out", "file"], ["file", "cannot be written to"]),
        (["run.nc", "--out", "file/in"], ["file/in", "cannot be written to"]),
        (["run.nc", "--only", "2", "--out", "/proc/figures"], ["/proc/figures", "cannot be written to"]),
    ],
)
def test_figures_refuse_likewise(damaged, monkeypatch, capsys, arguments, words):
    from phasejax import cli

    monkeypatch.chdir(damaged)
    before = set(damaged.rglob("*"))
    with pytest.raises(SystemExit) as leave:
        cli.figures(arguments)
    printed = capsys.readouterr()
    assert (leave.value.code, printed.out) == (2, "")
    assert len(printed.err.strip().splitlines()) == 1, printed.err
    assert all(word.lower() in printed.err.lower() for word in words), printed.err
    assert set(damaged.rglob("*")) == before, "nothing written"


def test_a_run_that_is_still_going_is_drawn_from_its_folder(damaged, tmp_path, monkeypatch):
    from phasejax import cli

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as leave:
        cli.figures([str(damaged / "going"), "--only", "2"])
    assert leave.value.code == 0
    assert {path.name for path in (tmp_path / "figures" / "going").glob("fig*")} == {"fig2.pdf", "fig2.png"}


def test_a_file_one_may_not_read_is_refused(finished, monkeypatch, capsys):
    from phasejax import cli

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(xr, "open_dataset", denied)
    with pytest.raises(SystemExit) as leave:
        cli.figures([str(finished[1])])
    assert (leave.value.code, capsys.readouterr().err) == (2, f"{finished[1]} cannot be read: Permission denied.\n")


def test_step_and_reading_reach_figures_claims_and_page(finished, tmp_path, monkeypatch, capsys):
    from phasejax import cli, figures
    from phasejax.studies.paper.figures import loss_map

    asked = []

    @figures.style.figure(needs=["sigma_w"], caption="a spy", number=9)
    def spy(dataset, *, reading="drift"):
        asked.append((int(dataset.step[-1]), reading))
        return loss_map(dataset)

    monkeypatch.setattr(figures, "chosen", lambda *_: [spy])
    monkeypatch.chdir(tmp_path)
    for arguments in (["--at-step", "10", "--reading", "released"], ["--out", "figures/small"]):
        with pytest.raises(SystemExit) as leave:
            cli.figures([str(finished[1]), "--only", "9", *arguments])
        assert leave.value.code == 0
        folder = tmp_path / "figures" / "small"
        step, _ = asked[-1]
        written = ["fig9.pdf", "fig9.png", "claims.md", "claims.json", "index.html"]
        assert sorted(capsys.readouterr().out.split()) == sorted(f"figures/small/{name}" for name in written)
        assert sorted(path.name for path in folder.iterdir()) == sorted(written)
        assert json.loads((folder / "claims.json").read_text())["step"] == step
        assert (folder / "claims.md").read_text().splitlines()[2].startswith(f"{step} steps")
        assert f"<h1>Phases of SGD: {step} steps</h1>" in (folder / "index.html").read_text()
    assert asked == [(10, "released"), (60, "drift")]


@pytest.mark.parametrize(("kill", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long)])
def test_an_interrupted_run_says_how_to_go_on(tmp_path, kill, code):
    arguments = ["run", *TINY[:-1], "10000000", "--out", "long"]
    with subprocess.Popen(
        [sys.executable, "-m", "phasejax", *arguments], stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as run:
        while not (tmp_path / "long" / "lock").exists():
            time.sleep(0.1)
        time.sleep(2)
        run.send_signal(kill)
        try:
            _, error = run.communicate(timeout=30)
        finally:
            run.kill()
    assert run.returncode == code
    assert "--resume long" in error
    assert "Traceback" not in error
    assert list((tmp_path / "long").glob("state-*.npz"))


def test_a_time_limit_ends_a_run_with_a_code_of_its_own(tmp_path):
    done = command("run", *TINY, "--out", "a b", "--engine", "autodiff", "--time-limit", "0s", cwd=tmp_path)
    assert done.returncode == 124, done.stderr
    assert "--resume 'a b' --engine autodiff goes on" in done.stderr
    assert list((tmp_path / "a b").glob("state-*.npz"))


def test_a_second_signal_ends_at_once():
    # As in a compiled function, no handler is called before this returns, which takes a minute.
    probe = (
        "import hashlib\nfrom phasejax.cli.training import _signals\n_signals()\nprint('ready', flush=True)\n"
        "hashlib.pbkdf2_hmac('sha256', b'', b'', 200_000_000)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", probe], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        try:
            _, error = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, "a second signal ends at once" in error) == (130, True), error


@pytest.mark.parametrize("asked", ["status", "merge", "figures", "compare", "explore", "study", "run --resume"])
def test_somebody_who_looks_on_is_told_at_once_what_is_done(asked, tmp_path, monkeypatch, capsys):
    from phasejax import progress
    from phasejax.cli import main

    monkeypatch.setattr(progress, "watched", lambda: True)
    with pytest.raises(SystemExit) as leave:
        main([*asked.split(), str(tmp_path / "missing")])
    told, _, refused = capsys.readouterr().err.partition("...")
    assert (leave.value.code, "missing" in told, "missing" in refused) == (2, True, True)


def test_commands_have_names():
    assert command("--help").returncode == 0
    done = command("train")
    assert done.returncode == 2
    assert "'train'" in done.stderr
