"""The training's parts: what they compute, and that a stopped run goes on where it was."""

import pytest
import torch
from torch import nn

from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.miniature import train as training
from svdstory.pipeline.miniature.architecture import build_scheduler, build_vae
from svdstory.pipeline.miniature.diffusion import DiffusionTraining, add_noise, averaged_denoiser
from svdstory.pipeline.miniature.latents import LatentPool
from svdstory.pipeline.miniature.muon import Muon, orthogonalised
from svdstory.pipeline.miniature.replicas import Replicas
from svdstory.pipeline.miniature.stream import batches, picture
from svdstory.pipeline.miniature.training_clock import Clock, Log, learning_rate, load_checkpoint, save_atomically

CPU = torch.device("cpu")


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 8, 40)])
def test_orthogonalised_matrices_have_singular_values_near_one_and_the_same_directions(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    result = orthogonalised(matrices, iterations=8)
    sigma = torch.linalg.svdvals(result)
    assert 0.6 < sigma.min() and sigma.max() < 1.3
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    assert torch.nn.functional.cosine_similarity(result.flatten(1), (u @ vh).flatten(1)).min() > 0.97


def test_muon_goes_downhill_for_tall_wide_and_convolution_weights():
    generator = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((4, 9), (9, 4), (4, 4, 3, 3))]
    optimizer = Muon(weights, lr=0.2)
    losses = []
    for _ in range(30):
        loss = sum(weight.square().sum() for weight in weights)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


def test_two_replicas_leave_the_gradient_of_the_whole_batch():
    generator = torch.Generator().manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))
    rows = torch.randn(6, 5, generator=generator)
    module(rows).square().mean().backward()
    whole = [parameter.grad.clone() for parameter in module.parameters()]
    replicas = Replicas(module, 2)
    replicas.backward([lambda twin, part=rows[number::2]: (twin(part).square().mean(),) * 2 for number in range(2)])
    for parameter, expected in zip(module.parameters(), whole):
        assert torch.allclose(parameter.grad, expected, atol=1e-6)
    assert replicas.modules[1][0].weight.data_ptr() == module[0].weight.data_ptr()


def test_noised_batches_cover_all_timesteps_evenly_and_weigh_high_noise_fully():
    scheduler, latents = build_scheduler(), torch.zeros(10, 4, 8, 8)
    batch = add_noise(scheduler, latents, ["a cat"] * 10, torch.Generator().manual_seed(0))
    assert sorted((batch.timesteps // 100).tolist()) == list(range(10))
    assert batch.weights[batch.timesteps > 400].min() == 1.0 and batch.weights.min() < 0.5
    part = batch.part(1, 2)
    assert torch.equal(part.timesteps, batch.timesteps[1::2]) and len(part.captions) == 5


def test_learning_rate_warms_up_stays_and_fades_to_a_fiftieth():
    assert learning_rate(1.0, 0, 0.0) == pytest.approx(0.01)
    assert learning_rate(1.0, 500, 0.4) == 1.0
    assert learning_rate(1.0, 500, 1.0) == pytest.approx(0.02)


def test_a_kill_while_saving_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    path = tmp_path / "unet.pt"
    save_atomically({"step": 1}, path)
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        save_atomically({"step": 2}, path)
    assert load_checkpoint(path, CPU) == {"step": 1}


def test_streams_are_the_same_whoever_renders_and_from_wherever_they_go_on():
    stream = batches("judge", 2)
    views = [one.view for _ in range(3) for one in next(stream)]
    assert [one.view for one in next(batches("judge", 2, first=4))] == views[4:6]
    assert picture("judge", 3).view == views[3] and picture("vae", 3).view != views[3]


def test_every_batch_brings_new_pictures_into_the_pool_in_place_of_the_oldest():
    pool = LatentPool(build_vae().eval(), CPU, batch=4, first=0, workers=0, seed=0, capacity=66)
    for _ in range(4):
        latents, captions = pool.draw()
    assert latents.shape == (4, 4, 32, 32) and len(captions) == 4
    assert pool.rendered == 64 + 4 and len(pool.latents) == 66


def test_stopped_training_goes_on_with_its_step_clock_optimizers_and_average(tmp_path):
    vae, log = build_vae().eval(), Log(tmp_path / "log")
    generator = torch.Generator().manual_seed(0)
    first = DiffusionTraining(tmp_path, vae, 5.0, CPU, 2, 0, log)
    for _ in range(2):
        first.learn(torch.randn(2, 4, 32, 32, generator=generator), ["a cat", "a bus"], generator)
    first.clock = Clock(300.0, spent=120.0)
    first.save()
    second = DiffusionTraining(tmp_path, vae, 9.0, CPU, 2, 0, log)
    assert (second.step, second.samples, second.clock.budget) == (2, 4, 300.0)
    assert second.clock.seconds >= 120.0
    for one, other in zip(first.average.parameters(), averaged_denoiser(tmp_path).parameters()):
        assert torch.equal(one, other)
    moments = [state["moment"] for state in second.optimizers[0].state.values()]
    assert moments and all(moment.abs().sum() > 0 for moment in moments[:1])
    assert "taken up at step 2" in (tmp_path / "log").read_text()


def test_finished_training_asked_for_again_warms_up_anew_with_the_new_minutes(tmp_path):
    vae, log = build_vae().eval(), Log(tmp_path / "log")
    first = DiffusionTraining(tmp_path, vae, 1.0, CPU, 2, 0, log)
    first.step, first.clock = 700, Clock(60.0, spent=61.0)
    first.save()
    second = DiffusionTraining(tmp_path, vae, 9.0, CPU, 2, 0, log)
    assert (second.step, second.since_restart, second.clock.budget) == (700, 0, 540.0)


def test_unknown_parts_and_a_state_that_is_there_already_are_refused_before_anything_runs(tmp_path):
    with pytest.raises(InputError, match="unknown part 'gan', expected some of vae, unet"):
        training.train(tmp_path, 1.0, parts=("gan",))
    (tmp_path / "state").mkdir()
    with pytest.raises(InputError, match="holds a training already"):
        training.train(tmp_path, 1.0, resume=False)


def test_averaged_weights_before_any_training_is_an_error_that_names_the_part_to_run(tmp_path):
    with pytest.raises(InputError, match="Run the part `unet` first"):
        averaged_denoiser(tmp_path)
