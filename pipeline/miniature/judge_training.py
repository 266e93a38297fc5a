"""Trains the judge on renders, and on renders made as bad as a half-trained model's: blurred, noisy, decoded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from svdstory.pipeline.miniature.judges import Findings, Judge, read_pictures, save_judge
from svdstory.pipeline.miniature.stream import bare_scene, batches, picture, pixels
from svdstory.pipeline.miniature.training_clock import (
    Clock,
    Log,
    learning_rate,
    load_checkpoint,
    save_atomically,
    seeded_weights,
)
from svdstory.pipeline.miniature.world import KINDS, PATTERNS, SCENE_LOOKS, Picture
from svdstory.pipeline.miniature.world.leakage import background_weight
from svdstory.pipeline.miniature.world.truth import PATCHES, WORN, Reading, hue_angle, true_reading

PEAK = 2e-3
BATCH = 32
POOL = 64  # batches kept, each seen again with other mixtures and flaws
FRESH = 4  # one step in FRESH brings a new batch
MIXED = 0.85  # share of pictures that show a piece of another one's scene
SAVE_EVERY = 60.0


@dataclass
class Truth:
    """Targets of a batch, as tensors; hue vectors (B, 2) are (cos, sin)."""

    kind: torch.Tensor
    accessory: torch.Tensor
    look: torch.Tensor
    body: torch.Tensor
    accent: torch.Tensor
    pattern: torch.Tensor
    shape: torch.Tensor
    mask: torch.Tensor  # (B, S, S), 0 or 1; all 0 where there is no subject, of which nothing else is then asked
    accessory_mask: torch.Tensor


def truth_of(pictures: list[Picture]) -> Truth:
    """The truth of rendered pictures as training targets."""

    def hues(degrees: list[int]) -> torch.Tensor:
        radians = torch.tensor(degrees, dtype=torch.float32).deg2rad()
        return torch.stack([radians.cos(), radians.sin()], dim=1)

    identities = [one.view.identity for one in pictures]
    return Truth(
        kind=torch.tensor([KINDS.index(one.view.kind) for one in pictures]),
        accessory=torch.tensor([WORN.index(one.view.accessory) for one in pictures]),
        look=torch.tensor([SCENE_LOOKS.index((one.view.scene, one.view.look)) for one in pictures]),
        body=hues([one.body_hue for one in identities]),
        accent=hues([one.accent_hue for one in identities]),
        pattern=torch.tensor([PATTERNS.index(one.pattern) for one in identities]),
        shape=torch.tensor([one.shape for one in identities]),
        mask=torch.from_numpy(np.stack([one.mask for one in pictures])).float(),
        accessory_mask=torch.from_numpy(np.stack([one.accessory_mask for one in pictures])).float(),
    )


def mix_scenes(images: torch.Tensor, truth: Truth, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Let a box, or all that is beyond a line, of each mixed picture's background show the next picture's.

    Returns images (B, 3, S, S) and the share of each look in each patch, (B, looks, P, P). Subjects and what they wear
    stay whole.
    """
    taken = torch.where(
        (torch.rand(len(images), generator=generator) < 0.25)[:, None, None],
        _boxes(len(images), images.shape[-1], generator),
        _sides(len(images), images.shape[-1], generator),
    )
    taken &= (torch.rand(len(images), generator=generator) < MIXED)[:, None, None]
    covered = truth.mask + truth.accessory_mask
    taken &= (covered + covered.roll(1, dims=0)) == 0
    mixed = torch.where(taken[:, None], images.roll(1, dims=0), images)
    own = F.one_hot(truth.look, len(SCENE_LOOKS)).float()[:, :, None, None]
    share = F.avg_pool2d(taken[:, None].float(), images.shape[-1] // PATCHES)  # (B, 1, P, P)
    return mixed, own * (1 - share) + own.roll(1, dims=0) * share


def _boxes(count: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """Random boxes, bool (count, size, size)."""
    corners = torch.rand(2, 2, count, generator=generator).sort(dim=0).values * size
    along = torch.arange(size)
    inside = (along >= corners[0, :, :, None]) & (along < corners[1, :, :, None])  # (2, count, size)
    return inside[0][:, :, None] & inside[1][:, None, :]


def _sides(count: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """All beyond a line in a random direction, bool (count, size, size): small shares most often: they are the hardest."""
    turn = 2 * torch.pi * torch.rand(count, 1, 1, generator=generator)
    along = torch.linspace(-0.5, 0.5, size)
    across = along[None, None, :] * turn.cos() + along[None, :, None] * turn.sin()
    share = torch.rand(count, generator=generator) ** 3
    edges = torch.stack([torch.quantile(one.flatten(), part) for one, part in zip(across, share)])
    return across < edges[:, None, None]


@torch.no_grad()
def spoil(images: torch.Tensor, vae: AutoencoderKL, generator: torch.Generator) -> torch.Tensor:
    """An eighth decoded from noisy latents, a third blurred, all a little noisy, paler or darker. (B, 3, S, S)."""
    eighth, third = len(images) // 8, len(images) // 3
    latents = vae.encode(images[:eighth]).latent_dist.mode()
    amount = 0.35 * torch.rand(eighth, 1, 1, 1, generator=generator)
    decoded = vae.decode(latents + amount * torch.randn(latents.shape, generator=generator)).sample.clamp(-1, 1)
    blurred = F.avg_pool2d(F.pad(images[eighth : eighth + third], (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    spoilt = torch.cat([decoded, blurred, images[eighth + third :]])
    noise = 0.12 * torch.rand(len(images), 1, 1, 1, generator=generator)
    contrast = 1 + 0.3 * (torch.rand(len(images), 1, 1, 1, generator=generator) - 0.5)
    return (spoilt * contrast + noise * torch.randn(images.shape, generator=generator)).clamp(-1, 1)


def judge_loss(found: Findings, truth: Truth, patch_look: torch.Tensor) -> torch.Tensor:
    """All heads at once. The picture's look is asked only where the picture shows it in most of its patches."""
    covered = (truth.mask + truth.accessory_mask)[:, None]
    outside = 1.0 - F.avg_pool2d(covered, covered.shape[-1] // PATCHES)[:, 0]  # (B, P, P)
    patches = -(patch_look * found.patch_look.log_softmax(dim=1)).sum(dim=1)
    whole = patch_look.mean(dim=(2, 3))
    there = truth.mask.amax(dim=(1, 2)) > 0
    return (
        F.cross_entropy(found.kind[there], truth.kind[there])
        + F.cross_entropy(found.accessory[there], truth.accessory[there])
        + F.cross_entropy(found.look, whole)
        + 4 * (patches * outside).sum() / outside.sum()
        + 2 * F.mse_loss(found.body[there], truth.body[there])
        + 2 * F.mse_loss(found.accent[there], truth.accent[there])
        + F.cross_entropy(found.pattern[there], truth.pattern[there])
        + 4 * F.mse_loss(found.shape[there], truth.shape[there])
        + 2 * F.binary_cross_entropy_with_logits(found.mask, truth.mask)
        + 2 * F.binary_cross_entropy_with_logits(found.accessory_mask, truth.accessory_mask)
    )


def judge_errors(readings: list[Reading], pictures: list[Picture]) -> dict[str, float]:
    """The judge's error on rendered pictures: shares that are right, mean angles in degrees, IoU of masks."""
    true = [true_reading(one) for one in pictures]
    pairs = list(zip(readings, true))
    return {
        "kind right": float(np.mean([r.kind.argmax() == t.kind.argmax() for r, t in pairs])),
        "accessory right": float(np.mean([r.accessory.argmax() == t.accessory.argmax() for r, t in pairs])),
        "look right": float(np.mean([r.look.argmax() == t.look.argmax() for r, t in pairs])),
        "scene right": float(np.mean([r.scene.argmax() == t.scene.argmax() for r, t in pairs])),
        "patch look right": float(np.mean([_patches_right(r, t) for r, t in pairs])),
        "body hue error (degrees)": float(np.mean([hue_angle(r.body_hue, t.body_hue) for r, t in pairs])),
        "accent hue error (degrees)": float(np.mean([hue_angle(r.accent_hue, t.accent_hue) for r, t in pairs])),
        "pattern right": float(np.mean([(r.striped > 0.5) == (t.striped > 0.5) for r, t in pairs])),
        "shape error": float(np.mean([abs(r.shape - t.shape) for r, t in pairs])),
        "mask IoU": float(np.mean([_overlap(r.mask, t.mask) for r, t in pairs])),
        "accessory mask IoU": float(
            np.mean([_overlap(r.accessory_mask, t.accessory_mask) for r, t in pairs if t.accessory_mask.any()])
        ),
    }


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    return (one & other).sum() / max(1, (one | other).sum())


def _patches_right(reading: Reading, true: Reading) -> float:
    """Of the patches that count as background."""
    right = reading.patch_look.argmax(axis=-1) == true.look.argmax()
    return float(right[background_weight(true) > 0].mean())


def train_judge(out: Path, vae: AutoencoderKL, minutes: float, device: torch.device, workers: int, log: Log) -> Judge:
    """Train (or take up) the judge of `out`/state/judge.pt, print its errors and write it to `out`/judges."""
    with seeded_weights(3):
        judge = Judge()
    optimizer = torch.optim.AdamW(judge.parameters(), lr=PEAK, betas=(0.9, 0.98), weight_decay=0.01)
    clock, step, file = Clock(60 * minutes), 0, out / "state" / "judge.pt"
    saved = load_checkpoint(file, torch.device("cpu"))
    if saved:
        judge.load_state_dict(saved["judge"])
        if saved["optimizer"]:
            optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
        if saved["spent"] < saved["budget"]:
            clock = Clock(saved["budget"], saved["spent"])
    _fit(judge, optimizer, vae.cpu(), clock, step, file, workers, log)
    vae.to(device)
    judge.eval()
    pictures = [picture("held out", number) for number in range(512)]
    for name, images in (("clean", pixels(pictures)), ("spoilt", _spoilt(pictures, vae))):
        readings = read_pictures(judge, ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
        errors = {"subject seen": _seen(readings), **judge_errors(readings, pictures)}
        listed = ", ".join(f"{key} {value:.3f}" for key, value in errors.items())
        log(f"judge on 512 held-out renders, {name}: {listed}")
    bare = np.stack([bare_scene(number).image for number in range(512)])
    log(f"judge on 512 held-out scenes without a subject: subject seen {_seen(read_pictures(judge, bare)):.3f}")
    save_judge(judge, out / "judges")
    return judge


def _seen(readings: list[Reading]) -> float:
    return float(np.mean([reading.shows_subject for reading in readings]))


def _spoilt(pictures: list[Picture], vae: AutoencoderKL) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.cat(
        [spoil(pixels(pictures[start : start + 64]), vae.cpu(), generator) for start in range(0, len(pictures), 64)]
    )


def _fit(judge, optimizer, vae, clock, step, file, workers, log) -> None:
    source = batches("judge", BATCH, first=step * BATCH, workers=workers)
    generator = torch.Generator().manual_seed(step)
    pool: list[tuple[torch.Tensor, Truth]] = []
    first, next_save = step, clock.seconds + SAVE_EVERY
    while clock.progress < 1.0:
        if len(pool) < 8 or step % FRESH == 0:
            pictures = next(source)
            pool = pool[-(POOL - 1) :] + [(pixels(pictures), truth_of(pictures))]
        images, truth = pool[int(torch.randint(len(pool), (1,), generator=generator))]
        mixed, patch_look = mix_scenes(images, truth, generator)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(PEAK, step - first, clock.progress)
        order = torch.randperm(BATCH, generator=generator)  # so that no picture is always the decoded one
        spoilt = torch.empty_like(mixed)
        spoilt[order] = spoil(mixed[order], vae, generator)
        loss = judge_loss(judge(spoilt), truth, patch_look)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(judge.parameters(), 1.0)
        optimizer.step()
        step += 1
        if clock.seconds > next_save:
            next_save = clock.seconds + SAVE_EVERY
            save_atomically(
                {
                    "judge": judge.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step,
                    "budget": clock.budget,
                    "spent": clock.seconds,
                },
                file,
            )
            log(f"judge {clock.seconds / 60:.1f} min, step {step}: loss {loss.item():.3f}")
    save_atomically(
        {
            "judge": judge.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step,
            "budget": clock.budget,
            "spent": clock.budget,
        },
        file,
    )
