"""The test cluster as Python sees it: slurm/cluster.sh, its nodes and faults, and waits that end."""

import os
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "slurm" / "cluster.sh"
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "slurmdbd", "mariadbd")


def left_out() -> str | None:
    """Why the tests on a real Slurm cannot run here; None where they can."""
    if os.name != "posix" or os.geteuid() != 0:
        return "needs root: the cluster's nodes live in namespaces of their own"
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    absent = [name for name in PROGRAMS if not shutil.which(name, path=path)]
    if absent:
        return f"{', '.join(absent)} not installed: tests/setup.sh does that"
    probe = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", "--uts", "true"], capture_output=True, text=True
    )
    if probe.returncode:
        return f"needs PID and mount namespaces: {probe.stderr.strip()}"
    return None


@dataclass(frozen=True)
class Cluster:
    """One cluster: its folder, and the settings that cluster.sh reads."""

    folder: Path
    port: int
    nodes: int = 4
    max_array: int = 5
    accounting: str = "yes"
    login: dict[str, str] = field(default_factory=lambda: dict(os.environ), compare=False, repr=False)
    """The environment of all its commands, kept: scenarios run beside tests that change this process's own."""

    @property
    def environment(self) -> dict[str, str]:
        settings = {
            "": str(self.folder),
            "_PORT": str(self.port),
            "_NODES": str(self.nodes),
            "_MAX_ARRAY": str(self.max_array),
            "_ACCOUNTING": self.accounting,
        }
        ours = {f"SVDSTORY_CLUSTER{name}": value for name, value in settings.items()}
        return {**self.login, **ours, "SLURM_CONF": str(self.folder / "etc" / "slurm.conf")}

    def script(self, *words: str) -> str:
        done = subprocess.run([str(SCRIPT), *words], env=self.environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"cluster.sh {' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout

    def up(self) -> None:
        self.script("up")

    def down(self) -> None:
        self.script("down")

    def node(self, name: str, *what: str) -> str:
        return self.script("node", name.removeprefix("n"), *what)

    def ask(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        return done.stdout + done.stderr

    def cpu_seconds(self) -> float:
        """What all jobs so far have computed, by accounting."""
        lines = self.ask("sacct", "-n", "-P", "-D", "-o", "JobID,TotalCPU", "--starttime=now-1day").split()
        spans = [line.split("|")[1] for line in lines if "." in line.split("|")[0]]  # steps: a job's sum is not kept
        parts = [[float(part) for part in span.replace("-", ":").split(":")] for span in spans]
        return sum(sum(part * 60**power for power, part in enumerate(reversed(span))) for span in parts)


def own_cluster(name: str, port: int, **settings) -> Cluster:
    """A cluster of this pytest process: its folder and ports are no other's, also under pytest-xdist."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    port += 40 * worker + os.getpid() % 50 * 200
    return Cluster(Path(f"/tmp/svdstory-{name}-{os.getpid()}"), port, **settings)


def unchanged_for(seconds: float, look):
    """A condition for `until`: what `look()` gives has been the same for so long."""
    seen: list = [None, 0.0]

    def condition() -> bool:
        now = look()
        if now != seen[0]:
            seen[:] = [now, time.monotonic()]
        return time.monotonic() - seen[1] >= seconds

    return condition


def until(what: str, condition, seconds: float = 120):
    """Wait until `condition()` is true and return its value. Fails at the deadline, naming `what`."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {seconds:g} s in vain: {what}"
        time.sleep(0.1)
    return value
