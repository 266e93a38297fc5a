"""LoRA files of every layout: applied wholly or refused, put back, known by content."""

import peft
import pytest
import torch
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from svdstory.jobs.study.experiment import Experiment
from svdstory.jobs.study.plan import make_plan
from svdstory.pipeline.config.lora import Lora
from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.strict import InputError, parse
from svdstory.pipeline.generation import generate
from svdstory.pipeline.models.load import load_model
from svdstory.pipeline.models.lora_files import located

FOX = PromptSet(style="A photo of", subject="a red fox", concept=("fox",), settings=("in the snow", "at the beach"))
YAML = "style: A photo of\nsubject: a red fox\nconcept: fox\nsettings: [in the snow, at the beach]\n"
SETTINGS = dict(steps=2, size=(64, 64))


@pytest.fixture
def tiny():
    return load_model("tiny", device="cpu")


@pytest.fixture(scope="module")
def weights():
    """A LoRA of the tiny UNet and its text encoders under diffusers' names: module -> its A and B."""
    pipe = load_model("tiny", device="cpu").pipe
    torch.manual_seed(0)
    made = {}
    text = ["q_proj", "k_proj", "v_proj", "out_proj"]
    kinds = {"unet": ["to_q", "to_k", "to_v", "to_out.0"], "text_encoder": text, "text_encoder_2": text}
    for part, targets in kinds.items():
        config = peft.LoraConfig(r=4, lora_alpha=4, target_modules=targets, init_lora_weights=False)
        wrapped = peft.get_peft_model(getattr(pipe, part), config)
        names = get_peft_model_state_dict(wrapped)
        made |= {f"{part}.{name.removeprefix('base_model.model.')}": 0.3 * x for name, x in names.items()}
    return made


def kohya(weights):
    """The same as A1111 and ComfyUI users have it."""
    found, prefix = {}, {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
    for name, weight in weights.items():
        part, rest = name.split(".", 1)
        module, side = rest.split(".lora_")
        module = module if part == "unet" or module.startswith("text_model") else f"text_model.{module}"
        module = prefix[part] + module.replace(".", "_")
        found[f"{module}.lora_{'down' if side.startswith('A') else 'up'}.weight"] = weight
        found[f"{module}.alpha"] = torch.tensor(4.0)
    return found


@pytest.mark.parametrize("layout", [dict, kohya])
def test_a_lora_draws_what_its_merged_weights_draw_and_is_taken_off(tiny, weights, tmp_path, layout):
    file = tmp_path / "style.safetensors"
    save_file(layout(weights), file)
    plain = generate(tiny, FOX, named("sdxl"), **SETTINGS).sample.latents
    lora = FOX.model_copy(update={"loras": (Lora(file=str(file), scale=0.5),)})
    made = generate(tiny, lora, named("sdxl"), **SETTINGS).sample.latents
    assert torch.allclose(generate(tiny, FOX, named("sdxl"), **SETTINGS).sample.latents, plain, atol=1e-4)
    for name, down in weights.items():
        if ".lora_A." in name:
            part, path = name.split(".lora_A.")[0].split(".", 1)
            up = weights[name.replace("lora_A", "lora_B")]
            getattr(tiny.pipe, part).get_submodule(path).weight.data += 0.5 * up @ down
    tiny.encoded.clear()
    merged = generate(tiny, FOX, named("sdxl"), **SETTINGS).sample.latents
    assert torch.allclose(made, merged, atol=1e-3) and not torch.allclose(made, plain, atol=1e-1)


def test_the_callers_own_adapters_stay_on(tiny, weights, tmp_path):
    file, other = tmp_path / "style.safetensors", tmp_path / "other.safetensors"
    save_file(weights, file)
    save_file({name: -2 * w if "lora_B" in name else w for name, w in weights.items()}, other)
    tiny.pipe.load_lora_weights(str(other), adapter_name="mine")
    tiny.pipe.set_adapters(["mine"], adapter_weights=[0.5])
    before = generate(tiny.pipe, FOX, named("sdxl"), **SETTINGS).sample.latents
    both = FOX.model_copy(update={"loras": (Lora(file=str(file)),)})
    made = generate(tiny.pipe, both, named("sdxl"), **SETTINGS).sample.latents  # 0.5 · -2 + 1 = 0
    plain = generate(load_model("tiny", device="cpu"), FOX, named("sdxl"), **SETTINGS).sample.latents
    assert torch.allclose(made, plain, atol=1e-3) and not torch.allclose(before, plain, atol=1e-1)
    assert torch.equal(generate(tiny.pipe, FOX, named("sdxl"), **SETTINGS).sample.latents, before)


def test_a_half_applied_lora_is_an_error_and_nothing_of_it_stays(tiny, weights, tmp_path):
    file = tmp_path / "style.safetensors"
    moved = {name.replace("unet.up_blocks.1", "unet.up_blocks.2"): weight for name, weight in weights.items()}
    save_file(moved, file)
    lora = FOX.model_copy(update={"loras": (Lora(file=str(file)),)})
    with pytest.raises(InputError, match="places are not in this model, for example unet.up_blocks.2"):
        generate(tiny, lora, named("sdxl"), **SETTINGS)
    assert not tiny.pipe.get_list_adapters()


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"unet.a.attn2.to_k.lora_A.weight": torch.zeros(4, 768)},
            "made for Stable Diffusion 1, whose text is 768 wide",
        ),
        ({"unet.a.attn1.to_k.hada_w1_a": torch.zeros(4, 4)}, "a LoHa: diffusers' loader would leave out"),
        ({"unet.a.attn1.to_k.dora_scale": torch.zeros(4, 4)}, "a DoRA"),
        ({"model.diffusion_model.out.2.bias": torch.zeros(4)}, "no LoRA: none of its tensors"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_header(tmp_path, change, message):
    file = tmp_path / "other.safetensors"
    save_file(change, file)
    with pytest.raises(InputError, match=message):
        located([Lora(file="other.safetensors")], tmp_path, 64)


def plan_of(tmp_path, text=YAML, **experiment):
    (tmp_path / "fox.yaml").write_text(text)
    content = {"sets": ["fox.yaml"], "methods": ["sdxl"], "model": "tiny", "steps": 2, **experiment}
    return make_plan("test", parse(Experiment, content, "test"), tmp_path)


def test_experiment_and_set_name_loras_and_a_unit_knows_them_by_content(tmp_path, weights):
    save_file(weights, tmp_path / "style.safetensors")
    lora = {"file": "style.safetensors", "scale": 0.5}
    plain, [one] = plan_of(tmp_path), plan_of(tmp_path, loras=[lora]).units
    [other] = plan_of(tmp_path, YAML + "loras: [{file: style.safetensors, scale: 0.5}]\n").units
    assert one == other and one not in plain.units
    (tmp_path / "style.safetensors").rename(tmp_path / "renamed.safetensors")
    assert list(plan_of(tmp_path, loras=[{**lora, "file": "renamed.safetensors"}]).units) == [one]
    content = load_file(tmp_path / "renamed.safetensors")
    save_file({name: 2 * weight for name, weight in content.items()}, tmp_path / "renamed.safetensors")
    assert list(plan_of(tmp_path, loras=[{**lora, "file": "renamed.safetensors"}]).units) != [one]
    with pytest.raises(InputError, match="LoRA style.safetensors: there is no such file"):
        plan_of(tmp_path, loras=[lora])
