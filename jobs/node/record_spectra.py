"""Spectra of a run's units: a unit is sampled again with a recorder, and its spectra are kept beside the run.

RUN/spectra/<key>.safetensors   `<k or v>.<layer>.<step>` -> (r,) float32, `....tokens` -> (LEADING, T), and `mask`, the
                                first anchor's subject mask (rows, columns); the finished unit itself is left alone
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors.torch import save

from svdstory.jobs.study.plan import Plan
from svdstory.jobs.study.reference_files import placed
from svdstory.jobs.study.store import Attempt
from svdstory.pipeline.config.methods import in_rows
from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.generation import generate
from svdstory.pipeline.models.device import fitting
from svdstory.pipeline.models.load import load_model
from svdstory.pipeline.spectral.recorder import SpectraRecorder


def record_spectra(
    plan: Plan,
    run: Path,
    keys: Iterable[str],
    device: str | None = None,
    report: Callable[[str, str], None] = lambda key, state: None,
) -> list[Path]:
    """Record the spectra of these units, those that have none yet. Raises InputError for one that gives none.

    `report` is told of each unit: (key, "done" | "found").
    """
    model, paths = None, []
    for key in keys:
        path, cell = run / "spectra" / f"{key}.safetensors", plan.units[key]
        paths.append(path)
        if path.exists():
            report(key, "found")
            continue
        model, recorder = model or load_model(plan.model, device, offload=plan.offload), SpectraRecorder()
        prompts, method = placed(plan.sets[cell.set], run), plan.methods[cell.method]
        rows = in_rows(method, len(prompts.settings), len(prompts.references))
        made = generate(
            model,
            prompts,
            method,
            seed=cell.seed,
            exact_filter=plan.exact_filter,
            **plan.sampling,
            spectra=recorder,
            micro_batch=fitting(plan.model, *rows, plan.size, model.device, plan.offload),
        )
        if not recorder.values:
            raise InputError(
                f"{cell.method}: attends to no anchors, so it has no spectra to record. Choose a method "
                "with extended attention: --method unmasked"
            )
        height, width = (side // 2 for side in made.sample.latents.shape[-2:])
        first = torch.cat([made.sample.reference_masks, made.sample.masks])[0]
        mask = first.unflatten(0, (height, width)).to(torch.uint8).cpu().contiguous()
        path.parent.mkdir(exist_ok=True)
        partial = path.with_name(f".{key}.{Attempt.here()}")
        partial.write_bytes(
            save(
                recorder.tensors() | {"mask": mask},
                metadata={"set": cell.set, "method": cell.method, "seed": str(cell.seed)},
            )
        )
        os.replace(partial, path)
        report(key, "done")
    return paths
