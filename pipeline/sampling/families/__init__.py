"""The method families, a file each: `method.family()` names the one whose self-attention a method has."""

from collections.abc import Callable
from importlib import import_module

from svdstory.pipeline.sampling.attention import RecordingCrossAttention
from svdstory.pipeline.sampling.families.oneprompt import IdentityCrossAttention
from svdstory.pipeline.sampling.family import Family, Pass
from svdstory.pipeline.sampling.layers import Layer


def family_of(run: Pass) -> Family:
    """What the pass's method does in a step and in self-attention."""
    return import_module(f"{__name__}.{run.method.family()}").family(run)


def processor_of(family: Family) -> Callable[[Layer], object | None]:
    """layer -> the processor that the method puts on it, or None."""
    run = family.run

    def processor(layer: Layer):
        if layer.kind == "attn1":
            return family.self_attention(layer)
        if run.method.oneprompt and run.method.oneprompt.identity_attention:
            return IdentityCrossAttention(run, layer)
        return RecordingCrossAttention(run.stage, run.masks)

    return processor
