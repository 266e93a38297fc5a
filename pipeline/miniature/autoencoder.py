"""Trains the VAE on renders, then folds the latents' mean and deviation into its 1 × 1 convolutions.

Three of the four latent channels are held to the picture's lightness and its two opponent colours at half size; the
fourth is free for detail. Left alone, a VAE with this few samples lets hues fall together, and hue is what the world
measures; held so, the colours are there from the first minute, each with a channel of its own to be denoised in.
The decoder goes on learning later (train_decoder) without moving the latents that the UNet knows.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from svdstory.pipeline.miniature.architecture import build_vae
from svdstory.pipeline.miniature.replicas import Replicas
from svdstory.pipeline.miniature.stream import batches, picture, pixels
from svdstory.pipeline.miniature.training_clock import (
    Clock,
    Log,
    device_of,
    learning_rate,
    load_checkpoint,
    save_atomically,
    seeded_weights,
)

PEAK = 2e-3
DECODER_PEAK = 1e-3
KL_WEIGHT = 1e-3
# RGB -> lightness, red against green, yellow against blue, each about as wide.
OPPONENT = ((0.6, 0.6, 0.6), (1.2, -1.2, 0.0), (0.7, 0.7, -1.4))
SAVE_EVERY = 60.0  # seconds
CROPS_UNTIL = 0.6  # of the budget: quarters of pictures first, a step on them costs a quarter


def edges(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Differences along x and y."""
    return images[..., :, 1:] - images[..., :, :-1], images[..., 1:, :] - images[..., :-1, :]


