"""A user's function that draws a prompt set: imported from the text that the method carries, called, its pictures checked.

    def generate(model, prompts, *, seed, steps, guidance, size, scheduler, switches, on_step):
        return model.pipe(prompts.prompts, num_inference_steps=steps, guidance_scale=guidance, ...).images

model: `model.pipe` is a stock StableDiffusionXLPipeline on `model.device`, its scheduler the study's. prompts: a
PromptSet (`prompts.prompts`, `.subject`, `.settings`, ...). size: (width, height). switches: what the experiment's `set`
says. on_step: to be called after each step, with anything; it can be given to diffusers as `callback_on_step_end`.
Returns B pictures (PIL), or (pictures, masks): masks (B, h, w) of the subject, of any size, for the metrics of subject
and background.
"""

import importlib
import linecache
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import PurePath

import torch
from PIL import Image

from svdstory.pipeline.config.brought import OwnFunction
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.decoding import NotFinite
from svdstory.pipeline.lending import lent
from svdstory.pipeline.models.load import Model


def draw(
    function: OwnFunction,
    model: Model,
    prompts: PromptSet,
    *,
    seed: int,
    scheduler: str,
    made_scheduler,
    size: tuple[int, int],
    on_step: Callable | None,
    **setting,
) -> tuple[list[Image.Image], torch.Tensor | None]:
    """The function's pictures, and its masks (B, h, w) uint8 where it returns some. The model is as it was afterwards.

    Raises what the function raises, TypeError or ValueError for what are no B pictures of the size, and NotFinite for
    a constant one.
    """

    def stepped(*anything, **more) -> dict:
        if on_step:
            on_step(anything[1] if len(anything) > 1 else None)
        return {}

    with imported(function) as call, lent(model, made_scheduler, seed):
        given = dict(seed=seed, scheduler=scheduler, size=size, switches=dict(function.set), on_step=stepped, **setting)
        made = call(model, prompts, **given)
    pictures, masks = made if isinstance(made, tuple) and len(made) == 2 and not _is_picture(made[1]) else (made, None)
    return checked(pictures, len(prompts.settings), size), masks if masks is None else checked_masks(
        masks, len(pictures)
    )


def checked(pictures, count: int, size: tuple[int, int]) -> list[Image.Image]:
    """RGB pictures, as many as settings and of the study's size."""
    if not isinstance(pictures, (list, tuple)) or not all(map(_is_picture, pictures)):
        raise TypeError(f"the function returned {_kind(pictures)}, expected a list of PIL pictures: pipe(...).images")
    if len(pictures) != count:
        raise ValueError(f"the function returned {len(pictures)} pictures for {count} prompts")
    for i, picture in enumerate(pictures):
        if picture.size != tuple(size):
            raise ValueError(
                f"picture {i} of the function is {picture.width}×{picture.height}, not {size[0]}×{size[1]}"
            )
    pictures = [picture.convert("RGB") for picture in pictures]
    constant = [i for i, picture in enumerate(pictures) if all(low == high for low, high in picture.getextrema())]
    if constant:
        raise NotFinite(f"picture {constant[0]} of the function is constant")
    return pictures


def checked_masks(masks, count: int) -> torch.Tensor:
    masks = torch.as_tensor(masks).detach().to("cpu")
    if masks.ndim != 3 or len(masks) != count:
        raise ValueError(f"the function's masks are {tuple(masks.shape)}, expected ({count}, h, w)")
    return (masks > 0.5 if masks.is_floating_point() else masks != 0).to(torch.uint8).contiguous()


@contextmanager
def imported(function: OwnFunction) -> Iterator[Callable]:
    """The function, its modules imported afresh from the text; afterwards none of them is left."""
    sources, main = Sources(function.sources), PurePath(function.file).stem
    hidden = {name: sys.modules.pop(name) for name in sources.modules if name in sys.modules}
    sys.meta_path.insert(0, sources)
    try:
        yield getattr(importlib.import_module(main), function.name)
    finally:
        sys.meta_path.remove(sources)
        for name in sources.modules:
            sys.modules.pop(name, None)
        sys.modules.update(hidden)


class Sources(MetaPathFinder, Loader):
    """Modules from texts: path -> text. Folders without a text of their own are packages too."""

    def __init__(self, texts: dict[str, str]):
        self.modules: dict[str, tuple[str, str, bool]] = {}  # name -> path, text, whether it is a package
        for path, text in texts.items():
            parts = PurePath(path).with_suffix("").parts
            package = parts[-1] == "__init__" and len(parts) > 1
            self.modules[".".join(parts[:-1] if package else parts)] = (path, text, package)
            for length in range(1, len(parts)):
                self.modules.setdefault(".".join(parts[:length]), (path, "", True))

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        if name not in self.modules:
            return None
        where, _, package = self.modules[name]
        return spec_from_loader(name, self, origin=where, is_package=package)

    def create_module(self, spec: ModuleSpec) -> None:
        return None  # a module as any other

    def exec_module(self, module) -> None:
        path, text, _ = self.modules[module.__name__]
        # tracebacks show this text, whatever file or earlier function has the same name
        linecache.cache[path] = len(text), None, text.splitlines(keepends=True), path
        exec(compile(text, path, "exec"), module.__dict__)


def _is_picture(one) -> bool:
    return isinstance(one, Image.Image)


def _kind(found) -> str:
    if isinstance(found, (list, tuple)):
        return (
            f"a {type(found).__name__} of {', '.join(dict.fromkeys(type(one).__name__ for one in found)) or 'nothing'}"
        )
    return f"a {type(found).__name__}"
