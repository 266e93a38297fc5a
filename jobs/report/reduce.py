"""Reduce: from a run's files to RUN/report. Grids, overview, metrics.csv, figures, tables and one page to look at.

The same inputs give the same bytes. What has not changed since the last reduce is neither read nor made again:
thumbnails are kept in packs (thumbnails.py), the report's files are keyed by their inputs (draft.py).
"""

import errno
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from svdstory.jobs.report import overview
from svdstory.jobs.report.cells import CORRUPT, DONE, FAILED, MISSING, Place, Study, read_study
from svdstory.jobs.report.draft import Draft
from svdstory.jobs.report.figures import chosen
from svdstory.jobs.report.figures.files import add_figures, captions
from svdstory.jobs.report.figures.material import Material
from svdstory.jobs.report.findings import find, from_json, to_json
from svdstory.jobs.report.fonts import drawn_in
from svdstory.jobs.report.grids import Grid, Row, cause_png, draw_grid, png
from svdstory.jobs.report.labels import LANGUAGES, lead, method_label, word
from svdstory.jobs.report.metrics_csv import metrics_csv
from svdstory.jobs.report.page import Page, thumbnail_block, write_page
from svdstory.jobs.report.safe_names import safe_names
from svdstory.jobs.report.tables.files import add_tables
from svdstory.jobs.report.thumbnails import Pack, complete_pack
from svdstory.pipeline.config.strict import InputError, digest


@dataclass(frozen=True)
class ReduceResult:
    """What a reduce found and did. counts: state -> cause -> number of cells."""

    report: Path
    counts: dict[str, Counter]
    made: tuple[str, ...]
    kept: tuple[str, ...]
    notes: tuple[str, ...]
    not_drawn: dict[str, str]  # figure -> why the run does not give it
    broken: dict[str, str]  # file of the report -> why it could not be made: its place holds the cause

    @property
    def page(self) -> Path:
        """The page to open."""
        return self.report.absolute() / "index.html"

    @property
    def complete(self) -> bool:
        """Whether every cell of the plan and every file of the report is there."""
        return not self.broken and not any(self.counts[state] for state in (FAILED, MISSING, CORRUPT))

    @property
    def summary(self) -> str:
        """A few lines for a terminal."""
        files = f"{len(self.made)} files made, {len(self.kept)} unchanged"
        reasons = dict.fromkeys(self.not_drawn.values())
        figures = [
            f"not drawn: {', '.join(n for n, w in self.not_drawn.items() if w == why)} ({why})" for why in reasons
        ]
        broken = [f"{name} could not be made: {cause}" for name, cause in self.broken.items()]
        return "\n".join([f"report: {files}", count_text(self.counts), *broken, *figures, *self.notes])


def reduce(
    run: Path,
    *,
    plan_file: Path | None = None,
    lang: str = "en",
    figures: list[str] | None = None,
    report: Callable[[str], None] = lambda text: None,
) -> ReduceResult:
    """Make RUN/report from what the run's files hold. Raises InputError where there is no plan.

    plan_file: an earlier plan of the run, None for its last. lang: of the figures' labels. figures: their names, None
    for all that the run gives. `report` is told what is at work, one prompt set at a time.
    """
    check(lang, figures)
    try:
        study = read_study(Path(run), plan_file)
        with drawn_in(study.plan.font):
            return _reduce(study, lang, figures, report)
    except zipfile.BadZipFile:  # a damaged pack of thumbnails costs time, nothing else
        shutil.rmtree(pack_path(Path(run), "").parent)
        return reduce(run, plan_file=plan_file, lang=lang, figures=figures, report=report)


def _reduce(study: Study, lang: str, figures: list[str] | None, report: Callable[[str], None]) -> ReduceResult:
    run, draft = study.run, Draft(study.run, study.plan.font)
    names = file_names(study)
    packs = {set_name: pack_path(run, name) for set_name, name in names.items()}
    try:
        study = study.damaged(find_damage(study, names, report))
        for set_name, places in study.by_set.items():
            report(f"grid {set_name}")
            add_grid(draft, study, set_name, places, packs[set_name], names[set_name], lang)
        add_overview(draft, study, packs, lang)
        not_drawn = add_numbers(draft, study, packs, names, lang, figures, report)
        draft.swap()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise InputError(
                f"{draft.report}: cannot be written ({error.strerror}). The present report is as it was."
            ) from None
        raise
    finally:
        draft.discard()
    made, kept, notes = tuple(draft.made), tuple(draft.kept), tuple(study.number_notes)
    return ReduceResult(draft.report, study.counts(), made, kept, notes, not_drawn, draft.broken)


def check(lang: str, figures: list[str] | None) -> None:
    if lang not in LANGUAGES:
        raise InputError(f"language {lang!r}: expected {' or '.join(LANGUAGES)}.", key="lang")
    chosen(figures)


