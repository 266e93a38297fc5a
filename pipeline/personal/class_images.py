"""Pictures that the model draws itself before a subject is tuned: of the class, and anchors where there are no photos."""

from PIL import Image

from svdstory.pipeline.config.methods import Method
from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.strict import digest
from svdstory.pipeline.config.tuning import Recipe
from svdstory.pipeline.generation import generate
from svdstory.pipeline.models.load import Model
from svdstory.pipeline.personal.examples import Examples

AT_ONCE = 2  # images in a UNet call: a set of twenty would not fit a card


def class_examples(model: Model, prompts: PromptSet, recipe: Recipe, key: str, size: tuple[int, int]) -> list[Examples]:
    """For prior preservation: class_images plain pictures of `{style} {subject}`, by plain sampling without the set's LoRA
    and negative prompt; no examples where the recipe has none."""
    if not recipe.prior_weight:
        return []
    plain = prompts.model_copy(
        update={"settings": ("",) * recipe.class_images, "negative": "", "loras": (), "references": ()}
    )
    images = generate(model, plain, Method(), seed=seed_of("class", key), size=size, micro_batch=AT_ONCE).images
    return [Examples.of(model, images, plain.prompts, recipe.prior_weight)]


def anchor_pictures(model: Model, prompts: PromptSet, recipe: Recipe, seed: int, **sampling) -> list[Image.Image]:
    """Pictures of one subject, where there are no photos: by anchor_method, in the set's anchor settings."""
    settings = anchor_settings(prompts, recipe)
    drawn = prompts.model_copy(update={"settings": settings})
    method = named(recipe.anchor_method)
    return generate(model, drawn, method, seed=seed_of("anchors", seed), micro_batch=AT_ONCE, **sampling).images


def anchor_settings(prompts: PromptSet, recipe: Recipe) -> tuple[str, ...]:
    """The set's own in turn, or none."""
    own = prompts.anchor_settings or ("",)
    return tuple(own[i % len(own)] for i in range(recipe.anchor_images))


def seed_of(*purpose) -> int:
    """A seed of what is drawn for, apart from those of the study."""
    return int(digest(list(purpose))[:8], 16)
