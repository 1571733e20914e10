"""`make test-slurm`: experiments/slurm/array.sh and srun on a SLURM of one machine, disturbed, merged, compared to the bit.

Not part of `make test`. If SLURM and munge are missing they are installed from Debian, which takes root. The cluster is the
test's own: its configuration, key, state and logs are in a temporary folder, its ports are free ones of the loopback, and only
the test's commands know of it (SLURM_CONF), so a SLURM that runs here already is neither seen nor touched. All of it ends with
the test, however that ends.
"""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import xarray as xr

CHECKOUT = Path(__file__).parents[1]
ARRAY = CHECKOUT / "experiments" / "slurm" / "array.sh"
PATIENCE = 600
"""Seconds after which what is waited for will not come."""

# Long enough that a task can be caught half-way: tens of seconds of training a task.
LONG = """
[grid]
seeds = 7
[schedule]
steps = 300_000
"""
SHORT = """
[grid]
seeds = 3
[schedule]
steps = 1000
"""


class Failed(Exception):
    """What went wrong, in one sentence."""


def main() -> NoReturn:
    """Run the test; exit code 0 if it passes, 1 if it fails, 2 if it cannot be run here."""
    install()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))  # so that `finally` is met
    with tempfile.TemporaryDirectory(prefix="phasejax-slurm-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # munge wants its socket where every user can reach it
        try:
            with Cluster(folder) as cluster:
                srun_trains_a_slab_in_every_process(cluster)
                an_array_survives_what_a_queue_does(cluster)
        except (Failed, subprocess.SubprocessError) as failure:
            for log in sorted(folder.rglob("*.log")):
                print(f"--- {log.relative_to(folder)}\n{log.read_text(errors='replace')}", file=sys.stderr)
            print(failure, file=sys.stderr)
            sys.exit(1)
    sys.exit(0)


def install() -> None:
    """SLURM and munge from Debian, if they are not here."""
    if all(shutil.which(program) for program in ("slurmctld", "slurmd", "munged", "sbatch", "srun")):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        print("SLURM is not installed here; as root on Debian: apt-get install slurm-wlm munge.", file=sys.stderr)
        sys.exit(2)
    for command in ("update", "install --yes --no-install-recommends slurm-wlm munge"):
        subprocess.run(["apt-get", "-q", *command.split()], env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, check=True)


class Cluster:
    """A SLURM of two CPUs on loopback, in the folder it is given; a context manager that ends all it has started.

    Jobs are submitted from `folder/work`, so that is where runs/ and the logs are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.work = folder, folder / "work"
        self.work.mkdir()
        for name in ("state", "spool"):
            (folder / name).mkdir()
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o400)
        host, user = socket.gethostname().partition(".")[0], getpass.getuser()
        (folder / "slurm.conf").write_text(f"""
ClusterName=phasejax
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# A requeued task waits until its credential has expired, two minutes by default.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=1,sched_interval=1
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2
PartitionName=test Nodes={host} Default=YES
""")
        # No plugin named above uses cgroups; slurmd loads one all the same, and this one asks for nothing.
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        outside = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "SBATCH", "SRUN"))}
        self._environment = outside | {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PYTHON": sys.executable,
            "PYTHONPATH": str(CHECKOUT),
        }
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Cluster":
        try:
            files = ("socket", "pid-file", "log-file", "seed-file")
            munge = [f"--{name}={self.folder}/munge.{name.removesuffix('-file')}" for name in files]
            self._start("munged", "--foreground", f"--key-file={self.folder}/munge.key", *munge)
            wait_for("munged", (self.folder / "munge.socket").exists)
            self._start("slurmctld", "-D", "-i")
            self._start("slurmd", "-D")
            wait_for("an idle node", lambda: self.ask("sinfo", "--noheader", "--format=%T").strip() == "idle")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):
            self.ask("scancel", "--user", getpass.getuser())
            wait_for("the end of the jobs", lambda: not self.ask("squeue", "--noheader"), 20)
        for daemon in reversed(self._daemons):
            daemon.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(10)
        for left in self.processes():  # what a daemon that died has left behind
            with contextlib.suppress(ProcessLookupError):
                os.kill(left, signal.SIGKILL)
        for daemon in self._daemons:
            daemon.wait()

    def _start(self, program: str, *arguments: str) -> None:
        path = shutil.which(program) or program
        with open(self.folder / f"{program}.log", "wb") as log:
            # Ctrl-C is for the test, which ends them in order.
            self._daemons.append(
                subprocess.Popen([path, *arguments], stdout=log, stderr=log, env=self._environment, start_new_session=True)
            )

    def ask(self, *command: str) -> str:
        """The output of a command that has to succeed, in the folder the jobs run in."""
        done = subprocess.run(command, cwd=self.work, env=self._environment, capture_output=True, text=True, timeout=PATIENCE)
        if done.returncode:
            raise Failed(f"{' '.join(command)} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def python(self, *arguments: str) -> str:
        """The output of this Python with the given arguments."""
        return self.ask(sys.executable, *arguments)

    def job(self, job: str) -> dict[str, str]:
        """What SLURM says of a job or a task, 12_3."""
        words = self.ask("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def processes(self, *variables: str) -> list[int]:
        """The processes that belong to this cluster and have these environment variables, NAME=value."""
        wanted = {f"SLURM_CONF={self.folder}/slurm.conf", *variables}
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if wanted <= set((process / "environ").read_text(errors="replace").split("\0")):
                    found.append(int(process.name))
        return found


def srun_trains_a_slab_in_every_process(cluster: Cluster) -> None:
    """`srun -n 2 python -m experiments.grid --shard auto`."""
    (cluster.work / "short.toml").write_text(SHORT)
    grid = ("-m", "experiments.grid", "--config", "short.toml", "--device", "cpu")
    cluster.python(*grid, "--out", "runs/reference-short")
    cluster.ask("srun", "--ntasks=2", sys.executable, *grid, "--out", "runs/short", "--shard", "auto")
    cluster.python("-m", "phasejax", "merge", "runs/short")
    compare(cluster, "reference-short", "short")


def an_array_survives_what_a_queue_does(cluster: Cluster) -> None:
    """Of three tasks one is left in peace, one preempted and then killed, and one meets its time limit."""
    (cluster.work / "long.toml").write_text(LONG)
    cluster.python("-m", "experiments.grid", "--config", "long.toml", "--out", "runs/reference-long", "--device", "cpu")
    array = cluster.ask("sbatch", "--parsable", "--array=0-2", "--output=task-%a.log", str(ARRAY), "long.toml", "--device", "cpu")
    array = array.strip()

    def begun(task: int, times: int) -> bool:
        # Once it has its output a run names its engine.
        log = cluster.work / f"task-{task}.log"
        return log.exists() and log.read_text().count("engine ") >= times

    def half_way(task: int, times: int) -> None:
        wait_for(f"task {task} to begin training ({times})", lambda: begun(task, times))
        time.sleep(4)
        if (state := cluster.job(f"{array}_{task}")["JobState"]) != "RUNNING":
            raise Failed(f"Task {task} was to be disturbed half-way, and is {state}: LONG has too few steps.")

    def wait_until(task: int, **expected: str) -> None:
        wait_for(f"task {task} to be {expected}", lambda: expected.items() <= cluster.job(f"{array}_{task}").items())

    half_way(1, 1)
    cluster.ask("scontrol", "requeue", f"{array}_1")  # as a preemption does
    say("task 1: preempted")
    wait_until(1, Restarts="1")

    half_way(2, 1)
    cluster.ask("scancel", "--batch", "--signal=USR1", f"{array}_2")  # as --signal does before the time limit
    say("task 2: told that its time limit is near")
    wait_until(2, Restarts="1")

    half_way(1, 2)
    pythons = [p for p in cluster.processes("SLURM_ARRAY_TASK_ID=1") if b"experiments.grid" in command_line(p)]
    for python in pythons:
        os.kill(python, signal.SIGKILL)
    say(f"task 1: process {pythons} killed")
    wait_until(1, JobState="FAILED", ExitCode="137:0")
    cluster.ask("scontrol", "requeue", f"{array}_1")

    for task in range(3):
        wait_until(task, JobState="COMPLETED", ExitCode="0:0")
        say(f"task {task}: done after {cluster.job(f'{array}_{task}')['Restarts']} restarts")
    print(cluster.python("-m", "phasejax", "status", "runs/long"), end="")
    cluster.python("-m", "phasejax", "merge", "runs/long")
    compare(cluster, "reference-long", "long")


def compare(cluster: Cluster, reference: str, merged: str) -> None:
    """Every variable and coordinate of the two files: attributes, dims, type and bits."""
    with (
        xr.open_dataset(cluster.work / f"runs/{reference}.nc") as expected,
        xr.open_dataset(cluster.work / f"runs/{merged}.nc") as found,
    ):
        differ = sorted(set(expected.variables) ^ set(found.variables))
        for name in set(expected.variables) & set(found.variables):
            one, other = expected[name].variable, found[name].variable
            same = (one.dims, one.dtype, one.attrs, one.values.tobytes()) == (other.dims, other.dtype, other.attrs, other.values.tobytes())
            if not same:
                differ.append(name)
        if differ:
            raise Failed(f"{merged}: {', '.join(differ)} differ from the unsharded run's.")
        say(f"{merged}: {len(expected.variables)} variables and coordinates equal the unsharded run's to the bit")


def command_line(process: int) -> bytes:
    """Of a process, empty if it has ended."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


def wait_for(what: str, there: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Return once it is there."""
    end = time.monotonic() + seconds
    while not there():
        if time.monotonic() > end:
            raise Failed(f"Waited {seconds:.0f} s for {what} in vain.")
        time.sleep(0.2)


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def say(what: str) -> None:
    """Print at once, with the time."""
    print(time.strftime("%H:%M:%S"), what, flush=True)


if __name__ == "__main__":
    main()
