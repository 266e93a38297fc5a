"""The switches of the method families beside ConsiStory and SVD attention. Imports without torch.

A family's record stands in a Method under the name of its file in pipeline/sampling/families. Every switch is given,
so that methods.yaml shows all that changes pixels.
"""

from typing import Literal

from pydantic import Field, model_validator

from svdstory.pipeline.config.strict import Strict

CROSS_BLOCKS = ("down1", "down2", "mid", "up0", "up1")  # SDXL's blocks with cross-attention


class StoryDiffusion(Strict):
    """Consistent self-attention (StoryDiffusion, arXiv 2405.01434).

    The first id_images look at one another; every further image looks at them and is seen by nobody. s_quarter, s_half:
    the share of an identity image's tokens that others see, at H/4 × W/4 and H/2 × W/2 tokens. Before warmup_steps
    nothing is shared, but that with warmup_reads_bank further images see all tokens of the identity images. gate: at
    each step and layer sharing is left out at random, with probability 0.3, from step 20 on 0.1.
    """

    id_images: int = Field(ge=1)
    s_quarter: float = Field(ge=0, le=1)
    s_half: float = Field(ge=0, le=1)
    warmup_steps: int = Field(ge=0)
    warmup_reads_bank: bool
    gate: bool

    @model_validator(mode="after")
    def _warmup_reads(self):
        if self.warmup_reads_bank and not self.warmup_steps:
            raise ValueError("warmup_reads_bank would do nothing: it needs warmup_steps of at least 1")
        return self


class StyleAligned(Strict):
    """StyleAligned (arXiv 2312.02133): every image looks at image 0, with its queries' and keys' statistics.

    adain_*: queries, keys, values take the mean and deviation of image 0's. scale, shift: of the logits of image 0's
    keys. full_sharing: images look at all others instead. shared_norms: group normalisation over an image and image 0
    together.
    """

    adain_queries: bool
    adain_keys: bool
    adain_values: bool
    scale: float
    shift: float
    full_sharing: bool
    shared_norms: bool


class Scaling(Strict):
    """sigma -> beta sigma e^(± alpha sigma): + enhances, - weakens."""

    alpha: float = Field(ge=0)
    beta: float = Field(gt=0)


class Reweighting(Strict):
    """Singular-value reweighting of the text embeddings of the frames: one is expressed, the others are suppressed.

    mode: `with_end_tokens` decomposes a frame's tokens together with the end tokens; `end_tokens_scaled` the frame's
    alone, and every reweighting multiplies the end tokens by 0.9. order: `suppress_first` as published,
    `express_first` as in the paper.
    """

    mode: Literal["with_end_tokens", "end_tokens_scaled"]
    order: Literal["suppress_first", "express_first"]
    enhance: Scaling
    weaken: Scaling


class IdentityAttention(Strict):
    """Identity-preserving cross-attention: the tokens of the identity prompt count twice, from start_step on.

    identity_dropout: each pair of an image's token and a second identity key is left out with this probability.
    """

    identity_dropout: float = Field(ge=0, lt=1)
    start_step: int = Field(ge=0)
    blocks: tuple[Literal[CROSS_BLOCKS], ...] = Field(min_length=1)


class OnePrompt(Strict):
    """One-Prompt-One-Story (arXiv 2501.13554): each image's text names the identity and several settings of the set.

    window_length: settings in a text, at most. reweighting and identity_attention: null is off. zero_pooled: the
    pooled text embedding is zero.
    """

    window_length: int = Field(ge=1)
    reweighting: Reweighting | None
    identity_attention: IdentityAttention | None
    zero_pooled: bool
