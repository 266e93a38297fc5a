"""Reduce: from a run's files to RUN/report. Grids, overview, metrics.csv, figures, tables and one page to look at.

The same inputs give the same bytes. What has not changed since the last reduce is neither read nor made again:
thumbnails are kept in packs (thumbnails.py), the report's files are keyed by their inputs (draft.py).
"""

import errno
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from svdstory.jobs.report import overview
from svdstory.jobs.report.cells import CORRUPT, FAILED, MISSING, Study, read_study
from svdstory.jobs.report.described import (
    count_text,
    describe,
    described_numbers,
    described_places,
    setting_text,
    study_chunks,
)
from svdstory.jobs.report.draft import Draft
from svdstory.jobs.report.figures import chosen
from svdstory.jobs.report.figures.figure_files import add_figures, captions
from svdstory.jobs.report.figures.material import Material
from svdstory.jobs.report.findings import Findings, find, from_json, to_json
from svdstory.jobs.report.fonts import drawn_in
from svdstory.jobs.report.grids import cause_png, report_png
from svdstory.jobs.report.labels import LANGUAGES
from svdstory.jobs.report.metrics_csv import metrics_csv
from svdstory.jobs.report.page import Page, thumbnail_block, write_page
from svdstory.jobs.report.parts import Below, parts_of, parts_page, said
from svdstory.jobs.report.published import published as published_table
from svdstory.jobs.report.safe_names import safe_names
from svdstory.jobs.report.set_grids import add_grids
from svdstory.jobs.report.tables.table_files import add_tables
from svdstory.jobs.report.thumbnails import complete_pack
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
    unscored: dict[str, Counter]  # scorer -> cause -> finished cells without its numbers

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
        numbers = [
            f"{scorer}: no numbers of {count} cells ({cause})"
            for scorer, causes in self.unscored.items()
            for cause, count in causes.items()
        ]
        return "\n".join([f"report: {files}", count_text(self.counts), *numbers, *broken, *figures, *self.notes])


def reduce(
    run: Path,
    *,
    plan_file: Path | None = None,
    lang: str = "en",
    figures: list[str] | None = None,
    published: str | None = None,
    report: Callable[[str], None] = lambda text: None,
) -> ReduceResult:
    """Make RUN/report from what the run's files hold. Raises InputError where there is no plan.

    plan_file: an earlier plan of the run, None for its last. lang: of the figures' labels. figures: their names, None
    for all that the run gives. published: a paper's table to set beside the run's numbers. `report` is told what is at
    work, one prompt set at a time.
    """
    check(lang, figures, published)
    try:
        study = replace(read_study(Path(run), plan_file), published=published or "")
        with drawn_in(study.plan.font):
            return _reduce(study, lang, figures, report)
    except zipfile.BadZipFile:  # a damaged pack of thumbnails costs time, nothing else
        shutil.rmtree(pack_path(Path(run), "").parent)
        how = {"lang": lang, "figures": figures, "published": published}
        return reduce(run, plan_file=plan_file, report=report, **how)


def _reduce(study: Study, lang: str, figures: list[str] | None, report: Callable[[str], None]) -> ReduceResult:
    run, draft = study.run, Draft(study.run, study.plan.font)
    names = file_names(study)
    packs = {set_name: pack_path(run, name) for set_name, name in names.items()}
    try:
        study = study.damaged(find_damage(study, names, report))
        parts = parts_of(study)
        for name, part in parts.items():
            of_part = {set_name: names[set_name] for set_name in part.plan.sets}
            add_report(Below(draft, f"parts/{name}"), part, packs, of_part, lang, figures, report)
        not_drawn = (
            add_whole(draft, study, parts) if parts else add_report(draft, study, packs, names, lang, figures, report)
        )
        draft.swap()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise InputError(
                f"{draft.report}: cannot be written ({error.strerror}). The present report is as it was."
            ) from None
        raise
    finally:
        draft.discard()
    return ReduceResult(
        draft.report,
        study.counts(),
        tuple(draft.made),
        tuple(draft.kept),
        tuple([*study.number_notes, *([said(parts)] if parts else [])]),
        not_drawn,
        draft.broken,
        {scorer: causes for scorer, causes in study.measured.unscored.items() if scorer in study.plan.scorers},
    )


def add_report(
    draft: Draft | Below,
    study: Study,
    packs: dict[str, Path],
    names: dict[str, str],
    lang: str,
    figures: list[str] | None,
    report: Callable[[str], None],
) -> dict[str, str]:
    """Grids, overview, statistics, figures, tables and the page. Returns the figures that were not drawn, and why."""
    for set_name, places in study.by_set.items():
        report(f"grid {set_name}")
        add_grids(draft, study, set_name, places, packs[set_name], names[set_name], lang)
    add_overview(draft, study, packs, lang)
    return add_numbers(draft, study, packs, names, lang, figures, report)


def add_whole(draft: Draft, study: Study, parts: dict[str, Study]) -> dict[str, str]:
    """What a report in parts says of all of them: numbers, tables, a page that leads to the parts."""
    findings, common = add_statistics(draft, study)
    counts, setting = count_text(study.counts()), setting_text(study)
    add_tables(draft, study, findings, common, setting, counts, {})
    shapes = [[name, len(part.places), list(part.plan.sets)] for name, part in parts.items()]
    draft.add("index.html", ["parts", shapes, counts, *common], lambda: parts_page(study, parts, counts, setting))
    return {}


def add_statistics(draft: Draft | Below, study: Study) -> tuple[Findings, list]:
    """metrics.csv and statistics.json. Returns what the numbers say, and what they stand for as an input."""
    common = [study.plan.hash(), digest(described_numbers(study)), study.mixtures, *filter(None, [study.published])]
    places = digest(described_places(study))
    draft.add("metrics.csv", ["metrics", places, *common], lambda: metrics_csv(study))
    draft.add("statistics.json", ["findings", *common], lambda: to_json(find(study)))
    return from_json(draft.read("statistics.json")), common


def check(lang: str, figures: list[str] | None, published: str | None) -> None:
    if lang not in LANGUAGES:
        raise InputError(f"language {lang!r}: expected {' or '.join(LANGUAGES)}.", key="lang")
    chosen(figures)
    if published is not None:
        published_table(published)


def add_numbers(
    draft: Draft | Below,
    study: Study,
    packs: dict[str, Path],
    names: dict[str, str],
    lang: str,
    figures: list[str] | None,
    report: Callable[[str], None],
) -> dict[str, str]:
    """metrics.csv, statistics, figures, tables and the page. Returns the figures that were not drawn, and why."""
    report("statistics and figures")
    places = digest(described_places(study))
    spectra = digest([[p.name, p.stat().st_size] for p in sorted((study.run / "spectra").glob("*.safetensors"))])
    findings, common = add_statistics(draft, study)
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


def add_overview(draft: Draft, study: Study, packs: dict[str, Path], lang: str) -> None:
    inputs = ["overview", described_places(study), study.notes, list(study.plan.size), lang]
    chunks = study_chunks(study)
    draft.add(
        "overview.png",
        inputs,
        lambda: report_png(overview.draw_overview(study, packs, lang), chunks),
        lambda cause: cause_png(cause, chunks),
    )


def pack_path(run: Path, name: str) -> Path:
    return run / "cache" / "thumbnails" / f"{name}.zip"


def file_names(study: Study) -> dict[str, str]:
    """Prompt set -> the name of its files."""
    return safe_names(study.plan.sets)
