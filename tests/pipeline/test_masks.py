import numpy as np
import torch
from skimage.filters import threshold_otsu

from svdstory.pipeline.masks import otsu


def test_batched_otsu_is_skimages():
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=1024), np.concatenate([rng.normal(0, 1, 700), rng.normal(6, 1, 324)]),
            rng.exponential(size=1024) * 1e-4, np.repeat([0.1, 0.9], 512), rng.integers(0, 5, 1024).astype(float)]
    rows = np.stack(rows).astype(np.float32)
    got = otsu(torch.from_numpy(rows)).numpy()
    for row, threshold in zip(rows, got):
        assert np.array_equal(row > threshold, row > threshold_otsu(row))


def test_otsu_of_a_constant_row_is_its_value():
    assert otsu(torch.full((2, 64), 0.25)).tolist() == [0.25, 0.25]
