"""Fetch weights where there is internet, so that no job ever needs it."""

from pathlib import Path

from svdstory.jobs.study.experiment import find_experiment, read_experiment
from svdstory.pipeline.config.strict import InputError, choices, parse
from svdstory.pipeline.models.spec import ModelSpec, hub_snapshot, resolve_model, shipped_models
from svdstory.pipeline.models.weight_files import hub_folder, missing_files


def needed(what: str | None, model: str | None = None) -> tuple[list[str], list[str]]:
    """The models and scorers to stage for an experiment (on another `model`, if given) or a model's name.

    Raises InputError for what is neither.
    """
    if what is None or what in shipped_models():
        return [name for name in (what, model) if name], []
    experiment = read_experiment(find_experiment(what))
    chosen = model or experiment.model
    return [chosen], list(experiment.scorers or shipped_models().get(chosen, shipped_models()["sdxl"])["scorers"])


def fetch_model(name: str) -> Path | None:
    """Stage a model's pinned revision, and its LoRA, in huggingface_hub's cache; None for one that needs no staging.

    Only what the pipeline reads: configurations, tokenizers, and the safetensors of its variant.
    Raises InputError for an unknown model, and where the hub cannot be reached or lacks a file.
    """
    entry = shipped_models().get(name)
    if entry is None:
        known = list(shipped_models())
        raise InputError(f"unknown model {name!r}{choices(name, known)}.")
    spec = parse(ModelSpec, {"name": name, **entry}, f"model {name}")
    if spec.source != "hub":
        return None
    if missing_files(hub_snapshot(spec), spec.variant):
        _download(spec, spec.location, spec.revision, ["*/*.json", "*.json", "*/*.txt", f"*/{_weights(spec)}"])
    for lora in spec.loras:
        if not (hub_folder(lora.repository, lora.revision) / lora.file).is_file():
            _download(spec, lora.repository, lora.revision, [lora.file])
    return Path(resolve_model(name).folder)


def _weights(spec: ModelSpec) -> str:
    return f"*.{spec.variant}.safetensors" if spec.variant else "*.safetensors"


def _download(spec: ModelSpec, repository: str, revision: str | None, patterns: list[str]) -> None:
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(
            repository,
            revision=revision,
            allow_patterns=patterns,
            ignore_patterns=["*.bin", "*.pth", "*.ckpt", "*.onnx*", "*flax*", "*openvino*", "safety_checker/*"],
        )
    except Exception as error:  # the hub's, requests' and the file system's errors have no common base
        raise InputError(
            f"model {spec.name}: {repository} at {revision} could not be fetched "
            f"({type(error).__name__}: {error}). "
            "Run this where there is internet (a login node), without HF_HUB_OFFLINE; "
            "HF_HOME says where the files go, and jobs must see the same folder."
        ) from error


def fetch_scorer(name: str) -> list[Path]:
    """Stage a scorer's weights (pipeline/metrics/staging.py). Raises InputError."""
    from svdstory.pipeline.metrics import staging

    return staging.stage(name, staging.default_folder())
