"""Is everything here that a run will need? Each check is one line, and a failed one says what to do."""

import getpass
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from svdstory.jobs.cluster.parameters import options_of_one, setup_of
from svdstory.jobs.cluster.preflight import existing
from svdstory.jobs.cluster.sites import Site
from svdstory.jobs.queue import scheduler
from svdstory.jobs.queue.scheduler import SlurmError
from svdstory.pipeline.config.strict import InputError, choices

FREE_GB = 20.0  # warned of below; a unit of five 1024 px images takes about 10 MB
FREE_FILES = 20_000
PROBE_S = 120.0  # importing torch from a busy shared disk takes a minute


@dataclass(frozen=True)
class Finding:
    """One check's outcome. `bad` means that a run would fail."""

    what: str
    verdict: Literal["good", "note", "bad"]
    words: str


def examine_here(model: str | None, scorers: list[str], out: Path) -> Iterator[Finding]:
    """This machine: Python packages, GPU against torch's kernels, weights, disk."""
    yield _packages()
    yield from _gpus()
    if model:
        yield _model(model)
    for scorer in scorers:
        yield _scorer(scorer)
    yield _disk(out)
    yield _files(out)


def examine_site(site: Site) -> Iterator[Finding]:
    """The cluster: Slurm answers, the profile's partition, features and caps exist, what nobody confirmed yet."""
    if site.unconfirmed:
        yield Finding("site profile", "note", f"not confirmed on the machine: {', '.join(site.unconfirmed)}")
    try:
        version = scheduler.ask("sinfo", "--version").strip()
        partitions = scheduler.ask("sinfo", "-h", "-o", "%R|%f|%G|%l|%D").splitlines()
    except SlurmError as error:
        yield Finding("Slurm", "bad", f"{error}. Run this on a login node of the cluster.")
        return
    yield Finding("Slurm", "good", version)
    yield _partition(site, [line.split("|") for line in partitions])
    yield from _limits(site)
    yield _accounting()


def examine_node(site: Site, python: str, out: Path) -> Iterator[Finding]:
    """A GPU node of the site, by a tiny job: what doctor finds there. Waits for its turn in the queue.

    Raises SlurmError where Slurm refuses the job, and where doctor does not start there.
    """
    inner = f'{python} -m svdstory.jobs doctor --json --out "$0"'
    command = "\n".join([*setup_of(site), f"exec {inner}"])
    try:
        answer = scheduler.ask(
            "srun",
            "--quiet",
            *options_of_one(site, "svdstory-doctor", 5),
            "bash",
            "-c",
            command,
            str(out),
            deadline_s=1800,
        )
    except SlurmError as error:
        answer = error.printed  # exit status 1 where something there is bad: told in what it printed
        if not _findings_in(answer):
            raise
    for found in _findings_in(answer):
        yield Finding(f"on the node: {found['what']}", found["verdict"], found["words"])


def _findings_in(printed: str) -> list[dict]:
    """What `doctor --json` printed, after whatever the profile's set-up lines printed. Empty: it did not start."""
    lines = [line for line in printed.splitlines() if line.startswith('[{"what"')]
    return json.loads(lines[-1]) if lines else []


def _packages() -> Finding:
    wanted = ("torch", "diffusers", "transformers", "submitit", "pydantic")
    versions = {}
    for name in wanted:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            return Finding("packages", "bad", f"{name} is not installed here: pip install svdstory")
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    return Finding("packages", "good", f"Python {sys.version.split()[0]}, {told}")


# Run in a process of its own: torch takes seconds to import, and a broken driver may end the process.
PROBE = """
import json, torch
from svdstory.pipeline.models.device import missing_kernels
archs = torch.cuda.get_arch_list()
gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
print(json.dumps([{"name": g.name, "capability": [g.major, g.minor], "memory_gb": g.total_memory / 2**30,
                   "missing": missing_kernels((g.major, g.minor), archs)} for g in gpus]))
"""


def _gpus() -> Iterator[Finding]:
    if not shutil.which("nvidia-smi") and not Path("/proc/driver/nvidia/version").exists():
        yield Finding("GPU", "note", "none on this machine. `doctor --site NAME --probe` looks at a node.")
        return
    try:
        done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=PROBE_S)
    except subprocess.TimeoutExpired:
        yield Finding("GPU", "bad", f"torch did not look at the GPU within {PROBE_S:g} s. Does nvidia-smi answer here?")
        return
    if done.returncode:
        words = done.stderr.strip().splitlines() or [f"ended with {done.returncode}. Does nvidia-smi answer here?"]
        yield Finding("GPU", "bad", f"torch does not start here: {words[-1]}")
        return
    yield from judge_gpus(json.loads(done.stdout))


