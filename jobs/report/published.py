"""A paper's own table beside a run's numbers, and where the two were not made alike (pipeline/metrics/published.yaml)."""

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, Literal

from svdstory.jobs.report.cells import Study, is_random
from svdstory.jobs.report.findings import Findings
from svdstory.jobs.report.measurements import value_of
from svdstory.jobs.report.statistics import Interval
from svdstory.pipeline.config.documents import read_yaml
from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.config.strict import InputError, Strict, choices, parse

Setting = Literal["sets", "steps", "guidance", "scheduler", "size"]


class Published(Strict):
    """One table of a paper; the keys are explained at the head of published.yaml."""

    source: str
    checked: str
    setting: dict[Setting, Any]
    differs: tuple[str, ...]
    metrics: dict[str, str]
    values: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Beside:
    """One number of the paper and ours. here: None where the run has none, and `why`. sets: that our mean is over."""

    method: str
    metric: str  # the paper's name
    paper: float
    here: Interval | None
    sets: int = 0
    measured_as: str = ""  # our metric
    why: str = ""


@lru_cache
def published_tables() -> dict[str, Published]:
    """The shipped tables by name."""
    content = read_yaml(resources.files("svdstory.pipeline.metrics").joinpath("published.yaml"))
    return {name: parse(Published, table, f"published.yaml: {name}") for name, table in content.items()}


def published(name: str) -> Published:
    """Raises InputError for a name that is not known, with the nearest one."""
    tables = published_tables()
    if name not in tables:
        raise InputError(f"unknown table {name!r}{choices(name, list(tables))}.", key="published")
    return tables[name]


def beside(table: Published, study: Study, findings: Findings) -> list[Beside]:
    """A row for each of the paper's numbers, in its order."""
    return [
        one_beside(study, findings, method, metric, table.metrics[metric], number)
        for method, numbers in table.values.items()
        for metric, number in numbers.items()
    ]


def one_beside(study: Study, findings: Findings, method: str, metric: str, ours: str, number: float) -> Beside:
    """Ours is the first metric of that name that the run has numbers of, whichever network it was measured with."""
    if method not in study.plan.methods:
        return Beside(method, metric, number, None, why="not in this run")
    fitting = dict.fromkeys(s.metric for s in findings.summaries if value_of(s.metric) == ours and " " not in s.metric)
    for name in fitting:
        summary = findings.summary(name, method)
        if summary and summary.interval:
            random = is_random(study.measured.protocols.get(name, {}))
            why = "random weights: no meaning" if random else ""
            return Beside(method, metric, number, summary.interval, summary.sets, name, why)
    return Beside(method, metric, number, None, why="not measured")


def differences(table: Published, study: Study) -> list[str]:
    """Where the run was not made as the paper's numbers were, a sentence each."""
    plan = study.plan
    here = {"sets": len(plan.sets), "size": list(plan.size)} | {
        key: getattr(plan, key) for key in ("steps", "guidance", "scheduler")
    }
    lines = [
        f"{key}: {_said(there)} in the paper, {_said(here[key])} here"
        for key, there in table.setting.items()
        if here[key] != there
    ]
    unknown = [key for key in here if key not in table.setting]
    lines += (
        [f"Not known of the paper: {', '.join(unknown)} (here {', '.join(_said(here[k]) for k in unknown)})."]
        if unknown
        else []
    )
    if plan.model.name != "sdxl":
        lines.insert(0, f"The model is {plan.model.name}, not SDXL: no number can agree but by chance")
    lines += [
        f"The method {name} has other switches here than svdstory's own of that name"
        for name in table.values
        if name in plan.methods and plan.methods[name] != named(name)
    ]
    return [*lines, *table.differs]


def _said(value) -> str:
    return (
        "×".join(map(str, value))
        if isinstance(value, list)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )
