"""The search itself: ask for a batch of trials, make their units, tell what was measured. Resumable at any moment.

All that is known lies in RUN/tune/journal.log, Optuna's own, safe on network file systems, and in the run's units. A
trial is sampled by a generator of its own number from the batches before it, so that a search that was killed anywhere
goes on to the trials that it would have had. One search of a run at a time.
"""

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState

from svdstory.jobs.study.plan import Cell, Plan, completed
from svdstory.jobs.study.plan_checks import check_methods, check_sets
from svdstory.jobs.study.store import Store
from svdstory.jobs.study.unit_keys import content, unit_key
from svdstory.jobs.tune import objectives
from svdstory.jobs.tune.space import Part, Space, as_text, from_text
from svdstory.pipeline.config.methods import Method
from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.strict import InputError, digest

JOURNAL = "tune/journal.log"
RANDOM_FIRST = 16  # trials before the sampler looks at what is known
Make = Callable[[Plan, Path], None]  # make and score what a run lacks of its plan


@dataclass(frozen=True)
class Question:
    """A space asked of a run. plan: model and setting of the trials, and what scores them. near: the space file's folder."""

    space: Space
    plan: Plan
    near: Path
    run: Path

    def metrics(self) -> list[str]:
        return objectives.resolve(self.space.objectives, self.plan)

    def against(self) -> dict[str, Method]:
        """Methods beside the trials; plain sampling too, where a metric is relative to it."""
        relative = any(" " in metric for metric in self.metrics())
        return {name: named(name) for name in dict.fromkeys((*[objectives.PLAIN] * relative, *self.space.against))}

    def sets(self, part: Part) -> dict[str, PromptSet]:
        """A part's prompt sets, with what the experiment says for all."""
        plan, found = self.plan, self.space.sets(part, self.near)
        return {name: completed(one, plan.negative, plan.loras, self.near, plan.model) for name, one in found.items()}

    def grid(self, part: Part, methods: dict[str, Method]) -> Plan:
        """The plan of these methods on a part's sets and seeds."""
        sets, plan = self.sets(part), self.plan
        setting, about = content(plan.sampling), self.space.about or plan.about

        def key(s: str, m: str, seed: int) -> str:
            return unit_key(sets[s], methods[m], seed, plan.model, setting, plan.exact_filter)

        places = itertools.product(sets, methods, part.seeds)
        cells = tuple(Cell(set=s, method=m, seed=seed, key=key(s, m, seed)) for s, m, seed in places)
        kept = {name: getattr(plan, name) for name in Plan.model_fields}
        return Plan(**{**kept, "sets": sets, "methods": methods, "cells": cells, "about": about})

    def check(self, methods: dict[str, Method], part: Part, own: dict[str, set[str]]) -> None:
        """As a plan is checked. Raises InputError for methods that don't fit a part's sets or do nothing on them."""
        sets, plan = self.sets(part), self.plan
        check_methods(sets, methods, plan.steps, own)
        check_sets(sets, methods, plan.model, plan.long_prompts == "chunk", plan.prompt_weights)

    def chosen(self, trial: FrozenTrial) -> dict:
        """The switches that a trial sets."""
        return self.space.switches({name: from_text(trial.params[name]) for name in self.space.space})

    def digest(self) -> str:
        """What must not change within one search."""
        space = self.space.model_dump(mode="json", exclude={"about", "confirm"})
        sets = [one.content() for one in self.sets(self.space.search).values()]
        return digest([space, sets, self.plan.model.content(), content(self.plan.sampling), self.plan.exact_filter])


