"""Curate: rank prompt sets by the baseline's measured consistency; the best and worst are proposed as good and bad.

It is how the 20 shipped sets are meant to be chosen from many: run the baseline over a large file of sets, score it,
look at the proposal, write it.
"""

from dataclasses import dataclass
from pathlib import Path

import yaml

from svdstory.jobs.report.cells import Study, is_random, read_study
from svdstory.jobs.report.described import setting_text
from svdstory.jobs.report.findings import AXES, baseline_of, better
from svdstory.jobs.report.grids import Grid, Row, draw_grid, report_png
from svdstory.jobs.report.labels import metric_label
from svdstory.jobs.report.reduce import file_names, find_damage, pack_path
from svdstory.jobs.report.set_grids import part_of
from svdstory.jobs.report.thumbnails import Pack
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.strict import InputError, choices


@dataclass(frozen=True)
class Ranked:
    """A prompt set and the baseline's mean on it over its seeds."""

    name: str
    value: float


@dataclass(frozen=True)
class Proposal:
    """Sets from the most to the least consistent. left_out: set -> why it has no number."""

    method: str
    metric: str
    ranked: tuple[Ranked, ...]
    left_out: dict[str, str]
    random: bool

    def good(self, count: int) -> list[Ranked]:
        return list(self.ranked[: min(count, (len(self.ranked) + 1) // 2)])

    def bad(self, count: int) -> list[Ranked]:
        """The worst first. A set is never proposed as both."""
        return list(reversed(self.ranked[max(len(self.ranked) - count, len(self.good(count))) :]))

    def text(self, count: int) -> str:
        """A few lines for a terminal."""
        lines = [
            f"{self.method}, {metric_label(self.metric)} ({'higher' if better(self.metric) > 0 else 'lower'} is "
            "more consistent)"
        ]
        if self.random:
            lines.append("random weights - this ranking means nothing")
        for group, sets in (("good", self.good(count)), ("bad", self.bad(count))):
            lines += [group] + [f"  {r.value:8.4f}  {r.name}" for r in sets]
        return "\n".join(lines + [f"left out: {name}: {why}" for name, why in self.left_out.items()])


def propose(study: Study, method: str | None = None, metric: str | None = None) -> Proposal:
    """Rank the run's sets. Raises InputError without numbers for consistency."""
    method = method or baseline_of(study)
    if method not in study.plan.methods:
        raise InputError(f"method {method!r} is not in this run{choices(method, list(study.plan.methods))}.", "method")
    metric = metric or consistency_metric(study, method)
    if metric not in study.numbers:
        raise InputError(
            f"metric {metric!r} was not measured in this run{choices(metric, list(study.numbers))}.", "metric"
        )
    values: dict[str, list[float]] = {}
    left_out: dict[str, str] = {}
    for (set_name, name, seed), m in study.numbers[metric].items():
        if name == method:
            if m.value is None:
                left_out.setdefault(set_name, f"seed {seed}: {m.cause}")
            else:
                values.setdefault(set_name, []).append(m.value)
    ranked = sorted(
        (Ranked(s, sum(v) / len(v)) for s, v in values.items() if s not in left_out),
        key=lambda r: (-r.value * better(metric), r.name),
    )
    return Proposal(method, metric, tuple(ranked), left_out, is_random(study.measured.protocols[metric]))


def consistency_metric(study: Study, method: str) -> str:
    """The measured metric that stands for consistency. Raises InputError where there is none."""
    for stem in AXES["consistency"]:
        for metric, numbers in study.numbers.items():
            same = metric == stem or metric.startswith((stem + ":", stem + "+"))
            if same and any(m.value is not None for (_, name, _), m in numbers.items() if name == method):
                return metric
    raise InputError(
        f"{study.run}: {method} has no numbers for consistency. "
        f"Measure first: svdstory score {study.run} --scorer dreamsim"
    )


def curate(run: Path, count: int = 10, method: str | None = None, metric: str | None = None) -> tuple[Study, Proposal]:
    """Rank, and draw the proposal to RUN/curated.png."""
    study = read_study(run)
    study = study.damaged(find_damage(study, file_names(study), lambda text: None))
    proposal = propose(study, method, metric)
    (run / "curated.png").write_bytes(picture(study, proposal, count))
    return study, proposal


def picture(study: Study, proposal: Proposal, count: int) -> bytes:
    """The proposed sets' images of their first seed, the good ones above the bad ones."""
    names, rows = file_names(study), []
    good, bad = proposal.good(count), proposal.bad(count)
    chosen = good + bad
    columns = max(len(study.plan.sets[r.name].settings) for r in chosen) if chosen else 1
    for r in chosen:
        place = next(p for p in study.by_set[r.name] if p.cell.method == proposal.method)
        rows.append(Row(f"{r.name}  {r.value:.3f}", (part_of(place, Pack(pack_path(study.run, names[r.name]))),)))
    notes = [*study.notes, *(["random weights - this ranking means nothing"] if proposal.random else [])]
    grid = Grid(
        f"{len(good)} best and {len(bad)} worst sets of {proposal.method}",
        ("",) * columns,
        ("",),
        tuple(rows),
        tuple(study.plan.size),
        tuple(notes),
        f"{metric_label(proposal.metric)}; {setting_text(study)}",
        frozenset({len(good)}),
    )
    cells = [p.cell for r in chosen for p in study.by_set[r.name] if p.cell.method == proposal.method]
    return report_png(
        draw_grid(grid),
        {
            "prompt": "\n".join(p for r in chosen for p in study.plan.sets[r.name].prompts),
            "seed": "\n".join(dict.fromkeys(str(c.seed) for c in cells)),
            "method": proposal.method,
            "unit": "\n".join(c.key for c in cells),
        },
    )


def write_sets(study: Study, proposal: Proposal, folder: Path, count: int) -> list[Path]:
    """FOLDER/good/*.yaml and FOLDER/bad/*.yaml. Raises InputError for a file that is there already."""
    names = file_names(study)
    files = [
        (folder / group / f"{names[r.name]}.yaml", study.plan.sets[r.name], r, place)
        for group, sets in (("good", proposal.good(count)), ("bad", proposal.bad(count)))
        for place, r in enumerate(sets, 1)
    ]
    taken = [path for path, *_ in files if path.exists()]
    if taken:
        raise InputError(f"{taken[0]}: there already. Choose an empty folder; nothing was written.")
    for path, prompts, ranked, place in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(set_yaml(prompts, why(proposal, ranked, path.parent.name, place)), encoding="utf-8")
    return [path for path, *_ in files]


def why(proposal: Proposal, ranked: Ranked, group: str, place: int) -> str:
    order = "most" if group == "good" else "least"
    text = (
        f"Number {place} of the {order} consistent of {len(proposal.ranked)} sets under {proposal.method}: "
        f"{metric_label(proposal.metric)} {ranked.value:.3f}"
    )
    return text + (" (random weights)." if proposal.random else ".")


def set_yaml(prompts: PromptSet, reason: str) -> str:
    concept = prompts.concept[0] if len(prompts.concept) == 1 else list(prompts.concept)
    content = {
        "style": prompts.style,
        "subject": prompts.subject,
        "concept": concept,
        "settings": list(prompts.settings),
        "seeds": list(prompts.seeds),
        "origin": "curated",
        "why": reason,
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
