"""Faults of tasks, launchers and users on a real Slurm: nothing is lost or made twice, the report is the same."""

import os
import re
import shlex
import shutil
import signal
import subprocess

from svdstory.jobs.study.process import Process
from tests.jobs.cluster import until
from tests.jobs.stage import Act, overlapping


def began_more_than_once(study) -> list[str]:
    units = [name.split(".")[0] for name in study.began()]
    return sorted({unit for unit in units if units.count(unit) > 1})


def node_of(study, which: int = 0) -> str:
    """The node on which the study's first (or other) running task is."""

    def running():
        return [line.split() for line in study.queue().splitlines() if " RUNNING " in line]

    return until("a task to run", running)[which][2]


@overlapping
def test_sigkill_of_a_worker_loses_at_most_the_unit_at_hand(act: Act):
    study = act.study()
    study.hold()
    study.submit()
    until("a unit to begin", lambda: study.began())
    unit = study.began()[0]
    act.fault("SIGKILL of a worker in the middle of a unit")
    worker = Process.of(re.sub(r"^[^.]*\.\d+(_\d+)?-r\d+-", "", unit))
    act.cluster.node(worker.host, "enter", "kill", "-KILL", str(worker.pid))
    study.release()
    study.until_quiet()
    assert study.finished() == study.units - 2  # the task's own two
    assert not study.submissions[0].reduced
    study.submit()
    act.recovered(study, "its task failed, the reduce job named the holes; submit added them")
    assert began_more_than_once(study) == [unit.split(".")[0]]


@overlapping
def test_scancel_of_one_element_is_not_undone_by_a_requeue_nor_by_the_reduce_job(act: Act):
    study = act.study(site={"rounds": 2})
    study.hold()
    study.submit()
    until("a unit to begin", lambda: study.began())
    job = study.submissions[0].arrays[0].job
    act.fault("scancel of one array element")
    act.cluster.ask("scancel", f"{job}_0")
    until("the element to end", lambda: f"{job}_0 " not in study.queue())
    study.release()
    study.until_quiet()
    assert study.finished() == study.units - len(study.submissions[0].tasks[0])
    study.submit()
    act.recovered(study, "the others finished, the cancelled one stayed so; submit added its units")


@overlapping
def test_the_time_limit_requeues_a_task_that_goes_on_where_it_was(act: Act):
    study = act.study(per_task=8, site={"minutes": 2, "signal_seconds": 30})  # Slurm may signal up to 60 s early
    (study.control / "step_s").write_text("3")
    act.fault("time limit in the middle of a task's units")
    study.submit()
    act.recovered(study, "USR2 in time, requeued, went on with the rest")
    attempts = [turn for s in study.submissions for turn in _turns(s)]
    assert any(turn.restart for turn in attempts) and all(turn.made for turn in attempts if turn.ending == "stopped")


def _turns(submission):
    from svdstory.jobs.queue import attempts

    return attempts.read(submission.folder)


@overlapping
def test_a_unit_longer_than_the_time_limit_is_recorded_as_such_and_not_tried_for_ever(act: Act):
    study = act.study(subjects=1, seeds=1, site={"minutes": 1, "signal_seconds": 10})
    study.hold()
    study.submit()
    study.until_quiet(150)
    assert study.status()["failed"] == {"timeout": 1}
    assert "raise minutes in the site profile" in study.svdstory("logs", "run", study.submissions[0].tasks[0][0])


@overlapping
def test_a_refused_sbatch_shows_slurms_words_and_loses_nothing(act: Act):
    study = act.study()
    act.fault("sbatch refused: partition, account, wckey, submit cap")
    for change, words in [
        ({"partition": "nope"}, "Invalid partition name specified"),
        ({"account": "nope"}, "Invalid account or account/partition combination specified"),
        ({"wckey": "nope"}, "Invalid wckey specification"),
    ]:
        study.write_site(**change)
        assert words in study.submit(status=1)
        assert not study.queue()
    study.hold()
    # a wrong word: it takes three jobs, the first of two arrays and the reduce job
    study.write_site(partition="capped", submit_cap=100, max_array=3)
    assert "QOSMaxSubmitJobPerUserLimit" in study.submit(status=1)
    study.write_site()
    assert "4 units in 2 tasks" in study.submit()
    study.release()
    act.recovered(study, "Slurm's own words shown, what was refused is added by the next submit")
    assert began_more_than_once(study) == []


