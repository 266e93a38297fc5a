"""LoRA files: found, hashed and told to be wrong by their headers, before anything is queued. No torch."""

from collections.abc import Iterable
from pathlib import Path

from svdstory.pipeline.config.documents import expanded
from svdstory.pipeline.config.lora import Lora
from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.models.weight_files import file_hash, header_of, hub_folder, weights_problem

DOWN = (".lora_down.weight", ".lora_A.weight", ".lora.down.weight", ".lora_linear_layer.down.weight")
UNREAD = {
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "oft_": "OFT",
    "dora_scale": "DoRA",
}  # of which diffusers drops a part or all


def located(loras: Iterable[Lora], near: Path, text_width: int | None) -> tuple[Lora, ...]:
    """The same with absolute paths and content hashes. text_width: of the model's cross-attention.

    Raises InputError for a file that is not there, no LoRA, or another model's.
    """
    return tuple(_located(lora, near, text_width) for lora in loras)


def _located(lora: Lora, near: Path, text_width: int | None) -> Lora:
    places = [near / expanded(lora.file), Path.cwd() / expanded(lora.file)]
    if lora.repository:
        places = [hub_folder(lora.repository, lora.revision) / lora.file]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        fetch = f" Fetch it where there is internet: {fetching(lora)}" if lora.repository else ""
        raise InputError(
            f"LoRA {lora.file}: there is no such file: {' or '.join(map(str, places))}.{fetch}", key="loras"
        )
    if path.suffix != ".safetensors":
        raise InputError(f"LoRA {path}: only .safetensors are read: pickles can run any code.", key="loras")
    problem = weights_problem(path, [path]) or _problem(header_of(path), text_width)
    if problem:
        raise InputError(f"LoRA {path}: {problem}", key="loras")
    # absolute, not resolved: in the hub's cache it is a link to a file without a suffix, which diffusers would not read
    return lora.model_copy(update={"file": str(path.absolute()), "sha256": file_hash(path).hex()})


def fetching(lora: Lora) -> str:
    return f"hf download {lora.repository} {lora.file} --revision {lora.revision}"


def _problem(header: dict[str, dict], text_width: int | None) -> str:
    for mark, kind in UNREAD.items():
        if any(mark in name for name in header):
            return (
                f"a {kind}: diffusers' loader would leave out its {mark.rstrip('_')} weights. Merge it, or take a LoRA."
            )
    downs = {name: entry["shape"] for name, entry in header.items() if name.endswith(DOWN)}
    if not downs:
        return "no LoRA: none of its tensors is one's (lora_down, lora_A). A whole checkpoint is a model: --model FILE."
    widths = {shape[1] for name, shape in downs.items() if "attn2" in name and "to_k" in name}
    if text_width and widths and widths != {text_width}:
        known = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "SDXL"}
        [got, *_] = sorted(widths)
        named = [known.get(width, "another model") for width in (got, text_width)]
        return f"made for {named[0]}, whose text is {got} wide; this model ({named[1]}) reads {text_width}."
    return ""