def judge_gpus(gpus: list[dict]) -> Iterator[Finding]:
    """What torch sees: `name`, `capability`, `memory_gb`, and `missing`: why it has no kernels, empty where it has."""
    if not gpus:
        yield Finding("GPU", "bad", "there is a driver, but torch sees no GPU: ask Slurm for one (gpu: in the profile)")
    for gpu in gpus:
        major, minor = gpu["capability"]
        if gpu["missing"]:
            yield Finding("GPU", "bad", f"{gpu['name']}: {gpu['missing']}")
        else:
            sort = "" if major >= 8 else "; float16, no bfloat16"
            yield Finding("GPU", "good", f"{gpu['name']} (sm_{major}{minor}), {gpu['memory_gb']:.0f} GB{sort}")


def _model(name: str) -> Finding:
    from svdstory.pipeline.models.spec import resolve_model

    try:
        spec = resolve_model(name)
    except InputError as error:
        return Finding("model", "bad", str(error))
    return Finding("model", "good", f"{name}: {spec.folder or spec.source} ({spec.identity[:60]})")


def _scorer(name: str) -> Finding:
    from svdstory.pipeline.metrics import staging

    try:
        staging.require(name, staging.default_folder())
    except InputError as error:
        return Finding("scorer", "bad", str(error))
    return Finding("scorer", "good", f"{name}: weights in {staging.default_folder()}")


def _disk(out: Path) -> Finding:
    place = existing(out)
    if not os.access(place, os.W_OK):
        return Finding("disk", "bad", f"{place} is not writable. Give --out another folder.")
    free = shutil.disk_usage(place).free / 1e9
    words = f"{free:.0f} GB free in {place}"
    return Finding("disk", "good" if free > FREE_GB else "note", words)


def _files(out: Path) -> Finding:
    """Free inodes of the file system; Lustre's own quota where `lfs` is there."""
    place = existing(out)
    if shutil.which("lfs"):
        told = subprocess.run(
            ["lfs", "quota", "-q", "-u", str(os.getuid()), str(place)], capture_output=True, text=True
        )
        if told.returncode == 0:
            return Finding("files", "note", f"lfs quota: {' '.join(told.stdout.split())}")
    status = os.statvfs(place)
    if not status.f_files:
        return Finding("files", "good", f"{place} counts no inodes")
    verdict = "good" if status.f_favail > FREE_FILES else "note"
    return Finding("files", verdict, f"{status.f_favail} more files may be made in {place}")


def _partition(site: Site, rows: list[list[str]]) -> Finding:
    names = sorted({row[0] for row in rows})
    if site.partition and site.partition not in names:
        near = choices(site.partition, names, "There are")
        return Finding("partition", "bad", f"no partition {site.partition!r}{near}")
    mine = [row for row in rows if not site.partition or row[0] == site.partition]
    wanted = set((site.constraint or "").replace("&", "|").split("|")) - {""}
    features = {feature for row in mine for feature in row[1].split(",")}
    if wanted and not wanted & features:
        words = f"{site.constraint!r}: no node has it. Features: {', '.join(sorted(features))}"
        return Finding("constraint", "bad", words)
    gres = ", ".join(sorted({row[2] for row in mine} - {"(null)"})) or "none"
    return Finding("partition", "good", f"{site.partition or 'default'}: GPUs {gres}, longest job {mine[0][3]}")


def _limits(site: Site) -> Iterator[Finding]:
    told = scheduler.max_array_size()
    yield Finding("arrays", "good", f"MaxArraySize {told or 'not told'}: larger ones are split")
    cap = site.submit_cap or scheduler.submit_cap(getpass.getuser(), site.account, site.partition, site.qos)
    if cap:
        yield Finding("submit cap", "good", f"{cap} jobs may be queued: tasks are made as long as that needs")


def _accounting() -> Finding:
    try:
        scheduler.ask("sacct", "-n", "-X", "-o", "JobID", "--starttime=now")
    except SlurmError as error:
        return Finding("accounting", "note", f"{error}. Used GPU hours are then told by our own records.")
    return Finding("accounting", "good", "sacct answers")


def as_json(findings: list[Finding]) -> str:
    """The findings for another program."""
    return json.dumps([asdict(finding) for finding in findings], ensure_ascii=False)
