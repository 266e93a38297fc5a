"""Every scorer on pictures that are known: numbers that must come out, whatever the machine.

Four units of the miniature's world, drawn to the pixel from a seed: `subject`, one gift box in four scenes; `kinds`, four
kinds in four scenes; `same`, one picture four times; `near`, that picture under faint grain.
"""

import numpy as np
from PIL import Image

from svdstory.pipeline.certify.known import known_scores
from svdstory.pipeline.certify.line import Line, Number
from svdstory.pipeline.certify.specimen import Specimen
from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.metrics.names import parts
from svdstory.pipeline.metrics.registry import load_scorer
from svdstory.pipeline.metrics.scorer import Scorer, UnitImages, Values
from svdstory.pipeline.miniature.world import KINDS, SETTINGS, Picture, draw_identity, draw_view, render

COUNT, KIND, SCENES = 4, "gift box", ("snow", "sea", "desert", "night city")
WITHIN = 1e-3  # scorers compute in float32; an angle of zero rounds to 1e-4
KNOWN_WITHIN = {"cpu": 1e-3, "cuda": 1e-2}
# What each number is of one picture four times
OF_SAME = {
    **dict.fromkeys(("clip_i", "clip_i_subject", "background", "kind_accuracy"), 1.0),
    **dict.fromkeys(("dreamsim", "dreamsim_subject", "layout", "layout_subject", "identity_distance"), 0.0),
}
NEARER = {"clip_i": 1, "background": 1, "dreamsim": -1, "identity_distance": -1}  # 1: alike is more; -1: less


def scorers(specimen: Specimen) -> Line:
    """Each of the model's scorers. One whose weights are not here is named, and is not measured."""
    numbers, absent, device = [], [], str(specimen.place)
    for name in specimen.spec.scorers:
        try:
            scorer = load_scorer(name, device)
        except InputError as error:
            absent.append(f"{name} is not measured: {error}")
            continue
        numbers += of_scorer(scorer, known_scores(name), KNOWN_WITHIN[specimen.place.type])
    return Line(
        "each scorer gives known pictures the numbers that they must have",
        numbers,
        "\n".join(absent) or "every scorer of the model",
        pictures={name: list(known_unit(name).images) for name in UNITS},
    )


def of_scorer(scorer: Scorer, known: Values, within: float) -> list[Number]:
    """What must hold of it, number by number."""
    units = {name: known_unit(name) for name in UNITS}
    values = dict(zip(units, scorer.score_many(list(units.values())), strict=True))
    told = []

    def near(what: str, value: float, expected: float, within: float = WITHIN) -> None:
        told.append(Number(f"{scorer.name}: {what}", value, expected - within, expected + within))

    for metric, value in values["same"].items():
        if metric in OF_SAME:
            near(f"{metric} of one picture four times", value, OF_SAME[metric])
    for metric, sign in NEARER.items():
        if metric in values["near"]:
            closer = sign * (values["near"][metric] - values["kinds"][metric])
            told.append(
                Number(f"{scorer.name}: {metric}, the same under grain nearer than other kinds", closer, WITHIN)
            )
    for metric in ("kind_accuracy", "scene_accuracy"):
        if metric in values["subject"]:
            near(f"{metric} of pictures drawn to be right", values["subject"][metric], 1.0)
    if (expected := by_the_paper(scorer, units["kinds"])) is not None:
        metric, value = expected
        near(f"{metric} by the paper's formula, computed apart", values["kinds"][metric], value)
    if matching := captions_told_apart(scorer, units["kinds"]):
        told.append(matching)
    alone = scorer.score(units["subject"])
    apart = max(abs(alone[m] - v) for m, v in single(values["subject"]).items())
    near("scored in a batch, less scored alone", apart, 0.0)
    for metric, value in known.items():
        near(f"{metric} of one gift box in four scenes", values["subject"].get(metric, np.nan), value, within)
    return told


def single(values: Values) -> dict[str, float]:
    """The numbers that are not lists."""
    return {name: value for name, value in values.items() if not isinstance(value, list)}


def by_the_paper(scorer: Scorer, unit: UnitImages) -> tuple[str, float] | None:
    """CLIPScore (arXiv 2104.08718) or DreamSim's distance (arXiv 2306.09344) from the network's own vectors."""
    family, *_ = parts(scorer.name)
    if family not in ("clipscore", "dreamsim"):
        return None
    pictures = normed(scorer.embedder.embed(unit.images))
    if family == "dreamsim":
        cosines = (pictures @ pictures.T)[np.triu_indices(len(pictures), 1)]
        return "dreamsim", float((1 - cosines).mean())
    texts = normed(scorer.embedder.embed_texts([scorer.embedder.caption_prefix + prompt for prompt in unit.prompts]))
    return "clipscore", float((2.5 * np.maximum((pictures * texts).sum(-1), 0)).mean())


def captions_told_apart(scorer: Scorer, unit: UnitImages) -> Number | None:
    """CLIPScore of pictures with their own captions above that with each other's; of trained weights alone."""
    family, backbone, _ = parts(scorer.name)
    if family != "clipscore" or backbone == "tiny":
        return None
    turned = [UnitImages(unit.images, [*unit.prompts[n:], *unit.prompts[:n]], unit.subject) for n in range(1, COUNT)]
    own, *others = (values["clipscore"] for values in scorer.score_many([unit, *turned]))
    return Number(f"{scorer.name}: own captions above each other's", own - float(np.mean(others)), WITHIN)


def normed(vectors: np.ndarray) -> np.ndarray:
    """(N, D) float64 of norm 1."""
    return vectors / np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)


def drawn(kinds: list[str], one_identity: bool) -> list[Picture]:
    """A picture for each of SCENES, from a seed."""
    rng = np.random.default_rng(0)
    identity = draw_identity(rng) if one_identity else None
    style = "A photo of"
    return [render(draw_view(rng, kind, identity, scene, style)) for kind, scene in zip(kinds, SCENES, strict=True)]


def unit_of(pictures: list[Picture]) -> UnitImages:
    return UnitImages(
        [Image.fromarray(picture.image) for picture in pictures],
        [f"{picture.view.style} a {picture.view.kind} {SETTINGS[picture.view.scene]}" for picture in pictures],
        f"a {pictures[0].view.kind}",
        np.stack([picture.mask for picture in pictures]),
    )


def known_unit(name: str) -> UnitImages:
    """One of UNITS."""
    if name == "kinds":
        return unit_of(drawn(list(KINDS[:COUNT]), one_identity=False))
    pictures = drawn([KIND] * COUNT, one_identity=True)
    if name == "subject":
        return unit_of(pictures)
    return unit_of([grainy(pictures[0], i) if name == "near" else pictures[0] for i in range(COUNT)])


def grainy(picture: Picture, seed: int) -> Picture:
    """It under noise of at most 6 of 255."""
    grain = np.random.default_rng(seed).integers(-6, 7, picture.image.shape)
    return Picture(np.clip(picture.image + grain, 0, 255).astype(np.uint8), picture.mask, picture.view)


UNITS = ("subject", "kinds", "same", "near")
