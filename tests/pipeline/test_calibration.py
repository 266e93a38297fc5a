"""Leakage reads as what was pasted: by the judge that is shipped, within the bounds that the product states."""

import numpy as np
import pytest

from svdstory.pipeline.miniature import WEIGHTS
from svdstory.pipeline.miniature.calibration import BOUNDS, SHARES, calibrate, interval, pasted, rendered, table
from svdstory.pipeline.miniature.judges import load_judge
from svdstory.pipeline.miniature.stream import picture


@pytest.mark.parametrize("share", SHARES)
def test_as_much_of_the_background_is_pasted_as_is_said_and_nothing_else_changes(share):
    one = picture("held out", 3)
    covered = one.mask | one.accessory_mask
    result = pasted(one.image, covered, 255 - one.image, share, turn=0.7)
    changed = (result != one.image).any(axis=2)
    assert not (changed & covered).any()
    assert changed[~covered].mean() == pytest.approx(share, abs=1e-3)


def test_known_shares_of_other_backgrounds_read_as_those_shares():
    found = rendered(load_judge(WEIGHTS / "judges"), count=64)
    for share, values in found.items():
        assert abs(values.mean() - share) <= BOUNDS["rendered"] + 1.96 * values.std() / 8, (share, values.mean())
    assert found[0.0].mean() == 0.0
    means = [values.mean() for values in found.values()]
    assert means == sorted(means)


def test_the_calibration_is_written_with_its_bounds(tmp_path):
    rows = calibrate(WEIGHTS, count=8, out=tmp_path, samples=False)
    assert [row["share"] for row in rows] == list(SHARES)
    assert {file.name for file in tmp_path.iterdir()} == {"calibration.json", "calibration.md"}
    assert "| rendered | 100 |" in (tmp_path / "calibration.md").read_text()
    wrong = [{**rows[0], "reading": 0.2, "right": False}]
    assert table(wrong, 8).rstrip().endswith("no |")


def test_an_interval_is_the_means():
    low, high = interval(np.array([0.0, 1.0] * 50))
    assert low == pytest.approx(0.5 - 1.96 * 0.05025, abs=1e-3) and high == pytest.approx(1 - low)
