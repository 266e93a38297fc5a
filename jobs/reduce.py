"""Reduce: from a run's files to RUN/report. Grids, overview, metrics.csv, figures, tables and one page to look at.

The same inputs give the same bytes. What has not changed since the last reduce is neither read nor made again:
thumbnails are kept in packs (thumbnails.py), the report's files are keyed by their inputs (draft.py).
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from svdstory.pipeline.promptset import slug

from . import overview
from .draft import Draft
from .grids import Grid, Row, draw_grid, png
from .metrics_csv import metrics_csv
from .page import page_inputs, write_page
from .places import CORRUPT, DONE, FAILED, MISSING, Place, Study, read_study
from .thumbnails import complete_pack, read_pack


@dataclass(frozen=True)
class ReduceResult:
    """What a reduce found and did. counts: state -> cause -> number of cells."""

    report: Path
    counts: dict[str, Counter]
    made: tuple[str, ...]
    kept: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every cell of the plan is there."""
        return not any(self.counts[state] for state in (FAILED, MISSING, CORRUPT))

    @property
    def summary(self) -> str:
        """A few lines for a terminal."""
        files = f"{len(self.made)} files made, {len(self.kept)} unchanged"
        return "\n".join([f"{self.report / 'index.html'}: {files}", count_text(self.counts), *self.notes])


def reduce(run: Path, *, lang: str = "en", report: Callable[[str], None] = lambda text: None) -> ReduceResult:
    """Make RUN/report from what the run's files hold. Raises InputError where there is no plan.

    `report` is told what is at work, one prompt set at a time.
    """
    run = Path(run)
    study, draft = read_study(run), Draft(run)
    names = file_names(study)
    study = study.damaged(find_damage(study, names, report))
    try:
        for set_name, places in study.by_set.items():
            report(f"grid {set_name}")
            add_grid(draft, study, set_name, places, pack_path(run, names[set_name]), names[set_name])
        add_overview(draft, study, names)
        draft.add("metrics.csv", ["metrics", described_places(study), described_numbers(study)],
                  lambda: metrics_csv(study))
        draft.add("index.html", page_inputs(study, names), lambda: write_page(study, names))
        draft.swap()
    finally:
        draft.discard()
    return ReduceResult(draft.report, study.counts(), tuple(draft.made), tuple(draft.kept), tuple(study.number_notes))


def find_damage(study: Study, names: dict[str, str], report: Callable[[str], None]) -> dict[str, str]:
    """Complete the packs of thumbnails. Returns unit key -> cause, for units with an image that cannot be shown."""
    damage: dict[str, str] = {}
    for set_name, places in study.by_set.items():
        report(f"thumbnails {set_name}")
        owners = {picture.path: place.cell.key for place in places for picture in place.pictures}
        pictures = [picture for place in places for picture in place.pictures]
        found = complete_pack(pack_path(study.run, names[set_name]), pictures)
        damage |= {owners[path]: why for path, why in sorted(found.items(), reverse=True)}
    return damage


def add_grid(draft: Draft, study: Study, set_name: str, places: list[Place], pack: Path, name: str) -> None:
    """The grid of one prompt set: rows are methods, columns are settings, grouped by seed."""
    inputs = ["grid", set_name, study.plan.sets[set_name].model_dump(mode="json"), study.notes, list(study.plan.size),
              setting_text(study), [describe(p) for p in places]]

    def make() -> bytes:
        image = draw_grid(set_grid(study, set_name, places, read_pack(pack)))
        return png(image, grid_chunks(study, set_name, places))
    draft.add(f"grids/{name}.png", inputs, make)


def set_grid(study: Study, set_name: str, places: list[Place], thumbnails: dict[str, Image.Image]) -> Grid:
    """The description of a set's grid."""
    prompts = study.plan.sets[set_name]
    seeds = sorted({place.cell.seed for place in places})
    at = {(place.cell.method, place.cell.seed): place for place in places}
    rows = tuple(Row(method, tuple(part_of(at[method, seed], thumbnails) for seed in seeds))
                 for method in study.plan.methods)
    lead = " ".join(part.strip() for part in (prompts.style, prompts.subject) if part.strip())
    return Grid(f"{lead} …", tuple(f"… {s}" for s in prompts.settings), tuple(f"seed {s}" for s in seeds), rows,
                tuple(study.plan.size), tuple(study.notes), setting_text(study), family_breaks(study.plan.methods))


