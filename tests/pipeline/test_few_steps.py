"""Few-step models by name: SDXL's pinned weights and a pinned LoRA beside them, with their own steps and scheduler."""

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from svdstory.jobs.cluster.prefetch import fetch_model
from svdstory.jobs.study.experiment import Experiment
from svdstory.jobs.study.plan import make_plan
from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.strict import InputError, parse
from svdstory.pipeline.generation import generate
from svdstory.pipeline.models.load import load_model
from svdstory.pipeline.models.spec import resolve_model, shipped_models
from svdstory.pipeline.models.tiny import build_tiny
from svdstory.pipeline.models.weight_files import hub_folder

FOX = PromptSet(style="A photo of", subject="a red fox", concept=("fox",), settings=("in the snow", "at the beach"))
NAMES = ["sdxl-lightning", "sdxl-lcm", "sdxl-hyper"]
MODULE = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_v"


def lora():
    torch.manual_seed(0)
    return {f"{MODULE}.lora_A.weight": torch.randn(2, 32), f"{MODULE}.lora_B.weight": torch.randn(32, 2)}


def stage_lora(name):
    """As huggingface_hub does: a link to a file that is called by its content."""
    [entry] = shipped_models()[name]["loras"]
    place = hub_folder(entry["repository"], entry["revision"])
    blob = place.parents[1] / "blobs" / "0123abcd"
    blob.parent.mkdir(parents=True)
    place.mkdir(parents=True)
    save_file(lora(), blob)
    (place / entry["file"]).symlink_to(blob)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    path = tmp_path_factory.mktemp("hub")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_CACHE", str(path))
        sdxl = shipped_models()["sdxl"]
        build_tiny().save_pretrained(hub_folder(sdxl["location"], sdxl["revision"]), variant="fp16")
        for name in NAMES:
            stage_lora(name)
        yield path


@pytest.mark.parametrize(
    "name, guidance, scheduler, changes",
    [
        ("sdxl-lightning", 0.0, "euler", {"timestep_spacing": "trailing"}),
        ("sdxl-lcm", 1.0, "lcm", {}),
        ("sdxl-hyper", 0.0, "ddim", {"timestep_spacing": "trailing"}),
    ],
)
def test_a_plan_has_its_steps_guidance_scheduler_and_lora(cache, tmp_path, name, guidance, scheduler, changes):
    content = {"sets": ["red-fox"], "methods": ["svd-log-no-injection"], "model": name, "size": [128, 128]}
    plan = make_plan("test", parse(Experiment, content, "test"), tmp_path)
    assert (plan.steps, plan.guidance, plan.scheduler) == (4, guidance, scheduler)
    assert plan.scheduler_config.changes() == changes
    [one] = plan.model.content()["loras"]
    assert len(one["sha256"]) == 64 and one["scale"] == 1.0
    base = {key: shipped_models()[name][key] for key in ("location", "revision", "variant")}
    assert base == {key: shipped_models()["sdxl"][key] for key in base}


def test_it_draws_with_the_lora_of_the_hubs_cache(cache):
    settings = dict(steps=2, size=(64, 64), scheduler="euler", guidance=0.0)
    made, plain = (
        generate(load_model(name, device="cpu", dtype="float32"), FOX, named("sdxl"), **settings).sample.latents
        for name in ("sdxl-lightning", "sdxl")
    )
    assert torch.isfinite(made).all() and not torch.allclose(made, plain, atol=1e-2)


def test_prefetch_stages_what_is_missing_of_both(cache, monkeypatch):
    [entry] = shipped_models()["sdxl-hyper"]["loras"]
    file = hub_folder(entry["repository"], entry["revision"]) / entry["file"]
    blob, asked = file.resolve(), []
    file.unlink()
    with pytest.raises(
        InputError, match=f"hf download ByteDance/Hyper-SD {entry['file']} --revision {entry['revision']}"
    ):
        resolve_model("sdxl-hyper")

    def download(repository, *, revision, allow_patterns, ignore_patterns):
        asked.append((repository, revision, allow_patterns))
        file.symlink_to(blob)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert fetch_model("sdxl-hyper") == hub_folder(
        shipped_models()["sdxl"]["location"], shipped_models()["sdxl"]["revision"]
    )
    assert asked == [("ByteDance/Hyper-SD", entry["revision"], [entry["file"]])]
