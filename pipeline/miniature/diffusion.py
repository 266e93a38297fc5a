"""Trains the UNet and both text encoders together: v-prediction, min-SNR weights, Muon and AdamW, and an average.

Symbols: B pictures, T tokens, D text width, h, w latent sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from torch import nn

from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.miniature.architecture import (
    TIME_IDS,
    build_scheduler,
    build_text_encoders,
    build_unet,
    embed_prompts,
)
from svdstory.pipeline.miniature.latents import LatentPool
from svdstory.pipeline.miniature.muon import Muon
from svdstory.pipeline.miniature.replicas import Replicas
from svdstory.pipeline.miniature.training_clock import (
    Clock,
    Log,
    device_of,
    learning_rate,
    load_checkpoint,
    save_atomically,
    seeded_weights,
)
from svdstory.pipeline.miniature.vocabulary import build_tokenizer

PEAK = 1e-3
SNR_CAP = 5.0
UNCONDITIONAL = 0.08  # share of prompts whose embeddings are zeros, SDXL's empty negative prompt
AVERAGE = 0.999
SAVE_EVERY, SAY_EVERY, SHEET_EVERY = 180.0, 60.0, 720.0  # seconds


class Denoiser(nn.Module):
    """What is trained together: UNet and text encoders."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizers = build_tokenizer(), build_tokenizer(pad_token="!")
        self.unet = build_unet()
        self.text_encoder, self.text_encoder_2 = build_text_encoders(self.tokenizers[0])

    def tokens(self, captions: list[str]) -> list[torch.Tensor]:
        """Ids (B, T) for each of the two encoders."""
        padded = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        return [tokenizer(captions, **padded).input_ids.to(device_of(self)) for tokenizer in self.tokenizers]

    def forward(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, captions: list[str], kept: torch.Tensor
    ) -> torch.Tensor:
        """Noisy latents (B, 4, h, w), timesteps (B,), captions, kept (B,) 0 or 1 -> predicted v (B, 4, h, w)."""
        prompts, pooled = embed_prompts((self.text_encoder, self.text_encoder_2), *self.tokens(captions))
        time_ids = torch.tensor([TIME_IDS] * len(noisy), dtype=noisy.dtype, device=noisy.device)
        conditions = {"text_embeds": pooled * kept[:, None], "time_ids": time_ids}
        return self.unet(noisy, timesteps, prompts * kept[:, None, None], added_cond_kwargs=conditions).sample


@dataclass(frozen=True)
class NoisyBatch:
    """noisy, target: (B, 4, h, w); timesteps, kept, weights: (B,); captions: B of them."""

    noisy: torch.Tensor
    target: torch.Tensor
    timesteps: torch.Tensor
    kept: torch.Tensor
    weights: torch.Tensor
    captions: list[str]

    def part(self, number: int, parts: int) -> NoisyBatch:
        """Every `parts`-th row, from row `number` on."""
        rows = slice(number, None, parts)
        return NoisyBatch(
            self.noisy[rows],
            self.target[rows],
            self.timesteps[rows],
            self.kept[rows],
            self.weights[rows],
            self.captions[rows],
        )


def add_noise(
    scheduler: DDIMScheduler, latents: torch.Tensor, captions: list[str], generator: torch.Generator
) -> NoisyBatch:
    """Noise a batch at timesteps that are stratified over it, which makes its gradient less noisy.

    Weights are min(snr + 1, 6) / (snr + 1): 1 up to snr = 5, then falling (min-SNR for v, Hang et al. 2023).
    """
    count = len(latents)
    strata = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
    timesteps = (strata * scheduler.config.num_train_timesteps).long().to(latents.device)
    noise = torch.randn(latents.shape, generator=generator).to(latents.device)
    kept = (torch.rand(count, generator=generator) >= UNCONDITIONAL).float().to(latents.device)
    alphas = scheduler.alphas_cumprod.to(latents.device)[timesteps]
    snr = alphas / (1 - alphas)
    return NoisyBatch(
        noisy=scheduler.add_noise(latents, noise, timesteps),
        target=scheduler.get_velocity(latents, noise, timesteps),
        timesteps=timesteps,
        kept=kept,
        weights=(snr + 1).clamp(max=SNR_CAP + 1) / (snr + 1),
        captions=captions,
    )


