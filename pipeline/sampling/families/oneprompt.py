"""One-Prompt-One-Story (arXiv 2501.13554): one text for the set, reweighted for each image.

D columns of an encoder's embeddings, m positions that are reweighted, S identity keys, T tokens of a layer, R rows of
one CFG half. The texts themselves: pipeline/config/consolidation.py.
"""

import torch
from torch import Tensor

from svdstory.pipeline.config.consolidation import Consolidated, Span
from svdstory.pipeline.config.families import Reweighting, Scaling
from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.sampling.attention import RecordingCrossAttention
from svdstory.pipeline.sampling.call import Call
from svdstory.pipeline.sampling.family import Pass
from svdstory.pipeline.sampling.layers import Layer

END_SCALE = 0.9  # of the end tokens at every reweighting, in mode end_tokens_scaled


def reweighted(embeds: Tensor, text: Consolidated, how: Reweighting) -> Tensor:
    """SVR of one encoder's embeddings (77, D) of a consolidated text, for the image that expresses `text.express`.

    Each step on the result of the one before, in float64. Raises InputError where the result overflows.
    """
    weaken = [(span, how.weaken, -1) for span in text.suppress]
    enhance = [(text.express, how.enhance, +1)]
    x = embeds.double().cpu()
    for span, scaling, sign in weaken + enhance if how.order == "suppress_first" else enhance + weaken:
        x = reweigh(x, span, text.end, scaling, sign, with_end=how.mode == "with_end_tokens")
    result = x.to(embeds.dtype)
    if not torch.isfinite(result).all():
        raise InputError(
            f"singular-value reweighting overflows {str(embeds.dtype).removeprefix('torch.')} with enhance.alpha "
            f"{how.enhance.alpha}: e^(alpha sigma) is too large for this text. Lower it."
        )
    return result.to(embeds.device)


def reweigh(x: Tensor, span: Span | None, end: int, scaling: Scaling, sign: int, with_end: bool) -> Tensor:
    """X = U diag(sigma) V^T -> U diag(beta sigma e^(± alpha sigma)) V^T, X (D, m) being the rows of a phrase.

    With the end tokens' rows among them; or without, and the end tokens scaled.
    """
    x = x.clone()
    phrase, ending = torch.arange(*(span or (0, 0))), torch.arange(end, len(x))
    rows = torch.cat([phrase, ending]) if with_end else phrase
    if len(rows):
        u, sigma, vt = torch.linalg.svd(x[rows].T, full_matrices=False)
        x[rows] = ((u * (scaling.beta * sigma * (sign * scaling.alpha * sigma).exp())) @ vt).T
    if not with_end:
        x[ending] *= END_SCALE
    return x


def reweighted_set(embeds: Tensor, texts: list[Consolidated], how: Reweighting, widths: tuple[int, ...]) -> Tensor:
    """(B, 77, sum of widths): each encoder's columns reweighted by themselves."""
    return torch.stack(
        [
            torch.cat([reweighted(part, text, how) for part in one.split(widths, dim=-1)], dim=-1)
            for one, text in zip(embeds, texts)
        ]
    )


class IdentityCrossAttention(RecordingCrossAttention):
    """`attn2`: the cond half sees the identity's keys S twice: h = softmax(Q [K ; K_0[S]]^T / sqrt(D)) [V ; V_0[S]].

    K_0[S] = K[S], as CLIP is causal and P_0 comes first: so ln 2 on the logits of keys S says the same. With dropout
    ln(1 + d) for d in {0, 1}, drawn for each image, step, layer, token and key.
    """

    def __init__(self, run: Pass, layer: Layer):
        super().__init__(run.stage, run.masks)
        self.run, self.layer, self.switches = run, layer, run.method.oneprompt.identity_attention

    def mask(self, call: Call, q: Tensor, k: Tensor) -> Tensor | None:
        """The bias of the logits, (N, 1, 1 or T, L): uncond rows have none."""
        if call.plan.step < self.switches.start_step or self.layer.block not in self.switches.blocks:
            return None
        rows, identity = len(call.group.rows), self.run.identity_tokens
        seen = torch.ones(rows, 1, identity)
        if self.switches.identity_dropout:
            seen = torch.stack([self.drawn(call, image, q.shape[1], identity) for image in call.group.rows])
        bias = q.new_zeros(len(q), 1, seen.shape[1], k.shape[1])
        bias[-rows:, 0, :, :identity] = seen.log1p().to(q, non_blocking=True)
        return bias

    def drawn(self, call: Call, image: int, queries: int, keys: int) -> Tensor:
        """(T, S): 1 keeps, 0 drops."""
        u = self.run.draws.identity_keys(image, call.plan.step, self.layer.name, queries, keys)
        return (u >= self.switches.identity_dropout).float()
