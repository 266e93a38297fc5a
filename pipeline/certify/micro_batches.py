"""One image at a time against as many as fit: the images must be the same."""

from svdstory.pipeline.certify.line import Line, Number
from svdstory.pipeline.certify.specimen import CONSISTORY, TRUNCATED, Specimen
from svdstory.pipeline.certify.stock import relative

CLAIM = "the images do not depend on how many go through the UNet at once"


def micro_batches(specimen: Specimen) -> Line:
    """ConsiStory and a truncating filter, with one image besides the anchors in each call, against all that fit."""
    numbers = []
    for method in (CONSISTORY, TRUNCATED):
        many, one = specimen.draw(method), specimen.draw(method, 1)
        if many.micro_batch == 1:
            return Line(CLAIM, words="the card holds one image at a time: there is nothing to compare")
        change = relative(one.made.sample.latents, many.made.sample.latents)
        numbers.append(Number(f"{method}: relative difference of the final latents", change, most=specimen.rounding))
    return Line(CLAIM, numbers, "one image besides the two anchors, against both others at once")
