"""The grids of one prompt set in the report: rows are methods, columns are settings, grouped by seed. Above them, where
pictures show the subject, these."""

from pathlib import Path

from PIL import Image

from svdstory.jobs.report.cells import Place, Study
from svdstory.jobs.report.described import describe, setting_text
from svdstory.jobs.report.draft import Draft
from svdstory.jobs.report.grids import Grid, Row, cause_png, draw_grid, report_png
from svdstory.jobs.report.labels import lead, method_label, word
from svdstory.jobs.report.parts import Below
from svdstory.jobs.report.thumbnails import Pack
from svdstory.jobs.study.reference_files import placed
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.references import read_picture
from svdstory.pipeline.config.strict import InputError

SEEDS = 24  # on one grid


def add_grids(
    draft: Draft | Below, study: Study, set_name: str, places: list[Place], pack: Path, name: str, lang: str
) -> None:
    """The grid of one prompt set, and with many seeds more: `<name>.png`, `<name>.2.png`, SEEDS seeds on each."""
    seeds = sorted({place.cell.seed for place in places})
    for first in range(0, len(seeds), SEEDS):
        some = [place for place in places if place.cell.seed in seeds[first : first + SEEDS]]
        stem = f"{name}.{first // SEEDS + 1}" if first else name
        add_grid(draft, study, set_name, some, pack, stem, lang)


def add_grid(
    draft: Draft | Below, study: Study, set_name: str, places: list[Place], pack: Path, name: str, lang: str
) -> None:
    """A grid: rows are methods, columns are settings, grouped by seed."""
    inputs = [
        "grid",
        set_name,
        study.plan.sets[set_name].model_dump(mode="json"),
        study.notes,
        list(study.plan.size),
        setting_text(study),
        [describe(p) for p in places],
        lang,
    ]

    def make() -> bytes:
        return report_png(draw_grid(set_grid(study, set_name, places, Pack(pack), lang)), chunks)

    chunks = grid_chunks(study, set_name, places)
    draft.add(f"grids/{name}.png", inputs, make, lambda cause: cause_png(cause, chunks))


def set_grid(study: Study, set_name: str, places: list[Place], thumbnails: Pack, lang: str = "en") -> Grid:
    """The description of a set's grid."""
    prompts = study.plan.sets[set_name]
    seeds = sorted({place.cell.seed for place in places})
    at = {(place.cell.method, place.cell.seed): place for place in places}
    shown = reference_rows(study, prompts, len(seeds), lang)
    rows = tuple(
        Row(method_label(method, lang), tuple(part_of(at[method, seed], thumbnails) for seed in seeds))
        for method in study.plan.methods
    )
    breaks = {0, *family_breaks(study.plan.methods)} if shown else family_breaks(study.plan.methods)
    return Grid(
        f"{lead(prompts)} …",
        tuple(f"… {s}" for s in prompts.settings),
        tuple(f"{word('seed', lang)} {s}" for s in seeds),
        shown + rows,
        tuple(study.plan.size),
        tuple(study.notes),
        setting_text(study),
        frozenset(row + len(shown) for row in breaks),
    )


def reference_rows(study: Study, prompts: PromptSet, seeds: int, lang: str) -> tuple[Row, ...]:
    """One row of the pictures that methods were given, as many as there are columns; none for a set without any."""
    shown = placed(prompts, study.run).references[: len(prompts.settings)]
    if not shown:
        return ()
    try:
        part = [read_picture(reference, tuple(study.plan.size)) for reference in shown]
    except InputError as error:  # the run's copy is gone, or damaged
        part = str(error)
    return (Row(word("references", lang), (part, *[[]] * (seeds - 1))),)


def part_of(place: Place, thumbnails: Pack) -> list[Image.Image] | str:
    return place.hole or [thumbnails[picture.sha256] for picture in place.pictures]


def family_breaks(methods) -> frozenset[int]:
    """Rows where another family of methods begins: the first word of the name changes."""
    families = [name.split("-")[0] for name in methods]
    return frozenset(i for i in range(1, len(families)) if families[i] != families[i - 1])


def grid_chunks(study: Study, set_name: str, places: list[Place]) -> dict[str, str]:
    """Prompts, seeds, methods and unit keys, one a line, as far as places go: top to bottom."""
    return {
        "prompt": "\n".join(study.plan.sets[set_name].prompts),
        "seed": "\n".join(str(s) for s in sorted({p.cell.seed for p in places})),
        "method": "\n".join(study.plan.methods),
        "set": set_name,
        "unit": "\n".join(dict.fromkeys(p.cell.key for p in places)),
        "model": study.plan.model.name,
        "note": "\n".join(study.notes),
        "parameters": setting_text(study),
    }
