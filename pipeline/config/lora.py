"""A LoRA as a user names it. Imports without torch."""

from pathlib import Path

from pydantic import Field

from svdstory.pipeline.config.documents import expanded
from svdstory.pipeline.config.strict import Strict, Text


class Lora(Strict):
    """A low-rank change of a model's weights (arXiv 2106.09685): `scale` times it is added.

    file: a .safetensors file; in models.yaml, inside `repository` of the hub at `revision`. sha256: its content, found
    when it is planned; a unit's key has it instead of the name.
    """

    file: Text = Field(min_length=1)
    scale: float = 1.0
    repository: str | None = None
    revision: str | None = None
    sha256: str = ""

    def near(self, folder: Path) -> "Lora":
        """Named from `folder`, where it lies there."""
        file = folder.resolve() / expanded(self.file)
        return self.model_copy(update={"file": str(file)}) if file.is_file() else self

    def content(self) -> dict:
        """What changes pixels."""
        return {"sha256": self.sha256 or self.file, "scale": self.scale}
