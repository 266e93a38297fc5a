"""How long scoring takes and what memory it needs, on a run made for the purpose: units of five pictures."""

import json
import os
import platform
import resource
import tempfile
import time
import zlib
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save

from svdstory.jobs.node.scoring import Scoring, load_unit, score_units
from svdstory.jobs.study.scores import Shard, read_scores, shard_paths
from svdstory.jobs.study.store import Attempt, Store
from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.metrics import ground_truth as world
from svdstory.pipeline.metrics.cache import EmbeddingCache
from svdstory.pipeline.metrics.registry import load_scorer
from svdstory.pipeline.metrics.scorer import Scorer, UnitImages

IMAGES_IN_A_UNIT = 5
# in the words of the miniature's world, which its own judges need and others read as well
SUBJECT, SETTINGS = "a cat", ("in the desert", "in the snow", "in a meadow", "under the sea", "in a living room")


@dataclass(frozen=True)
class Timing:
    """Seconds to score all images: first; with embeddings cached but no scores; with nothing to do. Peak in MiB:
    of the process on a CPU, of what CUDA's allocator gave on a GPU.

    first_cpu_s is the processor time of the first, over all threads: what others at work on the machine don't change.
    """

    scorer: str
    weights: str
    images: int
    size: int
    device: str
    threads: int
    load: float  # the machine's load average before: others at work make all of this slower
    build_s: float
    first_s: float
    first_cpu_s: float
    cached_s: float
    again_s: float
    peak_mib: float

    def for_1000_images(self) -> str:
        """From wall time on a GPU; from processor time and threads on a CPU, whatever else ran there."""
        seconds = self.first_cpu_s / self.threads if self.device == "cpu" else self.first_s
        return f"{1000 * seconds / self.images / 60:.1f} min"


