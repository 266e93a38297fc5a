"""The commands that look at a run: reduce, curate, spectra."""

from pathlib import Path
from typing import Annotated

import typer

from svdstory.jobs.cli.options import RunFolder, RunFolders


def register(app: typer.Typer) -> None:
    app.command("reduce", rich_help_panel="Report")(reduce_run)
    app.command("curate", rich_help_panel="Report")(curate_run)
    app.command("spectra", rich_help_panel="Report")(spectra_run)


def reduce_run(
    runs: RunFolders,
    out: Annotated[Path | None, typer.Option(help="Where several runs are merged. Default: beside the first.")] = None,
    lang: Annotated[str, typer.Option(help="Language of the figures' labels: en or ru.")] = "en",
    figures: Annotated[
        str | None, typer.Option(help="Names of figures, separated by commas. The report then holds these alone.")
    ] = None,
    published: Annotated[
        str | None, typer.Option(help="A paper's own table to set beside the numbers: oneprompt-table-1.")
    ] = None,
) -> None:
    """Make RUN/report: grids, figures, tables and index.html. What has not changed is not made again.

    Several runs are merged first.

    Example: svdstory reduce results/report-sdxl --lang ru

    Figures: good-bad, components, parameters, spectra, reweighting, comparison, tradeoff, leakage, kv-grid, sets,
    winners. Exit status 1 if a cell is missing, failed or corrupt: it is drawn as a hole with its cause.
    """
    from svdstory.jobs.report.reduce import reduce
    from svdstory.jobs.study.merge import merge
    from svdstory.pipeline.config.strict import InputError

    run = runs[0]
    if len(runs) > 1:
        run = out or runs[0].with_name("+".join(folder.resolve().name for folder in runs))
        merge(runs, run)
    elif out:
        raise InputError(f"--out {out}: is for several runs. The report of one lies in it: {run / 'report'}.")
    result = reduce(run, lang=lang, figures=figures and figures.split(","), published=published, report=_say)
    _say("")
    typer.echo(f"{result.summary}\n{result.page}")
    raise typer.Exit(0 if result.complete else 1)


def curate_run(
    run: RunFolder,
    count: Annotated[int, typer.Option(min=1, help="Sets to propose as good, and as bad.")] = 10,
    method: Annotated[str | None, typer.Option(help="Whose consistency ranks. Default: the baseline.")] = None,
    metric: Annotated[
        str | None, typer.Option(help="Default: DreamSim of the subject, or the next best that was measured.")
    ] = None,
    write: Annotated[
        Path | None, typer.Option(help="Write the proposed sets into this folder, as good/*.yaml and bad/*.yaml.")
    ] = None,
) -> None:
    """Rank prompt sets by the baseline's consistency and propose the best and the worst, with their images.

    Example: svdstory curate results/benchmark-sdxl --count 10 --write my-sets

    The images are in RUN/curated.png. Exit status 1 if a set was left out for want of numbers.
    """
    from svdstory.jobs.report.curate import curate, write_sets

    study, proposal = curate(run, count, method, metric)
    typer.echo(proposal.text(count))
    typer.echo(f"images: {run / 'curated.png'}")
    for path in write_sets(study, proposal, write, count) if write else ():
        typer.echo(f"wrote {path}")
    raise typer.Exit(1 if proposal.left_out else 0)


def spectra_run(
    run: RunFolder,
    set_name: Annotated[str | None, typer.Option("--set", help="Prompt set. Default: the first one.")] = None,
    method: Annotated[str | None, typer.Option(help="Default: unmasked, or the first with extended attention.")] = None,
    seed: Annotated[int | None, typer.Option(help="Default: the set's first.")] = None,
    device: Annotated[str | None, typer.Option(help="cuda, cuda:1 or cpu. Default: a GPU if there is one.")] = None,
) -> None:
    """Record singular values and leading token maps of K and V for the figures `spectra`, `reweighting` and
    `components-of-k`: samples one unit again.

    Example: svdstory spectra results/report-sdxl --set blue-bus && svdstory reduce results/report-sdxl

    The unit itself stays as it is; RUN/spectra gets one small file.
    """
    from svdstory.jobs.study.plan import plan_path, read_plan
    from svdstory.pipeline.config.strict import InputError, choices

    plan = read_plan(plan_path(run))
    attending = [name for name, m in plan.methods.items() if m.extended_attention != "off" and m.reference == "anchors"]
    method = method or next((m for m in ("unmasked", *attending) if m in plan.methods), None)
    for option, wanted, known in (("set", set_name, plan.sets), ("method", method, plan.methods)):
        if wanted is not None and wanted not in known:
            raise InputError(f"--{option} {wanted}: not in {run}{choices(wanted, list(known))}.")
    if method is None:
        raise InputError(f"{run}: no method of it attends to anchors, so there are no K and V of theirs to record.")
    cells = [c for c in plan.cells if c.method == method and set_name in (None, c.set)]
    cell = next((c for c in cells if seed in (None, c.seed)), None)
    if cell is None:
        seeds = ", ".join(dict.fromkeys(str(c.seed) for c in cells))
        raise InputError(f"--seed {seed}: not in {run}. Seeds of {set_name or 'all sets'}, {method}: {seeds}.")
    from svdstory.jobs.node.record_spectra import record_spectra

    for path in record_spectra(plan, run, [cell.key], device):
        typer.echo(path)


def _say(text: str) -> None:
    """Progress on a terminal, on one line; nothing in a log."""
    import sys

    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
