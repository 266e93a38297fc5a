"""Every scheduler by name; which fit a model's own; what few steps mean to a method."""

import inspect

import diffusers
import pytest
import torch

from svdstory.pipeline.config.methods import Method
from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.schedulers import SCHEDULERS, SchedulerConfig, configuration_keys, fit, most_steps
from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.generation import generate, make_scheduler
from svdstory.pipeline.models.load import load_model
from svdstory.pipeline.models.tiny import SDXL_SCHEDULE
from svdstory.pipeline.sampling.denoiser import guidance_embedding
from svdstory.pipeline.sampling.schedule import begun, timesteps_of
from tests.pipeline import reference

FOX = PromptSet(style="A photo of", subject="a red fox", concept=("fox",), settings=("in the snow", "at the beach"))
OWN = {"_class_name": "DDIMScheduler", **SDXL_SCHEDULE}
PLAYGROUND = diffusers.EDMDPMSolverMultistepScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)
TURBO = diffusers.EulerAncestralDiscreteScheduler.from_config(SDXL_SCHEDULE, timestep_spacing="trailing")


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny", device="cpu")


def own_of(name):
    return PLAYGROUND if SCHEDULERS[name].edm else diffusers.DDIMScheduler(**SDXL_SCHEDULE)


def walked(scheduler, steps):
    """Two images' latents after a walk with a constant prediction; noise by generators of each image's own."""
    scheduler = begun(scheduler, steps)
    x = torch.ones(2, 1, 2, 2) * scheduler.init_noise_sigma
    takes = "generator" in inspect.signature(scheduler.step).parameters
    for t in scheduler.timesteps:
        own = {"generator": [torch.Generator().manual_seed(i) for i in range(2)]} if takes else {}
        scheduler.scale_model_input(x, t)
        x = scheduler.step(torch.full_like(x, 0.1), t, x, **own).prev_sample
    return x


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_takes_both_predictions_and_its_most_steps(name):
    own = own_of(name)
    config = {"_class_name": type(own).__name__, **own.config}
    for prediction in ("epsilon", "v_prediction"):
        made = make_scheduler(name, type(own).from_config(own.config, prediction_type=prediction))
        assert type(made).__name__ == SCHEDULERS[name].class_name and made.config.prediction_type == prediction
        assert torch.isfinite(walked(made, 4)).all()
    small = {} if name in ("lcm", "tcd") else {"num_train_timesteps": 60}
    made = type(make_scheduler(name, own)).from_config(own.config, **SCHEDULERS[name].always, **small)
    most = most_steps(name, config | small, {})
    assert most in (50, 58, 59, 60) and torch.isfinite(walked(made, most)).all()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_keys_that_are_read_without_torch_are_those_that_diffusers_takes(name):
    kind = getattr(diffusers, SCHEDULERS[name].class_name)
    assert configuration_keys(SCHEDULERS[name].class_name) == set(inspect.signature(kind).parameters)


@pytest.mark.parametrize("name", ["pndm", "heun", "dpm2-ancestral", "sa", "lcm", "tcd"])
def test_a_method_runs_with_it_and_an_anchor_does_not_depend_on_the_others(tiny, name):
    alone = FOX.model_copy(update={"settings": FOX.settings[:1]})
    method = Method(extended_attention="unmasked", n_anchors=1)
    whole, one = (generate(tiny, s, method, steps=4, size=(64, 64), scheduler=name).sample for s in (FOX, alone))
    assert torch.allclose(whole.latents[:1], one.latents, atol=1e-4)


def test_a_folders_own_scheduler_is_kept(tiny):
    own = make_scheduler("own", TURBO)
    assert type(own) is type(TURBO) and own.config == TURBO.config
    assert begun(own, 4).timesteps.tolist() == [999, 749, 499, 249]


