"""metrics.csv: one row for each cell and metric, with the protocol that the number was measured by."""

from svdstory.jobs.report.cells import DONE, Study
from svdstory.jobs.report.tables.rows import to_csv
from svdstory.pipeline.config.strict import canonical


def metrics_csv(study: Study) -> bytes:
    """A hole and an unscored cell have rows too, with an empty value and why."""
    rows = []
    for metric, numbers in study.numbers.items() or [("", {})]:
        protocol = study.measured.protocols.get(metric, {})
        written = canonical(protocol) if protocol else ""
        for place in study.places:
            cell = place.cell
            number = numbers.get((cell.set, cell.method, cell.seed))
            missing = place.cause if place.state != DONE else number.cause if number else ""
            rows.append(
                {
                    "set": cell.set,
                    "group": study.plan.sets[cell.set].group,
                    "method": cell.method,
                    "seed": cell.seed,
                    "unit": cell.key,
                    "state": place.state,
                    "metric": metric,
                    "value": number.value if number else None,
                    "missing_because": missing,
                    "scorer": protocol.get("scorer", ""),
                    "protocol": written,
                }
            )
    return to_csv(rows).encode()
