"""From a run's score files to measurements: one for each planned cell and metric, the missing ones with their cause."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from svdstory.jobs.report.statistics import Measurement, excess
from svdstory.jobs.study.plan import Plan
from svdstory.jobs.study.scores import Scores, image_hashes, images_digest, read_scores
from svdstory.jobs.study.store import Failure, Store
from svdstory.pipeline.metrics.names import METRICS, NO_BASIS, NO_REFERENCES, metric_name, of_references, parts
from svdstory.pipeline.miniature.world.leakage import leakage_beside_plain

PLAIN = "sdxl"
# What only means something beside plain sampling's number of the same set and seed.
RELATIVE = {
    "background": "difference",
    "scene_leakage": "difference",
    "reference_leakage": "difference",
    "world_background": "difference",
    "layout": "ratio",
    "layout_subject": "ratio",
    "world_layout": "ratio",
    "world_pose": "ratio",
}


@dataclass(frozen=True)
class Measured:
    """All measurements of a run, and metric -> the protocol that its numbers were made under.

    unscored: scorer -> cause -> finished cells that it has no numbers for.
    """

    cells: list[Measurement]
    protocols: dict[str, dict]
    unscored: dict[str, Counter] = field(default_factory=dict)


def read_measurements(
    plan: Plan,
    store: Store,
    scorers: Iterable[str],
    images: dict[str, dict | None] | None = None,
    failures: dict[str, list[Failure]] | None = None,
    scores: Scores | None = None,
) -> Measured:
    """Every planned cell under every metric of the scorers.

    images: unit key -> sha256 of its images by name, None for a unit that is not finished; read where not given, as
    failures and scores are.
    One protocol counts for each scorer: the one that most of its units were scored under, of several the newest.
    Numbers made under another, or from images that have changed since, are missing ones. Raises InputError for an
    unknown scorer.
    """
    cells: list[Measurement] = []
    protocols: dict[str, dict] = {}
    unscored: dict[str, Counter] = {}
    images = _images(plan, store) if images is None else images
    failures = store.failures() if failures is None else failures
    scores = read_scores(store.run) if scores is None else scores
    beside = {cell.key: plan.sets[cell.set].reference_hashes for cell in plan.cells}
    shown = {key: found and images_digest(found, beside[key]) for key, found in images.items()}
    plain = {(cell.set, cell.seed): cell.key for cell in plan.cells if cell.method == PLAIN}
    for scorer in dict.fromkeys(scorers):
        chosen = scores.protocol(scorer, plan.units)
        protocol = scores.protocols.get(chosen, {})
        family, lacking = parts(scorer)[0], {}
        for value_name in METRICS[family]:
            if of_references(value_name) and not any(prompts.references for prompts in plan.sets.values()):
                continue
            metric = metric_name(scorer, value_name)
            protocols[metric] = protocol
            for cell in plan.cells:
                key, value = cell.key, None
                if shown[key] is None:
                    cause = failures[key][-1].cause if key in failures else "not finished"
                elif (record := scores.of(scorer, key, chosen, shown[key])) is None:
                    cause = _why_unscored(scores, scorer, key, chosen)
                    lacking[cell] = cause
                else:
                    value = record.values.get(value_name)
                    if value is None and value_name == "scene_leakage" and (other := plain.get((cell.set, cell.seed))):
                        beside = scores.of(scorer, other, chosen, shown[other]) if shown[other] else None
                        value = _open_leakage(record.values, beside.values if beside else {})
                    basis = NO_REFERENCES if of_references(value_name) else NO_BASIS[family]
                    cause = basis if value is None else ""
                cells.append(
                    Measurement(metric, cell.method, cell.set, plan.sets[cell.set].group, cell.seed, value, cause)
                )
        if lacking:
            unscored[scorer] = Counter(lacking.values())
    return Measured(cells, protocols, unscored)


def _open_leakage(values: dict, plain: dict) -> float | None:
    """Leakage of a set that leaves its scenes open: a picture's own scene is what plain sampling drew."""
    if "background_looks" not in values or "background_looks" not in plain:
        return None
    return leakage_beside_plain(values["background_looks"], plain["background_looks"])


def relative_to_plain(measured: Measured, plain: str = PLAIN) -> Measured:
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
    return replace(measured, cells=cells, protocols=protocols)


def higher_is_better(metric: str) -> bool:
    """Whether a higher number of this metric (of a run, or relative to plain sampling) is what one wants."""
    return next(better[value_of(metric)] for better in METRICS.values() if value_of(metric) in better)


def value_of(metric: str) -> str:
    """The number's own name, without the scorer's variant and what it is relative to."""
    return metric.partition(" ")[0].partition("+")[0].partition(":")[0]


def _images(plan: Plan, store: Store) -> dict[str, dict[str, str] | None]:
    """Key -> sha256 of its images; None for a unit that is not finished."""
    return {key: image_hashes(store.manifest(key)) if store.is_finished(key) else None for key in plan.units}


def _why_unscored(scores: Scores, scorer: str, key: str, protocol: str) -> str:
    """Why a finished unit has no record that counts."""
    if (scorer, key) in scores.failed:
        return f"not scored: {scores.failed[scorer, key]}"
    if (scorer, key) not in scores.records:
        return "not scored"
    if scores.of(scorer, key, protocol) is None:
        return "scored under another protocol"
    return "images changed since they were scored"
