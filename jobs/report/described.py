"""A run in words, and as what the report's files are keyed by."""

from collections import Counter

from svdstory.jobs.report.cells import CORRUPT, DONE, FAILED, MISSING, Place, Study


def study_chunks(study: Study) -> dict[str, str]:
    """Text chunks of a picture of the whole run: one entry a line."""
    plan = study.plan
    return {
        "prompt": "\n".join(p for prompts in plan.sets.values() for p in prompts.prompts),
        "seed": "\n".join(str(s) for s in sorted({cell.seed for cell in plan.cells})),
        "method": "\n".join(plan.methods),
        "set": "\n".join(plan.sets),
        "unit": "\n".join(plan.units),
        "model": plan.model.name,
        "note": "\n".join(study.number_notes),
        "parameters": setting_text(study),
    }


def setting_text(study: Study) -> str:
    plan = study.plan
    return (
        f"{plan.model.name}, {plan.size[0]} × {plan.size[1]} pixels, {plan.steps} steps of {plan.sampler}, "
        f"guidance {plan.guidance:g}" + (", exact filters" if plan.exact_filter else "")
    )


def describe(place: Place) -> list:
    return [
        place.cell.set,
        place.cell.method,
        place.cell.seed,
        place.cell.key,
        place.state,
        place.cause,
        [picture.sha256 for picture in place.pictures],
    ]


def described_places(study: Study) -> list[list]:
    return [describe(place) for place in study.places]


def described_numbers(study: Study) -> list:
    return [
        study.measured.protocols,
        [[m.metric, m.method, m.set, m.seed, m.value, m.cause] for m in study.measured.cells],
    ]


def count_text(counts: dict[str, Counter]) -> str:
    """`780 cells: 775 done, 3 failed (2 out of memory, 1 bug), 1 missing, 1 corrupt`"""
    parts = []
    for state in (DONE, FAILED, MISSING, CORRUPT):
        total, causes = counts[state].total(), {c: n for c, n in counts[state].most_common() if c}
        if total or state == DONE:
            detail = ", ".join(f"{n} {cause}" for cause, n in causes.items())
            parts.append(f"{total} {state}" + (f" ({detail})" if detail else ""))
    return f"{sum(c.total() for c in counts.values())} cells: " + ", ".join(parts)
