"""A paper's own table beside a run's numbers."""

import pytest

from svdstory.jobs.report.cells import read_study
from svdstory.jobs.report.findings import find
from svdstory.jobs.report.published import beside, differences, published, published_tables
from svdstory.jobs.report.reduce import reduce
from svdstory.pipeline.config.named_methods import shipped_entries
from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.metrics.names import METRICS
from tests.jobs.synthetic import score, synthetic_run

TABLE = "oneprompt-table-1"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    score(folder, synthetic_run(folder), "clipscore:tiny", {"clipscore": 0.9})
    return folder


def test_shipped_tables_name_our_methods_and_metrics_and_their_source():
    ours = {name for family in METRICS.values() for name in family}
    for table in published_tables().values():
        assert "Table" in table.source and set(table.metrics.values()) <= ours
        assert set(table.values) <= set(shipped_entries())
        assert all(numbers.keys() == table.metrics.keys() for numbers in table.values.values())


def test_the_papers_numbers_stand_beside_the_runs_and_what_the_run_lacks_is_said(run):
    study = read_study(run)
    rows = {(b.method, b.metric): b for b in beside(published(TABLE), study, find(study))}
    assert len(rows) == 3
    there = rows["consistory", "CLIP-T"]
    assert (
        there.paper == 0.8769
        and there.here.mean == pytest.approx(0.9, abs=0.2)
        and there.measured_as == "clipscore:tiny"
    )
    assert rows["oneprompt", "CLIP-T"].why == "not in this run" and rows["oneprompt", "CLIP-T"].here is None


def test_the_report_says_where_the_run_was_not_made_as_the_papers_numbers_were(run):
    lines = differences(published(TABLE), read_study(run))
    assert lines[0].startswith("The model is ") and "sets: 192 in the paper, 2 here" in lines
    assert "scheduler: euler in the paper, ddim here" in lines
    assert any(line.startswith("Not known of the paper: guidance") for line in lines)


def test_reduce_sets_a_table_beside_on_the_page_and_in_report_md_only_when_asked(run):
    reduce(run, published=TABLE, figures=[])
    report, page = ((run / "report" / name).read_text() for name in ("report.md", "index.html"))
    assert "## Beside One-Prompt-One-Story, arXiv 2501.13554" in report and "| ConsiStory | CLIP-T | 0.8769 |" in report
    assert 'id="published"' in page and "sets: 192 in the paper, 2 here" in page
    reduce(run, figures=[])
    assert "Beside" not in (run / "report" / "report.md").read_text()


def test_an_unknown_table_is_refused_with_the_known_ones(run):
    with pytest.raises(InputError, match="did you mean 'oneprompt-table-1'"):
        reduce(run, published="oneprompt-table-2")
