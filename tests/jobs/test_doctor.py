"""doctor and prefetch: each failed check says what to do."""

import pytest

from svdstory.jobs.cluster import doctor
from svdstory.jobs.cluster.doctor import examine_here, examine_node, judge_gpus
from svdstory.jobs.cluster.prefetch import fetch_model, needed
from svdstory.jobs.cluster.sites import load_site
from svdstory.jobs.queue.scheduler import SlurmError
from svdstory.pipeline.config.strict import InputError
from tests.jobs.pretend import pretend

V100 = {"name": "Tesla V100-SXM2-32GB", "capability": [7, 0], "memory_gb": 31.7}


def test_a_v100_with_the_wrong_wheel_is_told_which_one_to_install_in_one_line():
    from svdstory.pipeline.models.device import missing_kernels

    missing = missing_kernels((7, 0), ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"])
    (found,) = judge_gpus([{**V100, "missing": missing}])
    assert found.verdict == "bad" and "\n" not in found.words
    assert "no kernels for sm_70" in found.words and "pip install torch==2.7.1" in found.words


def test_a_v100_with_the_right_wheel_is_good_and_has_no_bfloat16():
    (found,) = judge_gpus([{**V100, "missing": ""}])
    assert (found.verdict, found.words) == ("good", "Tesla V100-SXM2-32GB (sm_70), 32 GB; float16, no bfloat16")


@pytest.mark.parametrize(
    "probe, words",
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "torch does not start here: ended with -11"),
        ("import time; time.sleep(60)", "did not look at the GPU within 0.5 s"),
        ("raise ImportError('libcuda.so.1')", "torch does not start here: ImportError: libcuda.so.1"),
    ],
)
def test_a_broken_driver_is_a_finding_whatever_it_does_to_the_process(tmp_path, monkeypatch, probe, words):
    pretend(monkeypatch, tmp_path / "bin", **{"nvidia-smi": "exit 0"})
    monkeypatch.setattr(doctor, "PROBE", probe)
    monkeypatch.setattr(doctor, "PROBE_S", 0.5 if "sleep" in probe else 60.0)
    found = next(found for found in examine_here(None, [], tmp_path) if found.what == "GPU")
    assert found.verdict == "bad" and words in found.words


def on_a_node(monkeypatch, tmp_path, python: str) -> list[doctor.Finding]:
    """What the probe of a node tells, with these shell lines for the node's Python and set-up lines that print."""
    pretend(monkeypatch, tmp_path / "bin", srun='while [ "$1" != bash ]; do shift; done; "$@"', python=python)
    site = load_site("lab").model_copy(update={"setup": ["echo [module loaded]"], "environment": {"A_FLAG": "is set"}})
    return list(examine_node(site, str(tmp_path / "bin" / "python"), tmp_path))


def test_a_bad_finding_on_a_node_arrives_and_jobs_and_probe_have_one_environment(tmp_path, monkeypatch):
    printed = '[{"what": "GPU", "verdict": "bad", "words": "no kernels for sm_70; \'"$A_FLAG"\'"}]'
    (found,) = on_a_node(monkeypatch, tmp_path, f"echo '{printed}'; exit 1")
    assert (found.what, found.verdict, found.words) == ("on the node: GPU", "bad", "no kernels for sm_70; is set")


def test_a_node_on_which_doctor_does_not_start_says_why(tmp_path, monkeypatch):
    with pytest.raises(SlurmError, match="No module named svdstory"):
        on_a_node(monkeypatch, tmp_path, "echo No module named svdstory >&2; exit 1")


def test_missing_weights_are_named_with_the_command_that_fetches_them(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("SVDSTORY_WEIGHTS", str(tmp_path))
    findings = {found.what: found for found in examine_here("sdxl", ["clipscore"], tmp_path)}
    assert findings["model"].verdict == "bad" and "svdstory prefetch sdxl" in findings["model"].words
    assert findings["scorer"].verdict == "bad" and "prefetch --scorer clipscore" in findings["scorer"].words
    assert findings["disk"].verdict != "bad" and findings["packages"].verdict == "good"


def test_prefetch_of_an_unknown_model_names_the_nearest():
    with pytest.raises(InputError, match=r"unknown model 'sdxll' \(did you mean 'sdxl'\?\)"):
        fetch_model("sdxll")


def test_prefetch_of_what_ships_needs_no_download():
    assert fetch_model("tiny") is None


def test_prefetch_of_an_experiment_stages_its_model_and_all_its_scorers():
    assert needed("report") == (["sdxl"], ["clipscore", "clip-i", "dreamsim", "background", "layout"])
    assert needed("report", "miniature") == (["miniature"], ["world", "clipscore:miniature"])
    assert needed("sdxl") == (["sdxl"], [])


def test_prefetch_without_internet_says_where_to_run_it(tmp_path, monkeypatch):
    import huggingface_hub

    def offline(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(InputError, match="no route to host.*Run this where there is internet"):
        fetch_model("sdxl")
