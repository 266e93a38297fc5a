"""Subject words: where a concept stands in a text, and which words of the subject are meant where it doesn't.

CLIP reads lower-case letters in Unicode's composed form (NFC) without regard to white space, and so does this.
"""

import re
import unicodedata
from collections.abc import Sequence

CLIP_WORDS = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|[^\s\w]+|_")
WORDS = re.compile(r"[^\W_]+")
FUNCTION_WORDS = {
    "a",
    "an",
    "the",
    "of",
    "and",
    "or",
    "with",
    "in",
    "on",
    "at",
    "by",
    "for",
    "from",
    "to",
    "his",
    "her",
}
IRREGULAR = {"men": "man", "children": "child", "mice": "mouse", "geese": "goose", "feet": "foot", "teeth": "tooth"}
IRREGULAR |= {"women": "woman", "people": "person", "oxen": "ox", "lice": "louse", "dice": "die"}
ENDINGS = (
    ("s", ""),
    ("es", ""),
    ("ies", "y"),
    ("ves", "f"),
    ("ves", "fe"),
    ("ing", ""),
    ("ing", "e"),
    ("ed", ""),
    ("ed", "e"),
)
UNSPACED = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
BEGINS_ANYWHERE = re.compile(f"[{UNSPACED}]")  # Thai, Lao, Tibetan, Burmese, Khmer, kana, Han: no blanks between words
ENDS_ANYWHERE = re.compile(f"[{UNSPACED}\uac00-\ud7af\u1100-\u11ff]")  # and Korean, whose particles are written on


def normal(text: str) -> str:
    """As CLIP's tokenizer begins: composed and in lower case."""
    return unicodedata.normalize("NFC", text).lower()


def runs(pieces: Sequence[tuple[str, bool]], wanted: str, concept: str) -> list[range]:
    """Where `wanted` stands in the pieces laid end to end: the numbers of the pieces that it covers, wholly or in part.

    A piece is (text, whether a word ends with it). `concept` is what `wanted` spells: in scripts without blanks it may
    begin and end inside a piece, else it covers whole words.
    """
    begins, ends, at, start = [], [], 0, True  # of each piece: where it begins, if a word does; where it ends
    for text, last in pieces:
        begins.append(start)
        ends.append(at := at + len(text))
        start = last
    whole, concept = "".join(text for text, _ in pieces), normal(concept).strip()
    found, place = [], whole.find(wanted) if wanted else -1
    while place >= 0:
        stop = place + len(wanted)
        first = next(i for i, end in enumerate(ends) if end > place)
        last = next(i for i, end in enumerate(ends) if end >= stop)
        fits_left = begins[first] and ends[first] - len(pieces[first][0]) == place
        fits_right = pieces[last][1] and ends[last] == stop
        if (fits_left or BEGINS_ANYWHERE.match(concept)) and (fits_right or ENDS_ANYWHERE.match(concept[-1])):
            found.append(range(first, last + 1))
        place = whole.find(wanted, place + 1)
    return found


def occurs(concept: str, text: str) -> bool:
    """Whether the concept stands in the text word by word."""
    pieces = [(word, True) for word in CLIP_WORDS.findall(normal(text))]
    return bool(runs(pieces, "".join(CLIP_WORDS.findall(normal(concept))), concept))


def words_meant(concept: str, subject: str) -> tuple[str, ...]:
    """The subject's words that a concept means which doesn't stand there itself: found apart, in another order,
    inflected, joined by _ or - or not at all. Neighbours are one phrase. Empty where none of its words is found.
    """
    own = list(WORDS.finditer(unicodedata.normalize("NFC", subject)))
    asked = WORDS.findall(normal(concept))
    asked = [word for word in asked if word not in FUNCTION_WORDS] or asked
    numbers = sorted({i for word in asked for i in _like(word, [match[0].lower() for match in own])})
    if not numbers:
        joined = "".join(asked)
        numbers = [i for i, match in enumerate(own) if match[0].lower() == joined]
    phrases: list[tuple[int, int]] = []
    for i in numbers:
        if phrases and phrases[-1][1] == i - 1:
            phrases[-1] = (phrases[-1][0], i)
        else:
            phrases.append((i, i))
    composed = unicodedata.normalize("NFC", subject)
    return tuple(composed[own[first].start() : own[last].end()] for first, last in phrases)


def _like(word: str, own: list[str]) -> list[int]:
    """Numbers of the words that are this one, an inflection of it, or that it joins."""
    for alike in (
        lambda other: other == word,
        lambda other: stems(other) & stems(word),
        lambda other: akin(other, word),
    ):
        found = [i for i, other in enumerate(own) if alike(other)]
        if found:
            return found
    return next(([i, i + 1] for i in range(len(own) - 1) if own[i] + own[i + 1] == word), [])


def bare(word: str) -> str:
    """Without accents."""
    return "".join(c for c in unicodedata.normalize("NFD", word) if not unicodedata.combining(c))


def stems(word: str) -> set[str]:
    """What the word may be an English plural or participle of, itself too: `wolves` also `wolf`."""
    letters = IRREGULAR.get(bare(word), bare(word))
    shorter = {letters.removesuffix(end) + instead for end, instead in ENDINGS if letters.endswith(end)}
    return {letters} | {one for one in shorter if len(one) >= 3 or letters == one + "s"}


def akin(one: str, other: str) -> bool:
    """Whether two words differ in a short ending alone, as in languages that inflect: лиса, лису."""
    least, most = (4, 2) if one.isascii() and other.isascii() else (3, 3)  # letters in common; of the ending
    one, other = bare(one), bare(other)
    common = next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))
    longest = max(len(one), len(other))
    return common >= max(least, 0.6 * longest) and longest - common <= most
