"""The page's opening: the one grid that shows what the methods do, on the set where they differ most.

The choice is said on the page: it is the clearest set and not a typical one.
"""

from dataclasses import dataclass
from pathlib import Path

from svdstory.jobs.report.cells import Place, Study, is_random
from svdstory.jobs.report.findings import Findings, better
from svdstory.jobs.report.labels import lead, meaning, metric_label, plain_label
from svdstory.jobs.report.thumbnails import SIDE, Pack, as_uri, webp
from svdstory.pipeline.config.named_methods import shipped_entries

ROWS, COLUMNS = 6, 6  # at most, so that the grid is seen whole
QUALITY = 88  # of its WebP


@dataclass(frozen=True)
class Opening:
    """One set and seed. places: of the methods shown, in the plan's order.

    metric: what chose the set, empty if nothing that means something was measured. values: by method, where measured.
    """

    set: str
    seed: int
    places: tuple[Place, ...]
    metric: str
    values: dict[str, float]


def choose_opening(study: Study, findings: Findings) -> Opening:
    """Of the sets and seeds with the fewest holes the one whose methods' consistency lies furthest apart."""
    metric = findings.axes.get("consistency", "")
    if is_random(study.measured.protocols.get(metric, {})):
        metric = ""
    by_seed: dict[tuple[str, int], list[Place]] = {}
    for place in study.places:
        by_seed.setdefault((place.cell.set, place.cell.seed), []).append(place)
    values = {at: _values(study, metric, places) for at, places in by_seed.items()}

    def rank(at: tuple[str, int]) -> tuple[int, float]:
        numbers = values[at].values()
        return sum(bool(p.hole) for p in by_seed[at]), min(numbers, default=0.0) - max(numbers, default=0.0)

    chosen = min(by_seed, key=rank)  # the first of equals
    shown = shown_methods(list(study.plan.methods), findings.baseline, values[chosen])
    places = tuple(p for p in by_seed[chosen] if p.cell.method in shown)
    return Opening(*chosen, places, metric, values[chosen])


def shown_methods(methods: list[str], baseline: str, values: dict[str, float]) -> set[str]:
    """ROWS of them at most: plain SDXL, the baseline, and others evenly from the lowest number to the highest."""
    if len(methods) <= ROWS:
        return set(methods)
    fixed = [m for m in methods if m in ("sdxl", baseline)]
    others = sorted((m for m in methods if m not in fixed), key=lambda m: values.get(m, float("inf")))
    free = ROWS - len(fixed)
    return {*fixed, *(others[round(i * (len(others) - 1) / (free - 1))] for i in range(free))}


def _values(study: Study, metric: str, places: list[Place]) -> dict[str, float]:
    numbers = study.numbers.get(metric, {})
    found = {p.cell.method: numbers.get((p.cell.set, p.cell.method, p.cell.seed)) for p in places}
    return {method: m.value for method, m in found.items() if m and m.value is not None}


def opening_view(study: Study, findings: Findings, packs: dict[str, Path]) -> dict:
    """The opening as page.html.j2 takes it."""
    opening = choose_opening(study, findings)
    prompts, thumbnails = study.plan.sets[opening.set], Pack(packs[opening.set])
    at = list(study.plan.sets).index(opening.set), list(study.plan.methods)
    return {
        "lead": lead(prompts),
        "settings": prompts.settings[:COLUMNS],
        "prompts": prompts.prompts,
        "shape": f"{study.plan.size[0]} / {study.plan.size[1]}",
        "small": max(study.plan.size) < SIDE / 2,
        "chosen": how_chosen(study, opening),
        "metric": opening.metric and metric_label(opening.metric),
        "meaning": meaning(opening.metric),
        "better": better(opening.metric) if opening.metric else 0,
        "rows": [
            {
                "label": plain_label(place.cell.method),
                "about": shipped_entries()[place.cell.method].about if place.cell.method in shipped_entries() else "",
                "at": f"{at[0]} {at[1].index(place.cell.method)} {opening.seed}",
                "hole": place.hole,
                "pictures": [as_uri(webp(thumbnails[p.sha256], SIDE, QUALITY)) for p in place.pictures[:COLUMNS]],
                **_bar(opening, place.cell.method),
            }
            for place in opening.places
        ],
    }


def _bar(opening: Opening, method: str) -> dict:
    """A method's number, and the length of its bar in per cent of the longest (of 1 where the scale ends there)."""
    value = opening.values.get(method)
    if value is None:
        return {"value": "", "bar": 0}
    longest = max([float(opening.metric == "identity_distance"), *opening.values.values()])
    return {"value": f"{value:.2f}".replace("-", "−"), "bar": round(100 * max(value, 0.0) / longest) if longest else 0}


def how_chosen(study: Study, opening: Opening) -> str:
    """What of the run the grid is, and that it was not drawn by lot."""
    methods, settings = study.plan.methods, study.plan.sets[opening.set].settings
    grids = len({(p.cell.set, p.cell.seed) for p in study.places})
    part = [f"{len(opening.places)} of {len(methods)} methods"] if len(opening.places) < len(methods) else []
    part += [f"{COLUMNS} of {len(settings)} scenes"] if len(settings) > COLUMNS else []
    which = " where the methods differ most" if len(opening.values) > 1 else ""
    said = [f"Of {grids} grids this is the one{which}."] if grids > 1 and which else []
    return " ".join(said + [f"Shown: {', '.join(part)}." for _ in part[:1]])
