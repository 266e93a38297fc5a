"""Offloaded and compiled models: they draw the same, are not in a unit's key, and their memory is as it is counted."""

import pytest
import torch
import torch.nn.functional as F

from svdstory.jobs.cli.commands_study import memory_lines
from svdstory.jobs.study.experiment import Experiment
from svdstory.jobs.study.plan import make_plan
from svdstory.pipeline.bench.full_size import SDXL_UNET, sdxl_unet
from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.strict import InputError, parse
from svdstory.pipeline.generation import generate
from svdstory.pipeline.models import memory
from svdstory.pipeline.models.load import load_model
from svdstory.pipeline.models.placement import place_on
from svdstory.pipeline.models.tiny import build_tiny

FOX = PromptSet(style="A photo of", subject="a red fox", concept=("fox",), settings=("in the snow", "at the beach"))
SETTINGS = dict(steps=2, size=(64, 64))
CPU = torch.device("cpu")  # diffusers' offloading moves weights from and to any device, this one too
SIZE = (1024, 1024)


@pytest.fixture(scope="module")
def expected():
    return generate(build_tiny(), FOX, named("consistory"), **SETTINGS)


def same(made, expected):
    pictures = zip(made.images, expected.images, strict=True)
    return torch.allclose(made.sample.latents, expected.sample.latents, atol=1e-4) and all(
        one.tobytes() == other.tobytes() for one, other in pictures
    )


@pytest.mark.parametrize("offload", ["model", "sequential", "group"])
def test_an_offloaded_model_draws_the_same_twice(expected, offload):
    pipe = build_tiny()
    place_on(CPU, pipe, offload)
    assert (pipe.unet.device.type == "meta") == (offload == "sequential")
    assert bool(getattr(pipe, "_all_hooks", ())) == (offload == "model")
    made = [generate(pipe, FOX, named("consistory"), **SETTINGS) for _ in range(2)]
    assert same(made[0], expected) and same(made[1], expected)


def test_by_layers_a_vae_that_decodes_in_float32_is_cast_before_its_layers_come_and_go():
    pipe = build_tiny().to(dtype=torch.float16)
    place_on(CPU, pipe, "sequential")
    assert pipe.unet.dtype == torch.float16 and pipe.vae.dtype == torch.float32
    assert len(generate(pipe, FOX, named("sdxl"), steps=1, size=(64, 64)).images) == 2


def leaf_bytes(unet) -> int:
    return max(sum(p.nbytes for p in m._parameters.values() if p is not None) for m in unet.modules())


def test_sequential_offload_has_one_layer_on_the_card_and_the_formula_knows_the_largest_of_sdxls(monkeypatch):
    pipe, present, linear, conv = build_tiny(), set(), F.linear, F.conv2d
    place_on(CPU, pipe, "sequential")

    def watched(function):
        def called(*args, **more):
            present.add(sum(p.nbytes for p in pipe.unet.parameters() if not p.is_meta))
            return function(*args, **more)

        return called

    monkeypatch.setattr(F, "linear", watched(linear))
    monkeypatch.setattr(F, "conv2d", watched(conv))
    generate(pipe, FOX, named("sdxl"), steps=1, size=(64, 64))
    assert max(present) == leaf_bytes(build_tiny().unet)
    unet = sdxl_unet("meta", torch.float16)
    assert SDXL_UNET["block_out_channels"][-1] == 1280 and leaf_bytes(unet) / 2**30 == pytest.approx(
        memory.LEAF, rel=0.02
    )
    assert sum(p.nbytes for p in unet.parameters()) / 2**30 == pytest.approx(memory.weights_gib("model"), rel=0.01)


def test_the_formula_with_offload_counts_what_is_on_the_card_together():
    peaks = [memory.peak_gib(named("consistory"), 5, SIZE, 1, how) for how in (None, "model", "group", "sequential")]
    assert peaks == sorted(peaks, reverse=True)
    sampling = memory.sampling_gib(named("consistory"), 5, SIZE, 1)
    assert peaks[1] == pytest.approx(memory.CONTEXT + memory.WEIGHTS + sampling)
    assert peaks[3] == pytest.approx(memory.CONTEXT + memory.VAE + memory.UPCAST + memory.DECODING)
    assert memory.largest_micro_batch(named("consistory"), 5, SIZE, 8) is None
    assert memory.largest_micro_batch(named("consistory"), 5, SIZE, 8, "model") >= 1


def test_without_a_gpu_offload_is_refused():
    with pytest.raises(InputError, match="offload model: it is for GPUs") as error:
        load_model("tiny", device="cpu", offload="model")
    assert error.value.key == "offload"


def test_they_are_in_no_units_key_but_make_another_plan(tmp_path):
    def plan_of(**more):
        content = {"sets": ["red-fox"], "methods": ["sdxl"], "model": "tiny", **more}
        return make_plan("test", parse(Experiment, content, "test"), tmp_path)

    plain, offloaded, compiled = plan_of(), plan_of(offload="model"), plan_of(compile=True)
    assert list(plain.units) == list(offloaded.units) == list(compiled.units)
    assert len({plain.hash(), offloaded.hash(), compiled.hash()}) == 3
    with pytest.raises(InputError, match="offload"):
        plan_of(offload="disk")
    sdxl = offloaded.model.model_copy(update={"dtype": "float16", "source": "hub"})
    lines = memory_lines(offloaded.model_copy(update={"model": sdxl, "size": SIZE}))
    assert lines[0] == "8 GB card   holds whole sets" and len(lines) == 4
    assert lines[3] == "offload     model: 5.7 GiB at a micro-batch of 1, counted; its time is not measured"


def test_a_compiled_model_has_its_layers_and_draws_the_same(expected):
    torch.compiler.reset()
    pipe = build_tiny()
    pipe.unet.compile(backend="aot_eager")
    made = generate(pipe, FOX, named("consistory"), **SETTINGS)
    torch.compiler.reset()
    assert same(made, expected)
