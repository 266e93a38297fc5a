"""A report too large for one page and one picture is made in parts: some prompt sets each, group by group.

Above CELLS cells, report/parts/<name>/ is a whole report of some sets; report/ holds the numbers of all: metrics.csv,
statistics, tables, and a page that leads to the parts. An overview of 155,000 cells is more than Pillow opens again
(179 million pixels), and a page with a million thumbnails is nothing that one looks through.
"""

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from svdstory.jobs.report.cells import Study
from svdstory.jobs.report.draft import Draft
from svdstory.pipeline.config.prompt_files import slug

CELLS = 50_000  # of one page and one overview


@dataclass(frozen=True)
class Below:
    """A folder of a draft, as a draft."""

    draft: Draft
    place: str

    @property
    def folder(self) -> Path:
        return self.draft.folder / self.place

    @property
    def broken(self) -> dict[str, str]:
        """File of this folder -> why it could not be made."""
        prefix = f"{self.place}/"
        return {n.removeprefix(prefix): why for n, why in self.draft.broken.items() if n.startswith(prefix)}

    def add(
        self, name: str, inputs: Any, make: Callable[[], bytes], instead: Callable[[str], bytes] | None = None
    ) -> None:
        self.draft.add(f"{self.place}/{name}", inputs, make, instead)

    def read(self, name: str) -> bytes:
        return self.draft.read(f"{self.place}/{name}")


def parts_of(study: Study) -> dict[str, Study]:
    """Safe name -> the study of some sets: a group's, or as many of a group's as CELLS holds. None where one report
    holds all."""
    if len(study.places) <= CELLS:
        return {}
    bunches: dict[str, list[list[str]]] = {}
    for name, prompts in study.plan.sets.items():
        of_group = bunches.setdefault(prompts.group or "sets", [[]])
        cells = sum(len(study.by_set[other]) for other in [*of_group[-1], name])
        if of_group[-1] and cells > CELLS:
            of_group.append([])
        of_group[-1].append(name)
    parts: dict[str, Study] = {}
    for group, several in bunches.items():
        for number, sets in enumerate(several, 1):
            stem = slug(group) + (f"-{number}" if len(several) > 1 else "")
            parts[stem if stem not in parts else f"{stem}-{len(parts)}"] = study.of_sets(sets)
    return parts


def said(parts: dict[str, Study]) -> str:
    return f"more than {CELLS:,} cells: the report is made in {len(parts)} parts, report/parts/"


def parts_page(study: Study, parts: dict[str, Study], counts: str, setting: str) -> bytes:
    """The page that leads to the parts."""
    rows = "\n".join(
        f'<li><a href="parts/{name}/index.html">{escape(name)}</a>: {len(part.places):,} cells of {len(part.plan.sets)} '
        f"prompt sets ({escape(', '.join(list(part.plan.sets)[:4]))}{', …' if len(part.plan.sets) > 4 else ''})</li>"
        for name, part in parts.items()
    )
    notes = "\n".join(f"<p><b>{escape(note)}</b></p>" for note in study.number_notes)
    title = escape(study.plan.experiment)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><link rel="icon" href="data:,">
<style>body {{ font: 16px/1.5 sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem }}</style></head>
<body><h1>{title}</h1><p>{escape(study.plan.about)}</p>
<p>{escape(counts)}. {escape(setting)}.</p>
{notes}
<p>{escape(said(parts))}</p>
<ul>
{rows}
</ul>
<p>Numbers of all parts: <a href="report.md">report.md</a>, <a href="metrics.csv">metrics.csv</a>,
<a href="statistics.csv">statistics.csv</a>, <a href="tables/">LaTeX</a></p></body></html>
""".encode()
