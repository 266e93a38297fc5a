"""The commands for a run on a cluster: submit, work, status, logs, retry, cancel, clean."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from svdstory.jobs.cli.defaults import site_or_default
from svdstory.jobs.cli.options import Asked, Replace, RunFolder, SiteName, naming, takes_experiment
from svdstory.pipeline.config.strict import InputError

SubmittedSite = Annotated[str | None, typer.Option("--site", help="A site profile. Default: the last submit's.")]
Probe = Annotated[bool, typer.Option("--probe", help="Let a tiny job look at a node first.")]
Exclude = Annotated[
    str | None,
    typer.Option(
        help="Nodes to leave out, as sbatch takes them; `none`: none. Default: those where all failed at once."
    ),
]
WithoutMetrics = Annotated[
    bool, typer.Option("--without-metrics", help="Make the images alone; `svdstory score` measures them later.")
]
Json = Annotated[bool, typer.Option("--json", help="For programs.")]


def register(app: typer.Typer) -> None:
    """Add the commands to svdstory's."""
    for command in (submit, status, logs, retry, cancel, clean):
        app.command(rich_help_panel="Cluster")(command)
    app.command(hidden=True)(work)


def _nodes(exclude: str | None) -> list[str] | None:
    return None if exclude is None else [] if exclude == "none" else [exclude]


@contextmanager
def slurms_words() -> Iterator[None]:
    """Slurm's refusals and silence become the command's own clear message."""
    from svdstory.jobs.queue.scheduler import SlurmError

    try:
        yield
    except SlurmError as error:
        raise InputError(f"{error}\nNothing is lost: run the same command again when this is mended.") from None


@takes_experiment()
def submit(
    asked: Asked,
    site: SiteName = None,
    probe: Probe = False,
    units_per_task: Annotated[int | None, typer.Option(min=1, help="Default: as many as fit the time limit.")] = None,
    without_metrics: WithoutMetrics = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what sbatch would be given. Queues and writes nothing.")
    ] = False,
    exclude: Exclude = None,
    replace: Replace = False,
):
    """Queue an experiment on a Slurm cluster: array jobs, and a report after them. Again: adds only what is missing.

    Example: svdstory submit report --site charisma
    """
    from svdstory.jobs.study.elsewhere import bring_in
    from svdstory.jobs.study.notes import notes
    from svdstory.jobs.study.run_folder import check_growth, prepare

    profile = load_profile(site)
    plan, folder = asked.plan()
    if dry_run and not replace:
        check_growth(plan, folder)
    folder = folder.absolute()
    if dry_run:
        how = {"per_task": units_per_task, "exclude": _nodes(exclude), "metrics": not without_metrics}
        typer.echo(dry_run_text(plan, folder, profile, **how))
        return
    bring_in(plan, prepare(plan, folder, replace, profile.group))
    for line in notes(plan):
        typer.echo(f"note: {line}")
    if profile.unconfirmed:
        typer.echo(unconfirmed(profile))
    with slurms_words():
        if probe:
            _look_at_a_node(profile, folder)
        _queue(folder, profile, per_task=units_per_task, exclude=exclude, metrics=not without_metrics)


def load_profile(site: str | None):
    """The site profile that an option, or a default of the user's, names."""
    from svdstory.jobs.cluster.sites import load_site

    name, words = site_or_default(site)
    with naming({"site": words}):
        return load_site(name)


def unconfirmed(profile) -> str:
    return f"site: not confirmed on the machine yet: {', '.join(profile.unconfirmed)}"


def dry_run_text(plan, folder: Path, profile, **options) -> str:
    """What a submit would ask for, in words and as scripts."""
    from svdstory.jobs.cluster.dry_run import dry_run

    notes = f"{unconfirmed(profile)}\n" if profile.unconfirmed else ""
    return notes + dry_run(plan, folder.absolute(), profile, **options)


def _look_at_a_node(profile, folder: Path) -> None:
    from svdstory.jobs.cluster.doctor import examine_node
    from svdstory.jobs.cluster.parameters import python_of

    findings = list(examine_node(profile, python_of(profile), folder))
    for found in findings:
        typer.echo(f"{found.verdict:4}  {found.what}: {found.words}")
    if any(found.verdict == "bad" for found in findings):
        raise InputError("a node of the site cannot run this (above). Nothing was queued.")


def _queue(
    folder: Path,
    profile,
    cause: str | None = None,
    per_task: int | None = None,
    exclude: str | None = None,
    metrics: bool = True,
) -> None:
    """Submit what is missing (of one failure cause, if given), and say what was asked. Exit status 1 if refused."""
    from svdstory.jobs.cluster.submit import submit_missing

    how = {"cause": cause, "per_task": per_task, "exclude": _nodes(exclude), "metrics": metrics}
    asked = submit_missing(folder, profile, **how, say=typer.echo)
    if asked.refused:
        typer.echo("\n".join(asked.refused), err=True)
        typer.echo(
            f"Slurm refused (its words above). What was queued before stays; nothing is lost. Mend the site "
            f"profile or wait, then submit again: only what is missing is added. ({folder})",
            err=True,
        )
        raise typer.Exit(1)
    typer.echo(f"svdstory status '{folder}' shows how it stands; the report is built when the tasks have ended.")


