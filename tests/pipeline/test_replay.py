"""Reference pictures as anchors: replayed, never published, and what the images take from them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from svdstory.jobs.node.scoring import load_unit, shown_in
from svdstory.jobs.node.worker import work
from svdstory.jobs.study.experiment import Experiment
from svdstory.jobs.study.plan import make_plan, write_plan
from svdstory.jobs.study.store import Store
from svdstory.pipeline.config.methods import in_rows
from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.schedulers import SCHEDULERS, UNREPLAYED, SchedulerConfig
from svdstory.pipeline.config.strict import InputError, parse
from svdstory.pipeline.decoding import decode
from svdstory.pipeline.generation import generate, make_scheduler
from svdstory.pipeline.models.load import load_model
from svdstory.pipeline.models.memory import peak_gib
from svdstory.pipeline.picture_latents import latents_of
from svdstory.pipeline.sampling import replay
from svdstory.pipeline.sampling.noise import Draws
from svdstory.pipeline.sampling.schedule import begun

SIZE = (64, 64)
SETTINGS = ("in the snow", "at the beach", "in a city")


@pytest.fixture(scope="module")
def model():
    return load_model("tiny", device="cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 255, (64, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return tuple(folder / f"{i}.png" for i in range(3))


def corgi(photos=(), settings=SETTINGS) -> PromptSet:
    return PromptSet(style="A photo of", subject="a corgi", concept="corgi", settings=settings, references=photos)


def draw(model, prompts, method, **how):
    method = named(method) if isinstance(method, str) else method
    return generate(model, prompts, method, steps=2, size=SIZE, **how)


def test_a_replayed_picture_decodes_to_the_vaes_round_trip_bit_for_bit(model, photos):
    """Whatever the UNet says of it: after the last step it is x0, and so it is what the VAE makes of the picture."""
    pictures = [Image.open(photo).convert("RGB").crop((8, 0, 72, 64)) for photo in photos[:2]]
    x0 = latents_of(model.pipe, pictures, model.device)
    vae, pixels = model.pipe.vae, [model.pipe.image_processor.preprocess(one) for one in pictures]
    factor = vae.config.scaling_factor
    with torch.no_grad():
        trip = [vae.decode(vae.encode(one).latent_dist.mode().contiguous() * factor / factor).sample for one in pixels]
    made, _ = decode(model.pipe, x0)
    expected = model.pipe.image_processor.postprocess(torch.cat(trip), output_type="pil")
    assert [image.tobytes() for image in made] == [image.tobytes() for image in expected]


def test_the_images_alone_come_back_and_the_pictures_masks_beside_them(model, photos):
    made = draw(model, corgi(photos), "consistory")
    assert len(made.images) == len(made.sample.latents) == len(made.sample.masks) == 3
    assert made.sample.reference_masks.shape == (2, 16)  # two of three serve: n_anchors
    assert len(draw(model, corgi(photos[:1]), "consistory").sample.reference_masks) == 1  # n_anchors 2 > R
    assert len(draw(model, corgi(), "consistory").sample.reference_masks) == 0


@pytest.mark.parametrize("method", ["consistory-no-injection", "svd-log2", "storydiffusion", "style-aligned"])
def test_the_images_follow_the_pictures_and_no_other_image(model, photos, method):
    shown = draw(model, corgi(photos, SETTINGS[:2]), method, micro_batch=1).sample.latents
    other = draw(model, corgi(photos[::-1], SETTINGS[:1]), method).sample.latents
    fewer = draw(model, corgi(photos, SETTINGS[:1]), method).sample.latents
    assert (shown[:1] - other).abs().amax() > 1e-3
    assert torch.equal(fewer, shown[:1])


def test_micro_batches_of_one_image_draw_the_same(model, photos):
    whole, parts = (draw(model, corgi(photos), "consistory", micro_batch=m).sample.latents for m in (None, 1))
    torch.testing.assert_close(whole, parts, atol=1e-3, rtol=0)  # measured: 6e-5


def test_plain_methods_ignore_pictures(model, photos):
    assert torch.equal(draw(model, corgi(photos), "sdxl").sample.latents, draw(model, corgi(), "sdxl").sample.latents)


def test_a_random_reference_is_drawn_among_pictures_and_images(model, photos):
    asked = []

    class Watched(Draws):
        def reference(self, step, layer, images):
            asked.append(images)
            return super().reference(step, layer, images)

    draw(model, corgi(photos[:2]), "random-reference", draws=Watched(0))
    assert set(asked) == {2 + 3}


def test_every_picture_is_noised_afresh_at_each_step_and_each_scheduler_at_its_own_level(model):
    x0 = torch.randn(2, 4, 32, 32, generator=torch.Generator().manual_seed(1))
    for name in SCHEDULERS.keys() - {"edm-euler", "edm-dpm++2m", *UNREPLAYED}:
        scheduler = make_scheduler(name, model.pipe.scheduler)
        path = replay.noised(begun(scheduler, 4), x0, Draws(0))
        at = begun(scheduler, 4)
        for step, t in enumerate(at.timesteps):
            eps = torch.stack([Draws(0).replay(r, step, x0.shape[1:]) for r in range(2)])
            abar = at.alphas_cumprod[int(t)]
            if at.init_noise_sigma > 1.5:  # x = x0 + sigma eps, else sqrt(abar) x0 + sqrt(1 - abar) eps
                level = (1 / abar - 1).sqrt()
                torch.testing.assert_close(path[step], x0 + level * eps, atol=0.05 * float(level) + 1e-3, rtol=0)
            else:
                torch.testing.assert_close(path[step], abar.sqrt() * x0 + (1 - abar).sqrt() * eps, atol=2e-3, rtol=0)


def test_schedulers_that_cannot_go_along_are_refused(model, photos):
    for name in UNREPLAYED:
        with pytest.raises(InputError, match="every scheduler but dpm2"):
            draw(model, corgi(photos), "consistory", scheduler=name)
    with pytest.raises(InputError, match="inversion: ddim needs scheduler: ddim, got EulerDiscreteScheduler"):
        draw(model, corgi(photos), "consistory-ddim", scheduler="euler")


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_ddim_inversion_is_undone_by_ddim_where_the_prediction_is_constant(model, prediction):
    """With a UNet whose eps (or v) doesn't depend on x, DDIM's steps lead exactly back to x0."""
    scheduler = begun(
        make_scheduler("ddim", model.pipe.scheduler, SchedulerConfig(prediction_type=prediction)),
        5,
    )
    x0 = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(3))

    def unet(x, t, **told):
        if prediction == "epsilon":
            return (eps,)
        abar = scheduler.alphas_cumprod[t]  # the v that says eps at the level that x is taken to have
        return (eps * abar.sqrt() - (x - (1 - abar).sqrt() * eps) / abar.sqrt() * (1 - abar).sqrt(),)

    unet.dtype = torch.float32

    class Told:
        of = staticmethod(lambda rows, halves: {})

    path = replay.inverted(unet, scheduler, Told, x0, renoise=2)
    x = path[0]
    for step, t in enumerate(scheduler.timesteps):
        torch.testing.assert_close(x, path[step], atol=1e-4, rtol=1e-4)
        x = scheduler.step(unet(x, t)[0], t, x).prev_sample
    torch.testing.assert_close(x, x0, atol=1e-4, rtol=1e-4)


def test_inversion_and_renoise_change_what_is_replayed(model, photos):
    ddim, renoise = named("consistory-ddim"), named("consistory-ddim").model_copy(update={"renoise": 1})
    made = [
        draw(model, corgi(photos[:1]), m, scheduler="ddim").sample.latents for m in (named("consistory"), ddim, renoise)
    ]
    assert all((one - other).abs().amax() > 1e-4 for one, other in zip(made, made[1:]))
    with pytest.raises(InputError, match="renoise 1 would do nothing: it needs inversion: ddim"):
        parse(type(ddim), {"renoise": 1}, "x")
    with pytest.raises(InputError, match="inversion would do nothing: it needs a method with anchors"):
        parse(type(ddim), {"inversion": "ddim"}, "x")


def test_memory_counts_the_pictures_as_anchors():
    method, rows = in_rows(named("consistory-anchors-3"), 5, 2)
    assert (method.n_anchors, rows) == (2, 7)
    assert in_rows(named("sdxl"), 5, 2) == (named("sdxl"), 5)
    assert peak_gib(method, rows, (1024, 1024), 1) == peak_gib(named("consistory"), 7, (1024, 1024), 1)


def plan_of(folder, methods, **experiment):
    (folder / "corgi.yaml").write_text(
        "style: A photo of\nsubject: a corgi\nconcept: corgi\nreferences: [0.png, 1.png]\nsettings: [in snow, at sea]\n"
    )
    content = {"sets": ["corgi.yaml"], "methods": methods, "model": "tiny", "size": [64, 64], "steps": 2, "scorers": []}
    return make_plan("test", parse(Experiment, content | experiment, "test"), folder)


def test_a_unit_keeps_the_pictures_hashes_masks_and_path_and_its_images_alone(model, photos):
    folder = photos[0].parent
    plan = plan_of(folder, ["consistory", "sdxl"])
    write_plan(plan, folder / "run")
    store = Store(folder / "run")
    assert not work(plan, store, plan.units, model=model).failed
    by_method = {cell.method: key for key, cell in plan.units.items()}
    manifest = store.manifest(by_method["consistory"])
    assert [one["sha256"] for one in manifest["references"]] == [r.sha256 for r in plan.sets["corgi"].references]
    assert manifest["inversion"] == {"path": "noise", "renoise": 0} and manifest["images"] == 2
    tensors = load_file(store.folder(by_method["consistory"]) / "tensors.safetensors")
    assert tensors["masks"].shape == (2, 4, 4) and tensors["reference_masks"].shape == (2, 4, 4)
    plain = store.manifest(by_method["sdxl"])
    assert "references" not in plain and "references" not in plain["set"]
    for key in by_method.values():  # also a plain unit is set beside the pictures
        shown = load_unit(store, key, store.manifest(key), shown_in(plan, store.run)[key]).references
        assert [image.size for image in shown.images] == [SIZE, SIZE] and shown.prompts == ["A photo of a corgi"] * 2


@pytest.mark.parametrize(
    "methods, more, said",
    [
        (
            ["consistory-ddim"],
            {"scheduler": "euler"},
            "consistory-ddim: inversion: ddim needs scheduler: ddim, got euler",
        ),
        (["consistory"], {"scheduler": "dpm2"}, "scheduler dpm2: reference pictures"),
    ],
)
def test_what_cannot_be_replayed_is_refused_in_the_plan(photos, methods, more, said):
    with pytest.raises(InputError) as error:
        plan_of(photos[0].parent, methods, **more)
    assert said in str(error.value)


def test_distance_and_leakage_are_of_the_references_not_of_the_set(photos):
    import numpy as np

    from svdstory.pipeline.miniature.strangers import stranger
    from svdstory.pipeline.miniature.world import draw_view, render
    from svdstory.pipeline.miniature.world.leakage import of_references
    from svdstory.pipeline.miniature.world.truth import distance, true_reading

    one, scenes, pictures = stranger("cat")
    assert pictures[0].shape == (64, 64, 3) and len(scenes) == 2
    rng = np.random.default_rng(0)
    read = lambda scene, identity=one: true_reading(render(draw_view(rng, "cat", identity, scene, accessory="")))  # noqa: E731
    same, other = read("snow"), read("snow", replace(one, body_hue=(one.body_hue + 180) % 360))
    shown = [read("sea"), read("desert")]
    assert distance(same, shown[0]) < 1e-9 and distance(other, shown[0]) == pytest.approx(0.5)
    assert of_references([same], shown, ["snow"]) == 0.0
    assert of_references([read("sea")], shown, ["snow"]) == pytest.approx(1.0)
    assert of_references([read("sea")], shown, ["sea"]) == 0.0  # its own, asked for


def test_a_set_beside_its_references_has_cosines_with_each():
    import numpy as np

    from svdstory.pipeline.metrics.consistency import cosines_between

    found = cosines_between(np.array([[1.0, 0], [0, 2]]), np.array([[3.0, 0]]))
    np.testing.assert_allclose(found, [[1], [0]])
