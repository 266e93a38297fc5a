"""A certificate as one HTML page, without network or scripts: verdicts first, then each line's numbers and pictures."""

import colorsys
import math

from PIL import Image

from svdstory.jobs.report.page import environment, stylesheet
from svdstory.jobs.report.thumbnails import as_uri, webp

WIDTH = 220  # pixels of a picture on the page
PANEL = 460, 260  # of a panel of curves


def as_html(certificate: dict, pictures: dict[str, dict[str, list[Image.Image]]]) -> bytes:
    """The page. certificate: as in certificate.json; pictures: check -> label -> the pictures of a row."""
    lines = certificate["lines"]
    rows = {
        check: {label: [as_uri(webp(enlarged(image), WIDTH, 82)) for image in row] for label, row in shown.items()}
        for check, shown in pictures.items()
    }
    panels = {check: [panel(name, one) for name, one in line["curves"].items()] for check, line in lines.items()}
    template = environment().get_template("certificate.html.j2")
    return template.render(
        certificate=certificate,
        lines=lines,
        rows=rows,
        panels=panels,
        summary=summary(lines),
        bounds=bounds,
        shown=shown_number,
        css=stylesheet(),
    ).encode()


def summary(lines: dict[str, dict]) -> str:
    """`6 lines hold, 1 was not measured here`"""
    counted = [line["verdict"] for line in lines.values()]
    failed, silent = counted.count("fails"), counted.count("not measured")
    parts = [f"{failed} of {len(counted)} lines {'fails' if failed == 1 else 'fail'}"] if failed else []
    parts += [f"{counted.count('holds')} {'line holds' if counted.count('holds') == 1 else 'lines hold'}"]
    parts += [f"{silent} {'was' if silent == 1 else 'were'} not measured here"] if silent else []
    return ", ".join(parts)


def enlarged(image: Image.Image) -> Image.Image:
    """Small pictures by whole factors, so that their pixels stay sharp."""
    factor = max(1, WIDTH // image.width)
    return image.convert("RGB").resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def shown_number(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.4g}"


def bounds(number: dict) -> str:
    """What a number may be, in words."""
    least, most = number["least"], number["most"]
    if least is not None and least == most:
        return f"must be {least:.6g}"
    if least is None:
        return "" if most is None else f"at most {most:.4g}"
    return f"at least {least:.4g}" if most is None else f"{least:.6g} to {most:.6g}"


def panel(name: str, curves: dict[str, list[float]]) -> dict:
    """A panel of curves against rank, both logarithmic, as polylines: layers from the first (blue) to the last (red)."""
    width, height = PANEL
    highest = max((max(values) for values in curves.values()), default=1.0)
    lowest = max(min((v for values in curves.values() for v in values if v > 0), default=1.0), 1e-4 * highest)
    span = math.log(highest / lowest) or 1.0

    def point(i: int, value: float, of: int) -> str:
        down = math.log(highest / min(max(value, lowest), highest)) / span
        return f"{i / max(of - 1, 1) * width:.1f},{down * height:.1f}"

    lines = [
        {
            "label": label,
            "colour": _colour(n / max(len(curves) - 1, 1)),
            "points": " ".join(point(i, value, len(values)) for i, value in enumerate(values)),
            "top": f"{values[0]:.3g}",
            "middle": f"{values[len(values) // 2]:.3g}",
            "last": f"{values[-1]:.3g}",
        }
        for n, (label, values) in enumerate(curves.items())
    ]
    return {"name": name, "lines": lines, "highest": f"{highest:.3g}", "lowest": f"{lowest:.3g}", "size": PANEL}


def _colour(depth: float) -> str:
    red, green, blue = colorsys.hsv_to_rgb(0.62 * (1 - depth), 0.75, 0.8)
    return f"rgb({red * 255:.0f} {green * 255:.0f} {blue * 255:.0f})"