@overlapping
def test_eight_tasks_are_split_where_an_array_may_hold_five(act: Act):
    study = act.study(per_task=1)
    act.fault("MaxArraySize 5 with 8 tasks")
    study.submit()
    assert [array.count for array in study.submissions[0].arrays] == [4, 4, 0]
    act.recovered(study, "two arrays of four and one reduce job after all")


@overlapping
def test_concurrent_submits_queue_every_unit_once(act: Act):
    study = act.study()
    act.fault("three submits at once, and one more")
    launchers = [
        subprocess.Popen(
            study.command(*study.submit_words),
            cwd=study.folder,
            env=act.cluster.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(3)
    ]
    printed = [launcher.communicate(timeout=120)[0] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0, 0], printed
    assert sum("nothing to add" in text for text in printed) == 2, printed
    assert "nothing to add" in study.submit()
    act.recovered(study, "one of them queued all, the others nothing")
    assert began_more_than_once(study) == [] and len(study.submissions) == 1


@overlapping
def test_a_launcher_killed_after_sbatch_is_found_again_by_the_jobs_name(act: Act):
    study = act.study(per_task=1)  # two arrays
    act.fault("launcher killed between sbatch and writing the job id")
    killed = submit_with_sbatch(study, '"$REAL" "$@"; kill -KILL $PPID')
    assert killed.returncode == -signal.SIGKILL
    assert study.submissions[0].arrays[0].job is None
    assert study.status()["queued"] + study.status()["running"] > 0  # seen by its name
    assert "was found again by its name" in study.submit()
    act.recovered(study, "the job was adopted by its name, the rest was added")
    assert began_more_than_once(study) == []


@overlapping
def test_a_launcher_killed_before_sbatch_leaves_nothing_behind(act: Act):
    study = act.study()
    act.fault("launcher killed before sbatch")
    assert submit_with_sbatch(study, "kill -KILL $PPID").returncode == -signal.SIGKILL
    assert not study.queue()
    study.submit()
    act.recovered(study, "submitted again: all queued once")
    assert began_more_than_once(study) == []


@overlapping
def test_an_sbatch_that_fails_after_queueing_is_believed_only_after_asking(act: Act):
    study = act.study()
    act.fault("sbatch reports a time-out, although the job was queued")
    submit_with_sbatch(study, '"$REAL" "$@" >/dev/null; echo "sbatch: error: Socket timed out" >&2; exit 1')
    act.recovered(study, "the job was found by its name")
    assert began_more_than_once(study) == [] and len(study.submissions) == 1


def submit_with_sbatch(study, script: str) -> subprocess.CompletedProcess:
    """Submit with another `sbatch` first on the PATH. $REAL is Slurm's."""
    folder = study.folder / "bin"
    folder.mkdir()
    (folder / "sbatch").write_text(
        f"#!/bin/bash\nREAL={shutil.which('sbatch', path=study.cluster.login['PATH'])}\n{script}\n"
    )
    (folder / "sbatch").chmod(0o755)
    environment = {**study.cluster.environment, "PATH": f"{folder}:{study.cluster.login['PATH']}"}
    return subprocess.run(
        study.command(*study.submit_words),
        cwd=study.folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@overlapping
def test_source_and_prompts_edited_after_submit_change_nothing(act: Act):
    study = act.study(site={"parallel": 1})
    source = study.folder / "source"
    for package in ("jobs", "pipeline", "prompts", "slurm"):
        shutil.copytree(
            f"{os.path.dirname(__file__)}/../../{package}",
            source / "svdstory" / package,
            ignore=shutil.ignore_patterns("__pycache__", "weights"),
        )
    study.hold()
    environment = {**act.cluster.environment, "PYTHONPATH": str(source)}
    subprocess.run(
        study.command(*study.submit_words),
        cwd=study.folder,
        env=environment,
        check=True,
        timeout=120,
        capture_output=True,
    )
    act.fault("source and prompts edited while tasks wait")
    for module in ("jobs/node/worker.py", "jobs/node/task.py", "jobs/study/store.py"):
        (source / "svdstory" / module).write_text("raise SystemExit('edited')\n")
    study.write_prompts("one", ["by the sea", "on the moon"])
    study.release()
    act.recovered(study, "tasks ran the frozen copy of code and plan", seconds=180)


@overlapping
def test_a_unit_that_runs_out_of_gpu_memory_or_gives_nan_or_hits_a_bug_leaves_the_others_alone(act: Act):
    study = act.study()
    for word, cause in (("one", "memory"), ("two", "nan"), ("three", "bug")):
        (study.control / f"{word}.fails").write_text(cause)
    act.fault("units out of GPU memory, not finite, and with a bug")
    study.submit()
    study.until_quiet()
    assert study.status()["failed"] == {"out of memory": 2, "not finite": 2, "bug": 2}
    assert "ValueError: a bug" in study.svdstory("logs", "run", unit_of(study, "three"))
    for word in ("one", "two", "three"):
        (study.control / f"{word}.fails").unlink()
    assert "2 units" in study.svdstory("retry", "run", "--cause", "out-of-memory")
    study.until_quiet()
    assert study.status()["failed"] == {"not finite": 2, "bug": 2}
    assert "(did you mean 'not finite'?)" in study.svdstory("retry", "run", "--cause", "not-finit", status=2)
    study.submit()
    act.recovered(study, "recorded by cause, the others finished; retry by cause, then submit")


def unit_of(study, word: str) -> str:
    from svdstory.jobs.study.plan import plan_path, read_plan

    plan = read_plan(plan_path(study.run))
    return next(key for key, cell in plan.units.items() if cell.set == word)


@overlapping
def test_a_task_killed_for_its_memory_loses_no_finished_unit(act: Act):
    study = act.study(site={"memory_gb": 0.5})
    (study.control / "four.fails").write_text("eat")
    act.fault("a task takes more memory than it asked for")
    study.submit()
    study.until_quiet()
    assert study.units - 2 <= study.finished() < study.units
    (study.control / "four.fails").unlink()
    study.submit()
    act.recovered(study, "Slurm killed the task, the others finished; submit added its units")


@overlapping
def test_a_damaged_unit_is_a_hole_until_it_is_made_again(act: Act):
    study = act.study()
    study.submit()
    study.until_quiet()
    victim = next(iter((study.run / "units").glob("*/*/0.png")))
    act.fault("a finished unit's picture is cut short")
    victim.write_bytes(victim.read_bytes()[:100])
    shutil.rmtree(study.run / "report")
    for submission in study.submissions:
        (submission.folder / "reduced.json").unlink()
    assert "1 corrupt" in study.svdstory("reduce", "run", status=1, light=True)
    study.submit()
    until("a whole report", lambda: any(s.reduced for s in study.submissions), 120)
    assert len(list((study.run / "corrupt").glob("*"))) == 1
    assert study.report() == act.stage.reference()
    study.until_quiet()
    assert "1 damaged units that were set aside" in study.svdstory("clean", "run", "--yes")
    assert not list(study.run.rglob("*.pkl")) and not list((study.run / "corrupt").glob("*"))
    study.svdstory("verify", "run", "--deep")


@overlapping
def test_a_task_in_a_container_without_slurms_commands_is_requeued_by_the_jobs_script(act: Act):
    bare = act.stage.folder / "in the container"
    bare.mkdir()
    (bare / "env").symlink_to("/usr/bin/env")
    apptainer = act.stage.folder / "apptainer"
    apptainer.write_text(
        f'#!/bin/bash\n[ "$1 $2 $3" = "exec --nv a.sif" ] || exit 9\nshift 3; PATH="{bare}" exec "$@"\n'
    )
    apptainer.chmod(0o755)
    study = act.study(per_task=8, container=f"{shlex.quote(str(apptainer))} exec --nv a.sif")
    act.fault("a warning signal to a task in a container")
    study.hold()
    study.submit()
    until("the first unit", study.began)
    act.cluster.ask("scancel", "--signal=USR2", study.submissions[0].arrays[0].job)
    until("the task to be given back", lambda: any(turn.ending == "stopped" for turn in _turns(study.submissions[0])))
    study.release()
    act.recovered(study, "requeued by the job's script, outside of the container; went on with the rest")
    assert study.loads() == 2


@overlapping
def test_several_processes_of_a_task_share_its_units_and_write_a_log_each(act: Act):
    study = act.study(per_task=8, site={"workers": 3})
    act.fault("three processes on one node, one is killed")
    study.hold()
    study.submit()
    until("a unit in each process", lambda: len(study.began()) == 3)
    submission = study.submissions[0]
    job = submission.arrays[0].job
    logs = sorted(path.name for path in submission.slurm_folder.glob("*_log.out"))
    assert logs == [f"{job}_{process}_log.out" for process in range(3)]
    node, pid = re.search(r"attempt \S+?-(n\d+)-(\d+)-", (submission.slurm_folder / logs[1]).read_text()).groups()
    act.cluster.node(node, "enter", "kill", "-KILL", pid)
    study.release()
    study.until_quiet()
    assert study.finished() == 5  # of eight; the one killed had three
    study.submit()
    act.recovered(study, "the others finished their shares; submit added its units")
    assert study.loads() == 6


@overlapping
def test_a_run_that_is_submitted_under_umask_000_is_not_writable_by_the_world(act: Act):
    study = act.study()
    subprocess.run(
        study.command(*study.submit_words), cwd=study.folder, env=act.cluster.environment, check=True, umask=0
    )
    until("the report", lambda: any(s.reduced for s in study.submissions), 240)
    study.until_quiet()
    paths = [study.run, *study.run.rglob("*")]
    assert [path for path in paths if not path.is_symlink() and path.stat().st_mode & 0o002] == []


@overlapping
def test_a_set_up_line_that_fails_ends_the_task_with_its_words_and_is_mended(act: Act):
    study = act.study(per_task=8, site={"setup": ["true", "module load Python/4"]})
    act.fault("a module that is not there")
    study.submit()
    study.until_quiet()
    log = next(study.submissions[0].slurm_folder.glob("*_0_log.out")).read_text()
    assert "module: command not found" in log and "line 2 of setup: in the site profile failed" in log
    assert study.loads() == 0
    study.site = {**study.site, "setup": ["true"]}
    study.write_site()
    study.submit()
    act.recovered(study, "the task ended with the module's words; mended, submit added its units")


@overlapping
def test_submitting_from_inside_an_allocation_asks_for_what_the_profile_says(act: Act):
    study = act.study()
    act.fault("submit inside an allocation, with SBATCH_* and SQUEUE_* set")
    leaks = {"SBATCH_PARTITION": "nope", "SBATCH_TIMELIMIT": "1", "SLURM_NTASKS": "7", "SQUEUE_PARTITION": "high"}
    for _ in range(2):
        done = subprocess.run(
            study.command(*study.submit_words),
            cwd=study.folder,
            env={**act.cluster.environment, **leaks},
            check=True,
            capture_output=True,
            text=True,
        )
    assert "nothing to add" in done.stdout
    act.recovered(study, "all was queued as the profile says, and once")


@overlapping
def test_a_plan_that_would_lose_cells_is_refused_and_the_queued_report_stays_whole(act: Act):
    study = act.study()
    act.fault("a filtered run into the folder of a queued study")
    study.hold()
    study.submit()
    told = study.svdstory("run", "study.yaml", "--seeds", "1", "--out", "run", status=2)
    assert "--replace" in told and "--out" in told
    study.release()
    act.recovered(study, "refused, with --out and --replace as the ways on")
