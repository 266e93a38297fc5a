"""The filters' fast paths against the exact one on the model's own keys and values, and every layer's spectrum."""

import torch

from svdstory.pipeline.certify.line import Line, Number
from svdstory.pipeline.certify.specimen import FILTERED, TRUNCATED, Specimen, Taken
from svdstory.pipeline.certify.stock import relative
from svdstory.pipeline.config.methods import TOLERANCE
from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.spectral.exact import filter_matrices, spectrum

POINTS = 64  # of a spectrum, on the page


def filtering(specimen: Specimen) -> Line:
    """Each layer's first anchor at the last step, as the filter left it, against the exact filter of the same matrix.

    Counters tell how many matrices took which path in the whole pass.
    """
    numbers, curves = [], {}
    for name in (*FILTERED, TRUNCATED):
        drawn = specimen.draw(name)
        errors = {(one.layer, one.of): error_of(specimen, one) for one in drawn.taken}
        layer, of = max(errors, key=errors.get)
        most = TOLERANCE + 2 * torch.finfo(specimen.model.pipe.unet.dtype).eps  # two roundings to the layer's dtype
        numbers += [
            Number(f"{name}: layers' keys and values compared", len(errors), least=2),
            Number(f"{name}: largest relative error (layer {layer}, {of})", errors[layer, of], most=most),
            *(Number(f"{name}: {what}", drawn.made.counters[key]) for key, what in COUNTED.items()),
        ]
        curves = curves or spectra(specimen, drawn.taken)
    return Line(
        "the filters' fast paths hold their tolerance in every layer",
        numbers,
        "spectra: the singular values of the first anchor's keys (k) and values (v) before the filter, at the last step",
        curves=curves,
    )


COUNTED = {
    "matrices": "matrices filtered",
    "exact": "of these exactly",
    "fallbacks": "of these because fast paths failed",
    "untouched": "left as they were",
    "repeated": "passes made again",
}


def error_of(specimen: Specimen, one: Taken) -> float:
    """Relative Frobenius error of what the filter made of a matrix."""
    spec = getattr(named(one.method), f"filter_{one.of}")
    exact = filter_matrices(one.before[None].to(specimen.model.device), spec).matrices[0]
    return relative(one.after, exact.cpu())


def spectra(specimen: Specimen, taken: list[Taken]) -> dict[str, dict[str, list[float]]]:
    """k and v -> layer -> POINTS of its singular values, largest first, evenly by the logarithm of their rank."""
    panels: dict[str, dict[str, list[float]]] = {"k": {}, "v": {}}
    for one in taken:
        sigma = spectrum(one.before[None].to(specimen.model.device))[0].cpu()
        at = (
            torch.logspace(0, torch.log10(torch.tensor(float(len(sigma)))), POINTS).round().long().clamp_max(len(sigma))
        )
        panels[one.of][f"layer {one.layer}"] = sigma[at - 1].tolist()
    return panels
