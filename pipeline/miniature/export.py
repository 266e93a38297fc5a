"""Publishes a trained miniature as a folder that plain `StableDiffusionXLPipeline.from_pretrained` loads."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline

from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.miniature.architecture import build_pipeline
from svdstory.pipeline.miniature.diffusion import Denoiser
from svdstory.pipeline.miniature.vocabulary import write_plain_vocabulary

LARGEST = 16 * 2**20  # bytes, of the whole folder


def miniature(vae: AutoencoderKL, denoiser: Denoiser) -> StableDiffusionXLPipeline:
    """The stock pipeline around trained parts, as they are."""
    return build_pipeline(vae, denoiser.unet, (denoiser.text_encoder, denoiser.text_encoder_2))


def export(vae: AutoencoderKL, denoiser: Denoiser, folder: Path) -> int:
    """Write the pipeline in fp16 to `folder` (weights in safetensors); returns its size in bytes.

    Works on copies: the trained parts keep their precision. Raises ValueError if the folder grows past 16 MiB.
    """
    pipeline = miniature(copy.deepcopy(vae).cpu(), copy.deepcopy(denoiser).cpu()).to(dtype=torch.float16)
    pipeline.save_pretrained(folder, safe_serialization=True)
    for name in ("tokenizer", "tokenizer_2"):
        write_plain_vocabulary(folder / name)
    for name in ("text_encoder", "text_encoder_2"):
        _load_in_fp32_unless_told(folder / name / "config.json")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if size > LARGEST:
        raise ValueError(
            f"{folder}: the exported miniature has {size} bytes, at most {LARGEST} are allowed. "
            "Make the UNet smaller in architecture.py."
        )
    return size


def _load_in_fp32_unless_told(config: Path) -> None:
    """transformers 5 loads a model in the type its configuration names, diffusers in fp32: let both do the same."""
    values = json.loads(config.read_text(encoding="utf-8"))
    values["dtype"] = "float32"
    config.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def ship(out: Path, folder: Path) -> int:
    """Publish a training's results as one folder: the pipeline, `judges` and the log. Returns its size in bytes.

    Raises InputError for a part that has not been trained yet.
    """
    for name in ("miniature/model_index.json", "judges/judge.safetensors", "judges/clip.safetensors", "training.log"):
        if not (out / name).exists():
            raise InputError(f"{out / name}: not there yet, nothing is shipped. Train the missing part first.")
    shutil.copytree(out / "miniature", folder, dirs_exist_ok=True)
    shutil.copytree(out / "judges", folder / "judges", dirs_exist_ok=True)
    shutil.copy(out / "training.log", folder / "training.log")
    for file in folder.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
