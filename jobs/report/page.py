"""index.html: one page, without network, to look at a whole run. Its parts are templates/page.html.j2, .css and .js.

The page carries everything as data: small pictures in WebP, numbers and names in JSON. Thumbnails of a set lie in one
block, thumbs/<set>.js; blocks are inlined as long as the page stays under INLINE, else loaded when a set is chosen.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path

import jinja2
from PIL import Image

from svdstory.jobs.report.cells import DONE, Place, Study, is_random
from svdstory.jobs.report.escaping import script
from svdstory.jobs.report.findings import Findings, better
from svdstory.jobs.report.labels import lead, meaning, method_label, metric_label
from svdstory.jobs.report.opening import opening_view
from svdstory.jobs.report.published import differences, published
from svdstory.jobs.report.sentences import caveat, sentences
from svdstory.jobs.report.tables.table_files import answer_rows, beside_rows, groups_of, left_out
from svdstory.jobs.report.thumbnails import PAGE_SIDE, Pack, as_uri, webp
from svdstory.jobs.report.verdicts import verdicts
from svdstory.jobs.study.command_line import command

INLINE = 24_000_000  # bytes of thumbnails that the page carries itself
PREVIEW = 1400  # pixels: width of figures on the page; a click opens the full size


@dataclass(frozen=True)
class Page:
    """What the page shows. packs: set -> its thumbnails; folder: the report in the making; drawn: figure -> caption;
    not_drawn: figure -> why."""

    study: Study
    findings: Findings
    names: dict[str, str]
    packs: dict[str, Path]
    folder: Path
    drawn: dict[str, str]
    not_drawn: dict[str, str]
    counts: str
    setting: str
    broken: dict[str, str]  # file of the report -> why its place holds a cause


def thumbnail_block(places: list[Place], pack: Path, index: int) -> bytes:
    """JavaScript that hands one set's thumbnails to the page: unit key -> data URIs."""
    thumbnails = Pack(pack)
    block = {
        p.cell.key: [thumbnails.for_page(picture.sha256) for picture in p.pictures] for p in places if p.state == DONE
    }
    return f"svdstory.thumbs({index},{json.dumps(block, separators=(',', ':'))})\n".encode()


def write_page(page: Page) -> bytes:
    """The page's bytes, from a report whose other files are there."""
    blocks = [page.folder / "thumbs" / f"{name}.js" for name in page.names.values()]
    inline = sum(path.stat().st_size for path in blocks) <= INLINE
    figures = [
        {
            "name": name,
            "caption": caption,
            "image": preview(page.folder / "figures" / f"{name}.png"),
            "cause": page.broken.get(f"figures/{name}.png"),
        }
        for name, caption in page.drawn.items()
    ]
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            page=page,
            plan=page.study.plan,
            opening=opening_view(page.study, page.findings, page.packs),
            sentences=sentences(page.study, page.findings),
            caveat=caveat(page.study),
            tally=tally(page.study),
            verdicts=verdicts(page.study, page.findings),
            meanings={metric_label(m): meaning(m) for m in page.findings.axes.values()},
            left_out=left_out(page.study, list(page.findings.axes.values())),
            answers=answer_rows(page.findings.answers, page.study),
            published=published_view(page),
            figures=figures,
            overview=preview(page.folder / "overview.png"),
            data=script(run_data(page)),
            css=stylesheet(),
            js=_text("page.js"),
            blocks=[_block_json(path) for path in blocks] if inline else [],
        )
        .encode()
    )


def published_view(page: Page) -> dict | None:
    """A paper's table beside the run's numbers, where one was asked for."""
    if not page.study.published:
        return None
    table, rows = published(page.study.published), beside_rows(page.study, page.findings)
    return {"table": table, "rows": rows, "differences": differences(table, page.study)}


