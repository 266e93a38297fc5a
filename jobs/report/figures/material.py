"""What figures are drawn from. Imports without matplotlib."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from svdstory.jobs.report.cells import Place, Study
from svdstory.jobs.report.escaping import plotted
from svdstory.jobs.report.findings import Findings
from svdstory.jobs.report.labels import method_label, metric_label, word
from svdstory.jobs.report.thumbnails import Pack


@dataclass(frozen=True)
class Material:
    """A run and what its numbers say. packs: prompt set -> its pack of thumbnails."""

    study: Study
    findings: Findings
    packs: dict[str, Path]
    lang: str = "en"

    def word(self, key: str, *values) -> str:
        return word(key, self.lang, *values)

    def label(self, method: str) -> str:
        return plotted(method_label(method, self.lang))

    def metric(self, metric: str) -> str:
        return metric_label(metric, self.lang)

    def groups(self, group: str) -> list[str]:
        """The sets of a group, in the plan's order."""
        return [name for name, prompts in self.study.plan.sets.items() if prompts.group == group]

    def place(self, set_name: str, method: str) -> Place:
        """The cell of the set's first seed."""
        return next(p for p in self.study.by_set[set_name] if p.cell.method == method)

    def images(self, place: Place) -> list[Image.Image]:
        thumbnails = Pack(self.packs[place.cell.set])
        return [thumbnails[picture.sha256] for picture in place.pictures]

    def has(self, *methods: str) -> bool:
        return all(method in self.study.plan.methods for method in methods)

    def set_mean(self, metric: str, method: str, set_name: str) -> float | None:
        """Mean over the set's seeds; None if one of them is missing."""
        numbers = self.study.numbers.get(metric, {})
        values = [m.value for (s, m_name, _), m in numbers.items() if s == set_name and m_name == method]
        return None if not values or None in values else sum(values) / len(values)

    def random(self, *metrics: str) -> bool:
        """Whether one of these metrics comes from random weights."""
        from svdstory.jobs.report.cells import is_random

        return any(is_random(self.study.measured.protocols.get(metric, {})) for metric in metrics)
