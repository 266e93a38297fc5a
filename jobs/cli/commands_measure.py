"""`svdstory bench ...`: speed and memory, as JSON and tables under results/benchmarks/."""

from pathlib import Path
from typing import Annotated

import typer

bench = typer.Typer(no_args_is_help=True, help="Measure the filter, the sampler, its memory and the orchestration.")

Device = Annotated[str | None, typer.Option(help="cuda, cuda:1 or cpu. Default: a GPU if there is one.")]
Folder = Annotated[Path, typer.Option("--out", help="Where the JSON and the table go.")]
RESULTS = Path("results/benchmarks")


def register(app: typer.Typer) -> None:
    """Add `bench` to the command."""
    app.add_typer(bench, name="bench", rich_help_panel="Measure")


@bench.command()
def spectral(
    device: Device = None,
    out: Folder = RESULTS,
    drift: Annotated[float, typer.Option(help="Change of a layer's K and V from step to step.")] = 0.1,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads, of both. With more than one, wall time.")] = 1,
):
    """The spectral filter against an SVD per image and anchor, on SDXL's shapes: time and error.

    Example: svdstory bench spectral --device cuda
    """
    from svdstory.pipeline.bench.record import bench_device, save
    from svdstory.pipeline.bench.spectral import bench_spectral

    chosen = bench_device(device, threads)
    rows = bench_spectral(chosen, drift)
    name, clocked = (
        ("spectral", "CPU time of one thread")
        if threads == 1
        else (f"spectral-{threads}-threads", f"wall time, {threads} threads for both")
    )
    save(
        name,
        rows,
        chosen,
        out,
        "Seconds per layer (8 anchor matrices of ours, 32 decompositions of the published "
        "protocol) and step; the last rows are a whole step of SDXL at 1024 px, 5 images, 2 anchors. "
        f"On a CPU: {clocked}.",
    )


@bench.command()
def step(
    device: Device = None,
    out: Folder = RESULTS,
    methods: Annotated[str | None, typer.Option(help="Names, separated by commas; sdxl is always measured.")] = None,
    images: Annotated[int, typer.Option(min=3)] = 5,
    size: Annotated[int | None, typer.Option(help="Pixels a side. Default: 1024 on a GPU, 256 on a CPU.")] = None,
    micro_batch: Annotated[int | None, typer.Option(min=1)] = None,
    exact: Annotated[bool, typer.Option(help="Filters take their exact path.")] = False,
):
    """A denoising step of each method on a full-size SDXL UNet with random weights. Needs 6 GB (CPU: 11 GB).

    Example: svdstory bench step --methods sdxl,consistory,svd-log
    """
    from svdstory.pipeline.bench.record import bench_device, save
    from svdstory.pipeline.bench.step import METHODS, bench_step

    chosen = bench_device(device)
    names = tuple(methods.split(",")) if methods else METHODS
    rows = bench_step(chosen, names, images, size, exact, micro_batch)
    save("step", rows, chosen, out, "Seconds of one denoising step of the whole set, random weights, guidance 5.")


@bench.command()
def field(
    model: str = "miniature",
    prompts: Annotated[str, typer.Option("--set", help="A prompt set.")] = "world-cat",
    methods: Annotated[str | None, typer.Option(help="Names, separated by commas.")] = None,
    steps: Annotated[int, typer.Option(min=2)] = 50,
    device: Device = None,
    out: Folder = RESULTS,
):
    """What each paper's method costs beside ConsiStory: rows through the UNet, counted, and seconds, of one set.

    Example: svdstory bench field --model sdxl --set corgi-puppy --device cuda
    """
    from svdstory.pipeline.bench.field_cost import METHODS, REPEATS, bench_field
    from svdstory.pipeline.bench.record import bench_device, save

    chosen = bench_device(device)
    rows = bench_field(model, prompts, steps, chosen, tuple(methods.split(",")) if methods else METHODS)
    save(
        "field",
        rows,
        chosen,
        out,
        f"{model}, {prompts}, {steps} steps, guidance 3: a whole set, decoded. A row is one image's one half of guidance "
        f"in one UNet call. Seconds are the least of {REPEATS}; on a CPU, processor time of one thread.",
    )


