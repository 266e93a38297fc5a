"""Trains the miniature and its judges, from nothing to a folder to ship, on a CPU or a GPU; resumable.

    svdstory miniature train OUT --minutes 120

The same command goes on where it was stopped or killed: `OUT/state` holds each part's checkpoint with its optimizers.
A part that has had its minutes is finished (the VAE, the judges) or, asked for again, restarts its learning rate and
goes on from its weights (the UNet). `OUT/miniature`, `OUT/judges` are what is shipped, `OUT/sheets` the samples.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.miniature.autoencoder import train_decoder, train_vae
from svdstory.pipeline.miniature.clip import train_clip
from svdstory.pipeline.miniature.diffusion import DiffusionTraining, averaged_denoiser
from svdstory.pipeline.miniature.export import export, miniature
from svdstory.pipeline.miniature.judge_training import train_judge
from svdstory.pipeline.miniature.sheets import grid, sample_pictures, save_png, sheet_prompts, world_sheet
from svdstory.pipeline.miniature.start import start_from
from svdstory.pipeline.miniature.training_clock import Log

PARTS = ("vae", "unet", "decoder", "judge", "clip")
SHARES = {"vae": 0.05, "unet": 0.77, "decoder": 0.05, "judge": 0.08, "clip": 0.05}  # of the minutes, by default


def train(
    out: Path,
    minutes: float,
    resume: bool = True,
    device: str = "auto",
    batch: int | None = None,
    workers: int | None = None,
    threads: int | None = None,
    parts: tuple[str, ...] = PARTS,
    start: Path | None = None,
) -> None:
    """Train `parts` in `minutes` of wall-clock time and export what is ready to `out`.

    The minutes are split over the asked parts in the proportion of SHARES. `batch` and `workers` (processes that
    render) default to 16 and 0 on a CPU, 256 and the number of cores on a GPU. `start`: an exported miniature whose VAE
    and UNet a new training goes on from, its words' embeddings kept. Raises InputError if there is a
    state in `out` and `resume` is off, and for an unknown part.
    """
    out = Path(out)
    _check(out, resume, parts)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.device(device)
    on_gpu = where.type == "cuda"
    batch = batch or (256 if on_gpu else 16)
    replicas = 1 if on_gpu else threads or os.cpu_count() or 1
    torch.set_num_threads(os.cpu_count() or 1 if on_gpu else 1)  # replicas use the cores, see replicas.py
    torch.set_flush_denormal(True)
    workers = (os.cpu_count() or 1) if workers is None and on_gpu else (workers or 0)
    log, state = Log(out / "training.log"), out / "state"
    whole = sum(SHARES[part] for part in parts)
    budget = {part: minutes * SHARES[part] / whole if part in parts else 0.0 for part in PARTS}
    log(f"train {', '.join(parts)} on {where}, batch {batch}, {minutes:g} minutes, torch {torch.__version__}")
    if start:
        log(f"started from {start}, {start_from(start, state)} new words")
    save_png(world_sheet(), out / "sheets" / "world.png")
    vae = train_vae(state, budget["vae"], where, max(4, batch // 4), workers, log, replicas)
    if "unet" in parts:
        _train_unet(out, DiffusionTraining(state, vae, budget["unet"], where, batch, workers, log, replicas))
    if "decoder" in parts:
        vae = train_decoder(state, budget["decoder"], where, max(4, batch // 4), workers, log)
        export(vae, averaged_denoiser(state), out / "miniature")
    if "judge" in parts:
        train_judge(out, vae, budget["judge"], where, workers, log)
    if "clip" in parts:
        train_clip(out, vae, budget["clip"], where, workers, log)


def _train_unet(out: Path, training: DiffusionTraining) -> None:
    def sheet(average, name: str) -> None:
        """Samples of the averaged weights, and the averaged weights themselves: always something to look at."""
        pictures = sample_pictures(miniature(training.vae, average), sheet_prompts())
        save_png(grid(pictures, columns=6), out / "sheets" / f"{name}.png")
        size = export(training.vae, average, out / "miniature")
        training.log(f"unet: sheets/{name}.png drawn, miniature exported ({size / 1e6:.1f} MB)")

    training.run(sheet)


def _check(out: Path, resume: bool, parts: tuple[str, ...]) -> None:
    for part in parts:
        if part not in PARTS:
            raise InputError(f"train: unknown part {part!r}, expected some of {', '.join(PARTS)}.", key="parts")
    if not resume and (out / "state").exists():
        raise InputError(f"{out / 'state'} holds a training already. Choose another folder, or resume it.")