def search(question: Question, trials: int, make: Make, say: Callable[[str], None] = print) -> optuna.Study:
    """Go on until there are so many trials, each told. Raises InputError where the run holds another search."""
    for part in (question.space.search, question.space.confirm):
        question.check(question.against(), part, {})
    study = open_study(question)
    while True:
        _ask(study, question, trials)
        waiting = [trial for trial in told(study) if trial.state == TrialState.RUNNING]
        if not waiting:
            return study
        known = {name_of(t): method_of(t, question) for t in told(study) if t.state != TrialState.PRUNED}
        plan = question.grid(question.space.search, {**question.against(), **known})
        make(plan, question.run)
        measured = objectives.measure(plan, Store(question.run))
        for trial in waiting:
            numbers, why = objectives.values(measured, question.metrics(), name_of(trial))
            if why:
                _trial(study, trial.number).set_user_attr("why", why)
            study.tell(trial.number, numbers or None, state=None if numbers else TrialState.FAIL)
        done = len(told(study))
        say(f"{done} of {trials} trials, {len(study.best_trials)} on the front")


def open_study(question: Question) -> optuna.Study:
    """The run's study, or a new one. Raises InputError where its journal is of another search."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = question.run / JOURNAL
    path.parent.mkdir(parents=True, exist_ok=True)
    mend(path)
    storage = JournalStorage(JournalFileBackend(str(path)))
    to = objectives.directions(question.metrics())
    study = optuna.create_study(storage=storage, study_name="tune", directions=to, load_if_exists=True)
    asked = study.user_attrs.get("question")
    if asked is None:
        study.set_user_attr("question", question.digest())
    elif asked != question.digest():
        raise InputError(
            f"{question.run}: holds the search of another space, model or setting, which this one would mix with. "
            "Give another folder with --out."
        )
    return study


def mend(journal: Path) -> None:
    """Cut off a last line that a killed process left half written."""
    content = journal.read_bytes() if journal.exists() else b""
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(journal, whole)


def _ask(study: optuna.Study, question: Question, trials: int) -> None:
    """Fill the open batch, or begin the next. Trials that a killed search left without parameters get them first."""

    def running() -> list[int]:
        return [trial.number for trial in told(study) if trial.state == TrialState.RUNNING]

    for number in running():
        _choose(study, question, number)
    begun = len(told(study))
    while begun < trials and (begun % question.space.batch or not running()):
        _choose(study, question, study.ask().number)
        begun += 1


def _choose(study: optuna.Study, question: Question, number: int) -> None:
    """Give a trial its parameters, those that it lacks; prune it, with the reason, if it is no possible method.

    Each parameter is drawn by a generator of its own: what a killed search had drawn does not move what comes next.
    """
    for place, (name, among) in enumerate(question.space.space.items()):
        seed = [question.space.sampler_seed, number, place]
        study.sampler = TPESampler(n_startup_trials=RANDOM_FIRST, seed=int(digest(seed)[:8], 16))
        trial = _trial(study, number)
        if isinstance(among, list):
            trial.suggest_categorical(name, [as_text(choice) for choice in among])
        elif isinstance(among.low, int) and isinstance(among.high, int):
            trial.suggest_int(name, among.low, among.high, log=among.log)
        else:
            trial.suggest_float(name, among.low, among.high, log=among.log)
    try:
        trial = told(study)[number]
        name = name_of(trial)
        for part in (question.space.search, question.space.confirm):
            question.check({name: method_of(trial, question)}, part, {name: set(question.chosen(trial))})
    except InputError as error:
        _trial(study, number).set_user_attr("why", str(error))
        study.tell(number, state=TrialState.PRUNED)


def told(study: optuna.Study) -> list[FrozenTrial]:
    """All trials by number, as the journal has them."""
    return study.get_trials(deepcopy=False)


def _trial(study: optuna.Study, number: int) -> optuna.Trial:
    """One that can still be changed, also if another process asked for it."""
    return optuna.Trial(study, told(study)[number]._trial_id)


def name_of(trial: FrozenTrial) -> str:
    return f"trial-{trial.number:04d}"


def method_of(trial: FrozenTrial, question: Question) -> Method:
    """Raises InputError for switches that exclude each other."""
    return question.space.method(question.chosen(trial), name_of(trial))
