"""SD 1.5 and 2.1: the same methods on a UNet with one text encoder and attention at the latents' own size."""

import json

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from svdstory.jobs.cli.commands_study import memory_lines
from svdstory.jobs.study.experiment import Experiment
from svdstory.jobs.study.plan import make_plan
from svdstory.pipeline.config.lora import Lora
from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.strict import InputError, parse
from svdstory.pipeline.config.tuning import Recipe
from svdstory.pipeline.generation import generate
from svdstory.pipeline.models.load import load_model
from svdstory.pipeline.models.spec import hub_snapshot, resolve_model, shipped_models
from svdstory.pipeline.personal.training import tune
from svdstory.pipeline.sampling.attach import attach
from svdstory.pipeline.sampling.layers import attention_layers, block_ratios, shared_ratios
from tests.pipeline.sd_models import SD_BLOCKS, build_sd

FOX = PromptSet(style="A photo of", subject="a red fox", concept=("fox",), settings=("in the snow", "at the beach"))
SIZE = (128, 64)


@pytest.fixture(scope="module", params=["sd15", "sd21"])
def folder(request, tmp_path_factory):
    """As the hub has it: its index names a safety checker, which is not there."""
    path = tmp_path_factory.mktemp("models") / request.param
    build_sd(request.param).to(dtype=torch.float16).save_pretrained(path, variant="fp16")
    index = json.loads((path / "model_index.json").read_text())
    checker = {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
    features = {"feature_extractor": ["transformers", "CLIPImageProcessor"]}
    (path / "model_index.json").write_text(json.dumps({**index, **checker, **features}))
    return path


@pytest.fixture(scope="module")
def model(folder):
    return load_model(str(folder), device="cpu", dtype="float32")


def drawn(model, method, **settings):
    return generate(model, FOX, method, **{"steps": 4, "size": SIZE, **settings}).sample


def test_plain_sampling_is_the_stock_pipelines_with_its_own_scheduler(model):
    """PNDM for 1.5, v-prediction for 2.1; and FreeU."""
    method = named("sdxl")
    noise = torch.randn(2, 4, 8, 16, generator=torch.Generator().manual_seed(0))
    made = drawn(model, method, guidance=7.5, latents=noise).latents
    pipe, freeu = model.pipe, method.freeu
    pipe.enable_freeu(s1=freeu.s1, s2=freeu.s2, b1=freeu.b1, b2=freeu.b2)
    own = dict(num_inference_steps=4, guidance_scale=7.5, width=SIZE[0], height=SIZE[1], output_type="latent")
    expected = pipe(FOX.prompts, latents=noise, **own).images
    pipe.disable_freeu()
    assert torch.allclose(made, expected, atol=1e-4) and expected.std() > 0.1


@pytest.mark.parametrize("name", ["consistory", "svd-log", "storydiffusion-paper", "style-aligned", "oneprompt"])
def test_each_family_acts_on_it(model, name):
    plain, made = drawn(model, named("sdxl"), steps=3), drawn(model, named(name), steps=3)
    assert torch.isfinite(made.latents).all() and not torch.allclose(made.latents, plain.latents, atol=1e-2)
    assert made.masks.shape == (2, 8 * 16 // 4)
    if made.correspondences:
        assert made.first_pass.features.shape[1:] == (32, 4, 8)  # at half the latents' size, of the second up block


def test_a_loop_of_the_callers_and_micro_batches_see_the_same(model):
    method = named("svd-log-no-injection")
    whole, single = (drawn(model, method, steps=3, micro_batch=size).latents for size in (None, 1))
    assert torch.allclose(whole, single, atol=1e-4)
    with attach(model.pipe, method, images=2):
        theirs = model.pipe(FOX.prompts, num_inference_steps=3, width=128, height=64, output_type="latent").images
    assert torch.isfinite(theirs).all()


def test_a_lora_is_applied_to_it(model, tmp_path):
    name = "unet.up_blocks.3.attentions.0.transformer_blocks.0.attn1.to_v"
    weight = model.pipe.unet.get_submodule(name.removeprefix("unet.")).weight
    a, b = torch.linspace(-1, 1, weight.shape[1]).expand(2, -1).clone(), torch.ones(weight.shape[0], 2)
    save_file({f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}, tmp_path / "style.safetensors")
    plain, adapted = (
        drawn(model, named("sdxl")).latents,
        FOX.model_copy(update={"loras": (Lora(file=str(tmp_path / "style.safetensors")),)}),
    )
    made = generate(model, adapted, named("sdxl"), steps=4, size=SIZE).sample.latents
    assert not torch.allclose(made, plain, atol=1e-3)


def test_a_plan_takes_its_folder_with_its_own_scheduler_and_says_that_memory_is_not_known(folder):
    content = {"sets": ["red-fox"], "methods": ["consistory"], "model": str(folder), "size": list(SIZE)}
    plan = make_plan("test", parse(Experiment, content, "test"), folder)
    assert plan.scheduler == "own" and plan.model.one_encoder and plan.model.variant == "fp16"
    assert memory_lines(plan) == ["memory      not known for Stable Diffusion 1.5 and 2.1: set --micro-batch yourself"]


def test_tuning_is_refused_for_it_before_anything_is_queued(folder, tmp_path):
    (tmp_path / "fox.yaml").write_text("style: A photo of\nsubject: a fox\nconcept: fox\nsettings: [in snow, at sea]\n")
    experiment = {"sets": ["fox.yaml"], "methods": ["dreambooth-lora"], "model": str(folder)}
    with pytest.raises(InputError, match="method dreambooth-lora: tuning is for SDXL"):
        make_plan("test", parse(Experiment, experiment, "test"), tmp_path)


def test_tuning_in_python_is_refused_for_it_and_leaves_it_as_it_was(model):
    recipe = Recipe(kind="dreambooth-lora", updates=1, pictures=1, rate=0.1, rank=2).resolved({}, "sd")
    with pytest.raises(InputError, match="StableDiffusionPipeline has one"):
        tune(model, [], recipe, "key", initial="fox")
    assert not model.pipe.get_active_adapters()


@pytest.mark.parametrize("name", ["sd15", "sd21"])
def test_what_is_not_staged_is_named_without_sdxls_parts(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=f"svdstory prefetch {name}") as error:
        resolve_model(name)
    assert "text_encoder/model.fp16.safetensors" in str(error.value) and "text_encoder_2" not in str(error.value)


@pytest.mark.parametrize("name", ["sd15", "sd21"])
def test_a_staged_snapshot_loads(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    place = tmp_path / ("models--" + shipped_models()[name]["location"].replace("/", "--")) / "snapshots"
    build_sd(name).save_pretrained(place / shipped_models()[name]["revision"], variant="fp16")
    spec = resolve_model(name)
    assert spec.folder == str(hub_snapshot(spec)) and load_model(spec, device="cpu").pipe.unet.dtype == torch.float16


def test_every_hook_is_where_it_should_be_in_the_real_unet():
    """On the meta device: 859.5 M weights of SD 1.5, 16 self-attention layers, at 64, 32, 16 and 8 of 64 × 64 latents."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, **SD_BLOCKS)
    assert sum(p.numel() for p in unet.parameters()) == 859_520_964
    layers = attention_layers(unet)
    selves = [(layer.part, layer.ratio) for layer in layers if layer.kind == "attn1"]
    down = [("down_blocks", ratio) for ratio in (1, 1, 2, 2, 4, 4)]
    up = [("up_blocks", ratio) for ratio in (4, 4, 4, 2, 2, 2, 1, 1, 1)]
    assert sorted(selves) == sorted([*down, *up, ("mid_block", 8)])
    assert shared_ratios(layers) == (4, 2, 1) and block_ratios(unet)["up_blocks.0"] == 8
    blocks = {(layer.part, layer.ratio): layer.block for layer in layers if layer.kind == "attn2"}
    assert [blocks["up_blocks", r] for r in (4, 2, 1)] == ["up0", "up1", "up1"]
    assert [blocks["down_blocks", r] for r in (4, 2, 1)] == ["down2", "down1", "down1"]
    assert blocks["mid_block", 8] == "mid"
    assert unet.up_blocks[1].resnets[0].out_channels == 1280  # of the DIFT features, at H/2
