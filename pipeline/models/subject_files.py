"""Files of tuned subjects: what they are by their tensors' names and shapes, and refused before anything is queued. No torch.

| kind | its tensors |
| --- | --- |
| Textual Inversion | `clip_l` (V, 768) and `clip_g` (V, 1280), or one tensor (V, D), named as its token |
| LoRA | of peft, diffusers or kohya (lora_files.py) |
| Custom Diffusion | `<attn2>.processor.to_k_custom_diffusion.weight`, to_v, and to_q with to_out |
"""

from collections.abc import Iterable
from pathlib import Path

from svdstory.pipeline.config.documents import expanded
from svdstory.pipeline.config.lora import Lora
from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.config.tuning import (
    CUSTOM,
    INVERSION,
    INVERSION_FILE,
    WEIGHTS_FILES,
    WORDS,
    Recipe,
    SubjectFile,
    check_word,
)
from svdstory.pipeline.models.lora_files import located as located_loras
from svdstory.pipeline.models.weight_files import file_hash, header_of, weights_problem

PICKLED = (".bin", ".pt", ".ckpt", ".pth")
CONVERT = (
    "python -c \"import torch, safetensors.torch as s; w = torch.load('{name}', weights_only=True); "
    "s.save_file({{k: v.contiguous() for k, v in w.items()}}, '{stem}.safetensors')\""
)
KNOWN = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "SDXL"}  # by the width of the text
# the bits of a number's exponent: all ones in inf and nan
EXPONENT = {"F16": ("u2", 0x7C00), "BF16": ("u2", 0x7F80), "F32": ("u4", 0x7F800000), "F64": ("u8", 0x7FF << 52)}


def located(
    files: Iterable[SubjectFile], near: Path, text_width: int, encoders: tuple[int, ...]
) -> tuple[SubjectFile, ...]:
    """The same with absolute paths, hashes, and what they are. text_width: of the model's cross-attention; encoders: the
    widths of its text encoders. Raises InputError for a file that is not there, none of these, or another model's."""
    found = [_located(file, near, text_width, encoders) for file in files]
    beside = any(file.kind == CUSTOM for file in found)  # its token's rows come in a file of Textual Inversion
    return tuple(file.model_copy(update={"instead": file.kind == INVERSION and not beside}) for file in found)


def _located(file: SubjectFile, near: Path, text_width: int, encoders: tuple[int, ...]) -> SubjectFile:
    path = next((p for p in (near / expanded(file.file), Path.cwd() / expanded(file.file)) if p.is_file()), None)
    if path is None:
        raise InputError(f"tuning: file {file.file}: there is no such file in {near} or {Path.cwd()}.", key="methods")
    try:
        return _read(file, path.resolve(), text_width, encoders)
    except ValueError as error:
        raise InputError(f"tuning: file {path}: {error}", key="methods") from None


def _read(file: SubjectFile, path: Path, text_width: int, encoders: tuple[int, ...]) -> SubjectFile:
    if path.suffix in PICKLED:
        raise ValueError(
            f"pickles can run any code, only .safetensors are read. Convert it: {CONVERT.format(name=path, stem=path.stem)}"
        )
    if path.suffix != ".safetensors":
        raise ValueError("expected a .safetensors file.")
    if problem := weights_problem(path, [path]):
        raise ValueError(problem)
    header = header_of(path)
    shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
    if not shapes or any(0 in shape for shape in shapes.values()):
        raise ValueError("it is empty: no tensor in it holds a number.")
    if broken := _not_finite(path, header):
        raise ValueError(f"{broken} holds inf or nan: whatever made it went wrong.")
    told = {"file": str(path), "sha256": file_hash(path).hex(), "kind": _kind(path, shapes)}
    if told["kind"] == INVERSION:
        told |= _inversion(file, shapes, encoders)
    if told["kind"] == CUSTOM:
        _check_custom(shapes, text_width)
    if told["kind"] == "lora":
        located_loras([Lora(file=str(path))], path.parent, text_width)
    if told["kind"] != INVERSION and file.word:
        check_word(file.word, placeholder=False)
    if file.scale != 1 and told["kind"] != "lora":
        raise ValueError(f"scale {file.scale} would do nothing: it belongs to LoRA, and this is {told['kind']}.")
    return file.model_copy(update=told)


def _kind(path: Path, shapes: dict[str, tuple]) -> str:
    if any("_custom_diffusion" in name for name in shapes):
        return CUSTOM
    if {"clip_l", "clip_g"} <= shapes.keys() or (len(shapes) == 1 and "lora" not in next(iter(shapes))):
        return INVERSION
    if any("image_proj" in name or "ip_adapter" in name for name in shapes):
        raise ValueError("an IP-Adapter: it belongs under `image_prompt`, not `tuning`.")
    return "lora"


def _inversion(file: SubjectFile, shapes: dict[str, tuple], encoders: tuple[int, ...]) -> dict:
    """The word and its rows. Raises ValueError for rows that no encoder of the model takes."""
    one = next(iter(shapes))
    word = file.word or (one if len(shapes) == 1 and one.strip("<>").isalnum() else WORDS[INVERSION]).lower()
    check_word(word, placeholder=True)
    wanted = dict(zip(("clip_l", "clip_g"), encoders)) if len(shapes) > 1 else {one: None}
    for name, width in wanted.items():
        got = shapes[name][-1]
        if got not in encoders or (width and got != width):
            raise ValueError(
                f"{name} is {got} wide; this model's text encoders are {' and '.join(map(str, encoders))}."
            )
    counts = {shape[0] if len(shape) > 1 else 1 for shape in (shapes[name] for name in wanted)}
    if len(counts) > 1:
        raise ValueError(f"its encoders have {sorted(counts)} rows: a word has as many in both.")
    return {"word": word, "rows": counts.pop()}


def _check_custom(shapes: dict[str, tuple], text_width: int) -> None:
    widths = {shape[1] for name, shape in shapes.items() if "to_k_custom_diffusion" in name and len(shape) == 2}
    if widths != {text_width}:
        got = sorted(widths)[0] if widths else 0
        raise ValueError(
            f"this is for {KNOWN.get(got, 'another model')}, whose text is {got} wide; the model is "
            f"{KNOWN.get(text_width, 'one')} that reads {text_width}."
        )


def _not_finite(path: Path, header: dict[str, dict]) -> str:
    """The first tensor that holds inf or nan."""
    import numpy as np

    with path.open("rb") as file:
        begin = 8 + int.from_bytes(file.read(8), "little")
        for name, entry in header.items():
            kind, ones = EXPONENT.get(entry["dtype"], ("", 0))
            start, end = entry["data_offsets"]
            file.seek(begin + start)
            if kind and np.any(np.frombuffer(file.read(end - start), kind) & ones == ones):
                return name
    return ""


def made_by(recipe: Recipe, folder: Path) -> tuple[SubjectFile, ...]:
    """The files that a tuning by this recipe leaves in a folder."""
    [word] = recipe.words()
    token = SubjectFile(
        file=str(folder / INVERSION_FILE), kind=INVERSION, word=word.text, rows=word.rows, instead=word.instead
    )
    if recipe.kind == INVERSION:
        return (token,)
    weights = str(folder / WEIGHTS_FILES[recipe.kind])
    if recipe.kind == CUSTOM:
        return (SubjectFile(file=weights, kind=CUSTOM), token)
    return (SubjectFile(file=weights, kind="lora", word=word.text),)
