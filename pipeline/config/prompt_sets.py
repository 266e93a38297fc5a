"""Prompt sets: one subject in several settings. Imports without torch."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from svdstory.pipeline.config.lora import Lora
from svdstory.pipeline.config.references import MOST, Reference, subject_in_words
from svdstory.pipeline.config.strict import Strict, Text, Whole, each_once, one_line
from svdstory.pipeline.config.subject_words import normal, occurs, words_meant


class PromptSet(Strict):
    """One subject in several settings; image i shows settings[i]. Prompts read "{style} {subject} {setting}".

    concept: the subject word or words that masks follow (section 3 of the method); where a given one does not stand in
    the prompts, the subject's words that it means (subject_words.py), which `note` then says. Several subjects, given
    as a list, are joined by "and". negative: what guidance leads away from, the same for all images. loras: on the model
    while this set is drawn. references: pictures of the subject, for the methods that use some; a picture as `subject`
    is the first of them, and the concept says what it shows. anchor_settings: of the pictures that a tuned method draws
    first to learn from, where there are no references. The name, the group and where the set comes from do not change
    pixels.
    """

    style: Text
    subject: Text
    concept: tuple[Text, ...] = Field(min_length=1)
    settings: tuple[Text, ...] = Field(min_length=1)
    seeds: tuple[Whole, ...] = Field((0,), min_length=1)
    negative: Text = ""
    loras: tuple[Lora, ...] = ()
    references: tuple[Reference, ...] = ()
    anchor_settings: tuple[Text, ...] = ()
    name: Text = ""
    group: Text = ""
    origin: Literal["report", "curated", "user"] = "user"
    why: Text = ""
    note: Text = ""

    @model_validator(mode="before")
    @classmethod
    def _concept_in_subject(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        given = subject_in_words(given)
        given = given | {"subject": joined(given.get("subject"))}
        concept, settings = texts_of(given.get("concept")), texts_of(given.get("settings"))
        if not (concept and settings and isinstance(given["subject"], str) and isinstance(given.get("style"), str)):
            return given  # by their types, these are refused below
        prompts = prompts_of(given["style"], given["subject"], settings)
        meant = _meant(concept, given["subject"], prompts)
        if meant == concept:
            return given
        read = f"the concept {', '.join(concept)} was found in the subject as {', '.join(meant)}"
        return given | {"concept": meant, "note": "; ".join(part for part in (given.get("note"), read) if part)}

    @field_validator("concept", "settings", "seeds", "loras", "references", "anchor_settings", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, value):
        value = [value] if isinstance(value, (str, dict, Path, Reference)) or hasattr(value, "__index__") else value
        return tuple(value) if isinstance(value, list) else value  # strict: no list where a tuple stands

    @field_validator("group")
    @classmethod
    def _group_is_not_the_total(cls, group):
        if group.lower() == "all":
            raise ValueError("tables call all sets together so: give `group:` another word, or the folder another name")
        return group

    @field_validator("seeds")
    @classmethod
    def _each_seed_once(cls, seeds):
        each_once(list(seeds), "seed")
        return seeds

    @field_validator("references")
    @classmethod
    def _references_are_few(cls, references):
        if len(references) > MOST:
            raise ValueError(f"{len(references)} pictures, expected 1 to {MOST}: keep those that show the subject best")
        return references

    @property
    def prompts(self) -> list[str]:
        return prompts_of(self.style, self.subject, self.settings)

    @property
    def reference_prompts(self) -> list[str]:
        """What each reference picture is called: without a setting of its own, the bare style and subject."""
        return prompts_of(self.style, self.subject, [reference.setting for reference in self.references])

    @property
    def reference_hashes(self) -> tuple[str, ...]:
        return tuple(reference.sha256 for reference in self.references)

    def with_references(self, count: int) -> "PromptSet":
        """The same with the first `count` of its pictures alone: those that a method uses."""
        return (
            self if count == len(self.references) else self.model_copy(update={"references": self.references[:count]})
        )

    def content(self) -> dict:
        """What changes pixels, without what is off."""
        more = {"negative": self.negative, "loras": [lora.content() for lora in self.loras]}
        more["references"] = [reference.content() for reference in self.references]
        return {
            "style": self.style,
            "subject": self.subject,
            "concept": list(self.concept),
            "settings": list(self.settings),
            **{key: value for key, value in more.items() if value},
        }


def prompts_of(style: str, subject: str, settings) -> list[str]:
    return [" ".join(part.strip() for part in (style, subject, setting) if part.strip()) for setting in settings]


def joined(subject: Any) -> Any:
    """Several subjects in one phrase; anything else as it is."""
    several = isinstance(subject, (list, tuple)) and subject and all(isinstance(one, str) for one in subject)
    return " and ".join(subject) if several else subject


def texts_of(value: Any) -> tuple[str, ...]:
    """A text, or a list of nothing but texts, as normal texts; empty for anything else."""
    value = (value,) if isinstance(value, str) else value
    fine = isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value)
    return tuple(one_line(one) for one in value) if fine else ()


def _meant(concept: tuple[str, ...], subject: str, prompts: list[str]) -> tuple[str, ...]:
    """The concept in the words of the prompts. Raises ValueError for one that doesn't stand there in any form.

    A part of a word (`ox` in fox) stays: it is refused by the model's own tokens, where the prompts are checked.
    """
    meant: list[str] = []
    for one in concept:
        if all(occurs(one, prompt) for prompt in prompts):
            meant.append(one)
            continue
        found = words_meant(one, one_line(subject)) or ((one,) if one and normal(one) in normal(prompts[0]) else ())
        if not found:
            raise ValueError(
                f"the concept {one!r} does not occur in the prompt {prompts[0]!r}: name a word of the subject"
            )
        meant += found
    return tuple(dict.fromkeys(meant))
