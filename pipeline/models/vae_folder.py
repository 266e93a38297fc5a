"""Another VAE than the model's own: found and hashed before anything is queued. No torch."""

import hashlib
import json
import re
from pathlib import Path

from svdstory.pipeline.config.documents import expanded
from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.models.weight_files import file_hash, hub_folder, weights_problem


def find_vae(wanted: str, latent_channels: int) -> tuple[Path, str]:
    """The folder of `wanted`, and what it is anywhere. wanted: a folder with config.json and one .safetensors, or
    REPOSITORY@REVISION in the hub's cache, the revision in full. Raises InputError, whose key is `vae`."""
    hub = re.fullmatch(r"([\w.-]+/[\w.-]+)@([0-9a-f]{40})", wanted)
    folder = hub_folder(hub[1], hub[2]) if hub else expanded(wanted).resolve()
    weights = sorted(folder.glob("diffusion_pytorch_model*.safetensors"))
    if not weights or not (folder / "config.json").is_file():
        fetch = f" Fetch it where there is internet: hf download {hub[1]} --revision {hub[2]}" if hub else ""
        raise InputError(
            f"vae {wanted}: {folder} has no config.json and diffusion_pytorch_model.safetensors.{fetch}", "vae"
        )
    weights = weights[:1]  # the plain file before a variant
    if problem := weights_problem(weights[0], weights):
        raise InputError(f"vae {weights[0]}: {problem}", "vae")
    text = (folder / "config.json").read_bytes()
    channels = json.loads(text).get("latent_channels", 4)
    if channels != latent_channels:
        raise InputError(f"vae {wanted}: has {channels} latent channels, the model's UNet {latent_channels}.", "vae")
    return folder, hashlib.sha256(text + file_hash(weights[0])).hexdigest()
