import numpy as np
import torch
from diffusers.models.attention_processor import Attention
from skimage.filters import threshold_otsu

from svdstory.pipeline.sampling.attention import RecordingCrossAttention
from svdstory.pipeline.sampling.call import Call, Group, Stage, StepPlan
from svdstory.pipeline.sampling.masks import SubjectMasks, otsu


def test_batched_otsu_is_skimages():
    rng = np.random.default_rng(0)
    rows = [
        rng.normal(size=1024),
        np.concatenate([rng.normal(0, 1, 700), rng.normal(6, 1, 324)]),
        rng.exponential(size=1024) * 1e-4,
        np.repeat([0.1, 0.9], 512),
        rng.integers(0, 5, 1024).astype(float),
    ]
    rows = np.stack(rows).astype(np.float32)
    got = otsu(torch.from_numpy(rows)).numpy()
    for row, threshold in zip(rows, got):
        assert np.array_equal(row > threshold, row > threshold_otsu(row))


def test_otsu_of_a_constant_row_is_its_value():
    assert otsu(torch.full((2, 64), 0.25)).tolist() == [0.25, 0.25]


def test_large_queries_and_keys_do_not_overflow_in_half():
    """q · k = 102,400, which float16 does not hold; an eighth of it does."""
    attention = Attention(64, cross_attention_dim=64, heads=1, dim_head=64, bias=False)
    for weight in attention.parameters():
        weight.data = torch.eye(64) if weight.ndim > 1 else torch.zeros(64)
    masks = SubjectMasks(torch.tensor([[1]]), 8, 8, "cpu")
    group, stage = Group([0], torch.tensor([0]), leads=True, last=True), Stage()
    text = torch.full((1, 3, 64), 40.0).half()
    text[:, 2] = 0
    with torch.no_grad(), stage.showing(Call(group, StepPlan(0), halves=1, memory={})):
        RecordingCrossAttention(stage, masks)(attention.half(), torch.full((1, 4, 64), 40.0).half(), text)
    masks.end_step(calls=1)
    assert torch.allclose(masks.maps[0], torch.full((1, 1, 4), 0.5))
