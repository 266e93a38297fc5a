"""StyleAligned (arXiv 2312.02133): every image of a set looks at image 0, with image 0's statistics.

N = halves × R rows, T tokens, C channels, G groups of channels. In every `attn1` of the UNet, and in every group
normalisation. (The published program shares layer normalisation too: a token's own channels are all it looks at, so
that changes nothing.)
"""

from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from svdstory.pipeline.config.families import StyleAligned
from svdstory.pipeline.sampling.attention import attend, joined, others_of
from svdstory.pipeline.sampling.call import Call, Stage
from svdstory.pipeline.sampling.family import Family, Pass
from svdstory.pipeline.sampling.layers import Layer, inner_unet, uncompiled

EPSILON = 1e-5


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sqrt(var + 1e-5) of each channel over tokens, (..., T, C) -> (..., 1, C) float32."""
    var, mean = torch.var_mean(x.float(), -2, keepdim=True)
    return mean, (var + EPSILON).sqrt()


def adain(x: Tensor, reference: tuple[Tensor, Tensor]) -> Tensor:
    """AdaIN(x, ref) = (x - mean x) / std x · std ref + mean ref; `reference`: the statistics of ref."""
    (mean, std), (mean_ref, std_ref) = statistics(x), reference
    return torch.addcmul(mean_ref - mean * std_ref / std, x, std_ref / std).to(x.dtype)


class AlignedSelfAttention:
    """`attn1`: h_i = softmax([Q^ K^^T ; s Q^ K_0^T + shift] / sqrt(D)) [V ; V_0], Q^ = AdaIN(Q, Q_0), K^ = AdaIN(K, K_0).

    Image 0 looks at itself alone. The shift is of the logits as they are after the division. With full sharing the
    second part holds the keys K^_j and values of all other images.
    """

    def __init__(self, layer: int, stage: Stage, switches: StyleAligned):
        self.layer, self.stage, self.switches = layer, stage, switches

    @torch.compiler.disable
    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        q, k, v = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)  # (N, T, C)
        return attend(attn, *self.aligned(self.stage.call, q, k, v))

    def aligned(self, call: Call, *own: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Q^, [K^ ; s K_0], [V ; V_0] and the shift of the logits."""
        switches, group, memory = self.switches, call.group, call.memory
        by_half = [x.unflatten(0, (call.halves, -1)) for x in own]  # (halves, R, T, C)
        if group.leads:
            image_0 = [x[:, :1] for x in by_half]
            of_image_0 = [statistics(x) for x in image_0], image_0[1:]
            if not group.last:
                memory["image 0", self.layer] = of_image_0
        if group.rows == [0]:
            return *own, None
        reference, shared = of_image_0 if group.leads else memory["image 0", self.layer]
        on = switches.adain_queries, switches.adain_keys, switches.adain_values
        aligned = [adain(x, ref) if wanted else x for x, ref, wanted in zip(by_half, reference, on)]
        if switches.full_sharing:
            others = others_of(len(group.rows), own[0].device)
            shared = [x[:, others] for x in aligned[1:]]  # (halves, R, R - 1, T, C)
        else:
            shared = [x[:, None].expand(-1, len(group.rows), -1, -1, -1) for x in shared]  # (halves, R, 1, T, C)
        q, k, v = (x.flatten(0, 1) for x in aligned)
        k, v = joined(k, shared[0] * switches.scale), joined(v, shared[1])
        return q, k, v, self.bias(q, k)

    def bias(self, q: Tensor, k: Tensor) -> Tensor | None:
        """(1, 1, 1, T + S·T): the shift of the shared keys' logits."""
        if not self.switches.shift:
            return None
        shared = torch.arange(k.shape[1], device=k.device) >= q.shape[1]
        return (shared * self.switches.shift).to(q.dtype)[None, None, None]


class Aligned(Family):
    def __init__(self, run: Pass):
        super().__init__(run)
        self.switches = run.method.style_aligned
        modules = inner_unet(run.unet).named_modules() if self.switches.shared_norms else ()
        self.norms = [(name, module) for name, module in modules if isinstance(module, nn.GroupNorm)]

    def self_attention(self, layer: Layer):
        return AlignedSelfAttention(layer.number, self.run.stage, self.switches)

    @contextmanager
    def around(self, call: Call):
        """Shared normalisation, by hooks; a compiled UNet runs uncompiled, as compiled code sees no new hooks."""
        if not self.norms:
            yield
            return
        hooks = [module.register_forward_hook(partial(shared_norm, call, name)) for name, module in self.norms]
        try:
            with uncompiled():
                yield
        finally:
            for hook in hooks:
                hook.remove()


def shared_norm(call: Call, name: str, norm: nn.GroupNorm, args: tuple[Tensor], output: Tensor) -> Tensor:
    """Group normalisation with mean and variance over an image and image 0 together, each CFG half by itself."""
    x, group = args[0], call.group  # (N, C, H, W)
    var, mean = torch.var_mean(x.float().unflatten(1, (norm.num_groups, -1)).flatten(2), -1, correction=0)  # (N, G)
    own = [y.unflatten(0, (call.halves, -1)) for y in (var, mean)]
    if group.leads and not group.last:
        call.memory[name, 0] = [y[:, :1] for y in own]
    if group.rows == [0]:
        return output
    var_0, mean_0 = [y[:, :1] for y in own] if group.leads else call.memory[name, 0]
    mean = (own[1] + mean_0) / 2
    var = (own[0] + var_0) / 2 + ((own[1] - mean_0) / 2) ** 2
    per_channel = [
        y.flatten(0, 1).repeat_interleave(x.shape[1] // norm.num_groups, 1)[..., None, None] for y in (mean, var)
    ]
    normal = (x - per_channel[0]) * (per_channel[1] + norm.eps).rsqrt()
    return (normal * norm.weight[:, None, None] + norm.bias[:, None, None]).to(output.dtype)


family = Aligned
