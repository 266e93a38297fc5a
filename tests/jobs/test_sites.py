"""Site profiles: strict, extendable without Python, and harmless in a shell."""

import pytest

from svdstory.jobs.cluster.sites import load_site, shipped_sites
from svdstory.pipeline.config.strict import InputError


def profile(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", shipped_sites())
def test_every_shipped_profile_is_valid(name):
    assert load_site(name).about


def test_charisma_asks_for_a_v100_and_marks_what_nobody_confirmed():
    site = load_site("charisma")
    assert site.constraint == "type_a|type_b|type_c" and site.memory_gb is None and site.wckey is None
    assert "partition" in site.unconfirmed


def test_a_user_extends_a_profile_without_python(tmp_path):
    site = load_site(profile(tmp_path, "extends: charisma\naccount: proj_1234\npartition: normal\n"))
    assert (site.account, site.partition, site.constraint) == ("proj_1234", "normal", "type_a|type_b|type_c")
    assert "partition" not in site.unconfirmed and "cpus" in site.unconfirmed


def test_an_unknown_key_is_named_with_the_nearest_one(tmp_path):
    with pytest.raises(InputError, match=r"mine.yaml: unknown key 'partitoin' \(did you mean 'partition'\?\)"):
        load_site(profile(tmp_path, "extends: lab\npartitoin: gpu\n"))


def test_an_unknown_profile_is_named_with_the_nearest_one():
    with pytest.raises(InputError, match=r"unknown site 'charizma' \(did you mean 'charisma'\?\)"):
        load_site("charizma")


@pytest.mark.parametrize("line", ['account: "a\\n#SBATCH --uid=0"', 'environment: {"A;rm": "1"}', "minutes: 0"])
def test_values_that_could_escape_their_line_are_refused(tmp_path, line):
    with pytest.raises(InputError, match="mine.yaml"):
        load_site(profile(tmp_path, f"extends: lab\n{line}\n"))


def test_a_signal_after_the_end_of_the_task_is_refused(tmp_path):
    with pytest.raises(InputError, match="Give at most 59"):
        load_site(profile(tmp_path, "extends: lab\nminutes: 1\nsignal_seconds: 60\n"))


def test_a_profile_that_extends_itself_is_refused(tmp_path):
    path = profile(tmp_path, "extends: ./mine.yaml\n")
    with pytest.raises(InputError, match="extends itself"):
        load_site(path)