@bench.command()
def tuning(
    device: Device = None,
    out: Folder = RESULTS,
    model: Annotated[str | None, typer.Option(help="Default: sdxl on a GPU, miniature on a CPU.")] = None,
    updates: Annotated[int, typer.Option(min=1, help="That are timed, after a first one.")] = 5,
):
    """What tuning a subject costs: time of an update and of the recipe, and peak memory, of each way.

    Example: svdstory bench tuning --device cuda
    """
    from svdstory.pipeline.bench.record import bench_device, save
    from svdstory.pipeline.bench.tuning_cost import bench_tuning

    chosen = bench_device(device)
    name = model or ("sdxl" if chosen.startswith("cuda") else "miniature")
    notes = f"{name}: updates of the model's own recipes on pictures of noise, each timed with a copy of its state."
    save("tuning", bench_tuning(name, chosen, updates), chosen, out, notes)


@bench.command()
def memory(device: Device = None, out: Folder = RESULTS, size: Annotated[int, typer.Option()] = 1024):
    """Peak memory of a set against images, anchors and micro-batch; without a GPU counted on the meta device.

    Example: svdstory bench memory
    """
    from svdstory.pipeline.bench.peak_memory import bench_memory
    from svdstory.pipeline.bench.record import bench_device, save

    chosen = bench_device(device)
    counted = "measured by CUDA's allocator" if chosen.startswith("cuda") else "counted on the meta device"
    save(
        "memory",
        bench_memory(chosen, size),
        chosen,
        out,
        f"Full-size SDXL at {size} px, float16, {counted}; without VAE and text encoders, CUDA context and workspaces.",
    )


@bench.command()
def orchestration(
    out: Folder = RESULTS,
    units: Annotated[str, typer.Option(help="Numbers of units, separated by commas.")] = "1000,10000",
    folder: Annotated[Path | None, typer.Option(help="On the file system to measure.")] = None,
):
    """What plan, store and status cost per unit.

    Example: svdstory bench orchestration --units 1000,10000,100000 --folder /lustre/me
    """
    from svdstory.jobs.bench.orchestration import bench_orchestration
    from svdstory.pipeline.bench.record import save

    rows = bench_orchestration(tuple(int(n) for n in units.split(",")), folder)
    save("orchestration", rows, "cpu", out, "One process, stand-ins of 2 kB for the three images of a unit.")


@bench.command()
def images(
    counts: Annotated[str, typer.Option(help="Numbers of images, separated by commas.")] = "3,6,12",
    method: str = "consistory",
    micro_batch: Annotated[int, typer.Option(min=1)] = 2,
    model: str = "tiny",
    size: Annotated[int, typer.Option(help="Pixels a side.")] = 512,
    steps: int = 6,
    out: Folder = RESULTS,
):
    """Time and peak memory of one set against its number of images, on the CPU.

    Example: svdstory bench images --counts 3,6,12 --micro-batch 2
    """
    from svdstory.pipeline.bench.images import bench_images
    from svdstory.pipeline.bench.record import save

    rows = bench_images([int(n) for n in counts.split(",")], method, micro_batch, model, size, steps)
    save(
        "images",
        rows,
        "cpu",
        out,
        "CPU time of one thread; memory beyond the loaded model, each row in a process of its own.",
    )


@bench.command()
def pictures(
    methods: Annotated[str | None, typer.Option(help="Names, separated by commas.")] = None,
    model: str = "miniature",
    sets: Annotated[str | None, typer.Option(help="Prompt sets.")] = None,
    steps: Annotated[int, typer.Option(min=1)] = 20,
    device: Device = "cpu",
    out: Folder = RESULTS,
):
    """What the filter's fast paths change in the pictures of a model with trained weights, against the exact path.

    Example: svdstory bench pictures --model sdxl --sets corgi-puppy --methods svd-log2-no-injection --device cuda
    """
    from svdstory.pipeline.bench.fast_pictures import METHODS, SETS, SMALLEST, bench_pictures
    from svdstory.pipeline.bench.record import bench_device, save

    chosen = bench_device(device)
    rows = bench_pictures(
        model,
        tuple(methods.split(",")) if methods else METHODS,
        tuple(sets.split(",")) if sets else SETS,
        steps,
        chosen,
    )
    save(
        "pictures",
        rows,
        chosen,
        out,
        f"{model}, {steps} steps, guidance 3, same seed; fast paths for ranks of "
        f"{SMALLEST} and more, tolerance 1e-3. An infinite PSNR: the same pixels.",
    )


