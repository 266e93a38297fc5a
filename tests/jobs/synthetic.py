"""Runs of synthetic pictures, made in milliseconds through the real plan and the real store."""

import io
import random
from pathlib import Path

from PIL import Image, ImageDraw

from svdstory.jobs.study.experiment import Experiment
from svdstory.jobs.study.plan import Plan, make_plan, write_plan
from svdstory.jobs.study.scores import Shard, image_hashes, images_digest
from svdstory.jobs.study.store import Attempt, Store

SMALL = {
    "sets": ("blue-bus", "red-fox"),
    "methods": ("sdxl", "consistory", "svd-log"),
    "seeds": (0, 1),
    "scorers": ("clipscore:tiny",),
}


def synthetic_run(run: Path, **experiment) -> Plan:
    """A complete run of the tiny model's, whose pictures are coloured discs."""
    plan = make_plan("synthetic", Experiment(**{"model": "tiny", **SMALL, **experiment}), run)
    write_plan(plan, run)
    for key in plan.units:
        publish(run, plan, key)
    return plan


def publish(run: Path, plan: Plan, key: str) -> None:
    prompts = plan.sets[plan.units[key].set]
    files = {f"{i}.png": picture(f"{key}{i}", plan.size) for i in range(len(prompts.settings))}
    files["tensors.safetensors"] = b"masks"
    Store(run).publish(
        key,
        files,
        {
            "images": len(files) - 1,
            "set": prompts.content(),
            "prompts": prompts.prompts,
            "device": "cpu",
            "times": {"began": 1.0, "ended": 3.5},
        },
        Attempt.here(),
    )


def picture(name: str, size: tuple[int, int]) -> bytes:
    draw = random.Random(name)
    image = Image.new("RGB", size, tuple(draw.randrange(256) for _ in range(3)))
    for _ in range(8):
        x, y, r = draw.randrange(size[0]), draw.randrange(size[1]), draw.randrange(5, size[0] // 3)
        ImageDraw.Draw(image).ellipse((x, y, x + r, y + r), tuple(draw.randrange(256) for _ in range(3)))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def score(run: Path, plan: Plan, scorer: str, metrics: dict[str, float], weights: str = "sha256:abc", skip=()) -> None:
    """Numbers for every unit but those in `skip`: a metric's level, moved by the method and a little by the unit."""
    levels = {method: i / len(plan.methods) for i, method in enumerate(plan.methods)}
    shard, store = Shard(run), Store(run)
    made_by = Stated(scorer, weights)
    for key, cell in plan.units.items():
        if key in skip or not store.folder(key).exists():
            continue
        values = {
            name: round(level + 0.1 * levels[cell.method] + 0.05 * random.Random(f"{key}{name}").random(), 6)
            for name, level in metrics.items()
        }
        shard.add(key, made_by, images_digest(image_hashes(store.manifest(key))), values)
    shard.publish()


class Stated:
    """A scorer by its name and protocol alone."""

    def __init__(self, name: str, weights: str = "sha256:abc"):
        self.name = name
        self.protocol = {"scorer": name, "embedder": "a test", "library": "none", "weights": weights}
