"""The certificate: written whatever a check does, fit to be attached to an issue; here and as a job."""

import json
import os
import shlex
import stat

import pytest

from svdstory.jobs.cluster import certify_job
from svdstory.jobs.node import certificate, interruption
from svdstory.jobs.queue import waiting
from svdstory.jobs.study.code import identity
from svdstory.pipeline.certify import formula
from svdstory.pipeline.certify.line import Line, Number
from svdstory.pipeline.certify.specimen import Specimen
from svdstory.pipeline.models.spec import resolve_model
from tests.jobs.pretend import half_written, pretend


@pytest.fixture
def specimen() -> Specimen:
    return Specimen(resolve_model("tiny"), "cpu", steps=4)


def quietly(_: str) -> None:
    pass


def test_tiny_is_certified_by_the_command_on_a_page_of_its_own(svdstory, tmp_path, monkeypatch):
    monkeypatch.setattr(formula, "counted", lambda: Line(formula.CLAIM, [Number("a", 1.0, *formula.BOUNDS)]))
    status, printed, errors = svdstory("certify", "--model", "tiny", "--device", "cpu", "--out", "here", "--steps", "4")
    assert status == 0, printed + errors
    found = json.loads((tmp_path / "here" / "certificate.json").read_text())
    assert found["holds"] and {line["verdict"] for line in found["lines"].values()} == {"holds"}
    assert list(found["lines"])[-1] == "interruption" and len(found["lines"]) == 7
    page = (tmp_path / "here" / "certificate.html").read_text()
    assert "Certified: tiny" in page and "7 lines hold" in page and page.count("<img") == 32
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page
    assert str(tmp_path) not in page


def test_a_check_that_breaks_is_a_line_that_fails_and_the_others_are_told(specimen, tmp_path):
    def good(specimen: Specimen) -> Line:
        return Line("good", [Number("a", 1.0, most=2.0)])

    def broken(specimen: Specimen) -> Line:
        """Something that can break."""
        raise RuntimeError("<b>CUDA out of memory</b>")

    found = certificate.certify(specimen, tmp_path, (broken, good), quietly)
    assert not found["holds"] and found["lines"]["good"]["verdict"] == "holds"
    page = (tmp_path / "certificate.html").read_text()
    assert "Not certified" in page and "1 of 2 lines fails" in page
    assert "out of memory: RuntimeError: &lt;b&gt;CUDA" in page and "<b>CUDA" not in page


def test_what_was_measured_before_certify_was_killed_is_on_a_page_that_fails(specimen, tmp_path):
    def good(specimen: Specimen) -> Line:
        return Line("good", [Number("a", 1.0, most=2.0)])

    def last(specimen: Specimen) -> Line:
        """Something that takes too long."""
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        certificate.certify(specimen, tmp_path, (good, last), quietly)
    found = json.loads((tmp_path / "certificate.json").read_text())
    assert not found["holds"] and [line["verdict"] for line in found["lines"].values()] == ["holds", "fails"]
    page = (tmp_path / "certificate.html").read_text()
    assert "1 of 2 lines fails" in page and "Something that takes too long." in page and "not reached" in page


def test_a_line_that_fails_is_exit_status_1_and_one_that_is_not_measured_is_not(svdstory, monkeypatch):
    def bad(specimen: Specimen) -> Line:
        return Line("bad", [Number("a", float("nan"), most=2.0)])

    def silent(specimen: Specimen) -> Line:
        return Line("silent", words="no GPU here")

    for checks, expected in (((bad, silent), 1), ((silent,), 0)):
        monkeypatch.setattr(certificate.certify, "__defaults__", (checks, quietly))
        assert svdstory("certify", "--model", "tiny", "--device", "cpu")[0] == expected


def test_a_worker_that_dies_of_the_signal_and_leaves_half_a_unit_is_a_line_that_fails(specimen, monkeypatch):
    monkeypatch.setattr(interruption, "_work", half_written)
    line = interruption.interruption(specimen)
    assert [number.what for number in line.numbers if not number.holds] == [
        "exit status of the worker",
        "files that it left",
    ]


def test_pictures_of_another_seed_are_not_the_undisturbed_ones(specimen, monkeypatch):
    monkeypatch.setattr(interruption, "interrupted", lambda *_: (interruption.GIVEN_BACK, 1.0))
    monkeypatch.setattr(interruption, "SEED", 1)
    (bad,) = [number for number in interruption.interruption(specimen).numbers if not number.holds]
    assert bad.what.startswith("largest change of a pixel")


NODE = """import json, os, sys
words = sys.argv[1:]
folder = words[words.index("--out") + 1]
lead = words[words.index("--signal-seconds") + 1]
code = os.environ["PYTHONPATH"].split(":")[0]
json.dump({"job": "42", "holds": lead == "30", "words": words, "code": code}, open(folder + "/certificate.json", "w"))"""
SILENT = "echo 'Unable to contact slurm controller' >&2; exit 1"


