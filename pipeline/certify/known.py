"""Numbers that a right build must come to, shipped in known.json: made on a CPU in float32 by

    python -m svdstory.pipeline.certify.known

for the models and scorers whose weights ship. Made again only where a method, the world or the shipped weights change on
purpose: the commit says why.
"""

import json
from pathlib import Path

import torch
from torch import Tensor

from svdstory.pipeline.certify.specimen import CONSISTORY, FILTERED, PLAIN, STEPS, Specimen
from svdstory.pipeline.metrics.scorer import Values
from svdstory.pipeline.sampling.noise import generator

FILE = Path(__file__).with_name("known.json")
MODELS = ("tiny", "miniature")
DIRECTIONS = 16


def sketch(latents: Tensor) -> Tensor:
    """(DIRECTIONS,) float64: the latents' projections on fixed random directions, so that few numbers tell them apart.

    Distances between sketches are those between latents, up to a factor of 1 ± 1/sqrt(2 DIRECTIONS) or so.
    """
    flat = latents.detach().to("cpu", torch.float64).flatten()
    directions = torch.randn(DIRECTIONS, len(flat), generator=generator("sketch"), dtype=torch.float64)
    return directions @ flat / DIRECTIONS**0.5


def known_sketches(specimen: Specimen) -> dict[str, Tensor]:
    """Method -> the sketch of its latents; of a model that does not ship, or with other steps: none."""
    if not specimen.is_small or specimen.steps != STEPS or specimen.spec.dtype != "float32":
        return {}
    known = _read()["latents"].get(specimen.spec.name, {})
    return {method: torch.tensor(values, dtype=torch.float64) for method, values in known.items()}


def known_scores(scorer: str) -> Values:
    """What a scorer gives one gift box in four scenes; none for weights that do not ship."""
    return _read()["scores"].get(scorer, {})


def _read() -> dict:
    return json.loads(FILE.read_text(encoding="utf-8"))


def make() -> dict:
    """The numbers as this machine has them."""
    from svdstory.pipeline.certify.scorers import known_unit, single
    from svdstory.pipeline.metrics.registry import load_scorer
    from svdstory.pipeline.models.spec import resolve_model

    specs = [resolve_model(name) for name in MODELS]
    latents = {
        spec.name: {
            method: sketch(specimen.draw(method).made.sample.latents).tolist()
            for method in (PLAIN, CONSISTORY, *FILTERED)
        }
        for spec in specs
        for specimen in [Specimen(spec, "cpu")]
    }
    scores = {name: single(load_scorer(name).score(known_unit("subject"))) for spec in specs for name in spec.scorers}
    return {"latents": latents, "scores": scores}


if __name__ == "__main__":
    torch.set_num_threads(1)
    FILE.write_text(json.dumps(make(), indent=1) + "\n", encoding="utf-8")
