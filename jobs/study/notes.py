"""What a plan's reader should know before it is run: one line for each thing that will not be as it may seem."""

import re
from itertools import combinations

from svdstory.jobs.study.elsewhere import notes_of
from svdstory.jobs.study.plan import Plan
from svdstory.pipeline.config.methods import BLENDING_FROM, Method
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.subject_words import WORDS, normal
from svdstory.pipeline.config.tokens import tokenizer_of

FEW_PICTURES = 3  # to tune a subject on
NAMED = 3  # sets that a line names; it counts the others
FOREIGN = {  # other programs' syntax inside prompts
    "weights": re.compile(r"\([^()]*:\s*-?\d*\.?\d+\s*\)|\(\(|\)\)|\)\+|\)-|\w\+\+"),
    "a LoRA or a network": re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>"),
    "StoryDiffusion's marks": re.compile(r"\[NC\]|^\s*#|\bimg\b(?=[^\w]*$)|#\w+"),
    "alternatives": re.compile(r"\[[^\[\]]*[|:][^\[\]]*\]|\{[^{}]*\|[^{}]*\}|\bBREAK\b|__\w+__"),
}


def notes(plan: Plan) -> list[str]:
    """The lines, those of several sets as one."""
    by_line: dict[str, list[str]] = {}
    for name, prompts in plan.sets.items():
        for line in [*filter(None, [prompts.note]), *foreign_syntax(plan, prompts), *outside_the_world(plan, prompts)]:
            by_line.setdefault(line, []).append(name)
    lines = [f"{_some(names)}: {line}" for line, names in by_line.items()]
    return lines + reference_notes(plan) + method_notes(plan) + [*notes_of(plan)]


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - NAMED} other sets" if len(names) > NAMED else ""
    return ("set " if len(names) == 1 else "sets ") + ", ".join(names[:NAMED]) + rest


def foreign_syntax(plan: Plan, prompts: PromptSet) -> list[str]:
    """Other programs' syntax, which is nothing but letters here."""
    on = {"weights": plan.prompt_weights}
    found = {}
    for prompt in prompts.prompts:
        for what, form in FOREIGN.items():
            if not on.get(what) and (match := form.search(prompt)):
                found.setdefault(what, match[0])
    return [f"{text!r} looks like {what}: every sign of a prompt is read as it stands" for what, text in found.items()]


def outside_the_world(plan: Plan, prompts: PromptSet) -> list[str]:
    """Words that the shipped miniature never saw: its vocabulary spells them out in letters."""
    if plan.model.source != "package":
        return []
    own, clip = plan.model.tokenizer(), tokenizer_of(None)
    words = dict.fromkeys(word for prompt in prompts.prompts for word in WORDS.findall(normal(prompt)))
    unknown = [word for word in words if own.tokens(word) != clip.tokens(word)]
    if not unknown:
        return []
    some = ", ".join(unknown[:6]) + (", ..." if len(unknown) > 6 else "")
    return [
        f"outside the miniature's world, which knows no {some}: expect no such pictures (prompts/world has its words)"
    ]


def method_notes(plan: Plan) -> list[str]:
    """Switches that change nothing, or less than their names say, and methods that draw the same under two names."""
    rank = plan.model.widest()
    lines = [f"method {name}: {line}" for name, method in plan.methods.items() for line in _shares(method, rank)]
    blending = [name for name, method in plan.methods.items() if method.query_blending]
    if blending and plan.steps < BLENDING_FROM:
        lines.append(
            f"query_blending lasts a tenth of the steps: with {plan.steps} it does nothing ({', '.join(blending)}); "
            f"it needs {BLENDING_FROM}"
        )
        for (one, a), (other, b) in combinations(plan.methods.items(), 2):
            if a != b and a.model_copy(update={"query_blending": False}) == b.model_copy(
                update={"query_blending": False}
            ):
                lines.append(f"methods {one} and {other} differ in query_blending alone: they will draw the same")
    if plan.exact_filter and not any(method.filters() for method in plan.methods.values()):
        lines.append("exact_filter does nothing: no method filters")
    return lines + tuning_notes(plan)


def tuning_notes(plan: Plan) -> list[str]:
    """What is learned from little, or from pictures that another method drew."""
    tuned = {name: method.recipe() for name, method in plan.methods.items() if method.recipe()}
    few = [name for name, prompts in plan.sets.items() if 0 < len(prompts.references) < FEW_PICTURES]
    none = [name for name, prompts in plan.sets.items() if not prompts.references]
    lines = []
    if tuned and few:
        lines.append(f"{_some(few)}: fewer than {FEW_PICTURES} pictures: a tuned subject keeps their backgrounds, too")
    for by in sorted({recipe.anchor_method for recipe in tuned.values()}) if none else ():
        lines.append(f"{_some(none)}: without pictures tuned methods learn what {by} draws: {by}'s subject, distilled")
    return lines


def reference_notes(plan: Plan) -> list[str]:
    """What becomes of the sets' pictures: methods that ignore them, and pictures beyond a method's anchors."""
    counts = {name: len(prompts.references) for name, prompts in plan.sets.items() if prompts.references}
    if not counts:
        return []
    lines, most = [], max(counts.values())
    ignoring = [name for name, method in plan.methods.items() if not (method.recipe() or method.references_used(most))]
    if ignoring:
        lines.append(
            f"reference pictures are not for {', '.join(ignoring)}: no anchors there, so nothing looks at them"
        )
    for name, method in plan.methods.items():
        used, beyond = method.references_used(most), [s for s, n in counts.items() if n > method.references_used(n)]
        if used and beyond:
            lines.append(f"{_some(beyond)}: more pictures than method {name} has anchors: the first {used} serve")
    return lines


def _shares(method: Method, rank: int) -> list[str]:
    """Of filters that keep everything: no K or V has more than `rank` singular values."""
    found = []
    for key in ("filter_k", "filter_v"):
        chosen = getattr(method, key)
        if chosen is None:
            continue
        if chosen.keep_energy is not None and chosen.keep_energy >= 1:
            hint = f"; {chosen.keep_energy:g} % is {chosen.keep_energy / 100:g}" if chosen.keep_energy > 1 else ""
            found.append(
                f"{key}.keep_energy {chosen.keep_energy:g} is all of the energy or more: it keeps everything{hint}"
            )
        if chosen.keep_top is not None and chosen.keep_top >= rank:
            found.append(f"{key}.keep_top {chosen.keep_top} keeps all: the rank is {rank}")
        if chosen.keep_fraction == 1:
            found.append(f"{key}.keep_fraction 1 keeps everything")
    return found
