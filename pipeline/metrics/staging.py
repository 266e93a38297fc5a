"""Which weight files each scorer needs, where they come from, and how they get here: on the login node, never in a job.

Layout of a weights folder:

    clip/ViT-B-32-openai/open_clip_model.safetensors    Hugging Face, a pinned revision
    dreamsim/<release's files>                          DreamSim's release zips, unpacked
    dreamsim/checkpoints/dino_*_pretrain.pth            DINO's own release
    <scorer>.sha256.json                                sizes and sha256 of the above, written by `stage`
"""

import hashlib
import json
import os
import secrets
import shutil
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path

from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.metrics.names import parts

CLIP_REPOSITORY = "timm/vit_base_patch32_clip_224.openai"
CLIP_REVISION = "ab5b8ef490e86faa07d3523926b842c765de1de5"
DINO = "https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth"
DINO_SMALL = "https://dl.fbaipublicfiles.com/dino/dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth"
DREAMSIM = "https://github.com/ssundaram21/dreamsim/releases/download/{}-checkpoints/dreamsim_{}_checkpoint.zip"


@dataclass(frozen=True)
class WeightFile:
    """One file of a weights folder: its place there and its source.

    `any_of` other places count too (peft has saved adapters under two names).
    """

    path: str
    source: str
    any_of: tuple[str, ...] = ()

    def found(self, folder: Path) -> Path | None:
        return next((folder / p for p in (self.path, *self.any_of) if (folder / p).is_file()), None)


def _adapter(kind: str, source: str) -> list[WeightFile]:
    name = f"dreamsim/{kind}_lora"
    return [
        WeightFile(f"{name}/adapter_config.json", source),
        WeightFile(f"{name}/adapter_model.safetensors", source, (f"{name}/adapter_model.bin",)),
    ]


def _dreamsim(kind: str, backbones: list[str], version: str = "v0.2.0") -> list[WeightFile]:
    source = DREAMSIM.format(version, kind)
    files = [WeightFile(f"dreamsim/{backbone}", source) for backbone in backbones]
    files += _adapter("ensemble" if kind == "ensemble" else f"{kind}_single", source)
    if "dino_vitb16_pretrain.pth" in backbones:
        files.append(WeightFile("dreamsim/checkpoints/dino_vitbase16_pretrain.pth", DINO))
    return files


CLIP_FILES = [
    WeightFile(
        "clip/ViT-B-32-openai/open_clip_model.safetensors",
        f"https://huggingface.co/{CLIP_REPOSITORY} at {CLIP_REVISION[:12]}",
    )
]
DINO_FILES = [WeightFile("dreamsim/checkpoints/dino_vitbase16_pretrain.pth", DINO)]
DINO_SMALL_FILES = [WeightFile("dreamsim/checkpoints/dino_deitsmall16_pretrain.pth", DINO_SMALL)]
DREAMSIM_FILES = {
    "ensemble": _dreamsim(
        "ensemble", ["dino_vitb16_pretrain.pth", "clip_vitb16_pretrain.pth.tar", "open_clip_vitb16_pretrain.pth.tar"]
    ),
    "dino_vitb16": _dreamsim("dino_vitb16", ["dino_vitb16_pretrain.pth"]),
    "clip_vitb32": _dreamsim("clip_vitb32", ["clip_vitb32_pretrain.pth.tar"]),
    "open_clip_vitb32": _dreamsim("open_clip_vitb32", ["open_clip_vitb32_pretrain.pth.tar"]),
}


def default_folder() -> Path:
    """SVDSTORY_WEIGHTS, or ~/.cache/svdstory."""
    return Path(os.environ.get("SVDSTORY_WEIGHTS") or Path.home() / ".cache" / "svdstory")


def files_of(name: str) -> list[WeightFile]:
    """The files that a scorer needs; none for one that ships with svdstory. Raises InputError for an unknown one."""
    _, backbone, _ = parts(name)
    shipped: dict[str, list[WeightFile]] = {"tiny": [], "judge": [], "miniature": []}
    own = {"clip": CLIP_FILES, "dino": DINO_FILES, "vitb16": DINO_FILES, "vits16": DINO_SMALL_FILES}
    return {**shipped, **own, **DREAMSIM_FILES}[backbone]


