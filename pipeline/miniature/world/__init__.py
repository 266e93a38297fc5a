"""A small world with ground truth: subjects in scenes, rendered from a seed, with captions and full truth."""

from svdstory.pipeline.miniature.world.identity import HUES, PALETTE, PATTERNS, Identity, draw_identity
from svdstory.pipeline.miniature.world.render import SIZE, Picture, render
from svdstory.pipeline.miniature.world.scenes import SCENES, SETTINGS
from svdstory.pipeline.miniature.world.subjects import SUBJECTS
from svdstory.pipeline.miniature.world.views import KINDS, SCENE_NAMES, STYLES, View, all_captions, caption, draw_view

__all__ = [
    "HUES",
    "KINDS",
    "PALETTE",
    "PATTERNS",
    "SCENES",
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
