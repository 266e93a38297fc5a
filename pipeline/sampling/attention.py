"""The attention processors: extended self-attention over anchors, and the recording of subject attention.

R rows of one CFG half (images), A anchors, T tokens, C channels, K heads, D head width. A UNet call's batch is
[uncond × R, cond × R], or [cond × R] without guidance; the halves never mix.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from svdstory.pipeline.config.methods import Method
from svdstory.pipeline.sampling import noise
from svdstory.pipeline.sampling.injection import Correspondences
from svdstory.pipeline.sampling.masks import SubjectMasks
from svdstory.pipeline.spectral.bank import SpectralBank
from svdstory.pipeline.spectral.recorder import SpectraRecorder


@dataclass
class Call:
    """What the present UNet call is, as the attention layers see it. The sampler sets it, the layers read it."""

    method: Method
    seed: int
    halves: int  # 2: uncond and cond, 1: cond alone
    spectra: SpectraRecorder | None = None  # where the references' singular values are kept, on demand
    # of this pass
    bank: SpectralBank | None = None  # the filters of the references' K and V
    masks: SubjectMasks | None = None  # where attention is recorded
    others: Tensor | None = None  # (A, A - 1): for each anchor the other ones
    # of this step
    step: int = 0
    extended: bool = False  # it attends to the references
    kept: dict[int, Tensor] | None = None  # tokens -> (A, T) bool: the references' kept tokens
    blend: float | None = None  # nu_t of query blending
    injection: Correspondences | None = None
    # of this call
    rows: list[int] = field(default_factory=list)  # images of one half
    index: Tensor | None = None  # the same, on the device
    plain: bool = False  # only the queries are kept
    anchors: bool = False  # the rows begin with the anchors; otherwise they have none
    last: bool = False  # no later call of this step reads what the layers keep
    # kept by the layers for later calls of the same step
    queries: dict[int, Tensor] = field(default_factory=dict)
    references: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    injected: dict[int, Tensor] = field(default_factory=dict)


def split(x: Tensor, attn) -> Tensor:
    """(N, T, C) -> (N, K, T, D)"""
    return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, attn, keep: Tensor | None = None) -> Tensor:
    """softmax(Q K^T / sqrt(D)) V over heads, (N, T, C); `keep` (N, T of k) bool leaves keys out."""
    mask = None if keep is None else keep[:, None, None, :]
    h = F.scaled_dot_product_attention(split(q, attn), split(k, attn), split(v, attn), attn_mask=mask)
    return h.transpose(1, 2).flatten(2)


class ExtendedSelfAttention:
    """`attn1`: image i attends to [K_i ; K_a[kept_a] for each anchor a != i] (spec 1, 2, 4 and 5).

    In `up_blocks` it `extends`; in `down_blocks` it only injects.
    """

    def __init__(self, layer: int, extends: bool, call: Call):
        self.layer, self.extends, self.call = layer, extends, call

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        q, k, v = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)  # (N, T, C)
        keep = None
        if self.extends and self.call.plain:
            self.call.queries[self.layer] = q
        elif self.extends:
            q = self.blend(q)
            if self.call.extended:
                k, v, keep = self.extend(k, v, attn.heads)
        h = attn.to_out[0](attend(q, k, v, attn, keep))
        return h if self.call.plain else self.inject(h)

    def blend(self, q: Tensor) -> Tensor:
        """Q = nu_t Q_plain + (1 - nu_t) Q_extended"""
        nu = self.call.blend
        return q if nu is None else nu * self.call.queries.pop(self.layer) + (1 - nu) * q

    def extend(self, k: Tensor, v: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """K+ and V+: the rows' own tokens, then each reference's; and which of them are kept."""
        call, rows = self.call, len(self.call.rows)
        if call.method.reference == "random":
            return self.extend_by_random(k, v, heads)
        if call.anchors:
            others = call.others  # (A, A - 1)
            if rows == 1 and call.last:
                return k, v, None
            k_ref, v_ref = self.filtered(k, v, heads)  # (halves, A, T, C)
            if not call.last:
                call.references[self.layer] = k_ref, v_ref
            k_ref, v_ref = k_ref[:, others], v_ref[:, others]  # (halves, A, A-1, T, C)
            kept = None if call.kept is None else call.kept[k.shape[1]][others].flatten(1)
        else:
            k_ref, v_ref = (x[:, None].expand(-1, rows, -1, -1, -1) for x in call.references[self.layer])
            kept = None if call.kept is None else call.kept[k.shape[1]].flatten()[None].expand(rows, -1)
        return self.joined(k, k_ref), self.joined(v, v_ref), self.keep(kept, k.shape[1])

    def extend_by_random(self, k: Tensor, v: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
        """One image, drawn for this step and layer, is the only reference; it attends to itself alone."""
        call, rows = self.call, len(self.call.rows)
        chosen = noise.random_reference(call.seed, call.step, self.layer, rows)
        one = [x.unflatten(0, (call.halves, rows))[:, chosen].contiguous() for x in (k, v)]
        k_ref, v_ref = (
            x[:, None, None].expand(-1, rows, -1, -1, -1)
            for x in self.call.bank(self.layer, *one, step=call.step, heads=heads)
        )  # (halves, R, 1, T, C)
        tokens = k.shape[1]
        kept = torch.ones(rows, tokens, dtype=torch.bool, device=k.device)
        if call.kept is not None:
            kept &= call.kept[tokens][chosen]
        kept[chosen] = False
        return self.joined(k, k_ref), self.joined(v, v_ref), self.keep(kept, tokens)

    def filtered(self, k: Tensor, v: Tensor, heads: int) -> tuple[Tensor, Tensor]:
        """The anchors' K and V through the spectral filter: once per layer, half and step."""
        if self.call.spectra is not None:
            self.call.spectra.record(self.layer, self.call.step, k, v, anchors=len(self.call.rows))
        k, v = self.call.bank(self.layer, k, v, step=self.call.step, heads=heads)
        return k.unflatten(0, (self.call.halves, -1)), v.unflatten(0, (self.call.halves, -1))

    def joined(self, own: Tensor, reference: Tensor) -> Tensor:
        """(N, T, C) and (halves, R, S, T, C) -> (N, T + S·T, C)"""
        return torch.cat([own, reference.flatten(2, 3).flatten(0, 1)], dim=1)

    def keep(self, kept: Tensor | None, tokens: int) -> Tensor | None:
        """(R, S·T) kept reference tokens -> (N, T + S·T): own tokens are always kept."""
        if kept is None:
            return None
        own = torch.ones(len(kept), tokens, dtype=torch.bool, device=kept.device)
        return torch.cat([own, kept], dim=1).repeat(self.call.halves, 1)

    def inject(self, h: Tensor) -> Tensor:
        """Feature injection into the cond half, where this layer has the correspondences' resolution."""
        call = self.call
        if call.injection is None or h.shape[1] != call.injection.gate.shape[1]:
            return h
        cond = h[-len(call.rows) :]
        call.injection.inject(cond, call.rows, None if call.anchors else call.injected[self.layer])
        if call.anchors and not call.last:
            call.injected[self.layer] = cond[: call.injection.nearest.shape[1]].clone()
        return h


class RecordingCrossAttention:
    """`attn2`: stock attention; where the masks want this resolution, the cond half's probabilities are recorded."""

    def __init__(self, call: Call):
        self.call = call

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        q, k, v = (
            f(x)
            for f, x in (
                (attn.to_q, hidden_states),
                (attn.to_k, encoder_hidden_states),
                (attn.to_v, encoder_hidden_states),
            )
        )
        masks, rows = self.call.masks, len(self.call.rows)
        if masks is not None and masks.records(q.shape[1]):
            q_cond, k_cond = split(q[-rows:], attn), split(k[-rows:], attn)  # (R, K, T | L, D)
            # an eighth before the product, or float16 may overflow: SDXL's whole 1 / sqrt(D), and exact for any D
            scores = ((q_cond / 8) @ k_cond.transpose(-1, -2)).float() * (8 * q_cond.shape[-1] ** -0.5)
            masks.record(self.call.index, scores.softmax(-1))
        return attn.to_out[0](attend(q, k, v, attn))
