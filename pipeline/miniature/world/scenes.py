"""The world's scenes: what a picture's setting says, each with looks and variation of its own that it doesn't.

A scene is a function (canvas, generator, look) that fills the whole canvas.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from svdstory.pipeline.miniature.world.canvas import Canvas
from svdstory.pipeline.miniature.world.outdoors import desert, meadow, snow
from svdstory.pipeline.miniature.world.places import living_room, night_city, under_the_sea

# Scene -> what fills it, in the order of the judges' classes; its looks; and the words of its captions.
SCENES: dict[str, Callable[[Canvas, np.random.Generator, str], None]] = {
    "desert": desert,
    "snow": snow,
    "night city": night_city,
    "meadow": meadow,
    "sea": under_the_sea,
    "living room": living_room,
}
LOOKS: dict[str, tuple[str, ...]] = {
    "desert": ("noon", "sunset", "pyramids"),
    "snow": ("day", "dawn", "dusk"),
    "night city": ("moonlit", "neon", "fireworks"),
    "meadow": ("summer", "evening", "spring"),
    "sea": ("blue", "reef", "kelp"),
    "living room": ("peach", "olive", "rose"),
}
SETTINGS = {
    "desert": "in the desert",
    "snow": "in the snow",
    "night city": "in the city at night",
    "meadow": "in a meadow",
    "sea": "under the sea",
    "living room": "in a living room",
}
