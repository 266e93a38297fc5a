"""Slurm's own commands: asked once, with a deadline, and quoted when they refuse."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from svdstory.pipeline.config.strict import InputError

ABSENT = "no such command here: is this a login node of a Slurm cluster?"
DEADLINE_S = 60  # any one Slurm command; an absent controller answers "no" in about 10 s

# States, as squeue tells them, of a job that has ended for good. Any other, also one that a newer Slurm invents, is of a
# job that runs or may run by itself yet: believed dead, its units would be made twice. NODE_FAIL and PREEMPTED are ends
# here: a job that is queued again turns from RUNNING to PENDING under one lock of slurmctld. (sacct does show them
# meanwhile.)
ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
}


# What an allocation (salloc, Jupyter in a job) or a user's habits leave in the environment and Slurm's commands obey:
# options of another job, and filters such as SQUEUE_PARTITION, behind which our own jobs would not be seen.
OBEYED = re.compile(r"(SLURM|SLURMD|SRUN|SBATCH|SALLOC|SQUEUE|SACCT|SINFO|SCANCEL|SCONTROL|SUBMITIT)_")
KEPT = {"SLURM_CONF", "SLURM_JWT"}  # which cluster, and who we are


class SlurmError(RuntimeError):
    """A Slurm command failed. The message holds the command and Slurm's own words; `printed` is its output."""

    def __init__(self, command: list[str], words: str, printed: str = ""):
        super().__init__(f"{command[0]}: {words.strip() or 'failed without a word'}")
        self.command = command
        self.words = words.strip()
        self.printed = printed


@dataclass(frozen=True)
class Element:
    """One job as squeue shows it: a task of an array, or a job of its own (index None)."""

    job: str  # the id that sbatch printed
    index: int | None
    name: str
    state: str
    reason: str
    node: str
    seconds: int  # since it started

    @property
    def task(self) -> str:
        """The id that scancel takes: `17_3`, or `17` for a job of its own."""
        return self.job if self.index is None else f"{self.job}_{self.index}"

    @property
    def live(self) -> bool:
        return self.state not in ENDED


def ask(*command: str, deadline_s: float = DEADLINE_S) -> str:
    """What the command prints. Raises SlurmError with its own words where it fails, is absent or takes too long."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=deadline_s, env=clean_environment()
        )
    except FileNotFoundError:
        raise SlurmError(list(command), ABSENT) from None
    except subprocess.TimeoutExpired:
        raise SlurmError(list(command), f"no answer in {deadline_s:g} s") from None
    if done.returncode:
        raise SlurmError(list(command), done.stderr or done.stdout, done.stdout)
    return done.stdout


def clean_environment() -> dict[str, str]:
    """This process's environment without what would make Slurm's commands ask or answer something else."""
    return {name: value for name, value in os.environ.items() if name in KEPT or not OBEYED.match(name)}


def require(*commands: str) -> None:
    """Raises SlurmError where one of these commands is absent."""
    for command in commands:
        if shutil.which(command) is None:
            raise SlurmError([command], ABSENT)


def queue(jobs: list[str] = (), names: list[str] = ()) -> list[Element]:
    """What the controller knows of these jobs, by id or by name: one squeue. Ended ones show for some minutes.

    Raises SlurmError where the controller does not answer.
    """
    if not jobs and not names:
        return []
    which = [f"--jobs={','.join(jobs)}"] if jobs else [f"--name={','.join(names)}"]
    try:
        lines = ask("squeue", "-h", "-r", "-t", "all", "-o", "%A|%F|%K|%j|%T|%r|%N|%M", *which).splitlines()
    except SlurmError as error:
        if "Invalid job id" in error.words:  # of a single id that the controller has forgotten
            return []
        raise
    return [_element(line) for line in lines]


def _element(line: str) -> Element:
    own, array, index, rest = line.split("|", 3)
    name, state, reason, node, elapsed = rest.rsplit("|", 4)
    single = index in ("N/A", "")
    job, number = (own, None) if single else (array, int(index))
    return Element(job, number, name, state, reason, node, _seconds(elapsed))


def _seconds(elapsed: str) -> int:
    """Seconds of Slurm's `[days-][hours:]minutes:seconds`."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", elapsed)
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0, 0)
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


@dataclass(frozen=True)
class Past:
    """One attempt as the accounting shows it."""

    job: str
    index: int | None
    name: str
    state: str
    seconds: int
    gpus: int
    node: str


def history(jobs: list[str] = (), names: list[str] = ()) -> list[Past]:
    """All attempts of these jobs in the accounting, oldest first: one sacct.

    Raises SlurmError where accounting is absent or does not answer.
    """
    if not jobs and not names:
        return []
    which = [f"--jobs={','.join(jobs)}"] if jobs else [f"--name={','.join(names)}", "--starttime=now-30days"]
    text = ask("sacct", "-n", "-P", "-X", "-D", "-o", "JobID,State,ElapsedRaw,AllocTRES,NodeList,JobName", *which)
    return [past for line in text.splitlines() if (past := _past(line))]


