"""doctor on a real Slurm."""

from tests.jobs.study import Study


def test_doctor_looks_at_the_cluster_and_by_a_tiny_job_at_a_node(cluster, tmp_path):
    study = Study(cluster, tmp_path / 'Мой "run" it\'s', light=False, site={"partition": "capped"})
    told = study.svdstory("doctor", "--site", "./site.yaml", "--probe", "--out", "run", status=None)
    assert "good  partition: capped: GPUs gpu:v100:4" in told and "good  accounting: sacct answers" in told
    assert "good  on the node: packages" in told and "good  submit cap: 3 jobs" in told


def test_doctor_names_the_nearest_partition_and_the_features_there_are(cluster, tmp_path):
    study = Study(cluster, tmp_path / "run", light=False, site={"partition": "gpuu"})
    assert "no partition 'gpuu' (did you mean 'gpu'?)" in study.svdstory("doctor", "--site", "./site.yaml", status=1)
    study.write_site(partition="gpu", constraint="type_x")
    assert "'type_x': no node has it. Features: " in study.svdstory("doctor", "--site", "./site.yaml", status=1)