def crops(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A random quarter of each picture: (B, 3, S, S) -> (B, 3, S/2, S/2)."""
    half = images.shape[-1] // 2
    corners = (2 * torch.randint(half // 2 + 1, (len(images), 2), generator=generator)).tolist()
    return torch.stack([image[:, y : y + half, x : x + half] for image, (x, y) in zip(images, corners)])


def opponent_colours(images: torch.Tensor) -> torch.Tensor:
    """Pictures (B, 3, 2h, 2w) -> lightness and two opponent colours at half size (B, 3, h, w)."""
    matrix = torch.tensor(OPPONENT, dtype=images.dtype, device=images.device)
    return torch.einsum("oc,bchw->bohw", matrix, F.avg_pool2d(images, 2))


def rebuilding_loss(rebuilt: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """L1 + 2 MSE + half the edges' L1."""
    sharp = sum(F.l1_loss(one, other) for one, other in zip(edges(rebuilt), edges(images)))
    return F.l1_loss(rebuilt, images) + 2 * F.mse_loss(rebuilt, images) + 0.5 * sharp


def autoencoding_loss(vae: AutoencoderKL, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The loss of a sampled reconstruction, the KL bound, and the hold on the first three latent channels."""
    posterior = vae.encode(images).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator).to(images.device)
    rebuilt = vae.decode(posterior.mean + posterior.std * noise).sample
    bound = posterior.kl().mean() / images[0].numel()
    held = F.mse_loss(posterior.mean[:, :3], opponent_colours(images))
    return rebuilding_loss(rebuilt, images) + KL_WEIGHT * bound + 2 * held


@torch.no_grad()
def peak_signal_to_noise(vae: AutoencoderKL, images: torch.Tensor) -> float:
    """PSNR in dB of the reconstruction of `images` (B, 3, H, W), by the posterior's mode."""
    rebuilt = vae.decode(vae.encode(images).latent_dist.mode()).sample.clamp(-1, 1)
    return float(10 * torch.log10(4.0 / F.mse_loss(rebuilt, images)))


@torch.no_grad()
def normalise_latents(vae: AutoencoderKL, images: torch.Tensor) -> None:
    """Fold each latent channel's mean and deviation over `images` into the weights: latents become ~N(0, 1)."""
    latents = vae.encode(images).latent_dist.mode()
    mean, deviation = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    channels = len(mean)
    encoder, decoder = vae.quant_conv, vae.post_quant_conv
    encoder.bias[:channels] = (encoder.bias[:channels] - mean) / deviation
    encoder.weight[:channels] /= deviation[:, None, None, None]
    encoder.bias[channels:] -= 2 * deviation.log()
    decoder.bias += decoder.weight[:, :, 0, 0] @ mean
    decoder.weight *= deviation[None, :, None, None]


def train_vae(
    state: Path, minutes: float, device: torch.device, batch: int, workers: int, log: Log, replicas: int = 1
) -> AutoencoderKL:
    """Train (or take up, or return if finished) the VAE whose checkpoint is `state`/vae.pt."""
    with seeded_weights(1):
        vae = build_vae().to(device)
    saved = load_checkpoint(state / "vae.pt", device)
    if saved and saved["finished"]:
        vae.load_state_dict(saved["vae"])
        return vae.eval()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=PEAK, betas=(0.9, 0.98), weight_decay=0.0)
    clock, step = Clock(60 * minutes), 0
    if saved:
        vae.load_state_dict(saved["vae"])
        optimizer.load_state_dict(saved["optimizer"])
        clock, step = Clock(saved["budget"], saved["spent"]), saved["step"]
    held_out = pixels([picture("held out", number) for number in range(64)]).to(device)
    _fit(Replicas(vae, replicas), optimizer, clock, step, held_out, state, batch, workers, log)
    normalise_latents(vae, held_out)
    save_atomically({"vae": vae.state_dict(), "finished": True}, state / "vae.pt")
    log(f"vae finished: {peak_signal_to_noise(vae, held_out):.1f} dB on held-out renders")
    return vae.eval()


def _one_loss(
    vae: AutoencoderKL, images: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    loss = autoencoding_loss(vae, images, generator)
    return loss, loss


def _fit(replicas, optimizer, clock, step, held_out, state, batch, workers, log) -> None:
    vae, parts = replicas.modules[0], len(replicas.modules)
    source = batches("vae", batch, first=step * batch, workers=workers)
    generators = [torch.Generator().manual_seed(step * parts + number) for number in range(parts)]
    next_save = clock.seconds + SAVE_EVERY
    while clock.progress < 1.0:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(PEAK, step, clock.progress)
        images = pixels(next(source)).to(device_of(vae))
        if clock.progress < CROPS_UNTIL:
            images = crops(images, generators[0])
        loss = replicas.backward(
            [partial(_one_loss, images=images[number::parts], generator=generators[number]) for number in range(parts)]
        )
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        step += 1
        if clock.seconds > next_save:
            next_save = clock.seconds + SAVE_EVERY
            save_atomically(
                {
                    "vae": vae.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step,
                    "budget": clock.budget,
                    "spent": clock.seconds,
                    "finished": False,
                },
                state / "vae.pt",
            )
            log(
                f"vae {clock.seconds / 60:.1f} min, step {step}, {step * batch} pictures: loss {loss.item():.4f}, "
                f"{peak_signal_to_noise(vae, held_out):.1f} dB"
            )


def train_decoder(
    state: Path, minutes: float, device: torch.device, batch: int, workers: int, log: Log
) -> AutoencoderKL:
    """Go on with the decoder of the finished VAE in `state`/vae.pt; its latents stay what they are to the digit."""
    vae = build_vae().to(device)
    vae.load_state_dict(load_checkpoint(state / "vae.pt", device)["vae"])
    trained = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=DECODER_PEAK, betas=(0.9, 0.98), weight_decay=0.0)
    clock, step, rendered = Clock(60 * minutes), 0, 0
    saved = load_checkpoint(state / "decoder.pt", device)
    if saved:
        optimizer.load_state_dict(saved["optimizer"])
        rendered = saved["rendered"]
        if saved["spent"] < saved["budget"]:
            clock, step = Clock(saved["budget"], saved["spent"]), saved["step"]
    held_out = pixels([picture("held out", number) for number in range(64)]).to(device)
    source = batches("vae", batch, first=1_000_000 + rendered, workers=workers)
    generator = torch.Generator().manual_seed(rendered)

    def save() -> None:
        save_atomically({"vae": vae.state_dict(), "finished": True}, state / "vae.pt")
        save_atomically(
            {
                "optimizer": optimizer.state_dict(),
                "rendered": rendered,
                "step": step,
                "budget": clock.budget,
                "spent": clock.seconds,
            },
            state / "decoder.pt",
        )
        log(f"decoder {clock.seconds / 60:.1f} min, {rendered} pictures: {peak_signal_to_noise(vae, held_out):.1f} dB")

    next_save = clock.seconds + SAVE_EVERY
    while clock.progress < 1.0:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(DECODER_PEAK, step, clock.progress, flat=0.3)
        images = pixels(next(source)).to(device)
        with torch.no_grad():
            latents = vae.encode(images).latent_dist.mode()
            latents += 0.03 * torch.randn(latents.shape, generator=generator).to(device)
        loss = rebuilding_loss(vae.decode(latents).sample, images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step, rendered = step + 1, rendered + batch
        if clock.seconds > next_save:
            next_save = clock.seconds + SAVE_EVERY
            save()
    save()
    return vae.eval()
