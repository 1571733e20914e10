"""`make test-slurm`: experiments/slurm/array.sh and srun on a SLURM of one machine, disturbed, merged, compared to the bit.

Not part of `make test`. If SLURM and munge are missing they are installed from Debian, which takes root. The cluster is the
test's own: configuration, key, state and logs are in a temporary folder, its ports are free ones of the loopback, and only
the test's commands know of it (SLURM_CONF), so a SLURM that runs here already is neither seen nor touched. All of it ends
with the test, however that ends.
"""

import contextlib
import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import xarray as xr

CHECKOUT = Path(__file__).parents[1]
ARRAY = CHECKOUT / "experiments" / "slurm" / "array.sh"
T = TypeVar("T")
PATIENCE = 1800
"""Seconds after which what is waited for will not come."""

LONG_STEPS = 700_000
"""So many that a task can be caught half-way."""
LONG = f"""
[grid]
seeds = 7
[schedule]
steps = {LONG_STEPS}
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
                srun_and_the_array_stop_in_time_and_go_on(cluster)
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
        subprocess.run(
            ["apt-get", "-q", *command.split()], env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, check=True
        )


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
# A machine that is busy with other things may take its time over a checkpoint.
KillWait=300
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
            self.ask("scancel", "--user", getpass.getuser(), seconds=20)
            wait_for("the end of the jobs", lambda: not self.ask("squeue", "--noheader", seconds=20), 20)
        for daemon in reversed(self._daemons):
            daemon.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(10)
        for left in self._processes():  # what a daemon that died has left behind
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

    def ask(self, *command: str, code: int = 0, seconds: float = PATIENCE) -> str:
        """The output of a command that has to end with this code, run where the jobs run."""
        done = subprocess.run(command, cwd=self.work, env=self._environment, capture_output=True, text=True, timeout=seconds)
        if done.returncode != code:
            raise Failed(f"{' '.join(command)} ended with {done.returncode}, not {code}: {done.stdout}{done.stderr}")
        return done.stdout

    def grid(self, *options: str) -> None:
        """`python -m experiments.grid`, on the CPU and without SLURM."""
        self.ask(sys.executable, "-m", "experiments.grid", "--device", "cpu", *options)

    def submit(self, tasks: int, *arguments: str) -> str:
        """The number of a new array of array.sh; its logs are <first argument>-<task>.log."""
        log = f"--output={arguments[0]}-%a.log"
        return self.ask(
            "sbatch", "--parsable", f"--array=0-{tasks - 1}", log, str(ARRAY), *arguments, "--device", "cpu"
        ).strip()

    def job(self, job: str) -> dict[str, str]:
        """What SLURM says of a job or a task, 12_3."""
        words = self.ask("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_until(self, job: str, **expected: str) -> None:
        """Return once SLURM says this of a job; `Failed` if it has ended otherwise."""

        def so() -> bool:
            job_is = self.job(job)
            if expected.items() <= job_is.items():
                return True
            if (state := job_is["JobState"]) in ("COMPLETED", "FAILED", "CANCELLED"):
                raise Failed(f"Job {job} is {state}, {job_is['ExitCode']}, {job_is['Restarts']} restarts, not {expected}.")
            return False

        wait_for(f"job {job} to be {expected}", so)

    def training(self, task: int) -> list[int]:
        """The Python of a task of an array, while it runs."""
        return self._processes(f"SLURM_ARRAY_TASK_ID={task}", command="experiments.grid")

    def _processes(self, *variables: str, command: str = "") -> list[int]:
        """The processes of this cluster with these environment variables, NAME=value, and this in their command line."""
        wanted = {f"SLURM_CONF={self.folder}/slurm.conf", *variables}
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                environment, line = ((process / name).read_text(errors="replace") for name in ("environ", "cmdline"))
                if wanted <= set(environment.split("\0")) and command in line:
                    found.append(int(process.name))
        return found

    def merge_and_compare(self, run: str) -> None:
        """Merge a run and compare every variable and coordinate with its reference's: attributes, dims, type and bits."""
        self.ask(sys.executable, "-m", "phasejax", "merge", f"runs/{run}")
        runs = self.work / "runs"
        with xr.open_dataset(runs / f"reference-{run}.nc") as expected, xr.open_dataset(runs / f"{run}.nc") as merged:
            differ = [
                name
                for name in sorted(map(str, {*expected.variables, *merged.variables}))
                if bits(expected, name) != bits(merged, name)
            ]
            if differ:
                raise Failed(f"{run}: {', '.join(differ)} differ from the unsharded run's.")
            say(f"{run}: {len(expected.variables)} variables and coordinates equal the unsharded run's to the bit")


