"""Site profiles: how to ask one cluster for a GPU. A new cluster is a new YAML file, never new Python.

A profile is named (`--site charisma`: shipped in slurm/sites/) or given as a path (`--site mine.yaml`). One that says
`extends: charisma` takes that profile's values and replaces those it names itself.
"""

import re
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from svdstory.pipeline.config.documents import is_document, read_yaml
from svdstory.pipeline.config.strict import InputError, Strict, choices, nearest, parse


def _one_line(text: str) -> str:
    """Text that goes into one `#SBATCH` line: a line break in it would start a line of its own."""
    if not text.strip() or re.search(r"[\x00-\x1f\x7f]", text):
        raise ValueError("must be one line of printable text")
    return text


def _variable(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError("is not the name of an environment variable (letters, digits, _)")
    return name


# Options of sbatch that svdstory sets itself, and where else a profile says the like
OURS = {
    "partition": "partition:",
    "account": "account:",
    "qos": "qos:",
    "constraint": "constraint:",
    "wckey": "wckey:",
    "time": "minutes:",
    "cpus-per-task": "cpus:",
    "mem": "memory_gb:",
    "signal": "signal_seconds:",
    "requeue": "requeue:",
    "no-requeue": "requeue:",
    "exclude": "--exclude of submit",
    "ntasks": "workers:",
    "ntasks-per-node": "workers:",
    "nodes": "workers: (a task is on one node)",
    **dict.fromkeys(("array", "dependency", "job-name", "output", "error", "open-mode", "wrap", "parsable"), ""),
}


def _option(name: str) -> str:
    """The name of an option of sbatch, without its dashes."""
    if not re.fullmatch(r"[a-z][a-z0-9-]+", name):
        raise ValueError("is not an option of sbatch: give its long name, without dashes in front")
    if name in OURS:
        instead = f": say it by {OURS[name]}" if OURS[name] else ", and jobs are found by it"
        raise ValueError(f"is set by svdstory itself{instead}")
    return name


Line = Annotated[str, AfterValidator(_one_line)]
Count = Annotated[int, Field(ge=1)]
Gigabytes = Annotated[float, Field(gt=0)]


Options = dict[Annotated[str, AfterValidator(_option)], Line | int | bool | None]  # null, false: not given


class GpuRequest(Strict):
    """The one option that asks for a GPU here, such as `--gres=gpu:v100:1`."""

    option: Literal["gpus", "gres", "gpus-per-node", "gpus-per-task"]
    value: Line


class ReduceRequest(Strict):
    """What the reduce job asks for: no GPU. What is not given is as for the array tasks.

    sbatch: over the site's own map; an option of it is left out by null.
    """

    minutes: Count
    cpus: Count
    memory_gb: Gigabytes | None = None  # none: do not ask
    partition: Line | None = None
    constraint: Line | None = None
    sbatch: Options = {}


class Site(Strict):
    """One cluster's answers to sbatch's questions. None means: do not ask, take the cluster's default."""

    about: Line
    unconfirmed: list[str] = []  # keys that nobody has tried on the real machine yet
    partition: Line | None = None
    account: Line | None = None
    qos: Line | None = None
    constraint: Line | None = None
    wckey: Line | None = None
    gpu: GpuRequest | None  # null: tasks run on CPUs
    workers: Count = 1  # processes of a task, on one node; each has its own GPU of those that `gpu` asks for
    cpus: Count  # of each process
    memory_gb: Gigabytes | None = None
    sbatch: Options = {}  # any other option of sbatch: {reservation: course, mail-type: END, exclusive: true}
    minutes: Count  # time limit of one array task
    signal_seconds: Count  # USR2 comes so long before the time limit
    parallel: Count  # array tasks that may run at once
    submit_cap: Count | None = None  # jobs (array elements count) that one user may have queued; none: sacctmgr's word
    max_array: Count | None = None  # MaxArraySize, where `scontrol show config` may not be asked
    requeue: bool = True
    setup: list[Line] = []  # shell lines before the command: modules, environments
    environment: dict[Annotated[str, AfterValidator(_variable)], Line] = {}
    python: Line | None = None  # the interpreter on the nodes; none: the one that submits
    group: Line | None = None  # users who may go on with each other's runs: folders are theirs, and setgid
    shared: Line | None = None  # a folder that login node and nodes see: runs must lie in it
    scratch: Line | None = None  # a folder on the node's own disk, for temporary files
    scorers_on: Literal["node", "array", "reduce"] = "node"  # the tasks; tasks of their own without a GPU; that job
    rounds: Annotated[int, Field(ge=0)] = 2  # how often the reduce job asks again for what killed tasks left
    reduce: ReduceRequest  # also what tasks of `scorers_on: array` ask for


def load_site(name: str) -> Site:
    """The profile `name`: a shipped one's name, or the path of a YAML file.

    Raises InputError that names file, key, what was got and what is allowed.
    """
    content, where = _merged(name, seen=())
    site = parse(Site, content, where)
    unknown = [key for key in site.unconfirmed if key.split(".")[0] not in Site.model_fields]
    if unknown:
        near = nearest(unknown[0], list(Site.model_fields))
        raise InputError(f"{where}: unconfirmed: {unknown[0]!r} is no key of a site profile{near}.")
    if site.signal_seconds >= 60 * site.minutes:
        raise InputError(
            f"{where}: signal_seconds: got {site.signal_seconds}, which is not before the end of a task of "
            f"{site.minutes} minutes. Give at most {60 * site.minutes - 1}."
        )
    return site


def shipped_sites() -> list[str]:
    """Names of the profiles that come with svdstory."""
    folder = resources.files("svdstory.slurm") / "sites"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def _merged(name: str, seen: tuple[str, ...]) -> tuple[dict[str, Any], str]:
    """The profile's content with what it extends filled in, and the file that it stands in."""
    path = _file(name, relative_to=Path(seen[-1]).parent if seen else Path())
    if str(path) in seen:
        raise InputError(f"{path}: extends itself ({' -> '.join([*seen, str(path)])}). Remove one `extends`.")
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: a site profile is a mapping of keys, got {type(content).__name__}.")
    base = content.pop("extends", None)
    if base is None:
        return content, str(path)
    inherited, _ = _merged(str(base), (*seen, str(path)))
    confirmed = [key for key in inherited.get("unconfirmed", []) if key not in content]
    return {**inherited, "unconfirmed": confirmed, **content}, str(path)


def _file(name: str, relative_to: Path) -> Path:
    if "/" in name or is_document(Path(name)):
        return relative_to / Path(name).expanduser()
    if name not in shipped_sites():
        raise InputError(
            f"unknown site {name!r}{choices(name, shipped_sites(), 'Shipped')}; "
            f"or give the path of a YAML file of your own (`extends: generic` and what differs).",
            key="site",
        )
    return Path(str(resources.files("svdstory.slurm") / "sites" / f"{name}.yaml"))
