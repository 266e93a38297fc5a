"""Tuned subjects against the truth: a rendered subject that the miniature never saw, learned, drawn elsewhere, judged.

    python -m svdstory.pipeline.bench.likeness dreambooth-lora --kind "gift box"

One identity of the kind is drawn and rendered four times in two scenes; the prompts are the four others'. Reference
distance: the mean over pictures of (body hue angle/90 + accent hue angle/90 + |striped - truth|/0.5 + 3 |shape - truth|)/4
by the judge, 0 the subject, about 1 a stranger.
"""

import argparse
import json
import time
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from svdstory.pipeline.config.methods import Method
from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.tuning import KINDS, Recipe, first_word, worded
from svdstory.pipeline.generation import generate
from svdstory.pipeline.miniature.judges import load_judge, read_pictures
from svdstory.pipeline.miniature.world import KINDS as SUBJECTS
from svdstory.pipeline.miniature.world import SETTINGS, draw_view, render, truth
from svdstory.pipeline.models.load import Model, load_model
from svdstory.pipeline.models.subject_files import made_by
from svdstory.pipeline.personal.class_images import class_examples
from svdstory.pipeline.personal.examples import Examples, training_prompts
from svdstory.pipeline.personal.personalised import as_words, personalised
from svdstory.pipeline.personal.training import tune

SCENES = tuple(SETTINGS)
SAMPLING = dict(steps=20, guidance=3.0)


def rendered(kind: str, seed: int, pictures: int = 4) -> tuple[list, list[str]]:
    """Pictures of one identity in the first two scenes, and their settings' words."""
    identity = draw_view(np.random.default_rng(seed), kind=kind).identity
    scenes = [SCENES[i % 2] for i in range(pictures)]
    views = [
        draw_view(
            np.random.default_rng([seed, i]),
            kind=kind,
            identity=identity,
            scene=scene,
            style="A photo of",
            accessory="",
            scene_named=True,
        )
        for i, scene in enumerate(scenes)
    ]
    return [render(view) for view in views], [SETTINGS[scene] for scene in scenes]


def judged(images: list[Image.Image], seen: truth.Reading, kind: str, scenes: list[str]) -> dict:
    """Distances of the pictures to the truth and to one another."""
    folder = Path(str(resources.files("svdstory.pipeline"))) / "miniature" / "weights" / "judges"
    readings = read_pictures(load_judge(folder), np.stack([np.asarray(image) for image in images]))
    parts = {
        "hue": np.mean([truth.hue_angle(r.body_hue, seen.body_hue) for r in readings]),
        "accent": np.mean([truth.hue_angle(r.accent_hue, seen.accent_hue) for r in readings]),
        "pattern": np.mean([abs(r.striped - seen.striped) for r in readings]),
        "shape": np.mean([abs(r.shape - seen.shape) for r in readings]),
    }
    distance = (parts["hue"] / 90 + parts["accent"] / 90 + parts["pattern"] / 0.5 + 3 * parts["shape"]) / 4
    found = {"reference_distance": distance, **parts, "within": truth.identity_distance(readings)}
    found |= {"scene": truth.scene_accuracy(readings, scenes), "kind": truth.kind_accuracy(readings, kind)}
    return {name: round(float(value), 3) for name, value in found.items()}


def measure(
    model: Model, recipe: Recipe, kind: str, identity: int, method: Method, seeds: list[int], out: Path
) -> list:
    """Rows: untuned, tuned, the class's plain prompt under the tuned weights, and plain pictures afterwards."""
    pictures, settings = rendered(kind, identity)
    seen = truth.true_reading(pictures[0])
    others = [scene for scene in SCENES if SETTINGS[scene] not in settings][:4]
    prompts = PromptSet(
        style="A photo of", subject=f"a {kind}", concept=(kind,), settings=tuple(SETTINGS[scene] for scene in others)
    )
    words = recipe.words()
    taught = training_prompts(worded(prompts, words), settings)
    examples = [Examples.of(model, [Image.fromarray(p.image) for p in pictures], taught)]
    examples += class_examples(model, prompts, recipe, f"{kind}-{identity}", model.spec.size)
    before = drawn(model, prompts, method, seeds)
    began = time.process_time()
    made = tune(model, examples, recipe, f"{kind}-{identity}", initial=first_word(prompts))
    seconds = time.process_time() - began
    for name, tensors in made.files.items():
        save_file(tensors, out / name)
    files = made_by(recipe, out)
    with personalised(model, files):
        tuned = drawn(model, worded(prompts, as_words(files)), method, seeds)
        plain = drawn(model, prompts, method, seeds)
    after = drawn(model, prompts, method, seeds)
    same = all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(before, after))
    told = {"subject": kind, "updates": recipe.updates, "parameters": made.parameters, "cpu_s": round(seconds, 1)}
    judge = lambda images: judged(images, seen, kind, others * len(seeds))  # noqa: E731
    tuned[0].save(out / "0.png")
    return [
        {**told, "row": row, **judge(images)}
        for row, images in (("untuned", before), ("tuned", tuned), ("plain prompt under it", plain))
    ] + [{**told, "row": "plain afterwards", "bit_equal": same, "losses": made.losses}]


def drawn(model: Model, prompts: PromptSet, method: Method, seeds: list[int]) -> list[Image.Image]:
    return [image for seed in seeds for image in generate(model, prompts, method, seed=seed, **SAMPLING).images]


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("tuning", choices=KINDS)
    asked.add_argument("--kind", choices=SUBJECTS, default="gift box")
    asked.add_argument("--identity", type=int, default=0)
    asked.add_argument("--method", default="sdxl-no-freeu")
    asked.add_argument("--seeds", default="0")
    asked.add_argument("--set", default="{}", help="changes to the recipe, as JSON")
    asked.add_argument("--out", type=Path, default=Path("/tmp/personal"))
    given = asked.parse_args()
    torch.set_num_threads(1)
    model = load_model("miniature", device="cpu")
    recipe = Recipe(kind=given.tuning, **json.loads(given.set)).resolved(model.spec.tuning, "miniature")
    given.out.mkdir(parents=True, exist_ok=True)
    seeds = [int(seed) for seed in given.seeds.split(",")]
    for row in measure(model, recipe, given.kind, given.identity, named(given.method), seeds, given.out):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
