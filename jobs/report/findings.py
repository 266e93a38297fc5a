"""What a run's numbers say, computed once and kept in report/statistics.json: means, differences, and which metrics
stand for consistency, alignment, leakage, layout and likeness to the reference pictures."""

import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property

from svdstory.jobs.report.cells import Study
from svdstory.jobs.report.claims import Answer, Claim, answer
from svdstory.jobs.report.measurements import higher_is_better
from svdstory.jobs.report.statistics import Comparison, Interval, Summary, compare, summarise

BASELINES = ("consistory", "sdxl")  # the first of them that is planned; otherwise the plan's first method
AXES = {  # what is asked -> the metrics that answer it, best first (the miniature's ground truth before any other)
    "consistency": ("identity_distance", "dreamsim_subject", "dreamsim", "clip_i_subject", "clip_i"),
    "alignment": ("clipscore", "scene_accuracy"),  # the miniature's scenes are nearly always right
    "leakage": ("scene_leakage excess", "world_background excess", "background excess"),
    "layout": ("world_layout relative", "layout_subject relative", "layout relative"),
    "reference": ("reference_distance", "dreamsim_reference", "clip_i_reference"),
}


@dataclass(frozen=True)
class Findings:
    """Summaries and comparisons of all metrics. baseline: what methods are compared to; answers: to the claims."""

    baseline: str
    summaries: tuple[Summary, ...]
    comparisons: tuple[Comparison, ...]
    answers: tuple[Answer, ...] = ()

    @cached_property
    def _summary(self) -> dict[tuple[str, str, str], Summary]:
        return {(s.metric, s.method, s.group): s for s in self.summaries}

    @cached_property
    def _comparison(self) -> dict[tuple[str, str, str], Comparison]:
        return {(c.metric, c.method, c.group): c for c in self.comparisons}

    @cached_property
    def axes(self) -> dict[str, str]:
        """Axis -> the metric that stands for it, of those that have numbers."""
        there = list(dict.fromkeys(s.metric for s in self.summaries if s.interval is not None))
        found = {}
        for axis, wanted in AXES.items():
            for stem in wanted:
                fits = [m for m in there if m == stem or m.startswith((stem + ":", stem + "+")) or _plain(m) == stem]
                if fits:
                    found[axis] = fits[0]
                    break
        return found

    def mean(self, metric: str, method: str, group: str = "all") -> Interval | None:
        summary = self._summary.get((metric, method, group))
        return summary.interval if summary else None

    def summary(self, metric: str, method: str, group: str = "all") -> Summary | None:
        return self._summary.get((metric, method, group))

    def versus(self, metric: str, method: str, group: str = "all") -> Comparison | None:
        return self._comparison.get((metric, method, group))


def _plain(metric: str) -> str:
    """`background:tiny excess over sdxl` -> `background excess`"""
    name, _, rest = metric.partition(" ")
    return f"{name.partition(':')[0].partition('+')[0]} {rest.partition(' ')[0]}"


def better(metric: str) -> int:
    """+1 where a higher number is what one wants, -1 where a lower one is."""
    return 1 if higher_is_better(metric) else -1


def baseline_of(study: Study) -> str:
    return next((b for b in BASELINES if b in study.plan.methods), next(iter(study.plan.methods)))


def find(study: Study) -> Findings:
    """Compute them: a few seconds for thousands of cells."""
    cells, baseline = study.measured.cells, baseline_of(study)
    comparisons = compare(cells, baseline) if cells else []
    found = Findings(baseline, tuple(summarise(cells)), tuple(comparisons))
    return replace(found, answers=tuple(answer(cells, found.axes)))


def to_json(findings: Findings) -> bytes:
    content = asdict(replace(findings, answers=())) | {
        "answers": [{**asdict(a), "claim": a.claim.model_dump(), "verdict": a.verdict} for a in findings.answers]
    }
    return json.dumps(content, indent=0, sort_keys=True).encode()


def from_json(content: bytes) -> Findings:
    read = json.loads(content)

    def interval(value):
        return Interval(**value) if value else None

    return Findings(
        read["baseline"],
        tuple(Summary(**{**s, "interval": interval(s["interval"])}) for s in read["summaries"]),
        tuple(Comparison(**{**c, "difference": interval(c["difference"])}) for c in read["comparisons"]),
        tuple(
            Answer(Claim(**a["claim"]), a["metric"], interval(a["difference"]), a["p_holm"], a["sets"], a["found"])
            for a in read["answers"]
        ),
    )
