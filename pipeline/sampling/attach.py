"""A method on a pipeline that somebody else's loop runs.

    with attach(pipe, named("svd-log-no-injection"), images=3):
        pipe(["a fox in snow", "a fox in rain", "a fox at a desk"])

Every call of the UNet is then one step of the method. Rows are [uncond × B, cond × B], or [cond × B].
"""

import warnings
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from svdstory.pipeline.config.methods import TOLERANCE, Method, check_images
from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.sampling.call import Group, Stage
from svdstory.pipeline.sampling.denoiser import groups_of, predict
from svdstory.pipeline.sampling.families import family_of, processor_of
from svdstory.pipeline.sampling.family import Family, Pass
from svdstory.pipeline.sampling.freeu import freeu
from svdstory.pipeline.sampling.layers import attention_layers, processors_on, shared_ratios
from svdstory.pipeline.sampling.masks import SubjectMasks
from svdstory.pipeline.sampling.noise import Draws
from svdstory.pipeline.sampling.schedule import timesteps_of
from svdstory.pipeline.spectral.bank import SpectralBank


@contextmanager
def attach(
    pipe,
    method: Method,
    *,
    images: int,
    seed: int = 0,
    subject_tokens: Tensor | None = None,
    micro_batch: int | None = None,
):
    """Put a method on `pipe` (its `unet` and `scheduler`) for the length of a `with`; all is put back after it.

    images: of one set, B. Runs follow one another: the first call after the scheduler's last step begins anew.
    subject_tokens: (B, S) positions of the subject in each prompt, for masked attention. Raises InputError for what a
    loop of the caller's cannot do: two passes (feature_injection), the text (oneprompt), the noise (same_latent).
    """
    refuse_what_needs_more(method, subject_tokens)
    check_images(method, images)
    unet = pipe.unet
    own = unet.__dict__.get("forward")
    with ExitStack() as stack, freeu(unet, method.freeu):
        unet.forward = Attached(pipe, method, images, Draws(seed), subject_tokens, micro_batch, unet.forward, stack)
        try:
            yield pipe
        finally:
            del unet.forward
            if own is not None:
                unet.forward = own


@dataclass
class Attached:
    """Stands for the UNet's `forward`: a call is split into the method's groups, a step of the method each."""

    pipe: object
    method: Method
    images: int
    draws: Draws
    subject_tokens: Tensor | None
    micro_batch: int | None
    forward: object  # the UNet's own
    stack: ExitStack  # holds the present run's processors
    step: int = -1
    family: Family | None = None
    groups: tuple[Group, ...] = ()
    bank: SpectralBank | None = None

    @torch.no_grad()
    def __call__(self, sample: Tensor, timestep, encoder_hidden_states: Tensor, return_dict: bool = True, **known):
        if len(sample) not in (self.images, 2 * self.images):
            raise InputError(
                f"the UNet was called with {len(sample)} rows, expected {self.images} or {2 * self.images}: a set of "
                f"{self.images} images, without or with guidance. Give attach the number of prompts as `images`."
            )
        self.step = (self.step + 1) % len(self.pipe.scheduler.timesteps)
        if self.step == 0:
            self.begin(*sample.shape[-2:], sample.device)
        known = {"encoder_hidden_states": encoder_hidden_states, **known}
        rows = [self.of(group, sample) for group in self.groups]
        conditions = [self.of(group, known) for group in self.groups]
        out = predict(self.forward, self.family, self.groups, self.step, rows, timestep, conditions).flatten(0, 1)
        if self.step + 1 == len(self.pipe.scheduler.timesteps) and not self.bank.accepted():
            text = f"a filtered K or V was off by more than {TOLERANCE}: svdstory.pipeline.generate makes such passes again"
            warnings.warn(text, stacklevel=2)
        if not return_dict:
            return (out,)
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput

        return UNet2DConditionOutput(sample=out)

    def begin(self, height: int, width: int, device) -> None:
        """A new run: fresh masks and filters, the method's processors on the layers."""
        method, layers = self.method, attention_layers(self.pipe.unet)
        subject = torch.zeros(self.images, 1, dtype=torch.long) if self.subject_tokens is None else self.subject_tokens
        masks = SubjectMasks(subject, height, width, device, shared_ratios(layers))
        self.bank = SpectralBank(method.filter_k, method.filter_v, exact=False)
        timesteps = timesteps_of(self.pipe.scheduler)
        self.family = family_of(Pass(method, self.pipe.unet, layers, timesteps, self.draws, Stage(), masks, self.bank))
        self.groups = tuple(groups_of(self.family, self.images, self.micro_batch, device))
        self.stack.close()
        self.stack.enter_context(processors_on(layers, processor_of(self.family)))

    def of(self, group: Group, x):
        """What belongs to the group's images, of anything with a row for each image and half."""
        if isinstance(x, dict):
            return {name: self.of(group, value) for name, value in x.items()}
        if isinstance(x, Tensor) and x.ndim and len(x) in (self.images, 2 * self.images):
            return x.unflatten(0, (-1, self.images))[:, group.index].flatten(0, 1)
        return x


def refuse_what_needs_more(method: Method, subject_tokens: Tensor | None) -> None:
    reasons = {
        "feature_injection": (method.feature_injection, "draws the set twice"),
        "oneprompt": (method.oneprompt, "writes the prompts itself"),
        "same_latent": (method.same_latent, "makes the noise itself"),
        "function": (method.function, "runs a loop of its own"),
        "pictures": (method.pictures, "are made elsewhere"),
        "tuning": (method.tuning, "puts a subject on the model"),
    }
    for switch, (on, why) in reasons.items():
        if on:
            raise InputError(f"{switch} {why}, which a loop of your own doesn't: use svdstory.pipeline.generate.")
    if method.extended_attention == "masked" and subject_tokens is None:
        raise InputError(
            "extended_attention: masked needs subject_tokens, (images, S) positions of the subject's tokens in each "
            "prompt: see subject_positions in pipeline/config/tokens.py."
        )