def v_loss(denoiser: Denoiser, batch: NoisyBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted loss and the plain v-MSE of a batch."""
    with torch.autocast("cuda", torch.bfloat16, enabled=batch.noisy.is_cuda):
        predicted = denoiser(batch.noisy, batch.timesteps, batch.captions, batch.kept)
    errors = (predicted.float() - batch.target).square().mean(dim=(1, 2, 3))
    return (batch.weights * errors).mean(), errors.mean()


def build_optimizers(denoiser: Denoiser) -> list[torch.optim.Optimizer]:
    """Muon for the matrices and convolutions inside, AdamW for embeddings, first and last layers, norms and biases."""
    inside = ("down_blocks", "mid_block", "up_blocks", "encoder.layers")
    matrices, others = [], []
    for name, parameter in denoiser.named_parameters():
        hidden = parameter.dim() >= 2 and any(part in name for part in inside)
        (matrices if hidden else others).append(parameter)
    return [Muon(matrices), torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0)]


class DiffusionTraining:
    """One training run: the denoiser, its average, its optimizers and where it stands."""

    def __init__(
        self,
        state: Path,
        vae: AutoencoderKL,
        minutes: float,
        device: torch.device,
        batch: int,
        workers: int,
        log: Log,
        replicas: int = 1,
    ):
        self.file, self.vae, self.device, self.batch, self.workers, self.log = (
            state / "unet.pt",
            vae,
            device,
            batch,
            workers,
            log,
        )
        with seeded_weights(2):
            self.denoiser, self.average = Denoiser().to(device), Denoiser().to(device)
        self.average.load_state_dict(self.denoiser.state_dict())
        self.average.requires_grad_(False).eval()
        self.optimizers = build_optimizers(self.denoiser)
        self.replicas = Replicas(self.denoiser, replicas)
        self.scheduler = build_scheduler()
        self.clock, self.step, self.since_restart, self.samples, self.rendered = Clock(60 * minutes), 0, 0, 0, 0
        saved = load_checkpoint(self.file, device)
        if saved:
            self._take_up(saved)

    def _take_up(self, saved: dict) -> None:
        self.denoiser.load_state_dict(saved["denoiser"])
        self.average.load_state_dict(saved["average"])
        for optimizer, kept in zip(self.optimizers, saved["optimizers"] or ()):
            optimizer.load_state_dict(kept)
        self.step, self.samples, self.rendered = saved["step"], saved["samples"], saved["rendered"]
        if saved["spent"] < saved["budget"]:
            self.clock, self.since_restart = Clock(saved["budget"], saved["spent"]), saved["since_restart"]
            self.log(
                f"unet: taken up at step {self.step}, after {self.clock.seconds / 60:.1f} of "
                f"{self.clock.budget / 60:.0f} min"
            )
        else:
            self.log(f"unet: warm restart of the learning rate at step {self.step}")

    def save(self) -> None:
        save_atomically(
            {
                "denoiser": self.denoiser.state_dict(),
                "average": self.average.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "step": self.step,
                "since_restart": self.since_restart,
                "samples": self.samples,
                "rendered": self.rendered,
                "budget": self.clock.budget,
                "spent": self.clock.seconds,
            },
            self.file,
        )

    def learn(self, latents: torch.Tensor, captions: list[str], generator: torch.Generator) -> torch.Tensor:
        """One step on latents (B, 4, h, w) with their captions; returns the plain v-MSE."""
        rate = learning_rate(PEAK, self.since_restart, self.clock.progress)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        batch, parts = add_noise(self.scheduler, latents, captions, generator), len(self.replicas.modules)
        error = self.replicas.backward([partial(v_loss, batch=batch.part(number, parts)) for number in range(parts)])
        nn.utils.clip_grad_norm_(self.denoiser.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        decay = min(AVERAGE, (1 + self.step) / (10 + self.step))  # a start from trained weights counts from 0 too
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.denoiser.parameters()), 1 - decay)
        self.step, self.since_restart = self.step + 1, self.since_restart + 1
        self.samples += self.batch
        return error

    def run(self, sheet) -> Denoiser:
        """Train to the end of the budget; `sheet(average, name)` draws samples. Returns the averaged denoiser."""
        pool = LatentPool(self.vae, self.device, self.batch, self.rendered, self.workers, seed=self.step)
        generator = torch.Generator().manual_seed(self.step)
        drawn_ahead = self.replicas.later(pool.draw)
        said, saved, drawn = (self.clock.seconds,) * 3
        errors: list[torch.Tensor] = []
        while self.clock.progress < 1.0:
            latents, captions = drawn_ahead.result()
            drawn_ahead = self.replicas.later(pool.draw)
            errors.append(self.learn(latents, captions, generator))
            self.rendered, now = pool.rendered, self.clock.seconds
            if now - said > SAY_EVERY:
                rate = len(errors) * self.batch / (now - said)
                self.log(
                    f"unet {now / 60:.1f} min, step {self.step}, {self.samples} samples: "
                    f"v-MSE {torch.stack(errors).mean().item():.4f}, {rate:.1f} samples/s"
                )
                errors, said = [], now
            if now - saved > SAVE_EVERY:
                self.save()
                saved = now
            if now - drawn > SHEET_EVERY:
                sheet(self.average, f"{now / 60:03.0f}-min")
                drawn = now
        self.save()
        sheet(self.average, "end")
        return self.average


def averaged_denoiser(state: Path) -> Denoiser:
    """The averaged weights of the training in `state`, on the CPU. Raises InputError if there is none."""
    saved = load_checkpoint(state / "unet.pt", torch.device("cpu"))
    if saved is None:
        raise InputError(f"{state / 'unet.pt'}: no UNet has been trained here yet. Run the part `unet` first.")
    denoiser = Denoiser()
    denoiser.load_state_dict(saved["average"])
    return denoiser.requires_grad_(False).eval()
