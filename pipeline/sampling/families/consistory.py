"""ConsiStory (arXiv 2402.03286) and SVD attention: images that look at the set's anchors.

ConsiStory looks at the anchors' subjects alone, blends queries and injects features; SVD attention looks at all of
the anchors, through a spectral filter. n steps, t the step's index, H × W latents.
"""

from contextlib import contextmanager

import torch
from torch import Tensor

from svdstory.pipeline.sampling import injection
from svdstory.pipeline.sampling.attention import ExtendedSelfAttention, InjectedSelfAttention, RandomReferenceAttention
from svdstory.pipeline.sampling.call import Call, StepPlan
from svdstory.pipeline.sampling.family import Family, Pass
from svdstory.pipeline.sampling.layers import Layer, block_ratios, inner_unet, uncompiled

NU = (0.9, 0.81836735)  # query blending's share of the plain queries, at the first step and after a tenth


class ConsiStory(Family):
    """One pass. With feature injection the first keeps DIFT features, `features`; the second injects along `matches`."""

    def __init__(self, run: Pass):
        super().__init__(run)
        self.features_at = None
        if run.method.feature_injection and run.matches is None:
            self.features_at = int((run.timesteps - injection.TIMESTEP).abs().argmin())
        if run.spectra is not None:
            run.spectra.choose([layer.number for layer in run.layers if self.extends(layer)])

    def begin_step(self, step: int) -> StepPlan:
        method, n = self.run.method, len(self.run.timesteps)
        extended = method.extended_attention != "off" and step >= 1
        blended = method.query_blending and 1 <= step <= n // 10
        return StepPlan(
            step,
            anchors_extend=extended,
            others_extend=extended,
            kept=self.kept(step) if extended and method.extended_attention == "masked" else None,
            blend=torch.linspace(*NU, n // 10 + 1)[step].item() if blended else None,
            injection=self.run.matches if n // 10 <= step <= n // 3 else None,
            keeps_features=step == self.features_at,
        )

    def kept(self, step: int) -> dict[int, Tensor]:
        """tokens -> (A, tokens): the anchors' subject masks after mask dropout."""
        masks, method = self.run.masks, self.run.method
        return masks.dropped(method.anchors(len(masks.subject)), method.mask_dropout, self.run.draws, step)

    def extends(self, layer: Layer) -> bool:
        """Whether the layer looks at the anchors or blends its queries."""
        asked = self.run.method.extended_attention != "off" or self.run.method.query_blending
        return asked and layer.kind == "attn1" and layer.part == "up_blocks"

    def self_attention(self, layer: Layer):
        run, method = self.run, self.run.method
        if self.extends(layer):
            if method.reference == "random":
                return RandomReferenceAttention(layer.number, run.stage, run.bank, run.spectra, run.draws)
            return ExtendedSelfAttention(layer.number, run.stage, run.bank, run.spectra)
        if layer.part != "mid_block" and method.feature_injection:
            return InjectedSelfAttention(layer.number, run.stage)
        return None

    @contextmanager
    def around(self, call: Call):
        """At the features' step: keep the cond half of the output of the up block that ends at half the latents' size:
        SDXL's first, SD's second (DIFT's choice for 2.1). A compiled UNet runs that step uncompiled, as compiled code
        sees no new hooks."""
        if not call.plan.keeps_features:
            yield
            return
        rows, unet = len(call.group.rows), inner_unet(self.run.unet)
        ratios = block_ratios(unet)
        [to_half, *_] = [
            b for b, block in enumerate(unet.up_blocks) if block.upsamplers and ratios[f"up_blocks.{b}"] == 4
        ]
        hook = unet.up_blocks[to_half].register_forward_hook(
            lambda module, args, output: self.features.append(output[-rows:])
        )
        try:
            with uncompiled():
                yield
        finally:
            hook.remove()


family = ConsiStory
