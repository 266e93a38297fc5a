"""A subject on a model: its files applied for the length of a `with`, wholly or not at all, and everything put back."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from safetensors.torch import load_file

from svdstory.pipeline.config.lora import Lora
from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.config.tuning import CUSTOM, INVERSION, SubjectFile, Word
from svdstory.pipeline.models.adapters import adapted
from svdstory.pipeline.models.load import Model
from svdstory.pipeline.models.weight_files import file_hash
from svdstory.pipeline.personal.custom_diffusion import CustomWeights, weights_in
from svdstory.pipeline.personal.placeholders import ENCODERS, Rows, embedding_of, placeholders


@contextmanager
def personalised(model: Model, files: Sequence[SubjectFile], initial: str = "") -> Iterator[None]:
    """The files, as located (models/subject_files.py), on the model: LoRA unfused, Custom Diffusion's matrices in the
    place of its own, tokens with their rows. Prompts name them as `worded` writes them (config/tuning.py).

    initial: the word whose embedding stands in an encoder that a Textual Inversion has no rows for. On exit, also after an
    error, weights, tokenizers, hooks and adapters are as before, bit for bit. Raises InputError for a file of which
    anything finds no place.
    """
    model.encoded.clear()  # the same words mean something else under another subject
    pipe = model.pipe
    try:
        with ExitStack() as stack:
            for file in files:
                if file.sha256 and file_hash(Path(file.file)).hex() != file.sha256:
                    raise InputError(f"{file.file}: changed since the plan. Put the old file back, or plan anew.")
                if file.kind == CUSTOM:
                    weights = weights_in(load_file(file.file), file.file)
                    stack.enter_context(CustomWeights(pipe.unet, weights, file.file))
            words = {
                word: rows_of(pipe, file, initial) for file in files if file.kind == INVERSION for word in file.words()
            }
            stack.enter_context(placeholders(pipe, words))
            loras = [Lora(file=file.file, scale=file.scale) for file in files if file.kind == "lora"]
            stack.enter_context(adapted(pipe, loras, prefix="subject"))
            model.wears += 1
            try:
                yield
            finally:
                model.wears -= 1
    finally:
        model.encoded.clear()


def rows_of(pipe, file: SubjectFile, initial: str) -> Rows:
    """(V, D) of each encoder, in float32 on its device. Raises InputError for rows of another width."""
    tensors = load_file(file.file)
    encoders = [getattr(pipe, name) for name in ENCODERS]
    widths = [encoder.get_input_embeddings().weight.shape[1] for encoder in encoders]
    if not {"clip_l", "clip_g"} <= tensors.keys():
        [[name, rows]] = tensors.items()
        rows = rows.reshape(-1, rows.shape[-1])
        if rows.shape[1] not in widths:
            raise InputError(f"{file.file}: {name} is {rows.shape[1]} wide, this model's encoders {widths}.")
        which = widths.index(rows.shape[1])
        own = embedding_of(pipe, initial or file.word)
        found = [rows if n == which else own[n].repeat(len(rows), 1) for n in range(2)]
    else:
        found = [tensors["clip_l"], tensors["clip_g"]]
    for name, rows, width in zip(ENCODERS, found, widths):
        if rows.ndim != 2 or rows.shape[1] != width:
            raise InputError(
                f"{file.file}: rows of {tuple(rows.shape)}, expected (V, {width}) for this model's {name}."
            )
    return tuple(rows.float().to(encoder.device) for rows, encoder in zip(found, encoders))


def as_words(files: Sequence[SubjectFile]) -> tuple[Word, ...]:
    """What stands in prompts for the subject."""
    return tuple(word for file in files for word in file.words())
