"""Users' words as names: of files, and of what LaTeX refers to."""

from collections.abc import Iterable

from svdstory.pipeline.config.prompt_files import slug


def safe_names(words: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """Each word's safe name, without ending; no two are alike, nor one of `taken`, whatever the case of the file system."""
    names: dict[str, str] = {}
    for word in words:
        name, n = slug(word), 2
        while name in names.values() or name in taken:
            name, n = f"{slug(word)}-{n}", n + 1
        names[word] = name
    return names
