"""The command line that makes a cell of a plan again."""

import shlex
from pathlib import Path

from svdstory.jobs.study.experiment import shipped_experiments
from svdstory.jobs.study.plan import Cell, Plan
from svdstory.jobs.study.unit_keys import OFF, content
from svdstory.pipeline.config.strict import canonical


def command(plan: Plan, here: bool = True) -> str:
    """Up to the cell's set, method and seed; it can be pasted in any folder `here`, or names no folders."""
    named = plan.experiment if plan.experiment in shipped_experiments() else f"{plan.experiment}.yaml"
    experiment = plan.file if here and plan.file else named
    model = plan.model.location if here and plan.model.source in ("folder", "file") else plan.model.name
    width, height = plan.size
    return (
        f"svdstory run {shlex.quote(experiment)} --model {shlex.quote(model)} --steps {plan.steps} "
        f"--size {width}x{height} --dtype {plan.model.dtype} --set guidance={plan.guidance:g} "
        f"--set scheduler={plan.scheduler}"
        + (" --set exact_filter=true" if plan.exact_filter else "")
        + "".join(
            f" --set {shlex.quote(f'{key}={canonical(value)}')}" for key, value in switched_on(plan, here).items()
        )
    )


def switched_on(plan: Plan, here: bool) -> dict:
    """The keys of an experiment that are off by default and on in this plan."""
    on = {key: value for key, value in content(plan.sampling).items() if key in OFF}
    loras = [{"file": lora.file if here else Path(lora.file).name, "scale": lora.scale} for lora in plan.loras]
    on |= {"vae": plan.model.vae} if plan.model.vae else {}
    return on | ({"negative": plan.negative} if plan.negative else {}) | ({"loras": loras} if loras else {})


def command_of(plan: Plan, cell: Cell) -> str:
    """The whole command of one cell, as pictures carry it: without names of folders."""
    chosen = f"--sets {shlex.quote(cell.set)} --methods {shlex.quote(cell.method)} --seeds {cell.seed}"
    return f"{command(plan, here=False)} {chosen}"
