"""Which model a run uses, resolved before anything is queued: weights found, pinned and hashed. No torch here."""

import hashlib
import json
import re
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Literal

from svdstory.pipeline.config.documents import expanded, read_yaml
from svdstory.pipeline.config.lora import Lora
from svdstory.pipeline.config.schedulers import OWN, SchedulerConfig
from svdstory.pipeline.config.strict import InputError, Strict, choices, concerning, parse
from svdstory.pipeline.config.tokens import Tokenizer, tokenizer_of
from svdstory.pipeline.models.lora_files import located
from svdstory.pipeline.models.single_file import check_single_file, configuration, scheduler_changes
from svdstory.pipeline.models.vae_folder import find_vae
from svdstory.pipeline.models.weight_files import (
    broken_files,
    file_hash,
    folder_variant,
    hub_folder,
    missing_files,
    one_encoder,
)

DEFAULTS = (
    "steps",
    "guidance",
    "size",
    "scheduler",
    "scheduler_config",
    "scorers",
    "tuning",
)  # what an experiment may leave unsaid


class ModelSpec(Strict):
    """A model, resolved. `folder` is where its weights lie here; `identity` is what they are, anywhere.

    source: hub (a pinned revision, staged by prefetch), package (shipped with svdstory), folder (the user's own),
    file (a checkpoint in one file; `folder` has the configurations that go with it), built (random weights, made on the
    spot). one_encoder: SD 1.5 or 2.1, not SDXL. size is (width, height) in pixels. steps, guidance, size, scheduler and
    scorers are what an experiment gets that says none; tuning: kind -> what a recipe gets that says none.
    """

    name: str
    source: Literal["hub", "package", "folder", "file", "built"]
    location: str
    dtype: Literal["float32", "float16", "bfloat16"]
    steps: int
    size: tuple[int, int]
    scorers: tuple[str, ...]
    guidance: float = 5.0
    scheduler: str = OWN
    scheduler_config: SchedulerConfig = SchedulerConfig()
    tuning: dict[str, dict[str, float | int]] = {}
    loras: tuple[Lora, ...] = ()
    vae: str | None = None
    vae_folder: str | None = None
    vae_identity: str = ""
    one_encoder: bool = False
    about: str = ""
    revision: str | None = None
    variant: str | None = None
    note: str = ""
    folder: str | None = None
    identity: str = ""

    def content(self) -> dict:
        """What changes pixels."""
        loras = {"loras": [lora.content() for lora in self.loras]} if self.loras else {}
        vae = {"vae": self.vae_identity} if self.vae else {}
        return {"identity": self.identity, "dtype": self.dtype, **loras, **vae}

    @property
    def tokenizer_folder(self) -> Path | None:
        return Path(self.folder) / "tokenizer" if self.folder and self.source != "file" else None

    def pixels_per_latent(self) -> int:
        """The VAE's factor."""
        if self.folder is None:
            return 8
        return 2 ** (len(self._config("vae/config.json")["block_out_channels"]) - 1)

    def widest(self) -> int:
        """Channels of its widest self-attention: no K or V has more singular values."""
        return 32 if self.folder is None else max(self._config("unet/config.json")["block_out_channels"])

    def own_scheduler(self) -> dict:
        """The configuration of its own scheduler, which says with which noise it was trained."""
        own = {} if self.folder is None else self._config("scheduler/scheduler_config.json")
        return own | (scheduler_changes(Path(self.location)) if self.source == "file" else {})

    def latent_channels(self) -> int:
        return 4 if self.folder is None else self._config("unet/config.json").get("in_channels", 4)

    def text_width(self) -> int:
        """Of the text that its cross-attention reads."""
        return 64 if self.folder is None else self._config("unet/config.json").get("cross_attention_dim", 0)

    def encoder_widths(self) -> tuple[int, int]:
        """Of its two text encoders."""
        if self.folder is None:
            return 32, 32
        one, other = (self._config(f"{part}/config.json")["hidden_size"] for part in ("text_encoder", "text_encoder_2"))
        return one, other

    def _config(self, name: str) -> dict:
        return json.loads((Path(self.folder) / name).read_text(encoding="utf-8"))

    def tokenizer(self) -> Tokenizer:
        """Its tokenizer, without torch or transformers."""
        return tokenizer_of(self.tokenizer_folder, self.max_length())

    def max_length(self) -> int:
        """Tokens that a prompt may have, the start and end tokens included."""
        folder = self.tokenizer_folder
        return 77 if folder is None else self._config("tokenizer/tokenizer_config.json")["model_max_length"]


@lru_cache
def shipped_models() -> dict[str, dict]:
    return read_yaml(Path(str(resources.files(__package__))) / "models.yaml")


