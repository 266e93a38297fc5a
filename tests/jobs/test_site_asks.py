"""What a site's profile asks of Slurm: any option of sbatch, several processes, the caps that accounting tells."""

import math
import re

import pytest
import yaml

from svdstory.jobs.cluster import launch
from svdstory.jobs.cluster.chunks import Cost, cut
from svdstory.jobs.cluster.parameters import parameters, reduce_parameters
from svdstory.jobs.cluster.sites import load_site
from svdstory.jobs.node.task import one_gpu_for_each
from svdstory.jobs.queue import scheduler
from svdstory.jobs.queue.ledger import intend
from svdstory.jobs.queue.scheduler import share_of_units
from svdstory.pipeline.config.strict import InputError
from tests.jobs.pretend import pretend


@pytest.fixture
def site(tmp_path):
    def load(**changes):
        path = tmp_path / "site.yaml"
        path.write_text(yaml.safe_dump({"extends": "generic", **changes}))
        return load_site(str(path))

    return load


def scripts(tmp_path, site) -> tuple[str, str]:
    """What sbatch is given for the tasks and for the reduce job."""
    submission = intend(tmp_path, 1, [["a"], ["b"]], [2], site=site.model_dump(mode="json"))
    tasks, reduce = submission.arrays
    asks = parameters(site, tasks, tmp_path, 2, [], None), reduce_parameters(site, reduce, tmp_path, ["17"])
    return tuple(launch.script(submission, array, ask, "python3") for array, ask in zip((tasks, reduce), asks))


def test_any_option_of_sbatch_passes_through(tmp_path, site):
    given = {"reservation": "a course", "mail-type": "END", "hint": "nomultithread", "exclusive": True, "nice": 100}
    tasks, reduce = scripts(
        tmp_path, site(sbatch=given, reduce={"minutes": 9, "cpus": 1, "sbatch": {"exclusive": None}})
    )
    for line in ("--reservation='a course'", "--mail-type=END", "--hint=nomultithread", "--exclusive", "--nice=100"):
        assert f"#SBATCH {line}\n" in tasks
    assert "#SBATCH --mail-type=END\n" in reduce and "--exclusive" not in reduce


@pytest.mark.parametrize(
    "option, words",
    [("partition", "say it by partition:"), ("array", "set by svdstory itself"), ("--hint", "without dashes")],
)
def test_an_option_that_svdstory_sets_itself_is_refused_with_the_key_that_says_it(site, option, words):
    with pytest.raises(InputError, match=re.escape(words)):
        site(sbatch={option: "x"})


def test_an_option_cannot_bring_a_line_of_its_own(site):
    with pytest.raises(InputError, match="one line"):
        site(sbatch={"comment": "x\n#SBATCH --account=another"})


def test_several_processes_share_a_node_and_each_has_a_log(tmp_path, site):
    tasks, reduce = scripts(tmp_path, site(workers=4, gpu={"option": "gres", "value": "gpu:4"}))
    assert "--ntasks-per-node=4" in tasks and "%A_%a_%t_log.out" in tasks
    assert "--ntasks-per-node=1" in reduce


def test_each_process_takes_its_own_gpu_of_those_that_all_see():
    seen = []
    for local in range(2):
        environment = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": str(local), "CUDA_VISIBLE_DEVICES": "3,5"}
        one_gpu_for_each(environment)
        seen.append(environment["CUDA_VISIBLE_DEVICES"])
    bound = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "1", "CUDA_VISIBLE_DEVICES": "0"}  # Slurm bound it
    one_gpu_for_each(bound)
    assert seen == ["3", "5"] and bound["CUDA_VISIBLE_DEVICES"] == "0"


def test_the_processes_of_a_plain_job_share_the_units():
    array = {
        f"SLURM_ARRAY_TASK_{word}": value for word, value in {"MIN": "0", "MAX": "1", "COUNT": "2", "ID": "1"}.items()
    }
    both = [share_of_units({**array, "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": n}) for n in "01"]
    assert both == [(2, 4), (3, 4)]


def test_tasks_of_several_processes_hold_as_many_times_the_units(site):
    units = [f"{i:024x}" for i in range(400)]
    one, four = (len(cut(units, site(workers=n, parallel=1), Cost(600, 300), room=None)) for n in (1, 4))
    assert math.ceil(one / 4) == four


@pytest.mark.parametrize(
    "user, qos, partition, cap",
    [
        ("lab|lab||40|normal", "normal|", "QoS=N/A", 40),
        ("lab|lab|||normal", "normal|25", "QoS=N/A", 25),
        ("lab|lab||40|normal", "normal|\\nthree|3", "QoS=three", 3),
        ("lab|lab|||normal\\nlab|other||1|normal", "normal|", "QoS=N/A", None),
        ("", "", "QoS=N/A", None),
    ],
    ids=["association", "its QOS", "the partition's QOS", "another account's cap", "no association"],
)
def test_the_submit_cap_is_read_from_accounting(monkeypatch, tmp_path, user, qos, partition, cap):
    sacctmgr = f'case "$*" in *"show user"*) printf "{user}\\n";; *) printf "{qos}\\n";; esac'
    shown = f'echo "PartitionName=gpu AllowGroups=ALL Default=YES {partition} State=UP"'
    pretend(monkeypatch, tmp_path / "bin", sacctmgr=sacctmgr, scontrol=shown)
    assert scheduler.submit_cap("me", None, "gpu", None) == cap == scheduler.submit_cap("me", None, None, None)


def test_without_accounting_there_is_no_cap(monkeypatch, tmp_path):
    pretend(monkeypatch, tmp_path / "bin", sacctmgr="echo 'not running' >&2; exit 1")
    assert scheduler.submit_cap("me", None, None, None) is None
