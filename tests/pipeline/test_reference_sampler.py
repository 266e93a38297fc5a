"""The published methods' own numbers (tests/reference_sampler), to 1e-4 relative error."""

import pytest
import torch
from safetensors.torch import load_file

from svdstory.pipeline.sampling.sampler import sample
from tests.pipeline import reference
from tests.pipeline.reference import CASES, FOLDER, GUIDANCE, STEPS, relative_error


@pytest.mark.parametrize("name", CASES)
def test_case_agrees_with_the_published_method(name, capsys):
    case, expected = CASES[name], load_file(FOLDER / f"case_{name}.safetensors")
    n, seen = case["n_images"], {}
    result = sample(
        reference.unet(),
        reference.scheduler(),
        reference.conditioning(n),
        reference.method(case),
        seed=0,
        steps=STEPS,
        guidance=GUIDANCE,
        latents=reference.inputs()["latents"][:n],
        on_step=lambda s: seen.update({(s.pass_index, s.step): s}),
    )
    got = {
        "noise_pred_step0": seen[0, 0].noise_pred,
        "noise_pred_step1": seen[0, 1].noise_pred,
        "latents_step5": seen[0, 5].latents,
        "latents_pass1": seen[0, STEPS - 1].latents,
        "latents": result.latents,
    }
    errors = {key: relative_error(value, expected[key]) for key, value in got.items()}
    with capsys.disabled():
        print(f"\n{name}: " + ", ".join(f"{key} {error:.1e}" for key, error in errors.items()))
    assert max(errors.values()) < 1e-4
    first = result.first_pass or result
    assert torch.equal(first.masks, expected["mask_pass1"].bool())
    if result.correspondences is not None:
        others = ~torch.eye(n, case["n_anchors"], dtype=torch.bool)
        distance, nearest = result.correspondences.distance, result.correspondences.nearest
        assert torch.allclose(distance[others], expected["nn_distance"][:, : case["n_anchors"]][others], atol=1e-4)
        inside = (distance < 2)[others]
        agree = (nearest[others] == expected["nn_map"][:, : case["n_anchors"]][others])[inside]
        assert agree.float().mean() > 0.99
