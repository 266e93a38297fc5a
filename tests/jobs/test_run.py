"""`svdstory run` as users start it: a process, a folder, kills in between, bad disks."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from svdstory.jobs.cli.progress import Pace
from tests.jobs.cluster import until
from tests.jobs.study import report_of

EXPERIMENT = """sets: [fox.yaml]
methods: [sdxl, consistory, svd-log]
model: tiny
steps: 4
scorers: [clipscore:tiny]
"""  # numbers of one scorer give no figure, which are others' tests and seconds each
FOX = "style: A photo of\nsubject: a red fox\nconcept: fox\nsettings: [in the snow, at the beach]\n"


def command(*words) -> list[str]:
    return [sys.executable, "-m", "svdstory.jobs", *map(str, words)]


def start(folder: Path, out: Path, *words: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        command("run", folder / "small.yaml", "--out", out, *words),
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def units_of(out: Path) -> dict[str, str]:
    """Every file of every unit and its content's hash; manifests without what differs from attempt to attempt."""
    tree = {}
    for path in sorted((out / "units").rglob("*.*")):
        content = path.read_bytes()
        if path.name == "manifest.json":
            manifest = json.loads(content)
            content = json.dumps({k: v for k, v in manifest.items() if k not in ("times", "attempt")}).encode()
        tree[str(path.relative_to(out))] = hashlib.sha256(content).hexdigest()
    return tree


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("study")
    (path / "fox.yaml").write_text(FOX)
    (path / "small.yaml").write_text(EXPERIMENT)
    return path


@pytest.fixture(scope="module")
def undisturbed(folder):
    """A run that nothing happens to."""
    out = folder / "undisturbed"
    process = start(folder, out)
    _, log = process.communicate(timeout=300)
    assert process.returncode == 0, log
    return out


def test_run_leaves_images_manifests_metrics_and_grids(undisturbed):
    assert len(list(undisturbed.glob("units/*/*/manifest.json"))) == 3
    assert len(list(undisturbed.glob("units/*/*/*.png"))) == 6
    report = undisturbed / "report"
    assert (report / "metrics.csv").is_file() and (report / "index.html").is_file()
    assert list(report.rglob("*.png"))


def test_units_hold_no_more_than_images_and_two_files(undisturbed):
    for manifest in undisturbed.glob("units/*/*/manifest.json"):
        assert len(list(manifest.parent.iterdir())) == json.loads(manifest.read_text())["images"] + 2


def test_images_tell_how_they_were_made(undisturbed):
    from PIL import Image

    image = Image.open(next(undisturbed.glob("units/*/*/1.png")))
    assert image.text["prompt"] == "A photo of a red fox at the beach" and image.text["seed"] == "0"
    assert image.text["method"] in ("sdxl", "consistory", "svd-log") and "noise" in image.text["note"]
    assert (undisturbed / "units" / image.text["unit"][:2] / image.text["unit"] / "1.png").is_file()


def test_same_command_again_makes_nothing_and_leaves_the_same_report(folder, undisturbed, svdstory):
    before, reported = units_of(undisturbed), report_of(undisturbed)
    stamps = {p: p.stat().st_mtime_ns for p in undisturbed.glob("units/*/*/*")}
    assert svdstory("run", folder / "small.yaml", "--out", undisturbed, "--workers", "1")[0] == 0
    assert units_of(undisturbed) == before and report_of(undisturbed) == reported
    assert {p: p.stat().st_mtime_ns for p in undisturbed.glob("units/*/*/*")} == stamps


def test_run_killed_in_the_middle_of_sampling_goes_on_where_it_was(folder, undisturbed):
    out = folder / "killed"
    process = start(folder, out, "--workers", "1")  # two would finish the others before the kill on a busy machine
    until("the first unit", lambda: list(out.glob("units/*/*/manifest.json")) or process.poll() is not None, 300)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    done = {p.parent.name: p.stat().st_mtime_ns for p in out.glob("units/*/*/manifest.json")}
    assert 1 <= len(done) < 3
    again = start(folder, out, "--workers", "1")
    again.communicate(timeout=300)
    assert again.returncode == 0
    assert units_of(out) == units_of(undisturbed) and report_of(out) == report_of(undisturbed)
    assert all(
        p.stat().st_mtime_ns == done[p.parent.name]
        for p in out.glob("units/*/*/manifest.json")
        if p.parent.name in done
    )
    assert not list((out / "tmp").iterdir())


