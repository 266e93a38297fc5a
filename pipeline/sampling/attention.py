"""The attention processors: extended self-attention over anchors, and the recording of subject attention.

R rows of one CFG half (images), N = halves × R, A anchors, T tokens, C channels, K heads, D head width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from svdstory.pipeline.sampling.call import Call, Stage
from svdstory.pipeline.sampling.masks import SubjectMasks
from svdstory.pipeline.sampling.noise import Draws
from svdstory.pipeline.spectral.bank import SpectralBank
from svdstory.pipeline.spectral.recorder import SpectraRecorder


def split(x: Tensor, heads: int) -> Tensor:
    """(N, T, C) -> (N, K, T, D)"""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def attend(attn, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """The layer's output, W_out softmax(Q K^T / sqrt(D) + mask) V over heads, (N, T, C).

    `mask`, broadcast to (N, K, T, T of k): bool leaves keys out, a float is added to the logits.
    """
    h = F.scaled_dot_product_attention(*(split(x, attn.heads) for x in (q, k, v)), attn_mask=mask)
    return attn.to_out[0](h.transpose(1, 2).flatten(2))


class InjectedSelfAttention:
    """`attn1`: h = softmax(Q K^T / sqrt(D)) V, and feature injection into its output (ConsiStory, section 3.3)."""

    def __init__(self, layer: int, stage: Stage):
        self.layer, self.stage = layer, stage

    @torch.compiler.disable  # a call's plan would be compiled anew for each step
    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        call = self.stage.call
        q, k, v = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)  # (N, T, C)
        h = attend(attn, *self.attended(call, q, k, v, attn.heads))
        return h if call.plain else self.injected(call, h)

    def attended(self, call: Call, q: Tensor, k: Tensor, v: Tensor, heads: int) -> tuple:
        """Q, K, V and the mask, as attention is to see them."""
        return q, k, v, None

    def injected(self, call: Call, h: Tensor) -> Tensor:
        """Feature injection into the cond half, where this layer has the correspondences' resolution."""
        matches, group = call.plan.injection, call.group
        if matches is None or h.shape[1] != matches.gate.shape[1]:
            return h
        cond = h[-len(group.rows) :]
        matches.inject(cond, group.rows, None if group.leads else call.memory["injected", self.layer])
        if group.leads and not group.last:
            call.memory["injected", self.layer] = cond[: matches.nearest.shape[1]].clone()
        return h


