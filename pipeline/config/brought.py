"""Methods that a user brings: a Python function, or pictures made elsewhere. Imports without torch."""

from typing import Any

from pydantic import Field

from svdstory.pipeline.config.strict import Strict, digest

ELSEWHERE = " (made elsewhere)"  # ends such a method's name: no table, grid or file can lose it


class OwnFunction(Strict):
    """A function of the user's that draws a prompt set (pipeline/own_function.py calls it).

    The record holds the code itself, so that whatever carries it carries the very files. file: the one that holds the
    function, a path in `sources`. sources: it and the modules beside it that it imports, path -> text. set: handed to
    the function as `switches`.
    """

    file: str
    name: str
    sources: dict[str, str]
    set: dict[str, Any] = {}

    def content(self) -> dict:
        """What changes pixels: all but where the file lies and how it is called."""
        texts = {"" if path == self.file else path: text for path, text in self.sources.items()}
        return {"name": self.name, "sha256": digest(texts), "set": self.set}


class OwnPictures(Strict):
    """Pictures that another tool made, and masks of their subject where there are some.

    pictures, masks: paths, relative to `folder`, with {set}, {seed} and {image} (from 0) in them.
    """

    folder: str
    pictures: str
    masks: str | None = Field(None)
