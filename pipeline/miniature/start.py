"""Starts a training from an exported miniature, so that a larger world is learned on from what is known already."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.miniature.architecture import build_vae
from svdstory.pipeline.miniature.clip import build_clip
from svdstory.pipeline.miniature.diffusion import Denoiser
from svdstory.pipeline.miniature.judges import Judge
from svdstory.pipeline.miniature.training_clock import save_atomically, seeded_weights

EMBEDDING = "token_embedding.weight"
NOTHING_YET = {"step": 0, "budget": 0.0, "spent": 0.0}
Weights = dict[str, torch.Tensor]


def start_from(folder: Path, state: Path) -> int:
    """Write the parts of `folder` into `state` as trainings that have had none of their own yet.

    A word that `folder` knew keeps its embedding, whatever its number is now; a new one gets a fresh embedding, and so
    does what a judge is newly asked. Returns how many words are new. A part that is there already is left alone: the
    same command goes on. Raises InputError where `folder` holds no miniature.
    """
    if not (folder / "model_index.json").exists():
        raise InputError(f"{folder}: no exported miniature (model_index.json) to start from.", key="start-from")
    known = json.loads((folder / "tokenizer" / "vocab.json").read_text("utf-8"))
    with seeded_weights(2):
        denoiser = Denoiser()
    words = denoiser.tokenizers[0].get_vocab()
    for part, make in (("vae", _vae), ("unet", _denoiser), ("judge", _judge), ("clip", _clip)):
        if not (state / f"{part}.pt").exists():
            save_atomically(make(folder, known, words, denoiser), state / f"{part}.pt")
    return len(set(words) - set(known))


def _vae(folder: Path, known: dict[str, int], words: dict[str, int], denoiser: Denoiser) -> dict:
    vae = build_vae()
    vae.load_state_dict(_floats(folder / "vae" / "diffusion_pytorch_model.safetensors"))
    return {"vae": vae.state_dict(), "finished": True}


def _denoiser(folder: Path, known: dict[str, int], words: dict[str, int], denoiser: Denoiser) -> dict:
    denoiser.unet.load_state_dict(_floats(folder / "unet" / "diffusion_pytorch_model.safetensors"))
    for name in ("text_encoder", "text_encoder_2"):
        encoder = getattr(denoiser, name)
        encoder.load_state_dict(
            _matching(encoder.state_dict(), _floats(folder / name / "model.safetensors"), words, known)
        )
    weights = denoiser.state_dict()
    counts = {"since_restart": 0, "samples": 0, "rendered": 0}
    return {"denoiser": weights, "average": weights, "optimizers": None, **counts, **NOTHING_YET}


def _judge(folder: Path, known: dict[str, int], words: dict[str, int], denoiser: Denoiser) -> dict:
    with seeded_weights(3):
        fresh = Judge().state_dict()
    weights = _matching(fresh, _floats(folder / "judges" / "judge.safetensors"), words, known)
    return {"judge": weights, "optimizer": None, **NOTHING_YET}


def _clip(folder: Path, known: dict[str, int], words: dict[str, int], denoiser: Denoiser) -> dict:
    weights = _matching(build_clip().state_dict(), _floats(folder / "judges" / "clip.safetensors"), words, known)
    return {"clip": weights, "optimizer": None, **NOTHING_YET}


def _floats(file: Path) -> Weights:
    return {name: tensor.float() for name, tensor in load_file(file).items()}


def _matching(fresh: Weights, trained: Weights, words: dict[str, int], known: dict[str, int]) -> Weights:
    """`trained` where it fits `fresh`, which stays elsewhere; a known word's embedding at its number in `words`."""
    result = {}
    for name, tensor in fresh.items():
        old = trained.get(name)
        if old is not None and name.endswith(EMBEDDING):
            tensor = tensor.clone()
            for word in words.keys() & known.keys():
                tensor[words[word]] = old[known[word]]
        result[name] = old if old is not None and old.shape == tensor.shape and not name.endswith(EMBEDDING) else tensor
    return result