@bench.command()
def drift(
    model: str = "miniature",
    prompts: Annotated[str, typer.Option("--set", help="A prompt set.")] = "world-gift-box",
    method: Annotated[str, typer.Option(help="One that attends to anchors.")] = "svd-fraction-0.1-no-injection",
    steps: Annotated[int, typer.Option(min=3)] = 50,
    device: Device = None,
    out: Folder = RESULTS,
):
    """How far K and V of a model with trained weights move from step to step: what the filter's warm start lives on.

    Example: svdstory bench drift --model sdxl --set corgi-puppy --device cuda
    """
    from svdstory.pipeline.bench.drift import LEADING, SPAN, bench_drift
    from svdstory.pipeline.bench.record import bench_device, save

    chosen = bench_device(device)
    save(
        "drift",
        bench_drift(model, prompts, method, steps, chosen),
        chosen,
        out,
        f"{model}, {prompts}, {method}, {steps} steps, guidance 3; the first anchor's conditional half. drift: relative "
        "Frobenius distance of a layer's K or V from that of the step before; of sigma: of its singular values; turned: "
        f"the largest sine of the angle between one of the leading {LEADING:.0%} left singular vectors and the span of "
        f"{SPAN:g} times as many of the step before.",
    )


@bench.command()
def scoring(
    scorer: Annotated[str, typer.Option(help="One: the peak memory is the process's.")] = "clipscore",
    count: Annotated[int, typer.Option("--images", min=5, help="How many pictures.")] = 1000,
    size: Annotated[int, typer.Option(min=64, help="Their side in pixels.")] = 1024,
    device: Device = None,
    threads: Annotated[int | None, typer.Option(min=1, help="torch's threads on a CPU.")] = None,
    out: Folder = RESULTS,
):
    """How long a scorer takes and what memory it needs, on made-up pictures.

    Example: svdstory bench scoring --scorer dreamsim --images 100
    """
    from svdstory.jobs.bench.scoring_time import time_scorer, write_report
    from svdstory.pipeline.bench.record import bench_device

    timing = time_scorer(scorer, count, size, bench_device(device, threads))
    write_report(
        [timing], out, "svdstory bench scoring --scorer NAME --images N" + (f" --threads {threads}" if threads else "")
    )
    typer.echo(
        f"{scorer}: {timing.images} images in {timing.first_s:.1f} s ({timing.first_cpu_s:.1f} s of processor "
        f"time), peak {timing.peak_mib:.0f} MiB; {out / 'scoring.md'}"
    )


@bench.command()
def reduce(
    units: Annotated[str, typer.Option(help="Units of the runs that are made, separated by commas.")] = "1000",
    size: Annotated[int, typer.Option(help="Pixels of their images' sides.")] = 256,
    out: Folder = RESULTS,
):
    """Reduce a run made for the purpose: time, memory, page weight, and Chromium's time to load the page.

    Example: svdstory bench reduce --units 1000,10000
    """
    from svdstory.jobs.bench.reducing import bench_reduce

    rows = [bench_reduce(int(n), size) for n in units.split(",")]
    from svdstory.pipeline.bench.record import save  # torch: a child's peak memory is never below its parent's

    save(
        "reduce",
        rows,
        "cpu",
        out,
        "First: nothing of the report is there. Second: nothing has changed. Gone: one "
        "unit was removed, so the files that show it and all numbers are made again. CPU seconds over all threads, "
        "imports included. Page: three loads in Chromium, until the load event.",
    )
