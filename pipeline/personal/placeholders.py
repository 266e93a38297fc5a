"""Textual Inversion (arXiv 2208.01618) in both of SDXL's text encoders: tokens whose rows stand beside the tables.

No table is resized or written to. An encoder is called with known ids in the tokens' places, and a hook on its embedding
puts their rows there: no other row can move, and the pooled text is still read at the end token, which CLIP finds as the
highest id. V rows of a word, D channels of an encoder.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.config.tuning import Word

Rows = tuple[Tensor, Tensor]  # (V, D) of each encoder
TOKENIZERS, ENCODERS = ("tokenizer", "tokenizer_2"), ("text_encoder", "text_encoder_2")


@contextmanager
def placeholders(pipe, words: Mapping[Word, Rows]) -> Iterator[None]:
    """The words on the pipeline's tokenizers, their rows in its encoders; all is as it was on exit."""
    if not words:
        yield
        return
    check_encoders(pipe)
    own = {name: getattr(pipe, name) for name in TOKENIZERS}
    hooks = []
    try:
        for name, encoder, rows in zip(TOKENIZERS, ENCODERS, zip(*words.values())):
            known = copy.deepcopy(own[name])
            tokens = [token for word in words for token in word.tokens]
            known.add_tokens(tokens)
            setattr(pipe, name, known)
            hooks += _attach(getattr(pipe, encoder), known.convert_tokens_to_ids(tokens), rows)
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for name, tokenizer in own.items():
            setattr(pipe, name, tokenizer)


def _attach(encoder: torch.nn.Module, ids: list[int], rows: tuple[Tensor, ...]) -> list:
    if ids != list(range(ids[0], ids[0] + len(ids))):
        raise RuntimeError(f"the tokenizer gave {ids} for new tokens, expected numbers in a row")
    place = _Place(ids[0], rows)
    return [
        encoder.register_forward_pre_hook(place.known_ids, with_kwargs=True),
        encoder.get_input_embeddings().register_forward_hook(place.put),
    ]


@dataclass
class _Place:
    """Where the tokens stand in the call at hand."""

    first: int  # id
    rows: tuple[Tensor, ...]
    numbers: Tensor | None = None  # of the input: the token's number, negative where there is none

    def known_ids(self, encoder, args, kwargs):
        ids = args[0] if args else kwargs["input_ids"]
        self.numbers = ids - self.first
        known = torch.where(self.numbers < 0, ids, 0)
        return ((known, *args[1:]), kwargs) if args else (args, {**kwargs, "input_ids": known})

    def put(self, embedding, args, out: Tensor) -> Tensor:
        numbers = self.numbers
        if numbers is None or numbers.shape != out.shape[:-1]:
            return out
        rows = torch.cat(self.rows).to(out)
        return torch.where((numbers < 0)[..., None], out, rows[numbers.clamp(min=0)])


def check_encoders(pipe) -> None:
    """Raises InputError for a pipeline with one text encoder."""
    if getattr(pipe, "text_encoder_2", None) is None:
        raise InputError(f"tuned subjects are for SDXL's two text encoders: {type(pipe).__name__} has one.")


def embedding_of(pipe, word: str) -> Rows:
    """(1, D) of each encoder: the word's first token's row. Raises InputError as check_encoders does."""
    check_encoders(pipe)
    found = []
    for name, encoder in zip(TOKENIZERS, ENCODERS):
        first = getattr(pipe, name)(word, add_special_tokens=False).input_ids[0]
        found.append(getattr(pipe, encoder).get_input_embeddings().weight[first : first + 1].detach().float().cpu())
    return tuple(found)
