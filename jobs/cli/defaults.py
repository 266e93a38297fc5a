"""What a user has said once: the file ~/.config/svdstory.yaml and SVDSTORY_* variables.

An option wins over a variable, a variable over the file, the file over what is built in.

    site: charisma              # SVDSTORY_SITE      for submit, and doctor --probe
    results: /scratch/me/runs   # SVDSTORY_RESULTS   where run folders go
    model: sdxl                 # SVDSTORY_MODEL     instead of each experiment's own
    models: {sdxl: /data/sdxl}  # where models of these names lie, in diffusers' layout
    weights: /data/scorers      # SVDSTORY_WEIGHTS   the scorers' weights
"""

import os
from pathlib import Path

from svdstory.pipeline.config.documents import read_yaml
from svdstory.pipeline.config.strict import InputError, Strict, parse


class Defaults(Strict):
    """The file. None: not said."""

    site: str | None = None
    results: str | None = None
    model: str | None = None
    models: dict[str, str] = {}
    weights: str | None = None


def defaults_file() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "svdstory.yaml"


def read_defaults() -> Defaults:
    """The file's content, empty where there is none. Raises InputError that names file and key."""
    path = defaults_file()
    return parse(Defaults, read_yaml(path) or {}, str(path)) if path.exists() else Defaults()


def default(key: str) -> tuple[str | None, str]:
    """What holds for `key` where no option says it (None: nothing), and the words that say so, for errors."""
    variable = f"SVDSTORY_{key.upper()}"
    if said := os.environ.get(variable):
        return said, f"{variable}={said}"
    said = getattr(read_defaults(), key)
    return said, f"{defaults_file()}: {key}: {said}"


def results_folder() -> Path:
    """Where run folders go."""
    return Path(default("results")[0] or "results").expanduser()


def site_or_default(site: str | None) -> tuple[str, str]:
    """A site profile's name, and the words that give it. Raises InputError where nothing does."""
    if site:
        return site, f"--site {site}"
    said, words = default("site")
    if not said:
        raise InputError(
            "which cluster? Give --site NAME (or the path of a YAML file), or say it once: "
            f"SVDSTORY_SITE=NAME, or `site: NAME` in {defaults_file()}."
        )
    return said, words


def export_weights() -> None:
    """Hand the file's `weights` on as the variable that pipeline and jobs on nodes read, unless it is set."""
    folder, _ = default("weights")
    if folder:
        os.environ["SVDSTORY_WEIGHTS"] = str(Path(folder).expanduser())
