"""Runs of synthetic pictures, made in milliseconds through the real plan and the real store."""

import io
import json
import random
from pathlib import Path

from PIL import Image, ImageDraw

from svdstory.jobs.study.experiment import Experiment
from svdstory.jobs.study.plan import Plan, make_plan, write_plan
from svdstory.jobs.study.scores import SCHEMA, score_path
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
    for key, cell in plan.units.items():
        manifest = run / "units" / key[:2] / key / "manifest.json"
        if key in skip or not manifest.exists():
            continue
        files = json.loads(manifest.read_text())["files"]
        values = {
            name: round(level + 0.1 * levels[cell.method] + 0.05 * random.Random(f"{key}{name}").random(), 6)
            for name, level in metrics.items()
        }
        record = {
            "schema": SCHEMA,
            "key": key,
            "scorer": scorer,
            "protocol_hash": "0" * 12,
            "protocol": {"scorer": scorer, "embedder": "a test", "library": "none", "weights": weights},
            "values": values,
            "images": {n: f["sha256"] for n, f in files.items() if n.endswith(".png")},
        }
        path = score_path(run, scorer, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record))
