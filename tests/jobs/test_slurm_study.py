"""From `submit` to the report on a real Slurm, undisturbed."""

import re
import subprocess
import sys
from pathlib import Path

from svdstory.jobs.study.plan import plan_path, read_plan
from svdstory.jobs.study.store import Store
from tests.jobs.cluster import until
from tests.jobs.stage import Act, overlapping
from tests.jobs.study import Study

SCRIPTS = Path(__file__).parents[2] / "slurm"


def test_a_submitted_study_ends_in_a_report_of_all_its_cells(undisturbed):
    assert undisturbed.finished() == undisturbed.units
    assert "index.html" in undisturbed.report()
    now = undisturbed.status()
    assert (now["done"], now["queued"], now["failed"], now["idle"]) == (undisturbed.units, 0, {}, 0)


def test_each_task_loads_the_model_once(undisturbed):
    assert undisturbed.loads() == len(undisturbed.submissions[0].tasks)


def test_a_task_makes_at_most_five_files_beside_its_units(undisturbed):
    submission = undisturbed.submissions[0]
    files = [path for path in submission.folder.rglob("*") if path.is_file()]
    of_the_submission = 1 + 2 * len(submission.arrays) + 4  # intent; answers and scripts; the reduce job's own
    assert len(files) - of_the_submission <= 5 * len(submission.tasks)


def test_submitting_a_finished_study_again_adds_nothing(undisturbed):
    assert "nothing to add: 8 units are finished, 0 queued" in undisturbed.submit()
    assert len(undisturbed.submissions) == 1


def pictures(run: Path) -> dict[str, bytes]:
    """The finished units' images, by key and number."""
    store = Store(run)
    return {
        f"{key}/{path.name}": path.read_bytes() for key in store.present() for path in store.folder(key).glob("*.png")
    }


@overlapping
def test_the_real_model_killed_in_one_task_and_warned_in_another_gives_the_pixels_of_an_undisturbed_run(act: Act):
    study = act.study(
        light=False, subjects=2, seeds=4, steps=20, per_task=4, site={"memory_gb": 4.0, "signal_seconds": 60}
    )
    study.submit()
    alone = undisturbed_on_this_machine(study)
    first, second = study.submissions[0].tasks
    store = Store(study.run)
    until("each task to finish a unit", lambda: store.is_finished(first[0]) and store.is_finished(second[0]), 300)
    job = study.submissions[0].arrays[0].job
    log = (study.submissions[0].slurm_folder / f"{job}_0_0_log.out").read_text()
    node, pid = re.search(r"attempt \S+-(n\d+)-(\d+)", log).groups()
    act.cluster.node(node, "enter", "kill", "-KILL", pid)
    act.cluster.ask("scancel", "--signal=USR2", f"{job}_1")
    study.until_quiet(300)
    assert store.is_finished(first[0]) and not store.is_finished(first[-1])  # killed: not queued again
    assert all(store.is_finished(key) for key in second)  # warned: queued again, and only it
    study.submit()
    until("the report", lambda: any(s.reduced for s in study.submissions), 300)
    assert alone.wait(300) == 0
    assert pictures(study.run) == pictures(study.folder / "undisturbed")


def undisturbed_on_this_machine(study: Study) -> subprocess.Popen:
    """The same plan, worked through in one process that nothing happens to."""
    code = (
        "import sys; from pathlib import Path; from svdstory.jobs.study.plan import read_plan; "
        "from svdstory.jobs.study.store import Store; from svdstory.jobs.node.worker import work; "
        "plan = read_plan(Path(sys.argv[1])); work(plan, Store(Path(sys.argv[2])), plan.units)"
    )
    words = [sys.executable, "-c", code, str(plan_path(study.run)), str(study.folder / "undisturbed")]
    return subprocess.Popen(words, env={**study.cluster.login, "OMP_NUM_THREADS": "1"})


@overlapping
def test_plain_sbatch_makes_the_same_report_where_login_nodes_may_not_run_python(act: Act):
    study = act.study()
    environment = {**act.cluster.environment, **study.light_environment, "SVDSTORY_PYTHON": sys.executable}

    def sbatch(*words: str) -> str:
        done = subprocess.run(
            ["sbatch", "--parsable", "-c", "1", *words],
            cwd=study.folder,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    job = sbatch("--array=0-1", "--constraint=n10|n11", str(SCRIPTS / "run.sbatch"), "study.yaml", "--out", "run")
    last = sbatch(f"--dependency=afterany:{job}", "--constraint=n10|n11", str(SCRIPTS / "reduce.sbatch"), "run")
    until(
        "the report", lambda: "COMPLETED" in act.cluster.ask("squeue", "-h", "-t", "all", "-j", last, "-o", "%T"), 120
    )
    assert len(pictures(study.run)) == 2 * len(read_plan(plan_path(study.run)).units)
    assert study.report() == act.stage.reference()
