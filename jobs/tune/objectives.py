"""What is searched for: metrics of the report, and which way is better."""

from svdstory.jobs.report.findings import AXES, better
from svdstory.jobs.report.measurements import RELATIVE, Measured, read_measurements, relative_to_plain, value_of
from svdstory.jobs.study.plan import Plan
from svdstory.jobs.study.store import Store
from svdstory.pipeline.config.strict import InputError, choices
from svdstory.pipeline.metrics.names import METRICS, metric_name, parts

PLAIN = "sdxl"  # what relative metrics are relative to


def metrics_of(plan: Plan) -> list[str]:
    """The metrics that a run of this plan will have, with those relative to plain sampling."""
    own = [metric_name(scorer, value) for scorer in plan.scorers for value in METRICS[parts(scorer)[0]]]
    words = {"difference": "excess over", "ratio": "relative to"}
    return own + [f"{m} {words[RELATIVE[value_of(m)]]} {PLAIN}" for m in own if value_of(m) in RELATIVE]


def resolve(objectives: tuple[str, ...], plan: Plan) -> list[str]:
    """The metric of each objective. Raises InputError for one that the plan's scorers don't give."""
    there = metrics_of(plan)
    found = []
    for asked in objectives:
        fits = [m for wanted in AXES.get(asked, (asked,)) for m in there if _is(m, wanted)]
        if not fits:
            raise InputError(
                f"objective {asked!r}: model {plan.model.name}'s scorers ({', '.join(plan.scorers)}) do not measure it"
                f"{choices(asked, [*AXES, *there])}."
            )
        found.append(fits[0])
    if len(set(found)) < len(found):
        raise InputError(f"objectives {', '.join(objectives)}: two of them are one metric. Name each once.")
    return found


def _is(metric: str, wanted: str) -> bool:
    """`scene_leakage excess over sdxl` is `scene_leakage excess`, and `background:tiny` is `background`."""
    name, _, rest = metric.partition(" ")
    plain, _, relative = wanted.partition(" ")
    return metric == wanted or (
        (name == plain or value_of(name) == plain) and rest.startswith(relative) and bool(rest) == bool(relative)
    )


def directions(metrics: list[str]) -> list[str]:
    return ["maximize" if better(metric) > 0 else "minimize" for metric in metrics]


def measure(plan: Plan, store: Store) -> Measured:
    return relative_to_plain(read_measurements(plan, store, plan.scorers), PLAIN)


def values(measured: Measured, metrics: list[str], method: str) -> tuple[list[float], str]:
    """A method's mean of each metric over its cells; or none and the reason: a hole is never averaged away."""
    means = []
    for metric in metrics:
        cells = [c for c in measured.cells if (c.metric, c.method) == (metric, method)]
        holes = [c for c in cells if c.value is None]
        if holes or not cells:
            where = f"{holes[0].set}, seed {holes[0].seed}: {holes[0].cause}" if holes else "not planned"
            return [], f"{metric}: {len(holes)} of {len(cells)} cells have no number ({where})"
        means.append(sum(c.value for c in cells) / len(cells))
    return means, ""
