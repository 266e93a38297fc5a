"""The checks of the certificate, all of one signature, that need nothing but the pipeline."""

from collections.abc import Callable

from svdstory.pipeline.certify.drawings import drawings
from svdstory.pipeline.certify.filtering import filtering
from svdstory.pipeline.certify.formula import formula
from svdstory.pipeline.certify.line import Line
from svdstory.pipeline.certify.micro_batches import micro_batches
from svdstory.pipeline.certify.scorers import scorers
from svdstory.pipeline.certify.specimen import Specimen
from svdstory.pipeline.certify.stock import stock

Check = Callable[[Specimen], Line]
CHECKS: tuple[Check, ...] = (stock, micro_batches, drawings, filtering, formula, scorers)  # as the page shows them
