"""The `svdstory` command. Heavy imports stay inside the commands, so that --help and every login-node command is quick."""

import codecs
import locale
import os
import sys
from typing import Annotated

import typer

from svdstory.jobs.cli import (
    commands_certify,
    commands_cluster,
    commands_measure,
    commands_report,
    commands_runs,
    commands_score,
    commands_setup,
    commands_study,
    commands_train,
    commands_tune,
)
from svdstory.jobs.cli.defaults import export_weights
from svdstory.jobs.cli.options import Command
from svdstory.jobs.study.sharing import guard
from svdstory.pipeline.config.strict import InputError

app = typer.Typer(
    name="svdstory",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Consistent-subject image generation studies with SDXL. Start here: svdstory run",
)


def _print_version(asked: bool) -> None:
    from importlib.metadata import version

    if asked:
        typer.echo(f"svdstory {version('svdstory')}")
        raise typer.Exit


@app.callback()
def before_any_command(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    export_weights()


for commands in (
    commands_study,
    commands_setup,
    commands_certify,
    commands_cluster,
    commands_report,
    commands_runs,
    commands_score,
    commands_measure,
    commands_train,
    commands_tune,
):
    commands.register(app)
for group in (app, *(group.typer_instance for group in app.registered_groups)):
    for command in group.registered_commands:
        command.cls = Command


def main(words: list[str] | None = None) -> None:
    """The console script: bad input is one clear message and exit status 2."""
    use_utf8()
    guard()
    try:
        app(words, prog_name="svdstory")
    except (InputError, OSError) as error:  # of the latter: a folder that may not be read, a disk that is full
        print(f"svdstory: {error}", file=sys.stderr)
        sys.exit(2)


def use_utf8() -> None:
    """In a locale that isn't UTF-8, start again in Python's UTF-8 mode: files, their names and all processes have it.

    The terminal keeps its own encoding; what it cannot show is replaced.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    of_locale = codecs.lookup(locale.getpreferredencoding(False)).name
    if of_locale != "utf-8" and not sys.flags.utf8_mode and os.environ.get("PYTHONUTF8") != "1":
        environment = {**os.environ, "PYTHONUTF8": "1", "PYTHONIOENCODING": f"{sys.stdout.encoding}:replace"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
