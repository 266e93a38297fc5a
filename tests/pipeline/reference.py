"""The reference model and cases in tests/reference_sampler: numbers that the published methods give."""

import json
from functools import lru_cache
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file

from svdstory.pipeline.config.methods import Method, SpectralFilter
from svdstory.pipeline.sampling.denoiser import Conditioning

FOLDER = Path(__file__).parents[1] / "reference_sampler"
CASES = json.loads((FOLDER / "cases.json").read_text())
STEPS, GUIDANCE = 19, 5.0


@lru_cache
def unet() -> UNet2DConditionModel:
    model = UNet2DConditionModel.from_config(json.loads((FOLDER / "unet_config.json").read_text()))
    model.load_state_dict({k: v.float() for k, v in load_file(FOLDER / "unet.safetensors").items()})
    return model.eval()


def scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
        prediction_type="epsilon",
    )


@lru_cache
def inputs() -> dict[str, torch.Tensor]:
    return load_file(FOLDER / "inputs.safetensors")


def conditioning(images: list[int] | int) -> Conditioning:
    """Of the first `images` reference images, or of the listed ones."""
    rows = list(range(images)) if isinstance(images, int) else images
    x = inputs()
    return Conditioning(
        x["prompt_embeds"][rows],
        x["pooled_prompt_embeds"][rows],
        x["negative_prompt_embeds"][rows],
        x["negative_pooled_prompt_embeds"][rows],
        x["time_ids"][0],
        x["subject_token_index"][rows][:, None],
    )


def method(case: dict) -> Method:
    f = case["spectral_filter"]
    f = None if f is None else SpectralFilter(**f)
    extended = case["extended_attention"] != "off"
    return Method(
        extended_attention=case["extended_attention"],
        n_anchors=case["n_anchors"] if extended or case["feature_injection"] else 0,
        mask_dropout=case["mask_dropout"],
        query_blending=case["query_blending"],
        feature_injection=case["feature_injection"],
        same_latent=case["same_latent"],
        filter_k=f,
        filter_v=f,
    )


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    """Frobenius norm of a - b over that of b."""
    return float((a.double() - b.double()).norm() / b.double().norm())