class ExtendedSelfAttention(InjectedSelfAttention):
    """`attn1`: h_i = softmax(Q_i K+^T / sqrt(D)) V+ with K+ = [K_i ; K_a[kept_a] for each anchor a != i], V+ likewise.

    Queries are blended (ConsiStory, section 3.2), the anchors' K and V filtered (spectral/): once per layer, half and step.
    """

    def __init__(self, layer: int, stage: Stage, bank: SpectralBank, spectra: SpectraRecorder | None):
        super().__init__(layer, stage)
        self.bank, self.spectra = bank, spectra

    def attended(self, call: Call, q: Tensor, k: Tensor, v: Tensor, heads: int) -> tuple:
        if call.plain:
            call.memory["queries", self.layer] = q
            return q, k, v, None
        return self.blended(call, q), *self.extended(call, k, v, heads)

    def blended(self, call: Call, q: Tensor) -> Tensor:
        """Q = nu_t Q_plain + (1 - nu_t) Q_extended"""
        nu = call.plan.blend
        return q if nu is None else nu * call.memory.pop(("queries", self.layer)) + (1 - nu) * q

    def extended(self, call: Call, k: Tensor, v: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """K+ and V+, and which of their tokens are kept."""
        plan, group, own = call.plan, call.group, (k, v)
        if self.layer in plan.closed or not (plan.anchors_extend or plan.others_extend):
            return k, v, None
        if group.leads:
            others = others_of(len(group.rows), k.device)  # (A, A - 1)
            looked_at = not group.last or (plan.anchors_extend and others.numel())
            references = self.filtered(call, k, v, heads) if looked_at else None  # (halves, A, T, C) each
            if not group.last:
                call.memory["references", self.layer] = references
            if not (plan.anchors_extend and others.numel()):
                return k, v, None
            references = tuple(x[:, others] for x in references)  # (halves, A, A - 1, T, C)
            kept = None if plan.kept is None else plan.kept[k.shape[1]][others].flatten(1)
        else:
            rows = len(group.rows)
            references = (x[:, None].expand(-1, rows, -1, -1, -1) for x in call.memory["references", self.layer])
            kept = None if plan.kept is None else plan.kept[k.shape[1]].flatten().expand(rows, -1)
        return *(joined(x, of_anchors) for x, of_anchors in zip(own, references)), mask_of(call, kept, k.shape[1])

    def filtered(self, call: Call, k: Tensor, v: Tensor, heads: int) -> tuple[Tensor, ...]:
        """The leading rows' K and V through the spectral filter, (halves, A, T, C) each."""
        if self.spectra is not None:
            self.spectra.record(self.layer, call.plan.step, k, v, anchors=len(call.group.rows))
        filtered = self.bank(self.layer, k, v, step=call.plan.step, heads=heads)
        return tuple(x.unflatten(0, (call.halves, -1)) for x in filtered)


class RandomReferenceAttention(ExtendedSelfAttention):
    """One image, drawn for this step and layer, is the only anchor; it attends to itself alone."""

    def __init__(self, layer: int, stage: Stage, bank: SpectralBank, spectra: SpectraRecorder | None, draws: Draws):
        super().__init__(layer, stage, bank, spectra)
        self.draws = draws

    def extended(self, call: Call, k: Tensor, v: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor | None]:
        if not call.plan.anchors_extend:
            return k, v, None
        rows, tokens = len(call.group.rows), k.shape[1]
        chosen = self.draws.reference(call.plan.step, self.layer, rows)
        one = [x.unflatten(0, (call.halves, rows))[:, chosen].contiguous() for x in (k, v)]
        filtered = self.bank((self.layer, chosen), *one, step=call.plan.step, heads=heads)  # (halves, T, C) each
        kept = torch.ones(rows, tokens, dtype=torch.bool, device=k.device)
        if call.plan.kept is not None:
            kept &= call.plan.kept[tokens][chosen]
        kept[chosen] = False
        plus = (joined(x, y[:, None, None].expand(-1, rows, -1, -1, -1)) for x, y in zip((k, v), filtered))
        return *plus, mask_of(call, kept, tokens)


def others_of(anchors: int, device) -> Tensor:
    """(A, A - 1): for each anchor the other ones."""
    number = torch.arange(anchors, device=device)
    other = number[: max(anchors - 1, 0)].expand(anchors, -1)
    return other + (other >= number[:, None])


def joined(own: Tensor, references: Tensor) -> Tensor:
    """(N, T, C) and (halves, R, S, T, C) -> (N, T + S·T, C)"""
    return torch.cat([own, references.flatten(2, 3).flatten(0, 1)], dim=1)


def mask_of(call: Call, kept: Tensor | None, tokens: int) -> Tensor | None:
    """(R, S·T) kept reference tokens -> (N, 1, 1, T + S·T): own tokens are always kept."""
    return None if kept is None else F.pad(kept, (tokens, 0), value=True).repeat(call.halves, 1)[:, None, None]


class RecordingCrossAttention:
    """`attn2`: stock attention; where the masks want this resolution, the cond half's probabilities are recorded."""

    def __init__(self, stage: Stage, masks: SubjectMasks):
        self.stage, self.masks = stage, masks

    @torch.compiler.disable
    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        call = self.stage.call
        q, k, v = attn.to_q(hidden_states), attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        if not call.plain and self.masks.records(q.shape[1]):
            self.masks.record(call.group.index, cond_probabilities(q, k, len(call.group.rows), attn.heads))
        return attend(attn, q, k, v, self.mask(call, q, k))

    def mask(self, call: Call, q: Tensor, k: Tensor) -> Tensor | None:
        """What is added to the logits, broadcast to (N, K, T, L)."""
        return None


def cond_probabilities(q: Tensor, k: Tensor, rows: int, heads: int) -> Tensor:
    """softmax(Q K^T / sqrt(D)) of the cond half, (R, K, T, L) float32."""
    q, k = split(q[-rows:], heads), split(k[-rows:], heads)  # (R, K, T | L, D)
    # an eighth before the product, or float16 may overflow: SDXL's whole 1 / sqrt(D), and exact for any D
    scores = ((q / 8) @ k.transpose(-1, -2)).float() * (8 * q.shape[-1] ** -0.5)
    return scores.softmax(-1)
