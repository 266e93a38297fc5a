"""CLIP's tokens: where the subject stands in a prompt, and whether the prompt fits. Imports without torch."""

import gzip
import importlib.util
import json
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.config.subject_words import BEGINS_ANYWHERE, runs

END_OF_WORD = "</w>"


@dataclass(frozen=True)
class Tokenizer:
    """A CLIP tokenizer. split: text -> token strings, without the start and end tokens.

    added: tokens beside its vocabulary, as Textual Inversion adds them. longest: tokens that the model reads, start
    and end included.
    """

    split: Callable[[str], list[str]]
    added: frozenset[str] = frozenset()
    longest: int = 77

    def tokens(self, text: str) -> list[str]:
        """The tokens that the text encoders get: an added token `<x>` of several vectors is `<x> <x>_1 ...`, for which
        diffusers converts a prompt before it is encoded (TextualInversionLoaderMixin)."""
        tokens = self.split(text)
        several = [token for token in dict.fromkeys(tokens) if token in self.added and f"{token}_1" in self.added]
        for token in several:
            count = next(n for n in range(1, len(self.added) + 1) if f"{token}_{n}" not in self.added)
            text = text.replace(token, " ".join([token, *(f"{token}_{n}" for n in range(1, count))]))
        return self.split(text) if several else tokens


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
def tokenizer_of(folder: Path | None, longest: int = 77) -> Tokenizer:
    """The tokenizer in a model's `tokenizer` folder; without a folder CLIP's own."""
    from tokenizers import Tokenizer as Library

    if folder is not None and (folder / "tokenizer.json").is_file():
        built = Library.from_file(str(folder / "tokenizer.json"))
    elif folder is not None:
        merges = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
        built = _clip_tokenizer(
            json.loads((folder / "vocab.json").read_text(encoding="utf-8")),
            [tuple(m.split()) for m in merges if m and not m.startswith("#version")],
        )
        if (folder / "added_tokens.json").is_file():
            built.add_tokens(list(json.loads((folder / "added_tokens.json").read_text(encoding="utf-8"))))
    else:
        built = _clip_tokenizer(*clip_vocabulary())
    added = frozenset(token.content for token in built.get_added_tokens_decoder().values())
    return Tokenizer(lambda text: built.encode(text, add_special_tokens=False).tokens, added, longest)


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


def subject_positions(prompt: str, concept: tuple[str, ...], tokenizer: Tokenizer) -> list[int]:
    """Positions of all tokens of the subject words in the encoded prompt (the start token is position 0).

    Raises InputError for a prompt without one of its words, or with more tokens than the model reads.
    """
    tokens = tokenizer.tokens(prompt)
    if len(tokens) + 2 > tokenizer.longest:
        raise InputError(
            f"prompt has {len(tokens) + 2} tokens, the model reads {tokenizer.longest}: "
            f'"{left_out(prompt, tokenizer)}" would be cut: {prompt!r}. Shorten it.'
        )
    pieces = [_piece(token, tokenizer) for token in tokens]
    found: set[int] = set()
    for word in concept:
        spelled = "".join(_piece(token, tokenizer)[0] for token in tokenizer.tokens(word))
        places = runs(pieces, spelled, word)
        if not places:
            raise InputError(
                f"prompt {prompt!r} does not contain the subject word {word!r}. "
                "Name a word that stands in every prompt of the set."
            )
        found.update(1 + i for place in places for i in place)
    return sorted(found)


def _piece(token: str, tokenizer: Tokenizer) -> tuple[str, bool]:
    """A token's letters, and whether a word ends with it; an added token is a word of its own."""
    return token.removesuffix(END_OF_WORD), token.endswith(END_OF_WORD) or token in tokenizer.added


def left_out(prompt: str, tokenizer: Tokenizer) -> str:
    """The end of a prompt that the model wouldn't read, in the prompt's own characters and whole words."""
    ends, most = range(len(prompt) + 1), tokenizer.longest - 2
    end = bisect_right(ends, most, key=lambda end: len(tokenizer.tokens(prompt[:end]))) - 1
    blank = -1 if BEGINS_ANYWHERE.match(prompt[end:]) else prompt.rfind(" ", 0, end + 1)
    return prompt[blank if blank > 0 else end :].strip()
