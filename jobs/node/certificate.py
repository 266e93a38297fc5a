"""A certificate: every check of a model on one device, as JSON and as one page to attach to an issue.

DIR/certificate.json   the numbers, their bounds, a verdict for each line
DIR/certificate.html   the same with pictures, in one file
"""

import json
import math
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from svdstory.jobs.node.causes import cause_of, free_memory
from svdstory.jobs.node.interruption import interruption
from svdstory.jobs.report.certificate_page import as_html
from svdstory.jobs.study.code import identity
from svdstory.jobs.study.process import Process
from svdstory.pipeline.bench.record import environment
from svdstory.pipeline.certify.checks import CHECKS, Check
from svdstory.pipeline.certify.line import Line, Number
from svdstory.pipeline.certify.specimen import Specimen

ALL: tuple[Check, ...] = (*CHECKS, interruption)  # as the page shows them
NOT_REACHED = "not reached: certify was at work, or was ended, before this check"


def certify(specimen: Specimen, out: Path, checks: tuple[Check, ...] = ALL, say: Callable[[str], None] = print) -> dict:
    """Run the checks and write the certificate. Returns it, as in its JSON. A check that breaks is a line that fails.

    It is written after each check: where the process is killed (a job's time limit), what was measured is there.
    """
    began, pictures = time.monotonic(), dict.fromkeys((check.__name__ for check in checks), {})
    told = {check.__name__: {**as_dict(Line(claim_of(check), broken=NOT_REACHED)), "seconds": 0.0} for check in checks}
    for check in sorted(checks, key=lambda check: check is not interruption):  # that one before the card is ours
        since = time.monotonic()
        line = run(check, specimen)
        told[check.__name__] = {**as_dict(line), "seconds": round(time.monotonic() - since, 1)}
        pictures[check.__name__] = line.pictures or {}
        say("\n".join(in_words(told[check.__name__])))
        certificate = of_lines(told, specimen, time.monotonic() - began)
        out.mkdir(parents=True, exist_ok=True)
        write(out / "certificate.html", as_html(certificate, pictures))
        write(out / "certificate.json", json.dumps(certificate, indent=1, ensure_ascii=False, allow_nan=False).encode())
    return certificate


def of_lines(lines: dict[str, dict], specimen: Specimen, seconds: float) -> dict:
    """The certificate of these lines, as JSON has it."""
    return {
        "schema": 1,
        "model": {"name": specimen.spec.name, "identity": specimen.spec.identity, "dtype": specimen.spec.dtype},
        "environment": {**environment(str(specimen.place)), "code": identity()["hash"]},
        "job": os.environ.get("SLURM_JOB_ID"),
        "seconds": round(seconds),
        "holds": all(line["verdict"] != "fails" for line in lines.values()),
        "lines": lines,
    }


def run(check: Check, specimen: Specimen) -> Line:
    """What the check finds; where it breaks, a line that says how."""
    try:
        return check(specimen)
    except Exception as error:
        words = f"{cause_of(error)}: {type(error).__name__}: {error}\n{traceback.format_exc()[-2000:]}"
        free_memory()
        return Line(claim_of(check), broken=words)


def claim_of(check: Check) -> str:
    """What is said of a check that has no line of its own."""
    return (check.__doc__ or check.__name__).partition("\n")[0]


def as_dict(line: Line) -> dict:
    """The line as JSON has it, without its pictures."""
    return {
        "claim": line.claim,
        "verdict": line.verdict,
        "words": line.words,
        "broken": line.broken,
        "numbers": [_number(number) for number in line.numbers],
        "curves": line.curves or {},
    }


def _number(number: Number) -> dict:
    """JSON has neither infinity nor not-a-number: null."""
    values = {"value": number.value, "least": number.least, "most": number.most}
    finite = {key: float(value) if math.isfinite(value) else None for key, value in values.items()}
    return {"what": number.what, **finite, "holds": number.holds, "judged": number.is_judged}


def in_words(line: dict) -> list[str]:
    """The line for a terminal, with the numbers that fail."""
    bad = [number for number in line["numbers"] if not number["holds"]]
    return [
        f"{line['verdict']:12}  {line['claim']} ({line['seconds']:g} s)",
        *(f"{'':14}{number['what']}: {number['value']}" for number in bad),
        *(f"{'':14}{row}" for row in line["broken"].splitlines()[:1]),
        *(f"{'':14}{row}" for row in line["words"].splitlines() if line["verdict"] == "not measured"),
    ]


def write(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    draft = path.with_name(f".{path.name}.{Process.here()}")
    draft.write_bytes(content)
    draft.replace(path)
