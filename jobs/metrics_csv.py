"""metrics.csv: one row for each cell and metric, with the protocol that the number was measured by."""

import csv
import io

from svdstory.pipeline.strict import canonical

from .places import DONE, Study

COLUMNS = ("set", "group", "method", "seed", "unit", "state", "cause", "scorer", "metric", "value", "protocol")


def metric_names(study: Study) -> list[tuple[str, str]]:
    """(scorer, metric), in order."""
    return [(s.scorer, name) for s in study.scores
            for name in sorted({name for values in s.values.values() for name in values})]


def metrics_csv(study: Study) -> bytes:
    """A hole and an unscored cell have rows too, with an empty value and the state that says why."""
    names = metric_names(study) or [("", "")]
    scores = {s.scorer: s for s in study.scores}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for place in study.places:
        cell = place.cell
        where = [cell.set, study.plan.sets[cell.set].group, cell.method, cell.seed, cell.key]
        for scorer, metric in names:
            values = scores[scorer].values.get(cell.key, {}) if scorer else {}
            value = values.get(metric) if place.state == DONE else None
            state = place.state if value is not None or place.state != DONE or not scorer else "not scored"
            protocol = canonical(scores[scorer].protocol) if scorer else ""
            writer.writerow([*where, state, place.cause, scorer, metric, "" if value is None else repr(value),
                             protocol])
    return text.getvalue().encode()
