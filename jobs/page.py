"""index.html: one page, without network, to look at a whole run."""

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path

import jinja2

from .findings import Findings
from .places import Study


@dataclass(frozen=True)
class Page:
    """What the page shows. drawn: figure -> caption; not_drawn: figure -> why."""

    study: Study
    findings: Findings
    names: dict[str, str]
    packs: dict[str, Path]
    lang: str
    drawn: dict[str, str]
    not_drawn: dict[str, str]


def write_page(page: Page) -> bytes:
    return environment().get_template("index.html.j2").render(study=page.study, names=page.names).encode()


@lru_cache
def environment() -> jinja2.Environment:
    """Everything that users named is escaped."""
    def load(name: str) -> str:
        return resources.files("svdstory.jobs").joinpath("templates", name).read_text(encoding="utf-8")
    return jinja2.Environment(loader=jinja2.FunctionLoader(load), autoescape=True, trim_blocks=True,
                              lstrip_blocks=True, undefined=jinja2.StrictUndefined)
