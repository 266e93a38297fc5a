"""certify on a real Slurm: a job on a node, its certificate and its verdict."""

import json

from svdstory.jobs.study.code import identity
from tests.jobs.stage import Act, overlapping


@overlapping
def test_a_job_certifies_the_frozen_code_on_a_node_and_the_command_has_its_verdict(act: Act):
    study = act.study()
    (study.control / "step_s").write_text("0.5")  # the signal comes in the middle of a unit
    words = ("certify", "--model", "tiny", "--site", "./site.yaml", "--out", "it's certified", "--steps", "4")
    printed, folder = study.svdstory(*words), study.folder / "it's certified"
    certificate = json.loads((folder / "certificate.json").read_text())
    assert certificate["holds"] and list(certificate["lines"]) == ["interruption"], printed
    assert f"job {certificate['job']} is queued" in printed and "/certificate.html" in printed
    assert certificate["environment"]["code"] == identity()["hash"] and (folder / "code" / identity()["hash"]).is_dir()
    assert "a warning signal in the middle of a unit" in (folder / "certify.log").read_text()
