"""`svdstory tune`: search for methods on the Pareto front of metrics."""

from pathlib import Path
from typing import Annotated

import typer

from svdstory.jobs.cli.options import Asked, SiteName, takes_experiment
from svdstory.pipeline.config.strict import InputError


def register(app: typer.Typer) -> None:
    """Add the command to svdstory's."""
    app.command(rich_help_panel="Study")(tune)


@takes_experiment()
def tune(
    asked: Asked,
    space: Annotated[str, typer.Option(help="A shipped space (filters) or a YAML file: what is searched.")] = "filters",
    trials: Annotated[int, typer.Option(min=1, help="In all, those that are there included.")] = 64,
    site: SiteName = None,
    device: Annotated[str | None, typer.Option(help="cuda, cuda:1 or cpu. Default: a GPU if there is one.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that share the units, as of `run`.")] = None,
):
    """Search a space of switches for methods that no other beats, and measure these on held-out sets and seeds.

    Example: svdstory tune miniature-study --space filters --trials 64

    The experiment gives model, steps and setting; the space file sets, seeds and metrics. Again: goes on where it was
    stopped. With --site each batch of trials is an array, and this command waits for it.
    """
    from svdstory.jobs.cli.defaults import results_folder
    from svdstory.jobs.report.reduce import reduce
    from svdstory.jobs.tune import front
    from svdstory.jobs.tune.space import read_space
    from svdstory.jobs.tune.trials import Question, search

    for option in ("sets", "seeds", "methods"):
        if getattr(asked, option) is not None:
            raise InputError(f"--{option}: the space file says on what is searched. Change it there.")
    read, path = read_space(space)
    plan, _ = asked.plan()
    folder = asked.out or results_folder() / f"tune-{path.stem}-{Path(plan.model.name).name}"
    question = Question(read, plan, path.parent, folder.expanduser().absolute())
    make = _on_site(site) if site else _here(device, workers)
    study = search(question, trials, make, typer.echo)
    if not study.best_trials:
        raise InputError(f"{folder}: none of {trials} trials has numbers: {front.reasons(study)}")
    points = front.confirm(question, study, make)
    for run in (question.run, question.run / front.CONFIRM):
        reduce(run)
    page = front.write(question, points, study)
    typer.echo(front.table([p for p in points if p.front or p.entry is None], question.metrics()) + str(page))


def _here(device: str | None, workers: int | None):
    from svdstory.jobs.cli.progress import progress
    from svdstory.jobs.node.local_run import make_all
    from svdstory.jobs.study.run_folder import prepare
    from svdstory.pipeline.models.spec import check_device

    check_device(device)

    def make(plan, run: Path) -> None:
        store = prepare(plan, run)
        make_all(plan, store, device=device, micro_batch=None, workers=workers, progress=progress)

    return make


def _on_site(site: str):
    """An array for what is missing; then waits until nothing of the run is queued. What failed is not asked for twice."""
    from svdstory.jobs.cli.commands_cluster import load_profile, slurms_words
    from svdstory.jobs.cluster.submit import stand, submit_missing
    from svdstory.jobs.queue.waiting import wait_while
    from svdstory.jobs.study.run_folder import prepare

    profile = load_profile(site)

    def make(plan, run: Path) -> None:
        prepare(plan, run, group=profile.group)
        with slurms_words():
            asked = submit_missing(run, profile, say=typer.echo)
            if asked.refused:
                raise InputError(
                    "\n".join([*asked.refused, "Slurm refused (above). Run the same command again later."])
                )
            wait_while(lambda: bool(stand(run).live))

    return make
