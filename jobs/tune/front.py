"""The front: what no trial beats, measured again where nothing was chosen; its table, figure and page."""

import csv
import io
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import optuna
import yaml
from jinja2 import Environment

from svdstory.jobs.report.escaping import csv_cell
from svdstory.jobs.report.findings import better
from svdstory.jobs.report.labels import method_label, metric_label
from svdstory.jobs.study.store import Store
from svdstory.jobs.tune import objectives
from svdstory.jobs.tune.trials import Make, Question, method_of, name_of, told

CONFIRM = "confirm"  # RUN/confirm: a run of its own, with a report of its own


@dataclass(frozen=True)
class Point:
    """A trial, or a method beside them (`entry` is None). searched, confirmed: a number for each objective, or none.

    front: whether no trial beats it on what was searched on. entry: the switches that the trial chose.
    """

    name: str
    searched: tuple[float, ...]
    confirmed: tuple[float, ...]
    front: bool = False
    entry: dict | None = None


def confirm(question: Question, study: optuna.Study, make: Make) -> list[Point]:
    """Make the front and the methods beside it on the held-out sets and seeds. Returns all points, the front first."""
    best = {}
    for trial in study.best_trials:  # of equal methods the first
        best.setdefault(repr(method_of(trial, question)), trial)
    methods = {name_of(trial): method_of(trial, question) for trial in best.values()}
    methods |= question.against()
    plan, run, metrics = question.grid(question.space.confirm, methods), question.run / CONFIRM, question.metrics()
    make(plan, run)
    held_out = objectives.measure(plan, Store(run))
    searched = question.grid(question.space.search, question.against())
    beside = objectives.measure(searched, Store(question.run))
    points = []
    for trial in told(study):
        name = name_of(trial)
        if trial.values:
            numbers = objectives.values(held_out, metrics, name)[0] if name in methods else []
            points.append(Point(name, tuple(trial.values), tuple(numbers), name in methods, question.chosen(trial)))
    points.sort(key=lambda p: (not p.front, p.searched[0] * -better(metrics[0])))
    for name in question.against():
        numbers = [objectives.values(measured, metrics, name)[0] for measured in (beside, held_out)]
        points.append(Point(name, *map(tuple, numbers)))
    return points


def reasons(study: optuna.Study) -> str:
    """Why trials have no numbers: each reason once, with how many."""
    whys = [trial.user_attrs.get("why", "unknown") for trial in told(study)]
    return "; ".join(f"{whys.count(why)} times {why}" for why in dict.fromkeys(whys))


def write(question: Question, points: list[Point], study: optuna.Study) -> Path:
    """front.csv, front.png and front.html in the run's report folder; returns the page."""
    folder, metrics = question.run / "report", question.metrics()
    folder.mkdir(exist_ok=True)
    (folder / "front.csv").write_text(table(points, metrics), encoding="utf-8")
    draw(points, metrics, folder / "front.png")
    states = [trial.state.name.lower() for trial in told(study)]
    template = Environment(autoescape=True, trim_blocks=True).from_string(
        resources.files(__package__).joinpath("front.html.j2").read_text(encoding="utf-8")
    )
    page = folder / "front.html"
    page.write_text(
        template.render(
            space=question.space,
            plan=question.plan,
            heads=[f"{metric_label(m)} {'↑' if better(m) > 0 else '↓'}" for m in metrics],
            points=[p for p in points if p.front or p.entry is None],
            label=lambda p: method_label(p.name) if p.entry is None else p.name,
            entry=lambda p: _entry(question, p),
            states={state: states.count(state) for state in dict.fromkeys(states)},
        ),
        encoding="utf-8",
    )
    return page


def _entry(question: Question, point: Point) -> str:
    """What makes the trial a named method: an entry for methods.yaml or an experiment."""
    if point.entry is None:
        return ""
    entry = {"base": question.space.base, "set": question.space.set | point.entry}
    return yaml.safe_dump(entry, sort_keys=False, default_flow_style=False, allow_unicode=True)


def table(points: list[Point], metrics: list[str]) -> str:
    """All trials that have numbers, and the methods beside them, as CSV."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = [f"{m}, {part}" for part in ("searched", "held out") for m in metrics]
    writer.writerow(["method", "front", *map(csv_cell, names), "switches"])
    for p in points:
        numbers = [f"{v[i]:.6f}" if v else "" for v in (p.searched, p.confirmed) for i in range(len(metrics))]
        writer.writerow([csv_cell(p.name), int(p.front), *numbers, csv_cell(str(p.entry or ""))])
    return buffer.getvalue()


def draw(points: list[Point], metrics: list[str], path: Path) -> None:
    """The first two objectives: every trial, the front, and where its methods land on what was held out."""
    from svdstory.jobs.report.figures.style import GREY, INK, LIGHT, OTHER, WIDTH, colour, plt

    figure, axes = plt.subplots(figsize=(WIDTH, 4.2), layout="constrained")
    trials, front = [p for p in points if p.entry is not None], [p for p in points if p.front]
    axes.plot(*_columns([p.searched for p in trials]), "o", ms=3, color=LIGHT, mec=GREY, mew=0.4, label="trials")
    line = sorted(p.searched[:2] for p in front)
    axes.plot(*_columns(line), "o--", ms=5, lw=0.8, color=INK, mec="white", mew=0.5, label="front, as searched")
    confirmed = [p for p in front if p.confirmed]
    axes.plot(*_columns([p.confirmed for p in confirmed]), "D", ms=5, color=OTHER, mec="white", label="held out")
    for p in confirmed:
        axes.plot(*zip(p.searched[:2], p.confirmed[:2]), color=OTHER, lw=0.5, alpha=0.6)
        axes.annotate(p.name.removeprefix("trial-"), p.confirmed[:2], (3, 3), textcoords="offset points", fontsize=6)
    for p in points:
        if p.entry is None and p.confirmed:
            axes.plot(*p.confirmed[:2], "s", ms=5, color=colour(p.name), mec="white")
            axes.annotate(method_label(p.name), p.confirmed[:2], (4, -7), textcoords="offset points", fontsize=6.5)
    axes.set(xlabel=f"{metric_label(metrics[0])}  →  better", ylabel=f"{metric_label(metrics[1])}  →  better")
    axes.xaxis.set_inverted(better(metrics[0]) < 0)
    axes.yaxis.set_inverted(better(metrics[1]) < 0)
    axes.grid(color=LIGHT, lw=0.4)
    figure.legend(loc="outside lower center", ncols=3)
    figure.savefig(path)
    plt.close(figure)


def _columns(pairs) -> tuple[list[float], list[float]]:
    return [p[0] for p in pairs], [p[1] for p in pairs]
