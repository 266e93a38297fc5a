"""How a method learns a subject: a recipe of tuning, or files that hold what another tuning learned. No torch.

Textual Inversion (arXiv 2208.01618), DreamBooth (2208.12242) by LoRA (2106.09685), Custom Diffusion (2212.04488).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from svdstory.pipeline.config.documents import expanded
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.strict import InputError, Strict, Text
from svdstory.pipeline.config.subject_words import occurs
from svdstory.pipeline.config.tokens import Tokenizer

INVERSION, DREAMBOOTH, CUSTOM = KINDS = ("textual-inversion", "dreambooth-lora", "custom-diffusion")
WORDS = {INVERSION: "<subject>", DREAMBOOTH: "sks", CUSTOM: "<new1>"}
INVERSION_FILE = "learned_embeds.safetensors"  # files as diffusers names them
WEIGHTS_FILES = {DREAMBOOTH: "pytorch_lora_weights.safetensors", CUSTOM: "pytorch_custom_diffusion_weights.safetensors"}
BELONGS = {"rank": (DREAMBOOTH,), "vectors": (INVERSION,), "row_rate": (CUSTOM,)}
BELONGS |= {"prior_weight": (DREAMBOOTH, CUSTOM), "class_images": (DREAMBOOTH, CUSTOM)}
PRIOR = ("prior_weight", "class_images")


class Recipe(Strict):
    """How a subject is tuned; what is unset is the model's (models.yaml).

    updates: of AdamW, each over so many `pictures`, drawn from the subject's. rate: AdamW's; row_rate: of the token's
    rows (Custom Diffusion). rank: of LoRA, its alpha too. vectors: rows of the token (Textual Inversion). prior_weight:
    of the loss on class_images pictures that the model draws of the subject's plain words; 0 without. word: the subject's
    name in prompts. Of a set without references anchor_images pictures are drawn first, by anchor_method. seed: whether
    one subject serves all seeds of a set; unset: it does where pictures are given.
    """

    kind: Literal[KINDS]
    updates: int | None = Field(None, ge=1)
    pictures: int | None = Field(None, ge=1)
    rate: float | None = Field(None, gt=0)
    row_rate: float | None = Field(None, gt=0)
    rank: int | None = Field(None, ge=1)
    vectors: int | None = Field(None, ge=1, le=16)
    prior_weight: float | None = Field(None, ge=0)
    class_images: int | None = Field(None, ge=0)
    word: Text | None = None
    anchor_images: int | None = Field(None, ge=2, le=20)
    anchor_method: Text | None = None
    seed: Literal["shared", "unit"] | None = None

    @model_validator(mode="after")
    def _belongs(self):
        for key, kinds in BELONGS.items():
            if getattr(self, key) and self.kind not in kinds:
                raise ValueError(f"{key} would do nothing: it belongs to {' and '.join(kinds)}, not to {self.kind}")
        said = [getattr(self, key) for key in PRIOR]
        if (None not in said or self.kind == DREAMBOOTH) and bool(said[0]) != bool(said[1]):
            raise ValueError(f"prior_weight {said[0]} and class_images {said[1]}: one does nothing without the other")
        if self.word is not None:
            check_word(self.word, placeholder=self.kind != DREAMBOOTH)
        return self

    def resolved(self, defaults: dict[str, dict], model: str) -> "Recipe":
        """With the model's values where it says nothing. Raises InputError for a model without, where some are unset."""
        more = {"word": WORDS[self.kind], "anchor_images": 4, "anchor_method": "consistory"}
        off = {"prior_weight": 0.0, "class_images": 0} if self.kind != INVERSION else {}
        own = self.model_dump(exclude_none=True)
        whole = {**more, **off, **defaults.get(self.kind, {}), **own}
        needed = ["updates", "pictures", "rate", *(key for key, kinds in BELONGS.items() if kinds == (self.kind,))]
        lacking = [key for key in needed if whole.get(key) is None]
        if lacking:
            raise InputError(
                f"tuning: {self.kind}: no values are known for model {model}. Give {', '.join(lacking)} under `tuning`."
            )
        try:
            return Recipe(**whole)
        except ValueError as error:
            raise InputError(f"tuning: {self.kind} with model {model}'s values: {error}") from None

    def words(self) -> tuple["Word", ...]:
        """What stands in prompts for the subject."""
        rows = {INVERSION: self.vectors or 1, DREAMBOOTH: 0, CUSTOM: 1}[self.kind]
        return (Word(self.word or WORDS[self.kind], rows, instead=self.kind == INVERSION),)


