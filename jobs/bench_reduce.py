"""How long reduce takes and what memory it needs, on a run made for the purpose; and how fast Chromium shows its page.

The units are published through the real store; only their pictures are drawn, and their numbers made up.
"""

import io
import json
import os
import platform
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from svdstory.pipeline.metrics.stage import write_score

from .experiment import find_experiment, read_experiment
from .places import Picture
from .plan import Plan, make_plan, write_plan
from .store import Attempt, Store
from .thumbnails import make_thumbnail

FULL = 1024          # pixels of SDXL's images


class MadeUp:
    """Numbers without a network."""

    def __init__(self, name: str, metric: str):
        self.name, self.metric = name, metric
        self.protocol = {"scorer": name, "embedder": "none", "library": "none", "weights": "random"}


SCORERS = (MadeUp("clipscore", "clipscore"), MadeUp("dreamsim", "dreamsim_subject"), MadeUp("background", "background"))


def bench_reduce(units: int = 1000, size: int = 256, folder: Path | None = None) -> dict:
    """Seconds (wall and processor), peak MiB and bytes, as JSON. Takes some minutes."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        run = Path(scratch) / "run"
        plan = make_run(run, units, size)
        found = {"machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs",
                 "load": os.getloadavg()[0], "units": len(plan.units), "cells": len(plan.cells), "size": size,
                 "images": sum(len(plan.sets[c.set].settings) for c in plan.units.values()),
                 "first": timed(run), "second": timed(run)}
        key = next(iter(plan.units))
        shutil.rmtree(Store(run).folder(key))
        found["one_unit_gone"] = timed(run)
        found |= {"page_bytes": (run / "report" / "index.html").stat().st_size,
                  "report_bytes": sum(p.stat().st_size for p in (run / "report").rglob("*") if p.is_file()),
                  "cache_bytes": sum(p.stat().st_size for p in (run / "cache").rglob("*") if p.is_file()),
                  "rows_on_page": len(plan.sets) * len(plan.methods), "chromium": page_load(run),
                  "thumbnail_of_full_size_cpu_s": full_size_cost(Path(scratch))}
    return found


def make_run(run: Path, units: int, size: int) -> Plan:
    """The report's methods and two seeds, on as many of the report's sets as it takes."""
    report = find_experiment("report")
    changes = {"model": "tiny", "size": [size, size], "seeds": [0, 1], "scorers": [s.name for s in SCORERS]}
    whole = make_plan("report", read_experiment(report, **changes), run)
    each = len(whole.units) // len(whole.sets)
    chosen = interleaved(whole)[:max(1, round(units / each))]
    plan = make_plan("report", read_experiment(report, **changes, sets=chosen), run)
    write_plan(plan, run)
    store, attempt = Store(run), Attempt.here()
    for key in plan.units:
        prompts = plan.sets[plan.units[key].set]
        files = {f"{i}.png": picture(f"{key}{i}", size) for i in range(len(prompts.settings))}
        manifest = {"images": len(files), "set": prompts.content(), "prompts": prompts.prompts, "device": "none",
                    "times": {"began": 0.0, "ended": 1.0}}
        store.publish(key, files, manifest, attempt)
        hashes = {n: f["sha256"] for n, f in store.manifest(key)["files"].items()}
        for scorer in SCORERS:
            write_score(run, key, scorer, hashes, {scorer.metric: random.Random(key + scorer.name).random()})
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


def timed(run: Path) -> dict:
    """One reduce in a process of its own, imports included."""
    code = ("import sys; from pathlib import Path; from svdstory.jobs.reduce import reduce; "
            "r = reduce(Path(sys.argv[1])); import resource; "
            "print(len(r.made), len(r.kept), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)")
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=True)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - began
    made, kept, peak = map(int, done.stdout.split())
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": round(wall, 2), "cpu_s": round(cpu, 2), "peak_mib": peak // 1024, "made": made, "kept": kept}


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


def page_load(run: Path) -> dict | str:
    """Seconds until Chromium has loaded the page and drawn the first set; or why it was not asked."""
    try:
        from selenium import webdriver
    except ImportError:
        return "selenium is not installed"
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        return "no chromium here"
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver"))) as driver:
        loads = []
        for _ in range(3):
            driver.get((run / "report" / "index.html").as_uri())
            driver.execute_async_script("const done = arguments[0], rows = () => document.querySelectorAll("
                                        "'#rows .row').length > 1 ? done() : setTimeout(rows, 10); rows();")
            loads.append(driver.execute_script(
                "return performance.getEntriesByType('navigation')[0].loadEventEnd / 1000"))
        asked = [json.loads(e["message"])["message"] for e in driver.get_log("performance")]
        urls = [m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"]
        return {"load_s": [round(s, 2) for s in loads],
                "network_requests": sum(not u.startswith(("file:", "data:")) for u in urls),
                "console_errors": sum(e["level"] == "SEVERE" for e in driver.get_log("browser"))}


