"""The files of a model folder in diffusers' layout: which are missing, and which can be told to be broken by a glance.

Weights are not read: a safetensors file begins with the length of its header, and the header says how long the file is.
"""

import hashlib
import json
import os
import re
from pathlib import Path

TOKENIZERS = {"tokenizer": "text_encoder", "tokenizer_2": "text_encoder_2"}
ONE_ENCODER = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")  # SD 1.5 and 2.1, in their model_index.json
POINTER = b"version https://git-lfs"


def one_encoder(folder: Path) -> bool:
    """Whether it holds SD 1.5 or 2.1, by its index: one text encoder, no pooled embedding. Without an index: SDXL."""
    try:
        return json.loads((folder / "model_index.json").read_bytes()).get("_class_name") in ONE_ENCODER
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def parts(folder: Path) -> tuple[str, ...]:
    """Those that hold weights."""
    return ("unet", "vae", *tokenizers(folder).values())


def tokenizers(folder: Path) -> dict[str, str]:
    """Tokenizer -> its text encoder."""
    return {"tokenizer": "text_encoder"} if one_encoder(folder) else TOKENIZERS


def configurations(folder: Path) -> tuple[str, ...]:
    return ("model_index.json", "scheduler/scheduler_config.json", *(f"{part}/config.json" for part in parts(folder)))


def missing_files(folder: Path, variant: str | None) -> list[str]:
    """Files that the pipeline needs and `folder` lacks (relative names). Only safetensors count as weights."""
    needed = [*configurations(folder), *(f"{part}/tokenizer_config.json" for part in tokenizers(folder))]
    missing = [name for name in needed if not (folder / name).is_file()]
    for part in parts(folder):
        if not weights(folder, part, variant):
            missing.append(f"{part}/{_stem(part, variant)}.safetensors")
    for part in tokenizers(folder):
        if not (folder / part / "tokenizer.json").is_file():
            missing += [f"{part}/{f}" for f in ("vocab.json", "merges.txt") if not (folder / part / f).is_file()]
    return missing


def weights(folder: Path, part: str, variant: str | None) -> list[Path]:
    """The part's weights: one file, or its shards."""
    whole = folder / part / f"{_stem(part, variant)}.safetensors"
    return [whole] if whole.is_file() else sorted((folder / part).glob(f"{_stem(part, variant)}-*.safetensors"))


def _stem(part: str, variant: str | None) -> str:
    return ("model" if part.startswith("text") else "diffusion_pytorch_model") + (f".{variant}" if variant else "")


def folder_variant(folder: Path) -> str | None:
    """The variant (`fp16`) that a folder's weights come in, None for plain files: the one that lacks fewest."""
    middles = [p.name.split(".")[1] for p in (folder / "unet").glob("diffusion_pytorch_model.*.safetensors")]
    variants = sorted({middle.partition("-")[0] for middle in middles})  # of a part: `fp16-00001-of-00002`
    return min([None, *variants], key=lambda variant: len(missing_files(folder, variant)))


def broken_files(folder: Path, variant: str | None) -> list[str]:
    """What is wrong with files that are there, one line each with the file's path."""
    words = ("tokenizer.json", "tokenizer_config.json", "vocab.json")
    of_tokenizers = [f"{part}/{f}" for part in tokenizers(folder) for f in words]
    present = [name for name in [*configurations(folder), *of_tokenizers] if (folder / name).is_file()]
    found = {folder / name: _json_problem(folder / name) for name in present}
    for part in parts(folder):
        shards = weights(folder, part, variant)
        found |= {path: weights_problem(path, shards) for path in shards}
    if not any(found.values()):
        found = {folder / name: problem for name, problem in _misfits(folder).items()}
    return [f"{path}: {problem}" for path, problem in found.items() if problem]


def _json_problem(path: Path) -> str:
    content = path.read_bytes()
    if content.startswith(POINTER):
        return "a Git LFS pointer, not the file: git lfs pull"
    try:
        return "" if isinstance(json.loads(content), dict) else "expected a JSON mapping"
    except (ValueError, RecursionError) as error:
        return f"not JSON ({error}): fetch it again"


def header_of(path: Path) -> dict[str, dict]:
    """Name -> dtype, shape and data_offsets of a safetensors file's tensors."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {name: entry for name, entry in header.items() if name != "__metadata__"}


def weights_problem(path: Path, shards: list[Path]) -> str:
    """Why a safetensors file cannot be whole, by its size and its header; empty where nothing is wrong."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if POINTER.startswith(start) and start:
            return "a Git LFS pointer, not the weights: git lfs pull"
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > size - 8:
            return f"{size} bytes: cut short, or not safetensors. Fetch it again"
        try:
            header = json.loads(file.read(length))
            end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
        except (ValueError, RecursionError, TypeError, KeyError, IndexError, AttributeError):
            return "its header cannot be read: not safetensors. Fetch it again"
    if 8 + length + end != size:
        return f"{size} bytes, its header tells of {8 + length + end}: cut short. Fetch it again"
    part = re.search(r"-(\d+)-of-(\d+)\.safetensors$", path.name)
    if part and len(shards) != int(part[2]):
        return f"one of {int(part[2])} parts, of which {len(shards)} are here. Fetch the others"
    return ""


def _misfits(folder: Path) -> dict[str, str]:
    """File -> the number in it with which no picture can be made."""
    configs = {name: json.loads((folder / name).read_bytes()) for name in configurations(folder)}
    channels = configs["vae/config.json"].get("block_out_channels")
    found = {}
    if not (isinstance(channels, list) and channels and all(isinstance(c, int) for c in channels)):
        found["vae/config.json"] = f"block_out_channels: got {channels!r}, expected a list of whole numbers"
    latents = (configs["unet/config.json"].get("in_channels", 4), configs["vae/config.json"].get("latent_channels", 4))
    if latents[0] != latents[1]:
        found["unet/config.json"] = (
            f"in_channels: got {latents[0]!r}, expected the VAE's latent_channels, {latents[1]!r}"
        )
    for part, encoder in tokenizers(folder).items():
        name = f"{part}/tokenizer_config.json"
        longest = json.loads((folder / name).read_bytes()).get("model_max_length")
        most = configs[f"{encoder}/config.json"].get("max_position_embeddings", 77)
        if not isinstance(longest, int) or not isinstance(most, int) or not 3 <= longest <= most:
            found[name] = (
                f"model_max_length: got {longest!r}, expected a whole number up to the text encoder's {most} "
                f'(SDXL: "model_max_length": 77)'
            )
    train_steps = configs["scheduler/scheduler_config.json"].get("num_train_timesteps", 1000)
    if not isinstance(train_steps, int) or train_steps < 1:
        found["scheduler/scheduler_config.json"] = f"num_train_timesteps: got {train_steps!r}, expected a whole number"
    return found


def hub_cache() -> Path:
    """Where huggingface_hub keeps its snapshots (its own rules: HF_HUB_CACHE, HF_HOME), without importing it."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")


def hub_folder(repository: str, revision: str | None) -> Path:
    """Where huggingface_hub's cache has a repository at a revision, whether it is there or not."""
    return hub_cache() / ("models--" + repository.replace("/", "--")) / "snapshots" / str(revision)


def file_hash(path: Path) -> bytes:
    """sha256 of a file, read block by block (hashlib.file_digest came with Python 3.11)."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.digest()