@takes_experiment()
def work(
    asked: Asked,
    lead: Annotated[
        float, typer.Option(help="Seconds between the warning signal and the end (--signal=USR2@...).")
    ] = 120,
    replace: Replace = False,
):
    """Inside a job of plain sbatch: make the units, or this array element's share of them. See slurm/run.sbatch.

    Example: sbatch --array=0-7 slurm/run.sbatch report
    """
    import os

    from svdstory.jobs.node.task import work_share
    from svdstory.jobs.queue.scheduler import share_of_units
    from svdstory.jobs.study.elsewhere import bring_in
    from svdstory.jobs.study.run_folder import prepare

    share, shares = share_of_units(os.environ)
    plan, folder = asked.plan()
    store = prepare(plan, folder, replace)
    bring_in(plan, store)
    made, scored = work_share(folder, plan, store, share, shares, lead)
    typer.echo(f"{len(made.made)} units made, {len(made.found)} were there, {len(made.failed)} failed")
    raise typer.Exit(1 if made.failed or made.stopped or not scored.complete else 0)


def status(
    run: RunFolder,
    as_json: Json = False,
    watch: Annotated[bool, typer.Option(help="Draw again every ten seconds until all is done.")] = False,
):
    """How a run stands: done, running, queued, failed by cause, pace, time left, GPU hours.

    Example: svdstory status results/report-sdxl --watch
    """
    from dataclasses import asdict

    from svdstory.jobs.cluster.status import lines
    from svdstory.jobs.cluster.status import status as look

    run = run.absolute()
    if not watch:
        now = look(run)
        typer.echo(json.dumps(asdict(now), ensure_ascii=False) if as_json else "\n".join(lines(now)))
        raise typer.Exit(0 if now.complete else 1)
    from rich.live import Live
    from rich.text import Text

    with Live(auto_refresh=False) as screen:
        while True:
            now = look(run)
            screen.update(Text(f"{time.strftime('%H:%M:%S')}  {run}\n" + "\n".join(lines(now))), refresh=True)
            if now.complete or not (now.running or now.queued):
                raise typer.Exit(0 if now.complete else 1)
            time.sleep(10)


def logs(
    run: RunFolder,
    unit: Annotated[
        str | None, typer.Argument(help="A unit's key, or its beginning. Default: all that failed.")
    ] = None,
):
    """Why units failed, grouped by cause; of one unit all attempts, and the log of the task that last had it.

    Example: svdstory logs results/report-sdxl 3fb7e9
    """
    from svdstory.jobs.cluster.logs import by_cause, of_unit

    for line in of_unit(run, unit) if unit else by_cause(run):
        typer.echo(line)


def retry(
    run: RunFolder,
    site: SubmittedSite = None,
    cause: Annotated[str | None, typer.Option(help="Only units that failed so, for example out-of-memory.")] = None,
    exclude: Exclude = None,
):
    """Queue again what failed, all of it or one cause.

    Example: svdstory retry results/report-sdxl --cause out-of-memory --site big.yaml
    """
    from svdstory.jobs.cluster.sites import Site as Profile
    from svdstory.jobs.queue.ledger import submissions
    from svdstory.pipeline.config.strict import parse

    run = run.absolute()
    known = submissions(run)
    if not site and not known:
        raise InputError(f"{run}: was never submitted, so it has no site profile. Give --site.")
    profile = load_profile(site) if site else parse(Profile, known[-1].intent["site"], str(known[-1].folder))
    with slurms_words():
        measured = not known or bool(known[-1].intent["scorers"])
        _queue(run, profile, cause.replace("-", " ") if cause else "any", exclude=exclude, metrics=measured)


def cancel(run: RunFolder):
    """Cancel all jobs of a run, the reduce job too. Finished units stay; submit goes on with the rest.

    Example: svdstory cancel results/report-sdxl
    """
    from svdstory.jobs.queue import scheduler
    from svdstory.jobs.queue.ledger import submissions

    known = submissions(run.absolute())
    with slurms_words():
        names = [array.name for submission in known for array in submission.arrays]
        live = sorted({element.job for element in scheduler.queue(names=names) if element.live})
        scheduler.cancel(live)
    typer.echo(f"cancelled: {', '.join(live)}" if live else "no job of this run is in the queue")
    if any(submission.is_open and submission.launcher_lives() for submission in known):
        typer.echo("a submit is at work on this run and may queue more: cancel again when it has ended", err=True)
        raise typer.Exit(1)


def clean(
    run: RunFolder, yes: Annotated[bool, typer.Option("--yes", help="Remove it, instead of showing it.")] = False
):
    """Show or remove what nothing reads any more: dead drafts, damaged units, old pickles, old copies of the code.

    Example: svdstory clean results/report-sdxl --yes
    """
    from svdstory.jobs.cluster.clean import drafts_elsewhere, litter, remove

    with slurms_words():
        sorts = litter(run.absolute())
    for sort in sorts:
        typer.echo(f"{len(sort.paths)} {sort.why} ({sort.files} files)")
    for host, drafts in drafts_elsewhere(run).items():
        typer.echo(f"left: {drafts} drafts of `svdstory run` on {host}. Whether it lives is seen there: clean there")
    if yes:
        remove(sorts)
    typer.echo("removed" if yes and sorts else "nothing to remove" if not sorts else "nothing was removed: add --yes")
