"""From a run's score files to measurements: one for each planned cell and metric, the missing ones with their cause."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from svdstory.jobs.report.statistics import Measurement, excess
from svdstory.jobs.study.plan import Plan
from svdstory.jobs.study.scores import image_hashes, read_score
from svdstory.jobs.study.store import Failure, Store
from svdstory.pipeline.metrics.names import METRICS, NO_BASIS, metric_name, parts

# What only means something beside plain sampling's number of the same set and seed.
RELATIVE = {
    "background": "difference",
    "scene_leakage": "difference",
    "world_background": "difference",
    "layout": "ratio",
    "layout_subject": "ratio",
    "world_layout": "ratio",
    "world_pose": "ratio",
}


@dataclass(frozen=True)
class Measured:
    """All measurements of a run, and metric -> the protocol that its numbers were made under."""

    cells: list[Measurement]
    protocols: dict[str, dict]


def read_measurements(
    plan: Plan,
    store: Store,
    scorers: Iterable[str],
    images: dict[str, dict | None] | None = None,
    failures: dict[str, list[Failure]] | None = None,
) -> Measured:
    """Every planned cell under every metric of the scorers.

    images: unit key -> sha256 of its images by name, None for a unit that is not finished; read where not given, as
    failures are.
    One protocol counts for each scorer: the one that most of its units were scored under. Numbers made under
    another, or from images that have changed since, are missing ones. Raises InputError for an unknown scorer.
    """
    cells: list[Measurement] = []
    protocols: dict[str, dict] = {}
    images = _images(plan, store) if images is None else images
    failures = store.failures() if failures is None else failures
    for scorer in dict.fromkeys(scorers):
        records = {key: read_score(store.run, scorer, key) for key in plan.units}
        counted = Counter(record["protocol_hash"] for record in records.values() if record)
        protocol_hash = max(counted, key=lambda h: (counted[h], h), default="")
        protocol = next((r["protocol"] for r in records.values() if r and r["protocol_hash"] == protocol_hash), {})
        family = parts(scorer)[0]
        for value_name in METRICS[family]:
            metric = metric_name(scorer, value_name)
            protocols[metric] = protocol
            for cell in plan.cells:
                cause = _cause(records[cell.key], images[cell.key], protocol_hash, value_name, NO_BASIS[family])
                if images[cell.key] is None and cell.key in failures:
                    cause = failures[cell.key][-1].cause
                value = None if cause else records[cell.key]["values"][value_name]
                cells.append(
                    Measurement(metric, cell.method, cell.set, plan.sets[cell.set].group, cell.seed, value, cause)
                )
    return Measured(cells, protocols)


def relative_to_plain(measured: Measured, plain: str = "sdxl") -> Measured:
    """The same and more, where the method `plain` was measured: background similarity in excess of plain sampling's
    (leakage), layout displacement relative to plain sampling's, each by the same set and seed."""
    cells, protocols = list(measured.cells), dict(measured.protocols)
    if not any(cell.method == plain for cell in cells):
        return measured
    for metric, protocol in measured.protocols.items():
        how = RELATIVE.get(value_of(metric))
        more = excess(measured.cells, metric, plain, how) if how else []
        for cell in more:
            protocols[cell.metric] = {
                **protocol,
                "formula": f"{protocol.get('formula', '')}; {how} to {plain}'s of the same set and seed",
            }
        cells += more
    return Measured(cells, protocols)


def higher_is_better(metric: str) -> bool:
    """Whether a higher number of this metric (of a run, or relative to plain sampling) is what one wants."""
    return next(better[value_of(metric)] for better in METRICS.values() if value_of(metric) in better)


def value_of(metric: str) -> str:
    """The number's own name, without the scorer's variant and what it is relative to."""
    return metric.partition(" ")[0].partition("+")[0].partition(":")[0]


def _images(plan: Plan, store: Store) -> dict[str, dict[str, str] | None]:
    """Key -> sha256 of its images; None for a unit that is not finished."""
    return {key: image_hashes(store.manifest(key)) if store.is_finished(key) else None for key in plan.units}


def _cause(
    record: dict | None, images: dict[str, str] | None, protocol_hash: str, value_name: str, no_basis: str
) -> str:
    """Why a cell has no number under this metric; empty if it has one."""
    if images is None:
        return "not finished"
    if record is None:
        return "not scored"
    if record["protocol_hash"] != protocol_hash:
        return "scored under another protocol"
    if record["images"] != images:
        return "images changed since they were scored"
    return "" if value_name in record["values"] else no_basis
