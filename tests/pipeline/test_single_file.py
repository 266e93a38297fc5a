"""A checkpoint in one .safetensors file, under SDXL's own names: loaded offline, known by its content, or refused."""

import json

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from svdstory.pipeline.bench.full_size import SDXL_UNET
from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.generation import generate
from svdstory.pipeline.models import single_file
from svdstory.pipeline.models.load import load_model
from svdstory.pipeline.models.spec import resolve_model
from svdstory.pipeline.models.tiny import TEXT, build_tiny, fill
from tests.pipeline.ldm_names import checkpoint, unet_name

FOX = PromptSet(style="A photo of", subject="a red fox", concept=("fox",), settings=("in the snow", "at the beach"))


@pytest.fixture(scope="module")
def pipe():
    """tiny with text encoders of two widths, by which a single file's are told apart, as SDXL's are."""
    pipe = build_tiny()
    wide = {**TEXT, "hidden_size": 64, "intermediate_size": 128, "projection_dim": 64}
    config = {**pipe.unet.config, "cross_attention_dim": 96, "projection_class_embeddings_input_dim": 64 + 6 * 8}
    pipe.text_encoder_2 = CLIPTextModelWithProjection(CLIPTextConfig(**wide)).eval()
    pipe.unet = UNet2DConditionModel.from_config(config).eval()
    fill(pipe.text_encoder_2)
    fill(pipe.unet)
    return pipe


@pytest.fixture
def configured(pipe, tmp_path, monkeypatch):
    """The tiny model's configurations instead of SDXL's."""
    folder = tmp_path / "configurations"
    pipe.save_config(folder)
    for part in ("unet", "vae", "text_encoder", "text_encoder_2", "scheduler"):
        module = getattr(pipe, part)
        save = getattr(module, "save_config", None) or module.config.save_pretrained
        save(folder / part)
    monkeypatch.setattr(single_file, "configuration", lambda: folder)
    monkeypatch.setattr("svdstory.pipeline.models.spec.configuration", lambda: folder)
    return folder


@pytest.fixture
def file(pipe, configured, tmp_path):
    path = tmp_path / "fox-xl.safetensors"
    save_file(checkpoint(pipe), path)
    return path


@pytest.mark.parametrize("half", [False, True])
def test_a_checkpoint_in_one_file_draws_what_its_folder_draws(pipe, file, half):
    if half:
        save_file({k: v.half() if v.is_floating_point() else v for k, v in checkpoint(pipe).items()}, file)
    model = load_model(str(file), device="cpu", dtype="float32")
    assert model.spec.source == "file" and model.spec.scheduler == "own"
    if half:
        mine, theirs = model.pipe.unet.conv_in.weight, pipe.unet.conv_in.weight
        assert torch.equal(mine, theirs.half().float())
        return
    settings = dict(steps=2, size=(64, 64), scheduler="ddim")
    made, expected = (generate(m, FOX, named("consistory"), **settings).sample.latents for m in (model, pipe))
    assert torch.allclose(made, expected, atol=1e-5)


def test_it_is_known_by_its_content(file, pipe, tmp_path):
    one = resolve_model(str(file))
    renamed = file.rename(tmp_path / "other.safetensors")
    assert resolve_model(str(renamed)).identity == one.identity and one.dtype == "float16"
    weights = checkpoint(pipe)
    weights["model.diffusion_model.out.2.bias"] = weights["model.diffusion_model.out.2.bias"] + 1
    save_file(weights, renamed)
    assert resolve_model(str(renamed)).identity != one.identity


def test_comfyuis_keys_say_v_prediction_and_zero_snr(file, pipe):
    save_file({**checkpoint(pipe), "v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}, file)
    config = load_model(str(file), device="cpu", dtype="float32").pipe.scheduler.config
    assert config.prediction_type == "v_prediction" and config.rescale_betas_zero_snr
    assert config.timestep_spacing == "trailing"


def without(weights, prefix):
    return {name: weight for name, weight in weights.items() if not name.startswith(prefix)}


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda w: without(w, "first_stage_model."), "it holds no VAE: give a whole checkpoint"),
        (lambda w: without(w, "conditioner."), "it holds no first text encoder and no second text encoder"),
        (
            lambda w: {k: v.to(torch.float8_e4m3fn) if v.ndim == 2 else v for k, v in w.items()},
            "weights in F8_E4M3: svdstory reads float16, bfloat16 and float32",
        ),
        (lambda w: {"lora_unet_mid_block.lora_down.weight": torch.zeros(4, 4)}, "this is a LoRA, not a model"),
        (lambda w: {"double_blocks.0.img_attn.qkv.weight": torch.zeros(4, 4)}, "a DiT"),
        (lambda w: {"cond_stage_model.transformer.x": torch.zeros(4)}, "Stable Diffusion 1 or 2"),
        (lambda w: {"conditioner.embedders.0.model.x": torch.zeros(4)}, "SDXL's refiner"),
        (
            lambda w: without(w, "model.diffusion_model.middle_block.1"),
            "its UNet is another one .self-attention layers: got 9, SDXL has 11.",
        ),
    ],
)
def test_what_is_no_sdxl_checkpoint_is_refused_with_the_reason(file, pipe, change, message):
    save_file(change(checkpoint(pipe)), file)
    with pytest.raises(InputError, match=message):
        resolve_model(str(file))


def test_a_pickle_and_a_file_cut_short_are_refused(file, tmp_path):
    pickle = tmp_path / "fox.ckpt"
    pickle.write_bytes(b"x")
    with pytest.raises(InputError, match="a .ckpt is a pickle, which can run any code"):
        resolve_model(str(pickle))
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(InputError, match="cut short"):
        resolve_model(str(file))


def test_the_shipped_configuration_is_sdxls_and_real_names_fit_it(monkeypatch):
    """On the meta device: the names and shapes of the real file, of which no weight is here."""
    monkeypatch.undo()
    folder = single_file.configuration()
    config = json.loads((folder / "unet" / "config.json").read_text())
    assert {key: config[key] for key in SDXL_UNET} == json.loads(json.dumps(SDXL_UNET))
    assert single_file.self_attentions(config) == 70
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
    assert sum(p.numel() for p in unet.parameters()) == 2_567_463_684
    names = {f"model.diffusion_model.{unet_name(k, unet.config)}": v for k, v in unet.state_dict().items()}
    header = {name: {"dtype": "F16", "shape": list(weight.shape)} for name, weight in names.items()}
    assert single_file._other_shape(header) == ""
    assert header["model.diffusion_model.middle_block.1.transformer_blocks.9.attn2.to_k.weight"]["shape"] == [
        1280,
        2048,
    ]
    assert header["model.diffusion_model.output_blocks.5.2.conv.weight"]["shape"] == [640, 640, 3, 3]
