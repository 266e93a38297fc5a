"""index.html: one page, without network, to look at a whole run."""

from functools import lru_cache
from importlib import resources

import jinja2

from .places import Study


def page_inputs(study: Study, names: dict[str, str]) -> list:
    return [study.plan.hash(), names, [[p.cell.key, p.state, p.cause] for p in study.places], study.notes]


def write_page(study: Study, names: dict[str, str]) -> bytes:
    return environment().get_template("index.html.j2").render(study=study, names=names).encode()


@lru_cache
def environment() -> jinja2.Environment:
    """Everything that users named is escaped."""
    def load(name: str) -> str:
        return resources.files("svdstory.jobs").joinpath("templates", name).read_text(encoding="utf-8")
    return jinja2.Environment(loader=jinja2.FunctionLoader(load), autoescape=True, trim_blocks=True,
                              lstrip_blocks=True, undefined=jinja2.StrictUndefined)
