"""CLIP's own byte-pair tokenizer with the part of its vocabulary that the world's captions need.

All 512 byte symbols stay, so any other word is spelled out in bytes and nothing is ever unknown. A merge that a kept
word's spelling uses is kept with its rank, so kept words tokenize exactly as CLIP's full vocabulary does.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory

from open_clip.tokenizer import SimpleTokenizer
from transformers import CLIPTokenizer

from svdstory.pipeline.miniature.world import all_captions

PROMPT_LENGTH = 32  # tokens; SDXL's 77 would cost a tenth of the training for captions of at most 18
START, END = "<|startoftext|>", "<|endoftext|>"
# Words beyond the captions that people will try: prompts of other sets stay readable, if not meaningful.
OTHER_WORDS = "an the and with of on at by to image picture painting sketch red orange yellow green blue black white"


def words_of(captions: list[str]) -> list[str]:
    """Every word of `captions` and OTHER_WORDS once, in lower case and sorted."""
    text = " ".join([*captions, OTHER_WORDS]).lower()
    return sorted(set(re.findall(r"[a-z]+", text)))


def cut_vocabulary(words: list[str]) -> tuple[dict[str, int], list[str]]:
    """Vocabulary (token -> id) and merges ("a b", best first) that spell each of `words` as CLIP does."""
    full = SimpleTokenizer()
    needed: set[tuple[str, str]] = set()
    for word in words:
        needed |= _merges_of(tuple(word[:-1]) + (word[-1] + "</w>",), full.bpe_ranks)
    merges = sorted(needed, key=full.bpe_ranks.__getitem__)
    symbols = list(full.byte_encoder.values())
    tokens = symbols + [symbol + "</w>" for symbol in symbols] + ["".join(pair) for pair in merges] + [START, END]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    return vocabulary, [" ".join(pair) for pair in merges]


def _merges_of(symbols: tuple[str, ...], ranks: dict[tuple[str, str], int]) -> set[tuple[str, str]]:
    """The merges that byte-pair encoding performs on one word."""
    used: set[tuple[str, str]] = set()
    while len(symbols) > 1:
        best = min(zip(symbols, symbols[1:]), key=lambda pair: ranks.get(pair, 10**9))
        if best not in ranks:
            break
        used.add(best)
        merged: list[str] = []
        for symbol in symbols:
            if merged and (merged[-1], symbol) == best:
                merged[-1] += symbol
            else:
                merged.append(symbol)
        symbols = tuple(merged)
    return used


def build_tokenizer(pad_token: str = END) -> CLIPTokenizer:
    """The miniature's tokenizer; SDXL's second one pads with "!". Built from files, as every transformers can."""
    with TemporaryDirectory() as folder:
        write_plain_vocabulary(Path(folder))
        return CLIPTokenizer.from_pretrained(folder, pad_token=pad_token, model_max_length=PROMPT_LENGTH)


def write_plain_vocabulary(folder: Path) -> None:
    """vocab.json and merges.txt, which every release of transformers reads, newer ones beside their tokenizer.json."""
    vocabulary, merges = cut_vocabulary(words_of(all_captions()))
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
