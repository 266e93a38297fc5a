"""Loading models by the real path: files in diffusers' layout, safetensors only, offline."""

import shutil

import pytest
import torch

from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.decoding import NotFinite, decode
from svdstory.pipeline.encoding import encode
from svdstory.pipeline.generation import generate, make_scheduler
from svdstory.pipeline.models.device import missing_kernels
from svdstory.pipeline.models.load import load_model
from svdstory.pipeline.models.spec import hub_snapshot, resolve_model, shipped_models
from svdstory.pipeline.models.tiny import build_tiny
from svdstory.pipeline.models.weight_files import file_hash

FOX = PromptSet(style="A photo of", subject="a red fox", concept=("fox",), settings=("in the snow", "at the beach"))


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny", device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder as users have them: fp16 variant, safetensors."""
    path = tmp_path_factory.mktemp("models") / "mine"
    build_tiny().to(dtype=torch.float16).save_pretrained(path, variant="fp16", safe_serialization=True)
    return path


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    """The same folder where huggingface_hub would have put SDXL's pinned snapshot."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    place = tmp_path / "models--stabilityai--stable-diffusion-xl-base-1.0" / "snapshots"
    place.mkdir(parents=True)
    shutil.copytree(folder, place / shipped_models()["sdxl"]["revision"])
    return place / shipped_models()["sdxl"]["revision"]


def test_sdxl_loads_offline_from_its_pinned_snapshot(hub):
    spec = resolve_model("sdxl", dtype="float32")
    assert spec.folder == str(hub) == str(hub_snapshot(spec)) and spec.variant == "fp16"
    model = load_model(spec, device="cpu")
    assert model.pipe.unet.dtype == torch.float32
    made = generate(model, FOX, named("consistory"), steps=3, size=(128, 128))
    assert len(made.images) == 2 and made.images[0].size == (128, 128)


def test_missing_weights_are_each_named(hub):
    (hub / "unet" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    (hub / "vae" / "config.json").unlink()
    with pytest.raises(InputError) as error:
        resolve_model("sdxl")
    assert str(hub / "unet/diffusion_pytorch_model.fp16.safetensors") in str(error.value)
    assert str(hub / "vae/config.json") in str(error.value)


def test_pickled_weights_do_not_count(hub):
    weights = hub / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(InputError, match="diffusion_pytorch_model.fp16.safetensors"):
        resolve_model("sdxl")


def test_a_folder_of_fp16_files_alone_is_loaded_as_that_variant(folder):
    spec = resolve_model(str(folder), dtype="float32")
    assert spec.variant == "fp16" and load_model(spec, device="cpu").pipe.unet.dtype == torch.float32


def test_a_weight_that_a_folders_variant_lacks_is_named(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "vae" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    with pytest.raises(InputError) as error:
        resolve_model(str(copy))
    assert str(error.value).count("safetensors") == 1
    assert "prefetch" not in str(error.value) and "give another folder: this one is not whole" in str(error.value)
    assert str(copy / "vae" / "diffusion_pytorch_model.fp16.safetensors") in str(error.value)


def test_weights_in_several_parts_count(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    whole = copy / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    whole.rename(whole.with_name("diffusion_pytorch_model.fp16-00001-of-00001.safetensors"))
    assert resolve_model(str(copy)).variant == "fp16"


def test_folder_is_known_by_its_content(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    for path in (folder, copy):
        for weights in path.rglob("*.fp16.safetensors"):
            weights.rename(weights.with_name(weights.name.replace(".fp16", "")))
    one, other = resolve_model(str(folder)), resolve_model(str(copy))
    assert one.identity == other.identity
    index = copy / "model_index.json"
    index.write_text(
        index.read_text().replace('"force_zeros_for_empty_prompt": true', '"force_zeros_for_empty_prompt": false')
    )
    zeros = resolve_model(str(copy)).identity
    config = copy / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("0.012", "0.013"))
    assert len({one.identity, zeros, resolve_model(str(copy)).identity}) == 3


def test_tiny_is_the_same_on_every_build_and_leaves_the_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, other = build_tiny().unet.state_dict(), build_tiny().unet.state_dict()
    assert all(torch.equal(one[k], other[k]) for k in one) and torch.equal(torch.get_rng_state(), before)


def test_subject_positions_are_those_of_the_pipelines_own_tokenizer(tiny):
    prompts = PromptSet(
        style="A photo of",
        subject="an old woman with freckles",
        concept=("woman", "freckles"),
        settings=("at a café", "in the woman's garden"),
    )
    positions = encode(tiny, prompts, (128, 128)).subject_tokens.tolist()
    ids = tiny.pipe.tokenizer(prompts.prompts).input_ids
    words = [[tiny.pipe.tokenizer.convert_ids_to_tokens(ids[i][p]) for p in positions[i]] for i in range(2)]
    assert set(words[0]) == {"woman</w>", "freckles</w>"} and words[1].count("woman</w>") >= 2


def test_subject_word_of_several_tokens(tiny):
    prompts = PromptSet(style="A photo of", subject="a quokkamoose", concept=("quokkamoose",), settings=("at home",))
    positions = encode(tiny, prompts, (128, 128)).subject_tokens[0].tolist()
    assert len(positions) > 1 and positions == list(range(positions[0], positions[0] + len(positions)))


def test_a_stock_pipeline_of_the_callers_own_works(tiny):
    made = generate(tiny.pipe, FOX, named("svd-log"), steps=2, size=(128, 192))
    assert made.images[0].size == (128, 192) and made.counters["matrices"] > 0


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "euler-ancestral", "dpm++2m", "unipc"])
def test_schedulers_by_name(tiny, scheduler):
    assert len(generate(tiny, FOX, named("consistory"), steps=4, scheduler=scheduler).images) == 2


def test_unknown_scheduler_and_size(tiny):
    with pytest.raises(InputError, match="did you mean 'ddim'"):
        make_scheduler("dim", tiny.pipe.scheduler)
    with pytest.raises(InputError, match="size 100×128: both sides must be multiples of 64"):
        generate(tiny, FOX, named("sdxl"), size=(100, 128))


def test_vae_that_overflows_in_half_is_decoded_again_in_single():
    pipe = build_tiny()
    pipe.vae.to(torch.float16)
    pipe.vae.register_to_config(force_upcast=False)
    handle = pipe.vae.decoder.register_forward_hook(
        lambda module, args, out: out * float("inf") if out.dtype == torch.float16 else out
    )
    images, again = decode(pipe, torch.randn(2, 4, 16, 16))
    handle.remove()
    assert len(images) == 2 and again == 1 and pipe.vae.dtype == torch.float16


def test_casting_a_model_with_nothing_to_keep_in_float32_says_nothing(folder, caplog):
    load_model(str(folder), device="cpu", dtype="float32").pipe.vae.to(torch.float16)
    assert "kept in float32" not in caplog.text


@pytest.mark.parametrize(
    "made, error, message",
    [
        (lambda out: out * 1e-4 + 2, NotFinite, "constant"),  # white, once it is clamped and rounded
        (lambda out: out[..., 8:], RuntimeError, "a picture of 120×128, not 128×128"),
    ],
)
def test_a_picture_of_one_colour_or_of_another_size_is_refused(tiny, made, error, message):
    handle = tiny.pipe.vae.decoder.register_forward_hook(lambda module, args, out: made(out))
    with pytest.raises(error, match=message):
        decode(tiny.pipe, torch.randn(1, 4, 16, 16))
    handle.remove()


@pytest.mark.parametrize(
    "capability, archs, advice",
    [
        ((7, 0), ["sm_75", "sm_80", "sm_90"], "torch==2.7.1"),
        ((7, 0), ["sm_70", "sm_90"], ""),
        ((8, 6), ["sm_80"], ""),
        ((9, 0), ["sm_70", "compute_80"], ""),
        ((12, 0), ["sm_70", "sm_90"], "newer torch"),
        ((7, 0), ["sm_50", "sm_60"], "torch==2.7.1"),
        ((10, 0), ["sm_100", "sm_120"], ""),
        ((7, 5), ["sm_70"], ""),
    ],
)
def test_gpu_without_kernels_is_told_which_wheel_to_install(capability, archs, advice):
    message = missing_kernels(capability, archs)
    assert advice in message if advice else message == ""


def test_weights_are_hashed_block_by_block(tmp_path):
    import hashlib
    import tracemalloc

    content = bytes(range(256)) * (1 << 16)  # 16 MB
    (tmp_path / "weights").write_bytes(content)
    tracemalloc.start()
    assert file_hash(tmp_path / "weights") == hashlib.sha256(content).digest()
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()
