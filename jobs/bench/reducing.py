"""How long reduce takes and what memory it needs, on a run made for the purpose; and how fast Chromium shows its page.

The units are published through the real store; only their pictures are drawn, and their numbers made up.
"""

import io
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from svdstory.jobs.report.cells import Picture
from svdstory.jobs.report.thumbnails import make_thumbnail
from svdstory.jobs.study.experiment import find_experiment, read_experiment
from svdstory.jobs.study.plan import Plan, make_plan, write_plan
from svdstory.jobs.study.scores import Shard, image_hashes, images_digest
from svdstory.jobs.study.store import Attempt, Store

FULL = 1024  # pixels of SDXL's images


class MadeUp:
    """Numbers without a network."""

    def __init__(self, name: str, metric: str):
        self.name, self.metric = name, metric
        self.protocol = {"scorer": name, "embedder": "none", "library": "none", "weights": "random"}


SCORERS = (MadeUp("clipscore", "clipscore"), MadeUp("dreamsim", "dreamsim_subject"), MadeUp("background", "background"))


def bench_reduce(units: int, size: int, folder: Path | None = None) -> dict:
    """One row: seconds (wall and CPU), peak MiB, MB of the report, and the page in Chromium. Takes some minutes."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        run = Path(scratch) / "run"
        plan = make_run(run, units, size)
        row = {
            "units": len(plan.units),
            "images": sum(len(plan.sets[c.set].settings) for c in plan.units.values()),
            "pixels": size,
            **timed(run, "first"),
            **timed(run, "second"),
        }
        shutil.rmtree(Store(run).folder(next(iter(plan.units))))
        return {
            **row,
            **timed(run, "gone"),
            "page MB": (run / "report" / "index.html").stat().st_size / 1e6,
            "report MB": size_of(run / "report"),
            "cache MB": size_of(run / "cache"),
            "rows on page": len(plan.sets) * len(plan.methods),
            **page_load(run),
            "thumbnail of 1024 px, CPU s": full_size_cost(Path(scratch)),
        }


def size_of(folder: Path) -> float:
    """MB of all files below."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6


def make_run(run: Path, units: int, size: int) -> Plan:
    """The report's methods, on as many of the report's sets as it takes with two seeds; more seeds beyond that."""
    report = find_experiment("report")
    changes = {"model": "tiny", "size": [size, size], "scorers": [s.name for s in SCORERS]}
    one = make_plan("report", read_experiment(report, **changes, seeds=[0]), run)
    changes["seeds"] = list(range(max(2, round(units / len(one.units)))))
    whole = make_plan("report", read_experiment(report, **changes), run)
    each = len(whole.units) // len(whole.sets)
    chosen = interleaved(whole)[: max(1, round(units / each))]
    plan = make_plan("report", read_experiment(report, **changes, sets=chosen), run)
    write_plan(plan, run)
    store, attempt, shard = Store(run), Attempt.here(), Shard(run)
    for key in plan.units:
        prompts = plan.sets[plan.units[key].set]
        files = {f"{i}.png": picture(f"{key}{i}", size) for i in range(len(prompts.settings))}
        manifest = {
            "images": len(files),
            "set": prompts.content(),
            "prompts": prompts.prompts,
            "device": "none",
            "times": {"began": 0.0, "ended": 1.0},
        }
        store.publish(key, files, manifest, attempt)
        images = images_digest(image_hashes(store.manifest(key)))
        for scorer in SCORERS:
            shard.add(key, scorer, images, {scorer.metric: random.Random(key + scorer.name).random()})
    shard.publish()
    return plan


def interleaved(plan: Plan) -> list[str]:
    """The sets' names, one group after the other in turn, so that a part has of each."""
    ranks: dict[str, int] = {}
    order = {}
    for name, prompts in plan.sets.items():
        ranks[prompts.group] = order[name] = ranks.get(prompts.group, 0) + 1
    return sorted(order, key=order.get)


def picture(name: str, size: int) -> bytes:
    """Soft colours with grain: it compresses about as a photograph does."""
    seeded = random.Random(name)
    small = Image.frombytes("RGB", (8, 8), seeded.randbytes(192)).resize((size, size), Image.Resampling.BICUBIC)
    grain = Image.frombytes("RGB", (64, 64), seeded.randbytes(64 * 64 * 3)).resize((size, size))
    buffer = io.BytesIO()
    Image.blend(small, grain, 0.12).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def timed(run: Path, name: str) -> dict:
    """One reduce in a process of its own, imports included. Keys begin with `name`."""
    code = (
        "import sys; from pathlib import Path; from svdstory.jobs.report.reduce import reduce; "
        "r = reduce(Path(sys.argv[1])); import resource; "
        "print(len(r.made), len(r.kept), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"reduce of {run} failed:\n{done.stderr[-4000:]}")
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - began
    made, kept, peak = map(int, done.stdout.split())
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        f"{name} s": round(wall, 2),
        f"{name} CPU s": round(cpu, 2),
        f"{name} peak MiB": peak // 1024,
        f"{name} made": made,
        f"{name} kept": kept,
    }


def full_size_cost(folder: Path, images: int = 12) -> float:
    """Processor seconds to verify, decode and shrink one image of SDXL's size."""
    from hashlib import sha256

    pictures = []
    for i in range(images):
        content = picture(f"full{i}", FULL)
        (folder / f"{i}.png").write_bytes(content)
        pictures.append(Picture(folder / f"{i}.png", sha256(content).hexdigest()))
    began = time.process_time()
    for one in pictures:
        make_thumbnail(one)
    return round((time.process_time() - began) / images, 4)


def page_load(run: Path) -> dict:
    """Seconds until Chromium has loaded the page and drawn the first set; or why it was not asked."""
    try:
        from selenium import webdriver
    except ImportError:
        return {"page": "selenium is not installed"}
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        return {"page": "no chromium here"}
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver"))) as driver:
        loads = []
        for _ in range(3):
            driver.get((run / "report" / "index.html").as_uri())
            driver.execute_async_script(
                "const done = arguments[0], rows = () => document.querySelectorAll("
                "'#rows .row').length > 1 ? done() : setTimeout(rows, 10); rows();"
            )
            loads.append(
                driver.execute_script("return performance.getEntriesByType('navigation')[0].loadEventEnd / 1000")
            )
        asked = [json.loads(e["message"])["message"] for e in driver.get_log("performance")]
        urls = [m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"]
        return {
            "page loads s": " ".join(f"{s:.2f}" for s in loads),
            "network requests": sum(not u.startswith(("file:", "data:")) for u in urls),
            "console errors": sum(e["level"] == "SEVERE" for e in driver.get_log("browser")),
        }
