"""StoryDiffusion's published attention in numbers (tests/reference_storydiffusion), with its recorded draws."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from svdstory.pipeline.config.families import StoryDiffusion
from svdstory.pipeline.config.methods import Method, SpectralFilter
from svdstory.pipeline.sampling.denoiser import Conditioning
from svdstory.pipeline.sampling.noise import Draws
from svdstory.pipeline.sampling.sampler import sample
from tests.pipeline import reference

FOLDER = Path(__file__).parents[1] / "reference_storydiffusion"
CASES = json.loads((FOLDER / "cases.json").read_text())
ARRAYS = ("noise_pred_step0", "noise_pred_step5", "noise_pred_last", "latents")


@dataclass(frozen=True)
class Recorded(Draws):
    """The published program's draws."""

    arrays: dict

    def tokens(self, image, step, tokens):
        return self.arrays["token_draws_quarter" if tokens == 64 else "token_draws_half"][step, image]

    def gate(self, step, layer):
        return float(self.arrays["gate_draws"][step, layer])


def method_of(case: dict) -> Method:
    if not case["consistent_attention"]:
        return Method()
    same = {key: case[key] for key in ("s_quarter", "s_half", "warmup_steps", "warmup_reads_bank")}
    gate = case["gate"] != "off"
    assert not gate or case["gate"] == [[0, 0.3], [20, 0.1]]
    return Method(storydiffusion=StoryDiffusion(id_images=len(case["id_images"]), gate=gate, **same))


def conditioning(images: list[int]) -> Conditioning:
    known = vars(reference.conditioning(images))
    negative = ("negative_prompt_embeds", "negative_pooled_prompt_embeds")
    return Conditioning(**{**known, **{name: torch.zeros_like(known[name]) for name in negative}})


def run(case: dict, method: Method, draws: Draws, micro_batch: int | None = None) -> dict[str, torch.Tensor]:
    images = case.get("images") or case["id_images"] + case["read_images"]
    seen = {}
    result = sample(
        reference.unet(),
        reference.scheduler(),
        conditioning(images),
        method,
        seed=0,
        steps=case["steps"],
        guidance=reference.GUIDANCE,
        latents=reference.inputs()["latents"][images],
        micro_batch=micro_batch,
        draws=draws,
        on_step=lambda at: seen.update({at.step: at.noise_pred}),
    )
    return dict(zip(ARRAYS, (seen[0], seen[5], seen[case["steps"] - 1], result.latents)))


@pytest.mark.parametrize("name", CASES)
def test_case_agrees_with_the_published_program(name, capsys):
    expected = load_file(FOLDER / f"case_{name}.safetensors")
    got = run(CASES[name], method_of(CASES[name]), Recorded(0, expected))
    errors = {key: reference.relative_error(got[key], expected[key]) for key in ARRAYS}
    with capsys.disabled():
        print(f"\n{name}: " + ", ".join(f"{key} {error:.1e}" for key, error in errors.items()))
    assert max(errors.values()) < 1e-5


def test_own_draws_come_from_the_seed_and_leave_images_free_of_the_micro_batch():
    case = {**CASES["read"], "steps": 7}
    whole = run(case, method_of(case), Draws(5))["latents"]
    assert reference.relative_error(run(case, method_of(case), Draws(5), micro_batch=1)["latents"], whole) < 1e-5
    assert reference.relative_error(run(case, method_of(case), Draws(6))["latents"], whole) > 1e-4


def test_a_filter_acts_on_the_bank_that_the_images_share():
    case = {**CASES["read"], "steps": 7}
    shared, top = method_of(case), SpectralFilter(keep_top=6)
    everything = SpectralFilter(keep_top=10_000)
    plain = run(case, shared, Draws(5))["latents"]
    whole = run(case, shared.model_copy(update={"filter_k": everything, "filter_v": everything}), Draws(5))["latents"]
    filtered = run(case, shared.model_copy(update={"filter_k": top, "filter_v": top}), Draws(5))["latents"]
    assert reference.relative_error(whole, plain) < 1e-5
    assert reference.relative_error(filtered, plain) > 1e-4