def _past(line: str) -> Past | None:
    identity, state, elapsed, tres, node, name = line.split("|", 5)
    found = re.fullmatch(r"(\d+)(?:_(\d+))?", identity)
    if not found:  # a pending range, `17_[3-5]`: squeue tells of those
        return None
    gpus = re.search(r"gres/gpu=(\d+)", tres)
    index = int(found[2]) if found[2] else None
    return Past(found[1], index, name, state.split(" ")[0], int(elapsed or 0), int(gpus[1]) if gpus else 0, node)


def find(names: list[str]) -> dict[str, str]:
    """Job ids by job name, of those that were ever queued: one squeue, and one sacct for what it does not know.

    Raises SlurmError where the controller does not answer. Accounting may be absent.
    """
    found = {element.name: element.job for element in queue(names=names)}
    forgotten = [name for name in names if name not in found]
    if forgotten:
        try:
            found.update({past.name: past.job for past in history(names=forgotten)})
        except SlurmError:
            pass  # without accounting, the controller's memory (MinJobAge) is all there is
    return found


def submit_cap(user: str, account: str | None, partition: str | None, qos: str | None) -> int | None:
    """How many jobs the user may have queued, by accounting: the association's cap, and those of the QOS that apply.

    None where nothing is said, or there is no accounting.
    """
    fields = "DefaultAccount,Account,Partition,MaxSubmitJobs,DefaultQOS"
    try:
        told = ask("sacctmgr", "-n", "-P", "show", "user", user, "withassoc", f"format={fields}")
        caps_of_qos = ask("sacctmgr", "-n", "-P", "show", "qos", "format=Name,MaxSubmitJobsPerUser")
        partitions = ask("scontrol", "show", "partition", "-o").splitlines()
    except SlurmError:
        return None
    mine = [row for line in told.splitlines() if len(row := line.split("|")) == 5]
    mine = [row for row in mine if row[1] == (account or row[0]) and row[2] in ("", partition or "")]
    ours = f"PartitionName={partition} " if partition else "Default=YES"
    names = [found[1] for line in partitions if ours in line and (found := re.search(r"\bQoS=(\S+)", line))]
    names += [qos] if qos else [row[4] for row in mine]
    of_qos = dict(line.split("|", 1) for line in caps_of_qos.splitlines() if "|" in line)
    caps = [row[3] for row in mine] + [of_qos.get(name, "") for name in names]
    return min((int(cap) for cap in caps if cap.isdigit()), default=None)


def max_array_size() -> int | None:
    """MaxArraySize of the cluster: the highest array index is one less. None where it is not told."""
    try:
        found = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config"), re.M)
    except SlurmError:
        return None
    return int(found[1]) if found else None


def job_id(printed: str) -> str | None:
    """The id in what sbatch printed: its own sentence, or `--parsable`'s `id;cluster`, whatever a site's wrapper says
    around it. None where neither stands there."""
    said = re.findall(r"Submitted batch job (\d+)", printed) or re.findall(r"^(\d+)(?:;\S+)?\s*$", printed, re.M)
    return said[-1] if said else None


def cancel(jobs: list[str], pending_only: bool = False) -> None:
    """Cancel jobs or array elements (`17`, `17_3`). Those that have ended already are passed over."""
    if jobs:
        ask("scancel", "--quiet", *(["--state=PENDING"] if pending_only else []), *jobs)


def process_of_task(environment: Mapping[str, str]) -> tuple[int, int]:
    """Which process of its job step this is, and of how many: (0, 1) outside a step of several."""
    return int(environment.get("SLURM_PROCID", 0)), int(environment.get("SLURM_STEP_NUM_TASKS", 1))


def share_of_units(environment: Mapping[str, str]) -> tuple[int, int]:
    """Which share of the units this process of this array element makes, and of how many: (0, 1) outside an array.

    Raises InputError for an array with gaps: nobody would make the shares of the numbers that it leaves out.
    """
    first, last, mine = (int(environment.get(f"SLURM_ARRAY_TASK_{word}", 0)) for word in ("MIN", "MAX", "ID"))
    shares = int(environment.get("SLURM_ARRAY_TASK_COUNT", 1))
    if last - first + 1 != shares:
        raise InputError(
            f"--array: got {shares} elements between {first} and {last}, expected all numbers from {first} to {last}. "
            f"Queue {shares} elements with --array=0-{shares - 1}."
        )
    process, processes = process_of_task(environment)
    return (mine - first) * processes + process, shares * processes