def srun_and_the_array_stop_in_time_and_go_on(cluster: Cluster) -> None:
    """A time limit ends `srun` with 124 and puts the array's tasks back in the queue; `srun` goes on with what they left."""
    (cluster.work / "short.toml").write_text(SHORT)
    cluster.grid("--config", "short.toml", "--out", "runs/reference-short")
    srun = ("srun", "--ntasks=2", sys.executable, "-m", "experiments.grid", "--device", "cpu", "--shard", "auto")
    cluster.ask(*srun, "--config", "short.toml", "--out", "runs/short", "--time-limit", "0s", code=124)
    say("srun: out of time")
    array = cluster.submit(2, "short.toml", "--time-limit", "0s")
    for task in range(2):
        cluster.wait_until(f"{array}_{task}", Restarts="1")
    cluster.ask("scancel", array)
    wait_for("the end of the array", lambda: not cluster.ask("squeue", "--noheader"))
    say("array: out of time, put back in the queue")
    cluster.ask(*srun, "--resume", "runs/short")
    cluster.merge_and_compare("short")


def an_array_survives_what_a_queue_does(cluster: Cluster) -> None:
    """Of three tasks one is left in peace, one preempted and then killed, and one told that its time limit is near."""
    (cluster.work / "long.toml").write_text(LONG)
    cluster.grid("--config", "long.toml", "--out", "runs/reference-long")
    array = cluster.submit(3, "long.toml")

    def half_way(task: int) -> int:
        """The process of a task, once it has been training for a while."""

        def caught() -> int:
            cluster.wait_until(f"{array}_{task}", JobState="RUNNING")
            return next(filter(has_trained, cluster.training(task)), 0)

        return wait_for(f"task {task} to be half-way", caught)

    def checkpointed(task: int, process: int) -> None:
        wait_for(f"task {task} to write a checkpoint", lambda: process not in cluster.training(task))
        stopped = re.search(r"stopped at step ([\d,]+) of", (cluster.work / f"long.toml-{task}.log").read_text())
        if not stopped or stopped[1] == "0":
            raise Failed(f"Task {task} was to stop half-way, and has not.")
        say(f"task {task}: {stopped[0]} {LONG_STEPS:,}")

    process = half_way(1)
    cluster.ask("scontrol", "requeue", f"{array}_1")  # as a preemption does
    checkpointed(1, process)

    process = half_way(2)
    cluster.ask("scancel", "--batch", "--signal=USR1", f"{array}_2")  # as --signal=B:USR1@120 does
    checkpointed(2, process)
    cluster.wait_until(f"{array}_2", Restarts="1")

    process = half_way(1)
    os.kill(process, signal.SIGKILL)
    cluster.wait_until(f"{array}_1", JobState="FAILED", ExitCode="137:0")
    say("task 1: killed")
    cluster.ask("scontrol", "requeue", f"{array}_1")

    for task, restarts in ((0, "0"), (1, "2"), (2, "1")):
        cluster.wait_until(f"{array}_{task}", JobState="COMPLETED", ExitCode="0:0", Restarts=restarts)
        say(f"task {task}: done after {restarts} restarts")
    print(cluster.ask(sys.executable, "-m", "phasejax", "status", "runs/long"), end="")
    cluster.merge_and_compare("long")


def bits(data: xr.Dataset, name: str) -> tuple[Any, ...] | None:
    """All there is to a variable."""
    if name not in data.variables:
        return None
    variable = data.variables[name]
    return variable.dims, variable.dtype, variable.attrs, variable.values.tobytes()


def has_trained(process: int) -> bool:
    """Whether it has used processor time that start-up does not take; a clock would not do on a machine that is busy."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") > 18


def wait_for(what: str, there: Callable[[], T], seconds: float = PATIENCE) -> T:
    """What is there, once it is."""
    end = time.monotonic() + seconds
    while not (found := there()):
        if time.monotonic() > end:
            raise Failed(f"Waited {seconds:.0f} s for {what} in vain.")
        time.sleep(0.2)
    return found


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
