"""The method families, a file each."""

from svdstory.pipeline.sampling.families.consistory import ConsiStory
from svdstory.pipeline.sampling.family import Family, Pass


def family_of(run: Pass) -> Family:
    """The family of the pass's method."""
    method = run.method
    if method.extended_attention != "off" or method.query_blending or method.feature_injection:
        return ConsiStory(run)
    return Family(run)