def resolve_model(wanted: str, dtype: str | None = None, like: str | None = None, vae: str | None = None) -> ModelSpec:
    """The model that --model names: a name of models.yaml, a folder in diffusers' layout, or a .safetensors file.

    A folder or file has the defaults of the model `like`, if that is one of models.yaml, which a user says it holds.
    Raises InputError for an unknown name, and for weights that are not here: each missing file named, with the
    command that fetches them. Nothing is downloaded.
    """
    entry = shipped_models().get(wanted)
    if entry is None:
        place = expanded(wanted)
        if not (place / "model_index.json").is_file() and not place.is_file():
            known = list(shipped_models())
            raise InputError(
                f"unknown model {wanted!r}{choices(wanted, known)}; "
                "or give a folder that holds model_index.json (diffusers' layout), or a .safetensors file."
            )
        entry = {
            "source": "file" if place.is_file() else "folder",
            "location": str(place.resolve()),
            "dtype": "float16",
            "steps": 50,
            "size": [1024, 1024],
            "scorers": shipped_models()["sdxl"]["scorers"],
            "tuning": shipped_models()["sdxl"]["tuning"],
        }
        entry |= {key: value for key, value in shipped_models().get(like, {}).items() if key in DEFAULTS}
    entry = {"name": wanted, **entry, **({"dtype": dtype} if dtype else {}), **({"vae": vae} if vae else {})}
    with concerning("dtype"):
        spec = _found(parse(ModelSpec, entry, f"model {wanted}"))
    if spec.vae is None:
        return spec
    folder, identity = find_vae(spec.vae, spec.latent_channels())
    return spec.model_copy(update={"vae_folder": str(folder), "vae_identity": identity})


def _found(spec: ModelSpec) -> ModelSpec:
    """With its files and what they are, anywhere. Raises InputError for those that are missing or broken."""
    wanted = spec.name
    if spec.source == "built":
        return spec.model_copy(update={"identity": spec.location})
    if spec.source == "file":
        return _of_file(spec)
    folder = _find_folder(spec)
    if spec.source == "folder":
        spec = spec.model_copy(update={"variant": folder_variant(folder)})
    one = spec.one_encoder or one_encoder(folder)
    second = ("text_encoder_2/", "tokenizer_2/") if one else ()
    missing = [name for name in missing_files(folder, spec.variant) if not name.startswith(second)]
    if missing:
        raise InputError(
            f"model {wanted}: weights are missing:\n  "
            + "\n  ".join(str(folder / m) for m in missing)
            + (
                f"\nFetch them where there is internet: svdstory prefetch {wanted}"
                if spec.source == "hub"
                else "\nPut them there, or give another folder: this one is not whole."
            )
        )
    broken = broken_files(folder, spec.variant)
    if broken:
        raise InputError(f"model {wanted}: these files cannot be used:\n  " + "\n  ".join(broken))
    identity = f"{spec.location}@{spec.revision}" if spec.source == "hub" else folder_hash(folder)
    spec = spec.model_copy(update={"folder": str(folder), "identity": identity, "one_encoder": one})
    with concerning("model"):
        return spec.model_copy(update={"loras": located(spec.loras, folder, spec.text_width())})


def _of_file(spec: ModelSpec) -> ModelSpec:
    """Known by the contents of the file and of the configurations that go with it."""
    path, folder = Path(spec.location), configuration()
    check_single_file(path)
    identity = f"{file_hash(path).hex()}+{folder_hash(folder)[:16]}"
    return spec.model_copy(update={"folder": str(folder), "identity": identity})


def check_device(wanted: str | None) -> None:
    """Raises InputError for what no device is called, before torch is asked whether it is here."""
    if wanted is not None and not re.fullmatch(r"cpu|cuda(:\d+)?", wanted):
        raise InputError(f"device {wanted!r}: expected cpu, cuda, or cuda:1 for the second GPU.")


def _find_folder(spec: ModelSpec) -> Path:
    if spec.source == "folder":
        return Path(spec.location)
    if spec.source == "package":
        return Path(str(resources.files("svdstory.pipeline"))) / Path(spec.location).relative_to("pipeline")
    return hub_snapshot(spec)


def hub_snapshot(spec: ModelSpec) -> Path:
    """The folder of the pinned revision in huggingface_hub's cache, whether it is there or not."""
    return hub_folder(spec.location, spec.revision)


def folder_hash(folder: Path) -> str:
    """sha256 over the names and contents of a model folder's index, configurations and weights, in hex."""
    total = hashlib.sha256()
    parts = sorted(p for p in folder.glob("*/*") if p.suffix in (".json", ".safetensors", ".txt"))
    for path in [folder / "model_index.json", *parts]:  # the index holds force_zeros_for_empty_prompt
        total.update(f"{path.relative_to(folder).as_posix()}\n".encode())
        total.update(file_hash(path))
    return total.hexdigest()