def test_two_runs_at_once_into_one_folder_end_with_one_result(folder, undisturbed):
    out = folder / "twice"
    both = [start(folder, out, "--workers", "1") for _ in range(2)]
    logs = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], logs
    assert units_of(out) == units_of(undisturbed) and report_of(out) == report_of(undisturbed)


def test_one_unit_alone_has_the_same_pixels_as_in_the_whole_study(folder, undisturbed, svdstory):
    out = folder / "alone"
    status, _, errors = svdstory("run", folder / "small.yaml", "--methods", "svd-log", "--out", out)
    assert status == 0, errors
    assert units_of(out).items() <= units_of(undisturbed).items()


def test_damaged_units_are_holes_in_the_report_and_are_made_again(folder, undisturbed, svdstory):
    out = folder / "damaged"
    shutil.copytree(undisturbed, out)
    first, second, _ = sorted(out.glob("units/*/*"))
    (first / "0.png").write_bytes((first / "0.png").read_bytes()[:100])
    (second / "manifest.json").write_text('{"files": {"0.p')
    status, printed, _ = svdstory("reduce", out)
    assert status == 1 and "corrupt" in printed
    assert svdstory("verify", out)[0] == 1
    assert svdstory("run", folder / "small.yaml", "--out", out, "--workers", "1")[0] == 0
    assert units_of(out) == units_of(undisturbed)
    assert len(list((out / "corrupt").iterdir())) == 2
    assert svdstory("verify", out, "--deep")[0] == 0


@pytest.mark.parametrize(
    "options, message",
    [
        ("ro", "cannot be written (Read-only file system)"),
        ("size=16k", "Free some space or choose another folder"),
    ],
)
def test_output_folder_that_is_read_only_or_too_small_is_refused_before_sampling(folder, tmp_path, options, message):
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a tmpfs")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], check=True)
    try:
        done = subprocess.run(
            command("run", folder / "small.yaml", "--out", disk / "run"), cwd=folder, capture_output=True, text=True
        )
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_bad_input_is_one_message_and_exit_status_two(folder):
    done = subprocess.run(
        command("run", folder / "small.yaml", "--methods", "consistori"), cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 2 and not (folder / "results").exists()
    assert done.stderr.startswith(
        "svdstory: --methods consistori: unknown method 'consistori' (did you mean 'consistory'?)"
    )


def test_on_a_terminal_a_run_shows_one_bar_and_ends_with_the_page_to_open(folder, undisturbed):
    import pty

    terminal, end = pty.openpty()
    process = subprocess.Popen(
        command("run", folder / "small.yaml", "--out", undisturbed, "--workers", "1"),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=end,
        text=True,
    )
    os.close(end)
    shown = b""
    while True:
        try:
            shown += os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
    page = Path(process.communicate(timeout=60)[0].splitlines()[-1])
    assert process.returncode == 0 and b"3/3" in shown and b"[3/3]" not in shown
    assert page.is_absolute() and page == undisturbed / "report" / "index.html" and page.is_file()


def test_the_time_left_counts_what_was_made_and_not_what_was_found():
    pace = Pace({"": 10}, began=0.0)
    for _ in range(4):
        pace.step("", made=False, seconds=0.0, now=1.0)
    assert pace.left(1.0) == ""
    pace.step("", made=True, seconds=9.0, now=10.0)
    assert pace.left(10.0) == "0:00:50 left" and pace.left(30.0) == "0:00:30 left"
    for _ in range(5):
        pace.step("", made=True, seconds=22.0, now=120.0)
    assert pace.left(120.0) == "0:00:00 left"


def test_the_time_left_takes_each_stage_at_its_own_pace_and_two_workers_for_two():
    pace = Pace({"": 10, "clipscore": 10}, began=0.0)
    for _ in range(8):
        pace.step("", made=True, seconds=60.0, now=240.0)
    assert pace.left(240.0) == "0:01:00 left"
    pace.step("clipscore", made=True, seconds=2.0, now=241.0)
    assert pace.left(241.0) == "0:01:09 left"