class SubjectFile(Strict):
    """A file that a user brings, or that a tuning made: .safetensors. scale: of a LoRA.

    word: the subject's name in prompts; a Textual Inversion's stands instead of the concept's first word, any other
    before the concept. The rest is found from the file when it is planned: sha256, kind, rows of the word, and whether it
    stands instead; a key has the content alone.
    """

    file: Text = Field(min_length=1)
    word: Text = ""
    scale: float = 1.0
    kind: Literal["", "textual-inversion", "lora", "custom-diffusion"] = ""
    sha256: str = ""
    rows: int = 0
    instead: bool = False

    def content(self) -> dict:
        """What changes pixels."""
        scale = {"scale": self.scale} if self.scale != 1 else {}
        return {"sha256": self.sha256 or self.file, "word": self.word, **scale}

    def near(self, folder: Path) -> "SubjectFile":
        """Named from `folder`, where it lies there."""
        file = folder.resolve() / expanded(self.file)
        return self.model_copy(update={"file": str(file)}) if file.is_file() else self

    def words(self) -> tuple["Word", ...]:
        return (Word(self.word, self.rows, self.instead),) if self.word else ()


def _which(value: Any) -> str:
    return "files" if isinstance(value, tuple) else "recipe"


Tuning = Annotated[
    Annotated[Recipe, Tag("recipe")] | Annotated[tuple[SubjectFile, ...], Field(min_length=1), Tag("files")],
    Discriminator(_which),
]


@dataclass(frozen=True)
class Word:
    """A subject's name in prompts: an ordinary word (no rows), or a token of so many rows of its own, written once:
    diffusers and our Tokenizer read `<subject>` as `<subject> <subject>_1 ...`. It stands before the concept, or
    instead of its first word."""

    text: str
    rows: int = 0
    instead: bool = False

    @property
    def tokens(self) -> list[str]:
        return [self.text, *(f"{self.text}_{i}" for i in range(1, self.rows))] if self.rows else []


def check_word(word: str, placeholder: bool) -> None:
    """Raises ValueError for what is no single word, and for a placeholder with capitals."""
    if not word or word.split() != [word]:
        raise ValueError(f"word {word!r}: expected a single word, as {WORDS[INVERSION if placeholder else DREAMBOOTH]}")
    if placeholder and word != word.lower():
        raise ValueError(f"word {word!r}: CLIP reads lower-case letters. Write {word.lower()!r}")


def worded(prompts: PromptSet, words: Sequence[Word]) -> PromptSet:
    """The set with the subject's words in its subject and concept. Raises InputError where they find no place, or stand
    in the prompts already."""
    for word in words:
        there = next((p for p in prompts.prompts if (word.text in p if word.rows else occurs(word.text, p))), None)
        if there is not None:
            raise InputError(f"the word {word.text!r} stands in the prompt {there!r} already. Choose another `word`.")
        prompts = _with(prompts, word)
    return prompts


def _with(prompts: PromptSet, word: Word) -> PromptSet:
    concept = prompts.concept[0]
    target = first_word(prompts) if word.instead else concept
    found = re.search(r"(?<!\w)" + r"\s+".join(map(re.escape, target.split())) + r"(?!\w)", prompts.subject, re.I)
    found = found or re.search(re.escape(target), prompts.subject, re.I)
    if not found:
        raise InputError(
            f"the subject {prompts.subject!r} does not contain {target!r}, where the word {word.text!r} would stand. "
            "Name a word of the subject as `concept`."
        )
    start, end = found.span()
    said = word.text if word.instead else f"{word.text} {found[0]}"
    subject = f"{prompts.subject[:start]}{said}{prompts.subject[end:]}"
    renamed = re.compile(r"(?<!\w)" + re.escape(target) + r"(?!\w)", re.I)
    changed = tuple(renamed.sub(lambda _: word.text, one, count=1) for one in prompts.concept)
    return prompts.model_copy(update={"subject": subject, "concept": changed if word.instead else prompts.concept})


def first_word(prompts: PromptSet) -> str:
    """The concept's first word: a Textual Inversion begins at it and stands instead of it."""
    return prompts.concept[0].split()[0]


def knowing(tokenizer: Tokenizer, words: Sequence[Word]) -> Tokenizer:
    """The tokenizer with the words' tokens added, without the model. Raises InputError for one that it has already."""
    added = [token for word in words for token in word.tokens]
    if not added:
        return tokenizer
    for token in added:
        if token in tokenizer.added or [t.removesuffix("</w>") for t in tokenizer.split(token)] == [token]:
            raise InputError(f"the word {token!r} is in the model's vocabulary already. Choose another `word`.")
    form = re.compile("(" + "|".join(map(re.escape, sorted(added, key=len, reverse=True))) + ")")

    def split(text: str) -> list[str]:
        parts = form.split(text)
        return [t for part in parts for t in ([part] if part in added else tokenizer.split(part) if part else [])]

    return Tokenizer(split, tokenizer.added | set(added), tokenizer.longest)
