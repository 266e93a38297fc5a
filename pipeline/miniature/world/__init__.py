"""A small world with ground truth: subjects in scenes, rendered from a seed, with captions and full truth."""

from svdstory.pipeline.miniature.world.accessories import ACCESSORY_WORDS
from svdstory.pipeline.miniature.world.identity import HUES, PALETTE, PATTERNS, Identity, draw_identity
from svdstory.pipeline.miniature.world.render import SIZE, Picture, render
from svdstory.pipeline.miniature.world.scenes import LOOKS, SCENES, SETTINGS
from svdstory.pipeline.miniature.world.subjects import SUBJECTS
from svdstory.pipeline.miniature.world.views import (
    ACCESSORY_NAMES,
    KINDS,
    SCENE_LOOKS,
    SCENE_NAMES,
    STYLES,
    View,
    all_captions,
    caption,
    draw_view,
)

__all__ = [
    "ACCESSORY_NAMES",
    "ACCESSORY_WORDS",
    "HUES",
    "KINDS",
    "LOOKS",
    "PALETTE",
    "PATTERNS",
    "SCENES",
    "SCENE_LOOKS",
    "SCENE_NAMES",
    "SETTINGS",
    "SIZE",
    "STYLES",
    "SUBJECTS",
    "Identity",
    "Picture",
    "View",
    "all_captions",
    "caption",
    "draw_identity",
    "draw_view",
    "render",
]
