"""Starts a training from an exported miniature, so that a larger world is learned on from what is known already."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.miniature.architecture import build_vae
from svdstory.pipeline.miniature.diffusion import Denoiser
from svdstory.pipeline.miniature.training_clock import save_atomically, seeded_weights

EMBEDDING = "token_embedding.weight"


def start_from(folder: Path, state: Path) -> int:
    """Write `folder`'s VAE and denoiser into `state` as a training that has had none of its own yet.

    A word that `folder` knew keeps its embedding, whatever its number is now; a new one gets a fresh embedding. Returns
    how many are new. A state that is there already is left alone (0): the same command goes on. Raises InputError
    where `folder` holds no miniature.
    """
    if (state / "unet.pt").exists():
        return 0
    if not (folder / "model_index.json").exists():
        raise InputError(f"{folder}: no exported miniature (model_index.json) to start from.", key="start-from")
    vae = build_vae()
    vae.load_state_dict(_single(folder / "vae" / "diffusion_pytorch_model.safetensors"))
    with seeded_weights(2):
        denoiser = Denoiser()
    denoiser.unet.load_state_dict(_single(folder / "unet" / "diffusion_pytorch_model.safetensors"))
    new = set()
    for name, tokenizer in zip(("text_encoder", "text_encoder_2"), denoiser.tokenizers):
        known = json.loads((folder / name.replace("text_encoder", "tokenizer") / "vocab.json").read_text("utf-8"))
        encoder, words = getattr(denoiser, name), tokenizer.get_vocab()
        new |= set(words) - set(known)
        encoder.load_state_dict(
            _renumbered(encoder.state_dict(), _single(folder / name / "model.safetensors"), words, known)
        )
    weights = denoiser.state_dict()
    save_atomically({"vae": vae.state_dict(), "finished": True}, state / "vae.pt")
    save_atomically(
        {
            "denoiser": weights,
            "average": weights,
            "optimizers": None,
            "step": 0,
            "since_restart": 0,
            "samples": 0,
            "rendered": 0,
            "budget": 0.0,
            "spent": 0.0,
        },
        state / "unet.pt",
    )
    return len(new)


def _single(file: Path) -> dict[str, torch.Tensor]:
    return {name: tensor.float() for name, tensor in load_file(file).items()}


def _renumbered(
    fresh: dict[str, torch.Tensor], trained: dict[str, torch.Tensor], words: dict[str, int], known: dict[str, int]
) -> dict[str, torch.Tensor]:
    """`trained`, but each word's embedding at its number in `words`, and of words that `known` lacks the fresh one."""
    result = {}
    for name, tensor in fresh.items():
        if name.endswith(EMBEDDING):
            tensor = tensor.clone()
            for word, number in words.items():
                if word in known:
                    tensor[number] = trained[name][known[word]]
            result[name] = tensor
        else:
            result[name] = trained.get(name, tensor)
    return result
