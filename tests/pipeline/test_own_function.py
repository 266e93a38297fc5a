"""A user's function draws on the study's pipeline, and the pipeline is as it was, whatever the function did to it."""

import random
import traceback

import pytest
import torch

from svdstory.pipeline.config.methods import Method
from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.config.own_code import read_function
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.decoding import NotFinite
from svdstory.pipeline.generation import generate
from svdstory.pipeline.lending import State
from svdstory.pipeline.models.load import load_model

FOX = PromptSet(style="a photo of", subject="a fox", concept=("fox",), settings=("in snow", "in rain"))
SIZE = (128, 128)
CALL = "model, prompts, *, seed, steps, guidance, size, scheduler, switches, on_step"
STOCK = f"""
def draw({CALL}):
    return model.pipe(prompts.prompts, num_inference_steps=steps, guidance_scale=guidance, width=size[0],
                      height=size[1], callback_on_step_end=on_step).images
"""


@pytest.fixture(scope="module")
def model():
    return load_model("tiny", "cpu")


def function(folder, text: str, name: str = "draw", **switches) -> Method:
    (folder / "mine.py").write_text(text)
    read = read_function(f"mine.py:{name}", folder)
    return Method(function=read.model_copy(update={"set": switches}))


def returning(folder, body: str, **switches) -> Method:
    """A function of these lines, indented once."""
    return function(folder, f"import random, torch\nfrom PIL import Image\n\ndef draw({CALL}):\n{body}\n", **switches)


def drawn(model, method, **setting):
    return generate(model, FOX, method, steps=2, size=SIZE, **setting)


def test_a_function_draws_with_the_studys_scheduler_and_seeded_global_generators(tmp_path, model):
    method, told = function(tmp_path, STOCK), []
    first = drawn(model, method, seed=3, scheduler="euler", on_step=told.append)
    torch.rand(5)
    again, other = drawn(model, method, seed=3, scheduler="euler"), drawn(model, method, seed=3, scheduler="ddim")
    assert [i.tobytes() for i in first.images] == [i.tobytes() for i in again.images]
    assert first.images[0].tobytes() != other.images[0].tobytes()
    assert told == [0, 1] and first.sample is None


def test_a_traceback_shows_the_functions_own_text_also_after_another_of_the_same_name(tmp_path, model):
    for bug in ("one bug", "another bug"):
        with pytest.raises(RuntimeError) as error:
            drawn(model, returning(tmp_path, f"    raise RuntimeError('{bug}')"))
        assert f"raise RuntimeError('{bug}')" in "".join(traceback.format_exception(error.value))


DAMAGE = {
    "processors": "    model.pipe.unet.set_attn_processor(Changed())",
    "a hook": "    model.pipe.unet.mid_block.register_forward_hook(lambda *a: a[-1] * 0)",
    "another scheduler": "    model.pipe.scheduler = None",
    "the dtype": "    model.pipe.to(torch.float64)",
    "a part": "    model.pipe.unet = None",
    "a layer": "    model.pipe.unet.conv_out = torch.nn.Identity()",
    "a class": "    type(model.pipe.unet).forward = lambda self, *a, **k: (a[0],)",
    "an instance's forward": "    model.pipe.vae.decoder.forward = lambda *a: 1 / 0",
    "a layer's class": "    model.pipe.unet.conv_in.__class__ = type('Mine', (torch.nn.Conv2d,), {'forward': None})",
    "FreeU": "    model.pipe.enable_freeu(0.5, 0.5, 1.5, 1.5)",
    "training mode": "    model.pipe.unet.train().requires_grad_(False)",
    "attention itself": "    torch.nn.functional.scaled_dot_product_attention = None",
    "an adapter": "    import peft\n    c = peft.LoraConfig(r=2, target_modules=['to_q'], init_lora_weights=False)\n"
    "    model.pipe.unet.add_adapter(c)",
    "an error": "    model.pipe.unet.set_attn_processor(Changed())\n    1 / 0",
}


@pytest.mark.parametrize("what", DAMAGE)
def test_the_pipeline_is_put_back_whatever_a_function_did(what, tmp_path, model):
    changed = (
        "\nclass Changed:\n    def __call__(self, attn, hidden_states, *a, **k):\n        return hidden_states * 0\n"
    )
    body = DAMAGE[what] + "\n    return [Image.effect_noise(size, 50) for _ in prompts.prompts]"
    method = returning(tmp_path, body + "\n" + changed)
    looked_at = what in ("processors", "a class", "an adapter")
    before, state = looked_at and drawn(model, named("consistory")).images, State.of(model.pipe)
    sums = state.checksums()
    if what == "an error":
        with pytest.raises(ZeroDivisionError):
            drawn(model, method)
    else:
        drawn(model, method)
    assert state.difference(sums) == "" and model.spoiled == ""
    if looked_at:
        after = drawn(model, named("consistory")).images
        assert [i.tobytes() for i in before] == [i.tobytes() for i in after]


@pytest.mark.parametrize("by", ["data.mul_(1.5)", "mul_(1.5)"])
def test_weights_that_a_function_wrote_over_are_noticed(by, tmp_path):
    model = load_model("tiny", "cpu")
    body = (
        f"    model.pipe.unet.conv_in.weight.{by}\n    return [Image.effect_noise(size, 50) for _ in prompts.prompts]"
    )
    made = drawn(model, returning(tmp_path, body))
    assert model.spoiled.startswith("1 of ") and made.counters == {"model_spoiled": 1}