def tally(study: Study) -> str:
    """`4 subjects, 6 methods, 2 seeds: 192 pictures, none missing`"""
    sets, methods = study.plan.sets, study.plan.methods
    seeds = len({place.cell.seed for place in study.places})
    pictures = sum(len(sets[p.cell.set].settings) for p in study.places)
    missing = sum(len(sets[p.cell.set].settings) for p in study.places if p.hole)
    of = [_count(len(sets), "subject"), _count(len(methods), "method"), _count(seeds, "seed")]
    return f"{', '.join(of)}: {_count(pictures, 'picture')}, {f'{missing} missing' if missing else 'none missing'}"


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def preview(path: Path) -> str:
    """A figure as the page shows it: WebP, no wider than PREVIEW."""
    return as_uri(webp(Image.open(path).convert("RGB"), PREVIEW, 82))


def run_data(page: Page) -> dict:
    """Everything that page.js shows, as JSON."""
    study, plan = page.study, page.study.plan
    metrics = [m for m, cells in study.numbers.items() if any(c.value is not None for c in cells.values())]
    at = {name: i for i, name in enumerate(plan.sets)}, {name: i for i, name in enumerate(plan.methods)}
    cells = [
        [
            at[0][p.cell.set],
            at[1][p.cell.method],
            p.cell.seed,
            p.cell.key,
            p.hole,
            [_number(study, metric, p) for metric in metrics],
            None if p.seconds is None else round(p.seconds, 1),
            p.device,
        ]
        for p in study.places
    ]
    return {
        "sets": [
            {
                "name": name,
                "file": page.names[name],
                "group": s.group,
                "origin": s.origin,
                "why": s.why,
                "lead": lead(s),
                "settings": list(s.settings),
                "prompts": s.prompts,
            }
            for name, s in plan.sets.items()
        ],
        "methods": [{"name": m, "label": method_label(m)} for m in plan.methods],
        "metrics": [
            {
                "name": m,
                "label": metric_label(m),
                "better": better(m),
                "random": is_random(study.measured.protocols.get(m, {})),
            }
            for m in metrics
        ],
        "baseline": page.findings.baseline,
        "command": command(study.plan),
        "cells": cells,
        "axes": page.findings.axes,
        "groups": groups_of(study),
        "ratio": plan.size[1] / plan.size[0],
        "small": max(plan.size) <= PAGE_SIDE,
        "statistics": statistics(page),
    }


def statistics(page: Page) -> dict:
    """group -> axis -> method number -> [mean, low, high, difference, low, high, Holm p, sets, sets left out].

    Unrounded: page.js rounds as report.md does, and rounding twice can change the last digit.
    """
    found: dict = {}
    for group in groups_of(page.study):
        for axis, metric in page.findings.axes.items():
            rows = found.setdefault(group, {}).setdefault(axis, [])
            for method in page.study.plan.methods:
                s, v = page.findings.summary(metric, method, group), page.findings.versus(metric, method, group)
                mean = (s and s.interval) or None
                gap = (v and v.difference) or None
                rows.append(
                    [
                        *(getattr(mean, k, None) for k in ("mean", "low", "high")),
                        *(getattr(gap, k, None) for k in ("mean", "low", "high")),
                        None if v is None or v.p_holm is None else float(f"{v.p_holm:.2g}"),
                        s.sets if s else 0,
                        s.sets_left_out if s else 0,
                    ]
                )
    return found


def _block_json(path: Path) -> str:
    return path.read_text().partition(",")[2].rstrip()[:-1]


def _number(study: Study, metric: str, place: Place) -> float | None:
    found = study.numbers[metric].get((place.cell.set, place.cell.method, place.cell.seed))
    return _rounded(found.value) if found else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)  # the page shows three digits


def _text(name: str) -> str:
    return resources.files("svdstory.jobs.report").joinpath("templates", name).read_text(encoding="utf-8")


def stylesheet() -> str:
    return _text("page.css")


@lru_cache
def environment() -> jinja2.Environment:
    """Everything that users named is escaped."""
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(_text),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
