"""The report's figures, by name. To add one: a function in one of these files, an entry here, a test.

A figure knows why it cannot be drawn from a run (`why_not`): reduce says so instead of leaving it out silently.
"""

from collections.abc import Callable
from dataclasses import dataclass

from svdstory.jobs.report.figures.material import Material
from svdstory.pipeline.config.strict import InputError, choices


@dataclass(frozen=True)
class Figure:
    """about: what it shows, English and Russian. reads: what of the run its content depends on.

    module: the file here that has `draw_<name>` and `why_not_<name>` (with underscores), loaded when needed:
    matplotlib takes a second.
    """

    name: str
    module: str
    reads: tuple[str, ...]
    about: tuple[str, str]

    def why_not(self, material: Material) -> str:
        """Why the run does not give this figure; empty if it does."""
        return self._function("why_not")(material)

    def draw(self, material: Material):
        """The figure, as matplotlib's."""
        return self._function("draw")(material)

    def _function(self, kind: str) -> Callable:
        from importlib import import_module

        return getattr(import_module(f"{__package__}.{self.module}"), f"{kind}_{self.name.replace('-', '_')}")


FIGURES = {
    figure.name: figure
    for figure in (
        Figure(
            "good-bad",
            "pictures",
            ("places", "numbers"),
            ("Where the baseline does well, and where it does badly.", "Где базовый метод удачен и где нет."),
        ),
        Figure(
            "components",
            "pictures",
            ("places",),
            ("The baseline without one of its parts at a time.", "Базовый метод без одной из его частей."),
        ),
        Figure(
            "parameters",
            "pictures",
            ("places",),
            ("The baseline's mask dropout and number of anchors.", "Дропаут масок и число опорных изображений."),
        ),
        Figure(
            "spectra",
            "spectra",
            ("spectra",),
            (
                "Singular values of the anchors' K and V, by layer and iteration.",
                "Сингулярные числа K и V опорных изображений по слоям и итерациям.",
            ),
        ),
        Figure(
            "reweighting",
            "spectra",
            ("spectra",),
            ("The spectrum of K as it is, under log and under log².", "Спектр K: исходный, под log и под log²."),
        ),
        Figure(
            "components-of-k",
            "token_maps",
            ("spectra",),
            (
                "The leading singular components of K and V on the anchor's tokens, and how much of each is subject.",
                "Главные сингулярные компоненты K и V на токенах опорного изображения и доля объекта в каждой.",
            ),
        ),
        Figure(
            "comparison",
            "pictures",
            ("places",),
            ("The baseline, log and log² on hard sets.", "Базовый метод, log и log² на трудных наборах."),
        ),
        Figure(
            "tradeoff",
            "scatter",
            ("numbers",),
            ("Prompt alignment against subject consistency.", "Соответствие запросу и согласованность объекта."),
        ),
        Figure(
            "leakage",
            "scatter",
            ("numbers",),
            (
                "Background leakage by the share of singular values kept.",
                "Утечка фона в зависимости от доли сингулярных чисел.",
            ),
        ),
        Figure(
            "kv-grid",
            "heatmaps",
            ("numbers",),
            (
                "Shares kept of K and V: consistency, leakage, alignment.",
                "Доли для K и V: согласованность, утечка, соответствие.",
            ),
        ),
        Figure(
            "sets",
            "heatmaps",
            ("numbers",),
            ("Consistency of every method on every prompt set.", "Согласованность: методы и наборы."),
        ),
        Figure(
            "winners",
            "heatmaps",
            ("numbers",),
            (
                "On which bad sets each method repairs the baseline.",
                "На каких неудачных наборах метод исправляет базовый.",
            ),
        ),
    )
}


def chosen(names: list[str] | None) -> list[Figure]:
    """The figures of these names, all for None. Raises InputError for an unknown one."""
    for name in names or ():
        if name not in FIGURES:
            raise InputError(f"unknown figure {name!r}{choices(name, list(FIGURES))}.", key="figures")
    return [f for f in FIGURES.values() if names is None or f.name in names]
