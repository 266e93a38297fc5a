"""A small world with ground truth: subjects in scenes, rendered from a seed, with captions and full truth."""

from .identity import HUES, PALETTE, PATTERNS, Identity, draw_identity
from .render import SIZE, Picture, render
from .scenes import SCENES, SETTINGS
from .subjects import SUBJECTS
from .views import KINDS, SCENE_NAMES, STYLES, View, all_captions, caption, draw_view

__all__ = [
    "HUES", "KINDS", "PALETTE", "PATTERNS", "SCENES", "SCENE_NAMES", "SETTINGS", "SIZE", "STYLES", "SUBJECTS",
    "Identity", "Picture", "View", "all_captions", "caption", "draw_identity", "draw_view", "render",
]
