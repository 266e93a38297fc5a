"""The names of scorers: `family[:backbone][+flat]`.

`+flat`: the part of an image that is left out is flat grey, where it is seeded noise otherwise.
"""

from typing import Literal

from svdstory.pipeline.config.strict import InputError, choices

Fill = Literal["noise", "flat"]
DREAMSIM = ("ensemble", "dino_vitb16", "clip_vitb32", "open_clip_vitb32")
# The first is the default. tiny: two layers with random weights, for smoke runs; miniature: of the miniature's world.
BACKBONES = {
    "clipscore": ("clip", "miniature", "tiny"),
    "clip-i": ("clip", "tiny"),
    "dino-i": ("vits16", "vitb16", "tiny"),
    "dreamsim": DREAMSIM,
    "cqs": ("clip", "tiny"),
    "background": (*DREAMSIM, "clip", "tiny"),
    "layout": ("dino", "tiny"),
    "world": ("judge",),
}
METRICS = {  # family -> its numbers; whether higher is better
    "clipscore": {"clipscore": True},
    "clip-i": {
        "clip_i": True,
        "clip_i_subject": True,
        "clip_i_reference": True,
        "clip_i_reference_subject": True,
    },
    "dino-i": {
        "dino_i": True,
        "dino_i_subject": True,
        "dino_i_reference": True,
        "dino_i_reference_subject": True,
    },
    "dreamsim": {
        "dreamsim": False,
        "dreamsim_subject": False,
        "dreamsim_reference": False,
        "dreamsim_reference_subject": False,
    },
    "cqs": {"cqs": True, "cqs_subject": True},
    "background": {"background": False},
    "layout": {"layout": True, "layout_subject": True},
    "world": {
        "kind_accuracy": True,
        "scene_accuracy": True,
        "accessory_accuracy": True,
        "identity_distance": False,
        "body_hue_distance": False,
        "scene_leakage": False,
        "world_background": False,
        "world_layout": True,
        "world_pose": True,
        "reference_distance": False,
        "reference_leakage": False,
    },
}
NO_BASIS = {  # family -> why a unit may have no number
    "clipscore": "no image",
    "clip-i": "a single image, or no usable subject mask",
    "dino-i": "a single image, or no usable subject mask",
    "dreamsim": "a single image, or no usable subject mask",
    "cqs": "a single image, or no usable subject mask",
    "background": "a single image, or no usable subject mask",
    "layout": "a single image, or no usable subject mask",
    "world": "not in the words or not of the size of the miniature's world",
}
NO_REFERENCES = "the set has no reference pictures, or the unit no masks of them"
FILLED = ("clip-i", "dino-i", "dreamsim", "cqs", "background")
NAMES = tuple(
    family if backbone == kinds[0] else f"{family}:{backbone}"
    for family, kinds in BACKBONES.items()
    for backbone in kinds
)


def parts(name: str) -> tuple[str, str, Fill]:
    """Family, backbone and fill of a scorer's name. Raises InputError with the nearest known name."""
    plain, plus, fill = name.partition("+")
    family, colon, backbone = plain.partition(":")
    known = family in BACKBONES and (not colon or backbone in BACKBONES[family])
    if not known or (plus and (fill != "flat" or family not in FILLED)):
        raise InputError(
            f"unknown scorer {name!r}{choices(name, list(NAMES))}; "
            f"{', '.join(FILLED)} also with +flat (grey in place of noise).",
            key="scorer",
        )
    return family, backbone or BACKBONES[family][0], "flat" if plus else "noise"


def of_references(value: str) -> bool:
    """Whether a number is about a set's reference pictures: sets without any have none.

    >>> of_references("dreamsim_reference_subject"), of_references("dreamsim_subject")
    (True, False)
    """
    return "reference" in value


def metric_name(scorer: str, value: str) -> str:
    """The name of a scorer's number in tables: with the scorer's variant, if it isn't the default one.

    >>> metric_name("dreamsim", "dreamsim_subject"), metric_name("dreamsim:dino_vitb16", "dreamsim_subject")
    ('dreamsim_subject', 'dreamsim_subject:dino_vitb16')
    """
    family = scorer.partition("+")[0].partition(":")[0]
    return value + scorer[len(family) :]