def test_zero_terminal_snr_and_v_prediction_come_with_the_model():
    zero = diffusers.DDIMScheduler.from_config(
        SDXL_SCHEDULE, prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    for name in ("ddim", "euler", "dpm++2m", "unipc"):
        made = make_scheduler(name, zero)
        assert made.config.prediction_type == "v_prediction" and made.config.rescale_betas_zero_snr
        assert begun(made, 4).timesteps[0] == 999 and torch.isfinite(walked(made, 4)).all()
    with pytest.raises(InputError, match="deis: the model was trained with zero terminal SNR"):
        make_scheduler("deis", zero)


@pytest.mark.parametrize(
    "name, own, changes, message",
    [
        ("dim", OWN, {}, "unknown scheduler 'dim' .did you mean 'ddim'"),
        ("ddim", {"_class_name": "EDMEulerScheduler"}, {}, "was trained in EDM's form: choose own or one of edm-euler"),
        ("edm-euler", OWN, {}, "was trained not in EDM's form"),
        ("own", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, {}, "svdstory samples models that predict epsilon"),
        ("ddim", {**OWN, "prediction_type": "sample"}, {}, "of prediction_type sample"),
        ("own", {"_class_name": "DPMSolverSDEScheduler"}, {}, "is none of ddim, ddpm"),
        ("ddim", OWN, {"use_karras_sigmas": True}, "DDIMScheduler has no use_karras_sigmas; it has timestep_spacing"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(name, own, changes, message):
    with pytest.raises(InputError, match=message):
        fit(name, own, changes)


def test_a_configuration_is_changed_in_diffusers_words(tiny):
    made = make_scheduler("euler", tiny.pipe.scheduler, SchedulerConfig(timestep_spacing="trailing"))
    assert begun(made, 4).timesteps.tolist() == [999, 749, 499, 249]  # as SDXL-Lightning's four steps
    with pytest.raises(ValueError, match="exclude each other"):
        SchedulerConfig(use_karras_sigmas=True, use_beta_sigmas=True)


def test_edms_steps_lie_where_sdxls_noise_is_as_strong():
    """SDXL's noise at t = 261 has sigma 0.7; EDM's schedulers call it ln(0.7) / 4."""
    made = begun(PLAYGROUND, 50)
    steps = timesteps_of(made)
    nearest = int((steps - 261).abs().argmin())
    assert steps[0] == 999 and steps[-1] == 0 and (steps.diff() <= 0).all()
    assert abs(float(made.sigmas[nearest].log()) - float(torch.tensor(0.7).log())) < 0.15
    assert int((made.timesteps - 261).abs().argmin()) == 0  # what the numbers themselves would give: pure noise


@pytest.mark.parametrize("steps, at", [(50, 37), (8, 6), (4, 3), (2, 1)])
def test_few_steps_take_features_where_the_noise_is_nearest(tiny, steps, at):
    scheduler = begun(make_scheduler("euler", tiny.pipe.scheduler, SchedulerConfig(timestep_spacing="trailing")), steps)
    assert int((timesteps_of(scheduler) - 261).abs().argmin()) == at


def test_few_steps_blend_no_queries_inject_in_the_first_third_and_one_step_is_refused(tiny):
    method = named("consistory")
    assert method.idle(4, 2) == [] and any("feature_injection" in why for why in method.idle(1, 2))
    unblended = method.model_copy(update={"query_blending": False})
    one, other = (generate(tiny, FOX, m, steps=4, size=(64, 64)).sample.latents for m in (method, unblended))
    assert torch.equal(one, other)
    uninjected = method.model_copy(update={"feature_injection": False})
    assert not torch.equal(one, generate(tiny, FOX, uninjected, steps=4, size=(64, 64)).sample.latents)


def test_a_unet_that_was_distilled_with_its_guidance_is_told_of_it(tiny):
    from diffusers import StableDiffusionXLPipeline

    expected = StableDiffusionXLPipeline.get_guidance_scale_embedding(None, torch.full((3,), 7.0), 32)
    assert reference.relative_error(guidance_embedding(8.0, 3, 32), expected) < 1e-4
    calls = []
    unet = tiny.pipe.unet
    unet.register_to_config(time_cond_proj_dim=32)
    hook = unet.register_forward_pre_hook(
        lambda m, args, kw: calls.append((len(args[0]), kw.pop("timestep_cond").shape)), with_kwargs=True
    )
    try:
        generate(tiny, FOX, named("sdxl"), steps=1, size=(64, 64), guidance=8.0)
    finally:
        unet.register_to_config(time_cond_proj_dim=None)
        hook.remove()
    assert calls == [(2, (2, 32))]  # no uncond half
