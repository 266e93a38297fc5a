"""What a method family is to the sampler. Plain SDXL is the one that changes nothing."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from svdstory.pipeline.config.methods import Method
from svdstory.pipeline.sampling.call import Call, Stage, StepPlan
from svdstory.pipeline.sampling.injection import Correspondences
from svdstory.pipeline.sampling.layers import Layer
from svdstory.pipeline.sampling.masks import SubjectMasks
from svdstory.pipeline.sampling.noise import Draws
from svdstory.pipeline.spectral.bank import SpectralBank
from svdstory.pipeline.spectral.recorder import SpectraRecorder


@dataclass(frozen=True)
class Pass:
    """One pass over the schedule: what is the same for all its steps."""

    method: Method
    unet: torch.nn.Module
    layers: list[Layer]  # its attention layers
    timesteps: Tensor  # (n,), of SDXL's schedule: schedule.timesteps_of
    draws: Draws
    stage: Stage
    masks: SubjectMasks
    bank: SpectralBank
    spectra: SpectraRecorder | None = None
    identity_tokens: int = 0  # of the text, from the start token on, that name the identity (One-Prompt-One-Story)
    matches: Correspondences | None = None  # of the first pass, in the second


class Family:
    """Plain SDXL: every image by itself, the subject's masks recorded for the metrics."""

    def __init__(self, run: Pass):
        self.run = run
        self.features: list[Tensor] = []  # DIFT features of each call that kept them, (R, C, H/2, W/2)

    def begin_step(self, step: int) -> StepPlan:
        return StepPlan(step)

    def self_attention(self, layer: Layer):
        """The processor for an `attn1`, or None to leave the layer its own."""
        return None

    def around(self, call: Call) -> AbstractContextManager:
        """Entered around each UNet call but the plain ones."""
        return nullcontext()


def row_groups(anchors: int, images: int, micro_batch: int | None) -> list[list[int]]:
    """The images of each UNet call of a step: the anchors together, then the others in micro-batches."""
    size = micro_batch or max(images, 1)
    others = [list(range(i, min(i + size, images))) for i in range(anchors, images, size)]
    return [list(range(anchors)), *others] if anchors else others
