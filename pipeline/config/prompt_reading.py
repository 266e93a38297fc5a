"""How a prompt is read: weights `(word:1.2)`, and chunks of what is longer than CLIP reads. Imports without torch."""

import re
from dataclasses import dataclass, replace

from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.config.tokens import Tokenizer, left_out, subject_positions

WEIGHTED = re.compile(r"\(([^():]+):\s*(\d+(?:\.\d+)?|\.\d+)\)")


@dataclass(frozen=True)
class Reading:
    """plain: the text without weights; chunks: what each call of the text encoders reads, in order; counts: their tokens;
    weights: position -> weight, where it is not 1. Position p of chunk c is token 77 c + p of the embeddings."""

    plain: str
    chunks: tuple[str, ...]
    counts: tuple[int, ...]
    weights: tuple[tuple[int, float], ...]


def read_prompt(text: str, tokenizer: Tokenizer, chunked: bool = False, weighted: bool = False) -> Reading:
    """Weights are read where `weighted`, else they are letters. Raises InputError for a prompt longer than the model reads
    where it is not `chunked`, as A1111 and ComfyUI do it: at word ends, each chunk with its own start and end tokens."""
    plain, spans = _unweighted(text, tokenizer) if weighted else (text, [])
    tokens = tokenizer.tokens(plain)
    if len(tokens) + 2 <= tokenizer.longest:
        chunks, counts = [plain], [len(tokens)]
    elif chunked:
        chunks, counts = _chunks(plain, tokenizer)
    else:
        raise InputError(
            f"prompt has {len(tokens) + 2} tokens, the model reads {tokenizer.longest}: "
            f'"{left_out(plain, tokenizer)}" would be cut: {plain!r}. Shorten it, or set long_prompts: chunk.'
        )
    weights = [(place(i, counts, tokenizer), w) for first, last, w in spans for i in range(first, last) if w != 1]
    return Reading(plain, tuple(chunks), tuple(counts), tuple(weights))


def place(token: int, counts, tokenizer: Tokenizer) -> int:
    """The position in the embeddings of a prompt's token, counted from 0."""
    for chunk, count in enumerate(counts):
        if token < count:
            return tokenizer.longest * chunk + 1 + token
        token -= count
    raise IndexError(token)


def positions_in(reading: Reading, concept: tuple[str, ...], tokenizer: Tokenizer) -> list[int]:
    """Positions of all tokens of the subject words, in whichever chunk. Raises InputError as `subject_positions`."""
    whole = subject_positions(reading.plain, concept, replace(tokenizer, longest=1 << 20))
    return [place(position - 1, reading.counts, tokenizer) for position in whole]


def _unweighted(text: str, tokenizer: Tokenizer) -> tuple[str, list[tuple[int, int, float]]]:
    """The text without marks, and (first token, last + 1, weight) of what was weighted."""
    plain, spans, at = "", [], 0
    for match in WEIGHTED.finditer(text):
        plain += text[at : match.start()]
        first = len(tokenizer.tokens(plain))
        plain += match[1]
        spans.append((first, len(tokenizer.tokens(plain)), float(match[2])))
        at = match.end()
    return plain + text[at:], spans


def _chunks(text: str, tokenizer: Tokenizer) -> tuple[list[str], list[int]]:
    most = tokenizer.longest - 2
    chunks, counts = [], []
    for word in text.split():
        count = len(tokenizer.tokens(word))
        if count > most:
            raise InputError(f"the word {word[:60]!r}... has {count} tokens, a chunk holds {most}: put blanks into it.")
        if counts and counts[-1] + count <= most:
            chunks[-1] += f" {word}"
            counts[-1] += count
        else:
            chunks.append(word)
            counts.append(count)
    return chunks, counts
