"""Schedulers by name, and which of them fit a model's own. Imports without torch.

A model's own scheduler says with which noise it was trained; another one takes that over, or is refused.
"""

import ast
import importlib.util
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from svdstory.pipeline.config.strict import InputError, Strict, choices

OWN = "own"
PREDICTIONS = ("epsilon", "v_prediction")


@dataclass(frozen=True)
class Kind:
    """A scheduler of diffusers.

    fewer: how many steps fewer than a model was trained with it can take: the last would leave the schedule. always:
    configuration that it needs on a latent diffusion model. edm: for models trained in EDM's form (arXiv 2206.00364).
    """

    class_name: str
    fewer: int = 0
    always: dict = field(default_factory=dict)
    edm: bool = False


# Left out of diffusers': those for flow matching, inversion and pixels, and DPMSolverSDE, whose noise is no image's own
SCHEDULERS = {
    "ddim": Kind("DDIMScheduler", 1),
    "ddpm": Kind("DDPMScheduler", 1),
    "pndm": Kind("PNDMScheduler", 2, {"skip_prk_steps": True}),
    "lms": Kind("LMSDiscreteScheduler", 1),
    "euler": Kind("EulerDiscreteScheduler"),
    "euler-ancestral": Kind("EulerAncestralDiscreteScheduler"),
    "heun": Kind("HeunDiscreteScheduler"),
    "dpm2": Kind("KDPM2DiscreteScheduler"),
    "dpm2-ancestral": Kind("KDPM2AncestralDiscreteScheduler"),
    "dpm++2m": Kind("DPMSolverMultistepScheduler", 2),
    "dpm++2s": Kind("DPMSolverSinglestepScheduler"),
    "deis": Kind("DEISMultistepScheduler", 2),
    "unipc": Kind("UniPCMultistepScheduler", 2),
    "sa": Kind("SASolverScheduler", 2),
    "lcm": Kind("LCMScheduler"),
    "tcd": Kind("TCDScheduler"),
    "edm-euler": Kind("EDMEulerScheduler", edm=True),
    "edm-dpm++2m": Kind("EDMDPMSolverMultistepScheduler", edm=True),
}
DISTILLED = ("lcm", "tcd")  # for models distilled for them; of their training's steps they take some
UNREPLAYED = ("dpm2", "dpm2-ancestral")  # whose second calls lie at levels that their add_noise doesn't know


class SchedulerConfig(Strict):
    """Changes to a scheduler's configuration, in diffusers' words. Which of them a scheduler has, `fit` checks."""

    timestep_spacing: Literal["linspace", "leading", "trailing"] | None = None
    prediction_type: Literal[PREDICTIONS] | None = None
    rescale_betas_zero_snr: bool | None = None
    use_karras_sigmas: bool | None = None
    use_exponential_sigmas: bool | None = None
    use_beta_sigmas: bool | None = None
    algorithm_type: Literal["dpmsolver++", "sde-dpmsolver++"] | None = None
    solver_order: Literal[1, 2, 3] | None = None
    euler_at_final: bool | None = None
    original_inference_steps: int | None = None

    @model_validator(mode="after")
    def _possible(self):
        sigmas = [key for key in self.changes() if key.startswith("use_") and getattr(self, key)]
        if len(sigmas) > 1:
            raise ValueError(f"{' and '.join(sigmas)} exclude each other: give one")
        if self.rescale_betas_zero_snr and self.timestep_spacing in ("leading", "linspace"):
            raise ValueError("rescale_betas_zero_snr starts at the last timestep: it needs timestep_spacing: trailing")
        return self

    def changes(self) -> dict:
        """What is set."""
        return self.model_dump(exclude_none=True)


def own_name(own: dict) -> str:
    """The name of a model's own scheduler, whose configuration this is; its class, where we have no name for it."""
    known = {kind.class_name: name for name, kind in SCHEDULERS.items()}
    return known.get(own.get("_class_name", ""), own.get("_class_name", ""))


def fit(name: str, own: dict, changes: dict) -> tuple[str, dict]:
    """The class and the configuration beyond the model's own with which scheduler `name` samples the model.

    own: the configuration of the model's scheduler, with its `_class_name`. Raises InputError, whose key is the
    experiment's, for an unknown scheduler, one that a model of its kind cannot be sampled with, and for changes that
    the scheduler doesn't have.
    """
    if name not in (OWN, *SCHEDULERS):
        raise InputError(f"unknown scheduler {name!r}{choices(name, [OWN, *SCHEDULERS])}.", key="scheduler")
    mine, known = own.get("_class_name", "DDIMScheduler"), {kind.class_name: kind for kind in SCHEDULERS.values()}
    predicts = own.get("prediction_type", "epsilon")
    if "Flow" in mine or predicts not in PREDICTIONS:
        raise InputError(
            f"the model's own scheduler is {mine}, of prediction_type {predicts}: svdstory samples models that predict "
            f"{' or '.join(PREDICTIONS)}.",
            key="scheduler",
        )
    if name == OWN and mine not in known:
        raise InputError(
            f"scheduler own: the model's own is {mine}, which is none of {', '.join(SCHEDULERS)}: name one.",
            key="scheduler",
        )
    kind = known[mine] if name == OWN else SCHEDULERS[name]
    taken, trained_edm = configuration_keys(kind.class_name), mine.startswith("EDM")
    if kind.edm != trained_edm:
        fitting = [other for other, one in SCHEDULERS.items() if one.edm == trained_edm]
        raise InputError(
            f"scheduler {name}: the model's own scheduler, {mine}, says that it was trained "
            f"{'in' if trained_edm else 'not in'} EDM's form: choose own or one of {', '.join(fitting)}.",
            key="scheduler",
        )
    if own.get("rescale_betas_zero_snr") and "rescale_betas_zero_snr" not in taken:
        raise InputError(
            f"scheduler {name}: the model was trained with zero terminal SNR (rescale_betas_zero_snr), which "
            f"{kind.class_name} doesn't have: choose ddim, euler, dpm++2m or unipc.",
            key="scheduler",
        )
    foreign = [key for key in changes if key not in taken]
    if foreign:
        raise InputError(
            f"scheduler_config: {kind.class_name} has no {', '.join(foreign)}; it has "
            f"{', '.join(key for key in SchedulerConfig.model_fields if key in taken) or 'none of these keys'}.",
            key="scheduler_config",
        )
    return kind.class_name, ({} if name == OWN else kind.always) | changes


def most_steps(name: str, own: dict, changes: dict) -> int:
    """How many steps the model can be sampled with."""
    class_name, changed = fit(name, own, changes)
    kind, config = next(one for one in SCHEDULERS.items() if one[1].class_name == class_name), own | changed
    if kind[0] in DISTILLED:
        return config.get("original_inference_steps", 50)
    return config.get("num_train_timesteps", 1000) - kind[1].fewer


@lru_cache
def configuration_keys(class_name: str) -> frozenset[str]:
    """What a scheduler of the installed diffusers can be configured with, read from its source: no torch."""
    folder = Path(importlib.util.find_spec("diffusers").submodule_search_locations[0]) / "schedulers"
    for path in sorted(folder.glob("scheduling_*.py")):
        text = path.read_text(encoding="utf-8")
        if f"class {class_name}(" in text:
            classes = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)}
            [init] = [f for f in classes[class_name].body if getattr(f, "name", "") == "__init__"]
            return frozenset(argument.arg for argument in init.args.args) - {"self"}
    raise InputError(f"the installed diffusers has no {class_name}: pip install -U diffusers.")
