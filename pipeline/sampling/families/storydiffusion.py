"""StoryDiffusion's consistent self-attention (arXiv 2405.01434).

M identity images look at one another's tokens, drawn at random; further images look at the identity images. One draw
serves all layers of a resolution, both CFG halves and all who look. In `up_blocks` alone. t the step's index.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from svdstory.pipeline.sampling.attention import ExtendedSelfAttention
from svdstory.pipeline.sampling.call import StepPlan
from svdstory.pipeline.sampling.family import Family, Pass
from svdstory.pipeline.sampling.layers import Layer

CLOSED = 0.3, 0.1  # the gate's probability of being closed, before and from
LATE = 20  # this step on, whatever the number of steps


class ConsistentSelfAttention(Family):
    """K+ = [K_i ; K_j[u_j < s] for every identity image j != i], V+ likewise, where the gate g[t, l] > c(t) is open."""

    def __init__(self, run: Pass):
        super().__init__(run)
        self.switches = run.method.storydiffusion
        self.sharing = [layer.number for layer in run.layers if shares(layer)]
        if run.spectra is not None:
            run.spectra.choose(self.sharing)

    def begin_step(self, step: int) -> StepPlan:
        if step < self.switches.warmup_steps:
            return StepPlan(step, others_extend=self.switches.warmup_reads_bank)
        closed = frozenset(self.closed(step) if self.switches.gate else ())
        return StepPlan(step, anchors_extend=True, others_extend=True, closed=closed, kept=self.kept(step))

    def closed(self, step: int) -> Iterator[int]:
        threshold = CLOSED[step >= LATE]
        return (n for order, n in enumerate(self.sharing) if not self.run.draws.gate(step, order) > threshold)

    def kept(self, step: int) -> dict[int, Tensor]:
        """tokens -> (M, tokens): which tokens of each identity image the others see."""
        masks, kept = self.run.masks, {}
        for ratio, (height, width) in masks.mask_sizes.items():
            share = self.switches.s_quarter if ratio >= 4 else self.switches.s_half
            images, tokens = range(self.switches.id_images), height * width
            u = torch.stack([self.run.draws.tokens(j, step, tokens) for j in images])
            kept[tokens] = (u < share).to(masks.subject.device, non_blocking=True)
        return kept

    def self_attention(self, layer: Layer):
        run = self.run
        return ExtendedSelfAttention(layer.number, run.stage, run.bank, run.spectra) if shares(layer) else None


def shares(layer: Layer) -> bool:
    return layer.kind == "attn1" and layer.part == "up_blocks"


family = ConsistentSelfAttention
