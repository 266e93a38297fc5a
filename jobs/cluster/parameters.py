"""What a site profile asks of sbatch: submitit's parameters, and the shell lines before the command of each job."""

import shlex
import sys
from pathlib import Path

from svdstory.jobs.cluster.sites import Site
from svdstory.jobs.node.stop import OUTSIDE
from svdstory.jobs.queue.ledger import Array


def parameters(site: Site, array: Array, code: Path, share: int, exclude: list[str], after: str | None) -> dict:
    """submitit's parameters for an array of tasks, of which `share` may run at once."""
    extra: dict = {**_given(site.sbatch), "requeue" if site.requeue else "no-requeue": True}
    if site.gpu:
        extra[site.gpu.option] = site.gpu.value
    return _common(site, array, code) | {
        "partition": site.partition,
        "constraint": site.constraint,
        "time": site.minutes,
        "ntasks_per_node": site.workers,
        "cpus_per_task": site.cpus,
        "mem": _megabytes(site.memory_gb),
        "array_parallelism": share,
        "teardown": REQUEUE,
        "dependency": f"afterany:{after}" if after else None,
        "exclude": ",".join(exclude) or None,
        "additional_parameters": extra,
    }


def reduce_parameters(site: Site, array: Array, code: Path, before: list[str]) -> dict:
    """submitit's parameters for the reduce job: after all tasks, however they ended, and without a GPU."""
    asks = site.reduce
    return _common(site, array, code) | {
        "partition": asks.partition or site.partition,
        "constraint": asks.constraint or site.constraint,
        "time": asks.minutes,
        "cpus_per_task": asks.cpus,
        "mem": _megabytes(asks.memory_gb or site.memory_gb),
        "dependency": "afterany:" + ":".join(before) if before else None,
        "teardown": REQUEUE,
        "additional_parameters": {**_given({**site.sbatch, **asks.sbatch}), "requeue": True},
    }


def options_of_one(site: Site, name: str, minutes: int) -> list[str]:
    """Options of srun or sbatch for one job of one task with a GPU, as an array task of the site has it."""
    asks = {
        "job-name": name,
        "partition": site.partition,
        "account": site.account,
        "qos": site.qos,
        "constraint": site.constraint,
        "wckey": site.wckey,
        "time": str(minutes),
        "nodes": "1",
        "ntasks": "1",
    }
    asks |= {key: value for key, value in site.sbatch.items() if not key.startswith("mail-")}
    asks |= {site.gpu.option: site.gpu.value} if site.gpu else {}
    return [f"--{key}" if value is True else f"--{key}={value}" for key, value in asks.items() if value]


def _given(options: dict) -> dict:
    return {name: value for name, value in options.items() if value is not None and value is not False}


def _common(site: Site, array: Array, code: Path) -> dict:
    return {
        "job_name": array.name,
        "account": site.account,
        "qos": site.qos,
        "wckey": site.wckey,
        "nodes": 1,
        "ntasks_per_node": 1,
        "signal_delay_s": site.signal_seconds,
        "stderr_to_stdout": True,  # one log a task
        "setup": setup_of(site, code, PYTHONDONTWRITEBYTECODE="1"),
    }


# Of the set-up's own lines only: what happens inside a function or a sourced file copes with its failures itself
FAILING = (
    "depth=${#BASH_SOURCE[@]} before=$LINENO; trap 'status=$?; if [ ${#BASH_SOURCE[@]} = $depth ]; then "
    'echo "svdstory: line $((LINENO - before)) of setup: in the site profile failed with status $status '
    "(its words above). Nothing was begun.\" >&2; exit $status; fi' ERR"
)


# After the task: it ran in a container without Slurm's commands, and asks to be requeued (unless it was cancelled)
REQUEUE = [
    "status=$? id=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}",
    f'if [ $status = {OUTSIDE} ] && [ "$(squeue -h -j $id -o %T)" = RUNNING ]; then scontrol requeue $id; fi',
    "exit $status",
]


def setup_of(site: Site, code: Path | None = None, **variables: str) -> list[str]:
    """Shell lines before the command of each job: the profile's set-up and environment, and these variables.

    A set-up line that fails ends the job with its words: what would run on is another Python, or none.
    """
    variables = {
        "PYTHONUTF8": "1",
        **site.environment,
        **variables,
        **({"TMPDIR": site.scratch} if site.scratch else {}),
    }
    lines = [FAILING, *site.setup, "trap - ERR"] if site.setup else []
    lines += [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    if code:  # before what the site's modules put there, not instead of it
        lines.append(f'export PYTHONPATH={shlex.quote(str(code))}"${{PYTHONPATH:+:$PYTHONPATH}}"')
    return lines


def python_of(site: Site) -> str:
    """The command that starts Python on the nodes. A profile's own is taken as shell text, as it stands."""
    return site.python or shlex.quote(sys.executable)


def _megabytes(gigabytes: float | None) -> str | None:
    return None if gigabytes is None else f"{round(gigabytes * 1024)}M"