def on_a_node(svdstory, tmp_path, monkeypatch, node: str, squeue: str = "exit 0", out: str = "my folder"):
    """The command with a pretended cluster whose node runs `node`; the site's lead is 30 seconds."""
    (tmp_path / "node.py").write_text(node)
    (tmp_path / "site.yaml").write_text(
        f"extends: lab\nsignal_seconds: 30\nsetup: [echo loaded]\npython: python3 {shlex.quote(str(tmp_path / 'node.py'))}\n"
    )
    pretend(
        monkeypatch,
        tmp_path / "bin",
        sbatch='printf "%s\\n" "$@" > asked; bash "${@: -1}" > printed 2>&1; echo 42',
        squeue=squeue,
    )
    monkeypatch.setattr(waiting, "ASK_EVERY_S", 0.01)
    monkeypatch.setattr(certify_job, "LATE_S", 0.0)
    return svdstory("certify", "--model", "tiny", "--site", "./site.yaml", "--out", out)


def test_on_a_cluster_one_job_certifies_the_code_as_it_was_queued_and_tells_its_verdict(
    svdstory, tmp_path, monkeypatch
):
    status, printed, _ = on_a_node(svdstory, tmp_path, monkeypatch, NODE)
    assert status == 0 and "job 42 is queued" in printed and "certificate.html" in printed
    asked = (tmp_path / "asked").read_text().splitlines()
    assert "--gpus-per-node=v100:1" in asked and "--job-name=svdstory-certify" in asked
    assert (tmp_path / "printed").read_text() == "loaded\n"
    copy = json.loads((tmp_path / "my folder" / "certificate.json").read_text())["code"]
    assert copy == str(tmp_path / "my folder" / "code" / identity()["hash"])
    assert (tmp_path / copy / "svdstory" / "jobs" / "node" / "certificate.py").is_file()


@pytest.fixture
def not_copied(monkeypatch):
    """The code stays where it is: a copy takes half a second."""
    monkeypatch.setattr(certify_job, "freeze", lambda folder: folder / "code")


@pytest.mark.usefixtures("not_copied")
def test_a_job_that_ends_without_a_certificate_says_where_its_words_are(svdstory, tmp_path, monkeypatch):
    status, _, errors = on_a_node(svdstory, tmp_path, monkeypatch, "raise SystemExit(1)")
    assert status == 2 and "certify.log says why" in errors


@pytest.mark.usefixtures("not_copied")
def test_under_umask_000_what_the_job_will_run_is_not_writable_by_the_world(svdstory, tmp_path, monkeypatch):
    before = os.umask(0)
    try:
        on_a_node(svdstory, tmp_path, monkeypatch, NODE)
    finally:
        os.umask(before)
    made = [tmp_path / "my folder", *(tmp_path / "my folder").rglob("*")]
    assert len(made) == 3 and not [path for path in made if path.stat().st_mode & stat.S_IWOTH]


def test_a_folder_that_slurm_would_misread_is_refused_before_a_job_is_queued(svdstory, tmp_path, monkeypatch):
    status, _, errors = on_a_node(svdstory, tmp_path, monkeypatch, NODE, out="50%")
    assert status == 2 and "file name patterns" in errors and not (tmp_path / "asked").exists()


@pytest.mark.usefixtures("not_copied")
def test_a_controller_that_is_silent_for_a_while_is_asked_again(svdstory, tmp_path, monkeypatch):
    once = f"[ -e silent ] && exit 0; touch silent; {SILENT}"
    assert on_a_node(svdstory, tmp_path, monkeypatch, NODE, once)[0] == 0


@pytest.mark.usefixtures("not_copied")
def test_one_that_stays_silent_ends_the_wait_with_the_place_of_the_jobs_words(svdstory, tmp_path, monkeypatch):
    monkeypatch.setattr(waiting, "PATIENCE_S", 0.0)
    status, _, errors = on_a_node(svdstory, tmp_path, monkeypatch, NODE, SILENT)
    assert status == 1 and "Unable to contact slurm controller" in errors and "job 42 goes on" in errors
    assert "certify.log" in errors and (tmp_path / "my folder" / "certificate.json").exists()


def test_a_certificate_that_the_file_server_shows_late_is_waited_for(tmp_path, monkeypatch):
    path = tmp_path / "certificate.json"
    path.write_text('{"job": "41"}')  # an earlier job's
    monkeypatch.setattr(certify_job.time, "sleep", lambda _: path.write_text('{"job": "42", "holds": true}'))
    assert certify_job.certificate_of(tmp_path, "42")["holds"]