def add_numbers(
    draft: Draft,
    study: Study,
    packs: dict[str, Path],
    names: dict[str, str],
    lang: str,
    figures: list[str] | None,
    report: Callable[[str], None],
) -> dict[str, str]:
    """metrics.csv, statistics, figures, tables and the page. Returns the figures that were not drawn, and why."""
    report("statistics and figures")
    places, numbers = digest(described_places(study)), digest(described_numbers(study))
    spectra = digest([[p.name, p.stat().st_size] for p in sorted((study.run / "spectra").glob("*.safetensors"))])
    common = [study.plan.hash(), numbers, study.mixtures]
    draft.add("metrics.csv", ["metrics", places, *common], lambda: metrics_csv(study))
    draft.add("statistics.json", ["findings", *common], lambda: to_json(find(study)))
    findings = from_json(draft.read("statistics.json"))
    reads = {"places": places, "numbers": digest([places, common]), "spectra": digest([study.plan.hash(), spectra])}
    not_drawn = add_figures(draft, Material(study, findings, packs, lang), figures, reads, study_chunks(study))
    drawn = {f.name: captions(lang)[f.name] for f in chosen(figures) if f.name not in not_drawn}
    add_tables(draft, study, findings, common, setting_text(study), count_text(study.counts()), drawn)
    for i, (set_name, name) in enumerate(names.items()):
        cells = study.by_set[set_name]
        draft.add(
            f"thumbs/{name}.js",
            ["thumbs", i, [describe(p) for p in cells]],
            lambda: thumbnail_block(cells, packs[set_name], i),
        )
    broken, counts = dict(draft.broken), count_text(study.counts())
    page = Page(study, findings, names, packs, draft.folder, drawn, not_drawn, counts, setting_text(study), broken)
    page_inputs = ["page", places, *common, reads, lang, names, drawn, not_drawn, broken]
    draft.add("index.html", page_inputs, lambda: write_page(page))
    return not_drawn


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


def add_grid(draft: Draft, study: Study, set_name: str, places: list[Place], pack: Path, name: str, lang: str) -> None:
    """The grid of one prompt set: rows are methods, columns are settings, grouped by seed."""
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
        return png(draw_grid(set_grid(study, set_name, places, Pack(pack), lang)), chunks)

    chunks = grid_chunks(study, set_name, places)
    draft.add(f"grids/{name}.png", inputs, make, lambda cause: cause_png(cause, chunks))


def set_grid(study: Study, set_name: str, places: list[Place], thumbnails: Pack, lang: str = "en") -> Grid:
    """The description of a set's grid."""
    prompts = study.plan.sets[set_name]
    seeds = sorted({place.cell.seed for place in places})
    at = {(place.cell.method, place.cell.seed): place for place in places}
    rows = tuple(
        Row(method_label(method, lang), tuple(part_of(at[method, seed], thumbnails) for seed in seeds))
        for method in study.plan.methods
    )
    return Grid(
        f"{lead(prompts)} …",
        tuple(f"… {s}" for s in prompts.settings),
        tuple(f"{word('seed', lang)} {s}" for s in seeds),
        rows,
        tuple(study.plan.size),
        tuple(study.notes),
        setting_text(study),
        family_breaks(study.plan.methods),
    )


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


def add_overview(draft: Draft, study: Study, packs: dict[str, Path], lang: str) -> None:
    inputs = ["overview", described_places(study), study.notes, list(study.plan.size), lang]
    chunks = study_chunks(study)
    draft.add(
        "overview.png",
        inputs,
        lambda: png(overview.draw_overview(study, packs, lang), chunks),
        lambda cause: cause_png(cause, chunks),
    )


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
        f"{plan.model.name}, {plan.size[0]} × {plan.size[1]} pixels, {plan.steps} steps of {plan.scheduler}, "
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


def pack_path(run: Path, name: str) -> Path:
    return run / "cache" / "thumbnails" / f"{name}.zip"


def file_names(study: Study) -> dict[str, str]:
    """Prompt set -> the name of its files."""
    return safe_names(study.plan.sets)


def count_text(counts: dict[str, Counter]) -> str:
    """`780 cells: 775 done, 3 failed (2 out of memory, 1 bug), 1 missing, 1 corrupt`"""
    parts = []
    for state in (DONE, FAILED, MISSING, CORRUPT):
        total, causes = counts[state].total(), {c: n for c, n in counts[state].most_common() if c}
        if total or state == DONE:
            detail = ", ".join(f"{n} {cause}" for cause, n in causes.items())
            parts.append(f"{total} {state}" + (f" ({detail})" if detail else ""))
    return f"{sum(c.total() for c in counts.values())} cells: " + ", ".join(parts)
