"""One-Prompt-One-Story's texts: the identity and several frames in one, and where each stands. Imports without torch.

A set is an identity prompt P_0 (style and subject) and frames P_1..P_N (the settings), an image each. Positions count
CLIP's 77 tokens, the start token being 0; a span is [first, last + 1].
"""

from dataclasses import dataclass

from svdstory.pipeline.config.families import OnePrompt
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.config.tokens import Tokenizer, left_out

WORDS = 77  # frames are counted while the text has fewer words than this, as published

Span = tuple[int, int]


@dataclass(frozen=True)
class Consolidated:
    """One image's text. express: its own frame's span; suppress: the others', in the order of the text; None: a frame
    that CLIP cuts off has no span. end: the first end token. elsewhere: frames that are found not at their own place
    but inside an earlier phrase; within_identity: those found inside P_0."""

    prompt: str
    identity: Span
    express: Span | None
    suppress: tuple[Span | None, ...]
    end: int
    elsewhere: tuple[str, ...] = ()
    within_identity: tuple[str, ...] = ()


def window(identity: str, frames: list[str], length: int) -> int:
    """w: how many frames stand in a text. Raises InputError where the identity alone is too long for any."""
    text, counted = identity, 0
    for frame in frames:
        text = f"{text} {frame}"
        if len(text.split()) >= WORDS:
            break
        counted += 1
    if not counted:
        raise InputError(f"{text!r} has {WORDS} words or more: no setting fits beside the identity. Shorten them.")
    return min(length, counted)


def consolidate(identity: str, frames: list[str], length: int, tokenizer: Tokenizer) -> list[Consolidated]:
    """The text of each image, (N) Consolidated: all frames where they fit in the window, else its own and the next
    ones, in a circle. Texts that are too long are cut as CLIP cuts them: `consolidate_set` refuses them."""
    width, n = window(identity, frames, length), len(frames)
    texts = []
    for j in range(n):
        chosen = [k if width == n else (j + k) % n for k in range(width)]
        texts.append(_located(identity, [frames[k] for k in chosen], chosen.index(j), tokenizer))
    return texts


def _located(identity: str, phrases: list[str], own: int, tokenizer: Tokenizer) -> Consolidated:
    prompt = " ".join([identity, *phrases])
    tokens = tokenizer.tokens(prompt)[: tokenizer.longest - 2]
    spans = [_first(tokenizer.tokens(phrase), tokens) for phrase in (identity, *phrases)]
    places, place = [], 1 + len(tokenizer.tokens(identity))
    for phrase in phrases:
        places.append(place)
        place += len(tokenizer.tokens(phrase))
    identity_span, *of_phrases = spans
    moved = [(p, s) for p, s, at in zip(phrases, of_phrases, places) if s is not None and s[0] != at]
    return Consolidated(
        prompt,
        identity_span or (1, 1 + len(tokens)),
        of_phrases[own],
        tuple(span for k, span in enumerate(of_phrases) if k != own),
        1 + len(tokens),
        tuple(phrase for phrase, _ in moved),
        tuple(phrase for phrase, span in moved if identity_span is not None and span[0] < identity_span[1]),
    )


def _first(phrase: list[str], tokens: list[str]) -> Span | None:
    """Where the phrase's tokens stand in full for the first time."""
    for i in range(len(tokens) - len(phrase) + 1):
        if phrase and tokens[i : i + len(phrase)] == phrase:
            return 1 + i, 1 + i + len(phrase)
    return None


def consolidate_set(prompts: PromptSet, switches: OnePrompt, tokenizer: Tokenizer) -> list[Consolidated]:
    """The texts of a set. Raises InputError for one that CLIP would cut, with the words, and for an empty setting."""
    frames = [setting.strip() for setting in prompts.settings]
    if not all(frames):
        raise InputError(f"setting {frames.index('') + 1} is empty: there is nothing for its image to express.")
    texts = consolidate(identity_of(prompts), frames, switches.window_length, tokenizer)
    for image, text in enumerate(texts):
        length = len(tokenizer.tokens(text.prompt)) + 2
        if length > tokenizer.longest:
            raise InputError(
                f"the text of image {image + 1} has {length} tokens, the model reads {tokenizer.longest}: "
                f'"{left_out(text.prompt, tokenizer)}" would be cut: {text.prompt!r}. '
                f"Lower oneprompt.window_length (now {switches.window_length}) or shorten the "
                "settings."
            )
        if text.within_identity and switches.reweighting and switches.identity_attention:
            raise InputError(
                f"the setting {text.within_identity[0]!r} also stands inside {identity_of(prompts)!r}, where reweighting "
                "would find it: the identity would be weakened. Word one of them differently."
            )
    return texts


def identity_of(prompts: PromptSet) -> str:
    """P_0: style and subject."""
    return " ".join(part.strip() for part in (prompts.style, prompts.subject) if part.strip())