def test_the_global_generators_go_on_as_if_no_function_had_run(tmp_path, model):
    random.seed(1), torch.manual_seed(1)
    expected = random.random(), torch.rand(1).item()
    random.seed(1), torch.manual_seed(1)
    body = "    random.random(), torch.rand(3), torch.manual_seed(9), torch.set_default_dtype(torch.float64)\n"
    drawn(model, returning(tmp_path, body + "    return [Image.effect_noise(size, 50) for _ in prompts.prompts]"))
    assert (random.random(), torch.rand(1).item()) == expected and torch.get_default_dtype() is torch.float32


@pytest.mark.parametrize(
    "returned, error, words",
    [
        ("None", TypeError, "returned a NoneType, expected a list of PIL pictures"),
        ("[torch.zeros(3, 8, 8)] * 2", TypeError, "a list of Tensor"),
        ("[Image.effect_noise(size, 50)]", ValueError, "1 pictures for 2 prompts"),
        ("[Image.effect_noise((64, 32), 50)] * 2", ValueError, "64×32, not 128×128"),
        ("[Image.new('RGB', size)] * 2", NotFinite, "constant"),
        ("[Image.effect_noise(size, 50)] * 2, torch.ones(3, 4, 4)", ValueError, r"masks are \(3, 4, 4\), expected \(2"),
    ],
)
def test_what_a_function_returns_is_checked(returned, error, words, tmp_path, model):
    with pytest.raises(error, match=words):
        drawn(model, returning(tmp_path, f"    return {returned}"))


def test_a_functions_masks_are_its_subjects(tmp_path, model):
    body = "    return [Image.effect_noise(size, 50)] * 2, torch.eye(4).repeat(2, 1, 1)"
    assert drawn(model, returning(tmp_path, body)).masks.tolist() == [torch.eye(4).int().tolist()] * 2


def test_what_a_function_imports_from_its_folder_is_carried_with_it_and_left_nowhere(tmp_path, model):
    (tmp_path / "nets" / "deep").mkdir(parents=True)
    (tmp_path / "nets" / "__init__.py").write_text("from .deep.noise import amount\n")
    (tmp_path / "nets" / "deep" / "noise.py").write_text("from .. import __name__ as above\namount = 40\n")
    (tmp_path / "json.py").write_text("raise RuntimeError('the standard library comes first')")
    (tmp_path / "unused.py").write_text("raise RuntimeError('nobody imports it')")
    body = "    import json, nets\n    return [Image.effect_noise(size, nets.amount) for _ in prompts.prompts]"
    method = returning(tmp_path, body)
    assert sorted(method.function.sources) == ["mine.py", "nets/__init__.py", "nets/deep/noise.py"]
    key = method.switches()["function"]["sha256"]
    (tmp_path / "nets" / "deep" / "noise.py").write_text("amount = 41\n")
    assert returning(tmp_path, body).switches()["function"]["sha256"] != key
    (tmp_path / "nets" / "__init__.py").unlink()  # gone: the method carries what was there
    assert len(drawn(model, method).images) == 2
    import sys

    assert not {"mine", "nets", "nets.deep.noise"} & sys.modules.keys()


@pytest.mark.parametrize(
    "text, words",
    [
        ("def drow(model, prompts, **others): ...", "no function 'draw' at its top level (did you mean 'drow'"),
        ("class draw: ...", "no function 'draw'"),
        ("def draw(model): ...", "line 1: draw(model) cannot be called as it will be: "),
        ("def draw(model, prompts, seed): ...", "got an unexpected keyword argument 'steps'"),
        ("def draw(model, prompts, extra, **others): ...", "missing a required argument: 'extra'"),
        ("def draw(model, prompts, **others):\n  return (", "mine.py, line 2: is no Python 3."),
        ("from . import nets\ndef draw(model, prompts, **others): ...", "line 1: a relative import"),
    ],
)
def test_a_function_that_cannot_be_called_is_refused_without_running_its_file(text, words, tmp_path):
    with pytest.raises(InputError) as error:
        function(tmp_path, text)
    assert words in str(error.value)


@pytest.mark.parametrize("given", ["mine.py", "mine:draw", "mine.py:", "nowhere.py:draw"])
def test_a_function_that_is_not_there_is_refused(given, tmp_path):
    (tmp_path / "mine.py").write_text(STOCK)
    with pytest.raises(InputError, match="expected a file and a function in it|no such file"):
        read_function(given, tmp_path)


def test_a_function_takes_what_it_needs_by_defaults_and_others(tmp_path):
    raising = "raise RuntimeError('run')\n"  # reading must not run it
    assert function(tmp_path, raising + "def draw(model, prompts, seed, steps=3, **others): ...").family() == "plain"


def test_nothing_else_is_switched_on_beside_a_function(tmp_path):
    read = function(tmp_path, STOCK).function
    with pytest.raises(ValueError, match="same_latent would do nothing"):
        Method(function=read, same_latent=True)


def test_pictures_made_elsewhere_cannot_be_drawn(model):
    with pytest.raises(InputError, match="made elsewhere"):
        drawn(model, Method(pictures={"folder": "/", "pictures": "{image}.png"}))
