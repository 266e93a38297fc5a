"""From `submit` to the report on a real Slurm."""

import pytest

from .study import Study


@pytest.fixture
def study(cluster, tmp_path):
    return Study(cluster, tmp_path / "Мой \"run\" it's here")


def test_a_study_with_quotes_and_cyrillic_in_its_path_ends_in_a_report(study):
    print(study.submit())
    study.until_quiet()
    print(study.status())
    assert study.finished() == study.units and "index.html" in study.report()
