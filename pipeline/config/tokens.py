"""CLIP's tokens: where the subject stands in a prompt, and whether the prompt fits. Imports without torch."""

import gzip
import importlib.util
import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from svdstory.pipeline.config.strict import InputError

Tokenize = Callable[[str], list[str]]  # text -> token strings, without the start and end tokens
END_OF_WORD = "</w>"


@lru_cache
def clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's vocabulary and merges, from the file that open_clip ships (open_clip itself is not imported)."""
    folder = importlib.util.find_spec("open_clip").submodule_search_locations[0]
    lines = gzip.open(Path(folder) / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8").read().split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    from tokenizers.pre_tokenizers import ByteLevel

    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = sorted(set(ByteLevel.alphabet()) - {chr(c) for c in printable})
    characters = [chr(c) for c in printable] + others
    words = characters + [c + END_OF_WORD for c in characters] + ["".join(m) for m in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return {word: i for i, word in enumerate(words)}, merges


@lru_cache
def tokenizer_of(folder: Path | None) -> Tokenize:
    """The tokenizer in a model's `tokenizer` folder; without a folder CLIP's own."""
    from tokenizers import Tokenizer

    if folder is not None and (folder / "tokenizer.json").is_file():
        built = Tokenizer.from_file(str(folder / "tokenizer.json"))
    elif folder is not None:
        merges = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
        built = _clip_tokenizer(
            json.loads((folder / "vocab.json").read_text(encoding="utf-8")),
            [tuple(m.split()) for m in merges if m and not m.startswith("#version")],
        )
    else:
        built = _clip_tokenizer(*clip_vocabulary())
    return lambda text: built.encode(text, add_special_tokens=False).tokens


def _clip_tokenizer(vocabulary: dict[str, int], merges: list[tuple[str, str]]):
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    built = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=merges,
            end_of_word_suffix=END_OF_WORD,
            continuing_subword_prefix="",
            fuse_unk=False,
            unk_token="<|endoftext|>",
        )
    )
    built.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    built.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return built


def subject_positions(prompt: str, concept: tuple[str, ...], tokenize: Tokenize, max_length: int = 77) -> list[int]:
    """Positions of all tokens of the subject words in the encoded prompt (the start token is position 0).

    Raises InputError for a prompt without one of its words, or with more tokens than the model reads.
    """
    tokens = tokenize(prompt)
    if len(tokens) + 2 > max_length:
        cut = "".join(tokens[max_length - 2 :]).replace(END_OF_WORD, " ").strip()
        raise InputError(
            f'prompt has {len(tokens) + 2} tokens, the model reads {max_length}: "{cut}" would be cut: '
            f"{prompt!r}. Shorten it."
        )
    found: list[int] = []
    for word in concept:
        pieces = tokenize(word)
        places = [
            i
            for i in range(len(tokens) - len(pieces) + 1)
            if tokens[i : i + len(pieces)] == pieces and (i == 0 or tokens[i - 1].endswith(END_OF_WORD))
        ]
        if not places or not pieces:
            raise InputError(
                f"prompt {prompt!r} does not contain the subject word {word!r}. "
                "Name a word that stands in every prompt of the set."
            )
        found += [1 + i + j for i in places for j in range(len(pieces))]
    return sorted(set(found))