def missing(name: str, folder: Path) -> list[WeightFile]:
    """The files of a scorer that `folder` lacks."""
    return [file for file in files_of(name) if file.found(folder) is None]


def require(name: str, folder: Path) -> None:
    """Raises InputError that names each missing file and the command that fetches it."""
    absent = missing(name, folder)
    if absent:
        lines = "\n".join(f"  {folder / file.path}  (from {file.source})" for file in absent)
        raise InputError(
            f"scorer {name!r}: {len(absent)} weight files are missing:\n{lines}\n"
            f"On a node with internet: svdstory prefetch --scorer {name} (folder: SVDSTORY_WEIGHTS). "
            "To go on with random weights, marked as such everywhere: --allow-random."
        )


def weights_hash(name: str, folder: Path) -> str:
    """One sha256 over the sha256 of all files of a scorer. Hashes of unchanged files are remembered beside them."""
    record = folder / f"{name.replace(':', '-')}.sha256.json"
    known = _read_record(record)
    current = {}
    for file in files_of(name):
        path = file.found(folder)
        place, status = str(path.relative_to(folder)), path.stat()
        before = known.get(place, {})
        stamp = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
        same = {key: before.get(key) for key in stamp} == stamp
        current[place] = {**stamp, "sha256": before["sha256"] if same else sha256(path)}
    if current != known and os.access(folder, os.W_OK):
        partial = record.with_name(f".{record.name}.{secrets.token_hex(4)}")
        partial.write_text(json.dumps(current, indent=1, sort_keys=True), encoding="utf-8")
        partial.replace(record)
    if len(current) == 1:
        return next(iter(current.values()))["sha256"]
    return hashlib.sha256("".join(current[place]["sha256"] for place in sorted(current)).encode()).hexdigest()


def stage(name: str, folder: Path) -> list[Path]:
    """Fetch what `folder` lacks for a scorer; for the login node. Returns all of the scorer's files.

    A file appears whole or not at all. Raises InputError where there is no network or a source lacks a file.
    """
    for source in dict.fromkeys(file.source for file in missing(name, folder)):
        wanted = [file for file in missing(name, folder) if file.source == source]
        try:
            _fetch(source, wanted, folder)
        except Exception as error:  # the hub's, urllib's, zipfile's and the file system's have no common base
            places = ", ".join(str(folder / file.path) for file in wanted)
            raise InputError(
                f"scorer {name!r}: {source} could not be fetched ({type(error).__name__}: {error}). Run "
                f"this where there is internet (a login node), or copy by hand: {places}"
            ) from error
    require(name, folder)
    weights_hash(name, folder)
    return [file.found(folder) for file in files_of(name)]


def _fetch(source: str, wanted: list[WeightFile], folder: Path) -> None:
    if source.startswith("https://huggingface.co/"):
        from huggingface_hub import hf_hub_download

        for file in wanted:
            path = Path(file.path)
            hf_hub_download(CLIP_REPOSITORY, path.name, revision=CLIP_REVISION, local_dir=folder / path.parent)
        return
    target = folder / wanted[0].path
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = folder / "dreamsim" / f".{source.rsplit('/', 1)[-1]}.{secrets.token_hex(4)}"
    try:
        with urllib.request.urlopen(source, timeout=60) as response, open(partial, "wb") as file:
            shutil.copyfileobj(response, file, 1 << 20)
        if source.endswith(".zip"):
            _unpack(partial, wanted, folder)
        else:
            partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _unpack(archive: Path, wanted: list[WeightFile], folder: Path) -> None:
    """Take the wanted files out of a DreamSim release, each by one rename; nothing else in it is unpacked."""
    with zipfile.ZipFile(archive) as content:
        names = set(content.namelist())
        for place in [place for file in wanted for place in (file.path, *file.any_of)]:
            inside = place.removeprefix("dreamsim/")
            if inside not in names:
                continue
            target = folder / place
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
            with content.open(inside) as source, open(partial, "wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
            partial.replace(target)


def sha256(path: Path) -> str:
    """Of a file, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read_record(record: Path) -> dict:
    try:
        return json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
