"""`svdstory certify`: run it before you believe a number."""

from pathlib import Path
from typing import Annotated

import typer

from svdstory.jobs.cli.commands_cluster import load_profile, slurms_words
from svdstory.jobs.cli.defaults import default, read_defaults, results_folder
from svdstory.jobs.cli.options import Model, SiteName
from svdstory.pipeline.config.documents import expanded
from svdstory.pipeline.config.strict import InputError


def register(app: typer.Typer) -> None:
    """Add the command to svdstory's."""
    app.command(rich_help_panel="Cluster")(certify)


def certify(
    model: Model = None,
    site: SiteName = None,
    out: Annotated[Path | None, typer.Option(help="The folder. Default: results/certificate-MODEL")] = None,
    device: Annotated[str | None, typer.Option(help="cuda, cuda:1 or cpu. Default: a GPU if there is one.")] = None,
    steps: Annotated[int, typer.Option(min=4, help="Denoising steps. Other than 12: without the known latents.")] = 12,
    signal_seconds: Annotated[
        float | None,
        typer.Option(min=1, help="How long before its end Slurm warns a job. Default: the site's, or 120."),
    ] = None,
):
    """Does this machine compute what it must? One page with pictures, numbers and a verdict for each line.

    Against the stock pipeline, exact filters, the memory formula, a signal in the middle, known pictures. Exit status 1
    if a line fails. With --site, one job on a node of the cluster does it, and the command waits for it.

    Example: svdstory certify --model sdxl --site charisma
    """
    from svdstory.pipeline.models.spec import check_device, resolve_model

    name = model or default("model")[0] or "sdxl"
    check_device(device)
    spec = resolve_model(str(expanded(read_defaults().models.get(name, name))))
    folder = (expanded(out) if out else results_folder() / f"certificate-{Path(spec.name).name}").absolute()
    if site:
        profile = load_profile(site)
        holds = _on_a_node(profile, spec, folder, device, steps, signal_seconds or profile.signal_seconds)
    else:
        holds = _here(spec, device, steps, signal_seconds or 120.0, folder)
    typer.echo(str(folder / "certificate.html"))
    raise typer.Exit(0 if holds else 1)


def _here(spec, device: str | None, steps: int, signal_s: float, folder: Path) -> bool:
    from svdstory.jobs.node.certificate import certify as certified
    from svdstory.pipeline.certify.specimen import Specimen
    from svdstory.pipeline.models.device import choose_device

    choose_device(device)  # a GPU without kernels is refused before anything else
    return certified(Specimen(spec, device, signal_s, steps), folder, say=typer.echo)["holds"]


def _on_a_node(profile, spec, folder: Path, device: str | None, steps: int, signal_s: float) -> bool:
    from svdstory.jobs.cluster import certify_job
    from svdstory.jobs.queue.scheduler import SlurmError

    words = ["--model", spec.location if spec.source == "folder" else spec.name, "--out", str(folder)]
    words += ["--steps", str(steps), "--signal-seconds", f"{signal_s:g}", *(["--device", device] if device else [])]
    with slurms_words():
        job = certify_job.queue(profile, folder, words)
    log = certify_job.log_of(folder)
    typer.echo(f"job {job} is queued; its words go to {log}, and it goes on if you leave")
    try:
        certify_job.wait(job)
    except SlurmError as error:
        typer.echo(
            f"svdstory: {error}\nNothing is lost: job {job} goes on, its words go to {log}, and its verdict will be "
            f"{folder / 'certificate.html'}. `squeue -j {job}` shows how it stands when Slurm answers again.",
            err=True,
        )
        raise typer.Exit(1) from None
    found = certify_job.certificate_of(folder, job)
    if found is None:
        raise InputError(f"job {job} ended without a certificate: {log} says why.")
    return found["holds"]
