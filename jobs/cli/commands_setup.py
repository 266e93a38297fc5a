"""The commands before a run on a cluster: prefetch, doctor."""

from typing import Annotated

import typer

from svdstory.jobs.cli.commands_cluster import Json, Probe, load_profile, slurms_words
from svdstory.jobs.cli.defaults import results_folder
from svdstory.jobs.cli.options import Model, Out, SiteName, naming
from svdstory.pipeline.config.strict import InputError


def register(app: typer.Typer) -> None:
    """Add the commands to svdstory's."""
    for command in (prefetch, doctor):
        app.command(rich_help_panel="Cluster")(command)


def prefetch(
    what: Annotated[
        str | None,
        typer.Argument(metavar="EXPERIMENT|MODEL", help="An experiment: its model and all its scorers; or a model."),
    ] = None,
    model: Model = None,
    scorer: Annotated[list[str] | None, typer.Option(help="A scorer, such as dreamsim. Repeatable.")] = None,
):
    """Fetch the weights of an experiment's model and scorers where there is internet (a login node): no job needs it.

    Example: svdstory prefetch report
    """
    from svdstory.jobs.cluster.prefetch import fetch_model, fetch_scorer, needed

    if not (what or model or scorer):
        raise InputError("prefetch what? Give an experiment (report), a model (sdxl), or --scorer dreamsim.")
    models, scorers = needed(what, model)
    for name in models:
        typer.echo(f"{name}: {fetch_model(name) or 'needs no download'}")
    for name in dict.fromkeys([*scorers, *(scorer or ())]):
        typer.echo(f"{name}: " + (", ".join(str(path) for path in fetch_scorer(name)) or "needs no download"))


def doctor(
    model: Model = None,
    out: Out = None,
    site: SiteName = None,
    probe: Probe = False,
    as_json: Json = False,
    scorer: Annotated[list[str] | None, typer.Option(help="A scorer whose weights to look for. Repeatable.")] = None,
):
    """Is everything here that a run needs: packages, GPU kernels, weights, disk; with --site the cluster.

    With --probe, a tiny job looks at a node too.

    Example: svdstory doctor --site charisma --model sdxl --probe
    """
    from svdstory.jobs.cluster.doctor import as_json as written
    from svdstory.jobs.cluster.doctor import examine_here, examine_node, examine_site
    from svdstory.jobs.cluster.parameters import python_of

    with naming({None: "--probe: a job looks at a node of a cluster"}):
        profile = load_profile(site) if site or probe else None
    place = (out or results_folder()).absolute()
    findings = list(examine_here(model, scorer or [], place))
    if profile:
        findings += examine_site(profile)
        if probe:
            with slurms_words():
                findings += examine_node(profile, python_of(profile), place)
    typer.echo(written(findings) if as_json else "\n".join(f"{f.verdict:4}  {f.what}: {f.words}" for f in findings))
    raise typer.Exit(1 if any(found.verdict == "bad" for found in findings) else 0)