def part_of(place: Place, thumbnails: dict[str, Image.Image]) -> list[Image.Image] | str:
    return place.hole or [thumbnails[picture.sha256] for picture in place.pictures]


def family_breaks(methods) -> frozenset[int]:
    """Rows where another family of methods begins: the first word of the name changes."""
    families = [name.split("-")[0] for name in methods]
    return frozenset(i for i in range(1, len(families)) if families[i] != families[i - 1])


def grid_chunks(study: Study, set_name: str, places: list[Place]) -> dict[str, str]:
    """Prompts, seeds, methods and unit keys, one a line, as far as places go: top to bottom."""
    return {"prompt": "\n".join(study.plan.sets[set_name].prompts),
            "seed": "\n".join(str(s) for s in sorted({p.cell.seed for p in places})),
            "method": "\n".join(study.plan.methods), "set": set_name,
            "unit": "\n".join(dict.fromkeys(p.cell.key for p in places)),
            "model": study.plan.model.name, "note": "\n".join(study.notes), "parameters": setting_text(study)}


def add_overview(draft: Draft, study: Study, names: dict[str, str]) -> None:
    packs = {set_name: pack_path(study.run, name) for set_name, name in names.items()}
    inputs = ["overview", described_places(study), study.notes, list(study.plan.size), setting_text(study)]
    chunks = {"prompt": "\n".join(p for s in study.plan.sets.values() for p in s.prompts),
              "seed": "\n".join(map(str, dict.fromkeys(overview.first_seeds(study).values()))), "method": "\n".join(study.plan.methods),
              "unit": "\n".join(study.plan.units), "model": study.plan.model.name, "note": "\n".join(study.notes)}
    draft.add("overview.png", inputs, lambda: png(overview.draw_overview(study, packs), chunks))


def setting_text(study: Study) -> str:
    plan = study.plan
    return (f"{plan.model.name}, {plan.size[0]} × {plan.size[1]} pixels, {plan.steps} steps of {plan.scheduler}, "
            f"guidance {plan.guidance:g}")


def describe(place: Place) -> list:
    return [place.cell.set, place.cell.method, place.cell.seed, place.cell.key, place.state, place.cause,
            [picture.sha256 for picture in place.pictures]]


def described_places(study: Study) -> list[list]:
    return [describe(place) for place in study.places]


def described_numbers(study: Study) -> list:
    return [study.measured.protocols, [[m.metric, m.method, m.set, m.seed, m.value, m.cause]
                                       for m in study.measured.cells]]


def pack_path(run: Path, name: str) -> Path:
    return run / "cache" / "thumbnails" / f"{name}.zip"


def file_names(study: Study) -> dict[str, str]:
    """Prompt set -> a safe file name without ending; no two are alike, whatever the case of the file system."""
    names: dict[str, str] = {}
    for set_name in study.plan.sets:
        name, n = slug(set_name), 2
        while name in names.values():
            name, n = f"{slug(set_name)}-{n}", n + 1
        names[set_name] = name
    return names


def count_text(counts: dict[str, Counter]) -> str:
    """`780 cells: 775 done, 3 failed (2 out of memory, 1 bug), 1 missing, 1 corrupt`"""
    parts = []
    for state in (DONE, FAILED, MISSING, CORRUPT):
        total, causes = counts[state].total(), {c: n for c, n in counts[state].most_common() if c}
        if total or state == DONE:
            detail = ", ".join(f"{n} {cause}" for cause, n in causes.items())
            parts.append(f"{total} {state}" + (f" ({detail})" if detail else ""))
    return f"{sum(c.total() for c in counts.values())} cells: " + ", ".join(parts)