def time_scorer(name: str, images: int, size: int, device: str, batch: int = 64) -> Timing:
    """Score `images` pictures of size × size with random or staged weights. Writes only to a temporary folder.

    On a CPU the peak is the process's: run one scorer per process. Raises InputError for a size that it doesn't score.
    """
    if name == "world" and size != world.SIDE:
        raise InputError(
            f"scorer world: size {size}: it judges pictures of {world.SIDE} pixels a side alone. "
            f"Use --size {world.SIDE}."
        )
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    with tempfile.TemporaryDirectory(prefix="svdstory-bench-") as place:
        store, load = Store(Path(place)), os.getloadavg()[0]
        keys = publish_pictures(store, images // IMAGES_IN_A_UNIT, size)
        cache = EmbeddingCache(store.run / "scores" / "embeddings")
        scorer, build = load_scorer(name, device, cache=cache, allow_random=True, batch=batch), time.perf_counter()
        warm_up(scorer, load_unit(store, keys[0], store.manifest(keys[0])))
        build = time.perf_counter() - build
        seconds, cpu = [], time.process_time()
        for round_ in ("first", "cached", "again"):
            if round_ == "cached":
                for path in shard_paths(store.run):
                    path.unlink()
            began = time.perf_counter()
            scoring = Scoring(store, read_scores(store.run), Shard(store.run), cache, device, batch=batch)
            score_units(scoring, keys, scorer)
            scoring.publish()
            outcome = scoring.outcome
            seconds.append(time.perf_counter() - began)
            if round_ == "first":
                seconds.append(time.process_time() - cpu)
            assert not outcome.failed and len(outcome.scored) + len(outcome.fresh) == len(keys)
    peak = (
        torch.cuda.max_memory_allocated(device) / 2**20
        if device.startswith("cuda")
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    )
    return Timing(
        name,
        scorer.protocol["weights"],
        len(keys) * IMAGES_IN_A_UNIT,
        size,
        device,
        torch.get_num_threads(),
        load,
        build,
        *seconds,
        peak,
    )


def warm_up(scorer: Scorer, unit: UnitImages) -> None:
    """Networks are built at the first image: score one unit before the clock starts, under hashes that none has."""
    values = scorer.score(replace(unit, hashes=tuple(sha[::-1] for sha in unit.hashes)))
    assert values, f"{scorer.name} has no numbers for the pictures that it is timed on"


def publish_pictures(store: Store, units: int, size: int) -> list[str]:
    """Units of smooth random pictures: twenty, told apart by a text chunk, which gives each file its own hash."""
    rng = np.random.default_rng(0)
    pictures = [_png(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8), size) for _ in range(20)]
    masks = np.zeros((IMAGES_IN_A_UNIT, size // 16, size // 16), np.uint8)
    masks[:, size // 64 : size // 32, size // 64 : size // 32] = 1
    keys = [f"{unit:024x}" for unit in range(units)]
    for unit, key in enumerate(keys):
        files = {
            f"{i}.png": _told_apart(pictures[(unit * IMAGES_IN_A_UNIT + i) % 20], f"{key} {i}")
            for i in range(IMAGES_IN_A_UNIT)
        }
        store.publish(
            key,
            {**files, "tensors.safetensors": save({"masks": masks})},
            {
                "set": {"name": f"set{unit}", "subject": SUBJECT},
                "images": IMAGES_IN_A_UNIT,
                "prompts": [f"A photo of {SUBJECT} {where}" for where in SETTINGS],
            },
            Attempt.here(),
        )
    return keys


def _png(cells: np.ndarray, size: int) -> bytes:
    buffer = BytesIO()
    Image.fromarray(cells).resize((size, size), Image.Resampling.BICUBIC).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _told_apart(png: bytes, text: str) -> bytes:
    """The PNG with one more tEXt chunk before its end."""
    chunk = b"tEXt" + b"unit\0" + text.encode()
    return png[:-12] + (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big") + png[-12:]


def write_report(timings: list[Timing], folder: Path, command: str) -> None:
    """scoring.json and scoring.md; timings of other scorers that are there already stay."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "scoring.json"
    known = json.loads(path.read_text(encoding="utf-8"))["timings"] if path.exists() else []
    ours = {(t.scorer, t.device) for t in timings}
    kept = [t for t in known if (t["scorer"], t["device"]) not in ours] + [asdict(t) for t in timings]
    content = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "command": command,
        "timings": sorted(kept, key=lambda t: (t["scorer"], t["device"])),
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (folder / "scoring.md").write_text(markdown(content), encoding="utf-8")


EXPLAINED = """first: PNGs read, checked, decoded, masked, embedded; CPU s: its processor time. cached: embeddings from
the cache, scores made again (layout keeps none: 196 tokens an image). again: nothing to do. load: the machine's load
average at the start; over the number of cores, others at work slowed down every wall time here. 1,000 images: from
the processor time, as if alone with that many threads."""
COLUMNS = (
    "scorer",
    "images",
    "pixels",
    "device, threads",
    "load",
    "first s",
    "CPU s",
    "1,000 images",
    "cached s",
    "again s",
    "peak MiB",
    "weights",
)


def markdown(content: dict) -> str:
    """scoring.md from what scoring.json holds."""
    machine = f"{content['machine']}, torch {content['torch']}"
    lines = [
        "# Scoring: time and memory",
        "",
        f"`{content['command']}` for each scorer, one process each, on {machine}.",
        "",
        EXPLAINED,
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|---|--:|--:|---" + "|--:" * 7 + "|---|",
    ]
    for t in (Timing(**t) for t in content["timings"]):
        cells = (
            t.scorer,
            t.images,
            f"{t.size}²",
            f"{t.device}, {t.threads}",
            f"{t.load:.1f}",
            f"{t.first_s:.1f}",
            f"{t.first_cpu_s:.1f}",
            t.for_1000_images(),
            f"{t.cached_s:.1f}",
            f"{t.again_s:.1f}",
            f"{t.peak_mib:.0f}",
            t.weights.partition(" ")[0][:12],
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"
