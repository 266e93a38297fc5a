"""Reference pictures as anchors: they are replayed, not denoised. The rows of a set are [pictures, images].

Before step s the latents of picture r are x_r[s] of a fixed trajectory that ends in x0_r, whatever the UNet says of them:
its pass serves their keys, values, queries, masks and DIFT features alone. Denoised by the maps of an inversion they
drift away from the picture as soon as attention is extended, and the images follow them.

R pictures, n calls of the schedule, C channels, H × W latents.
"""

import torch
from torch import Tensor

from svdstory.pipeline.config.methods import Method
from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.sampling.denoiser import Conditioning, Denoiser
from svdstory.pipeline.sampling.noise import Draws
from svdstory.pipeline.sampling.schedule import begun


def trajectory(
    unet, scheduler, conditioning: Conditioning, pictures: Tensor, method: Method, steps: int, draws: Draws
) -> Tensor:
    """x_r[s], (n, R, C, H, W) float32, of pictures x0 (R, C, H, W), the first R rows of the conditioning.

    Raises InputError for a scheduler that cannot go along.
    """
    scheduler = begun(scheduler, steps)
    if method.inversion == "ddim":
        return inverted(unet, scheduler, conditioning, pictures, method.renoise)
    return noised(scheduler, pictures, draws)


def noised(scheduler, pictures: Tensor, draws: Draws) -> Tensor:
    """x_r[s] = add_noise(x0_r, eps_{r,s}, t_s): noise of its own for each step, the path on which edit-friendly DDPM
    inversion (arXiv 2304.06140) builds its noise maps. Replayed, the maps cancel out: no UNet call is needed."""
    if type(scheduler).__name__.startswith("KDPM2"):  # its second calls are at levels that its add_noise doesn't know
        raise InputError(
            "reference pictures go with every scheduler but dpm2 and dpm2-ancestral: choose euler or dpm++2m."
        )
    size = pictures.shape[1:]
    path = []
    for step, t in enumerate(scheduler.timesteps):
        eps = torch.stack([draws.replay(r, step, size) for r in range(len(pictures))]).to(pictures)
        path.append(scheduler.add_noise(pictures, eps, t.expand(len(pictures)).to(pictures.device)))
    return torch.stack(path)


def inverted(unet, scheduler, conditioning: Conditioning, pictures: Tensor, renoise: int) -> Tensor:
    """DDIM's inversion (arXiv 2010.02502, eq. 13), with timesteps t_1 < ... < t_n and abar_0 the scheduler's final one:

        x <- sqrt(abar_k) x̂0 + sqrt(1 - abar_k) eps,   x̂0 = (x - sqrt(1 - abar_{k-1}) eps) / sqrt(abar_{k-1})

    eps is the UNet's at (x, t_k), under the picture's own prompt, without guidance and without extended attention.
    `renoise`: each step is repeated so many times, with eps at the x that it found (the core of ReNoise, 2403.14602).
    """
    if type(scheduler).__name__ != "DDIMScheduler":
        raise InputError(
            f"inversion: ddim needs scheduler: ddim, got {type(scheduler).__name__}. Or choose inversion: noise."
        )
    told = conditioning.of(torch.arange(len(pictures), device=pictures.device), halves=1)

    def eps_at(x: Tensor, abar: Tensor, t: Tensor) -> Tensor:
        out = unet(x.to(unet.dtype), t, **told, return_dict=False)[0].float()
        return out if scheduler.config.prediction_type == "epsilon" else abar.sqrt() * out + (1 - abar).sqrt() * x

    x, before, path = pictures.float(), scheduler.final_alpha_cumprod.to(pictures.device), []
    for t in scheduler.timesteps.flip(0).to(pictures.device):
        abar = scheduler.alphas_cumprod.to(pictures.device)[t]
        found, level = x, before
        for _ in range(1 + renoise):
            eps = eps_at(found, level, t)
            x0 = (x - (1 - before).sqrt() * eps) / before.sqrt()
            found, level = abar.sqrt() * x0 + (1 - abar).sqrt() * eps, abar
        x, before = found, abar
        path.append(x)
    return torch.stack(path[::-1])


def replaying(denoiser: Denoiser, path: Tensor) -> Denoiser:
    """A denoiser of the images alone, (B, C, H, W), beside whom the pictures are where they are at that step."""

    def of_images(latents: Tensor, step: int) -> Tensor:
        pictures = path[step].to(latents)
        return denoiser(torch.cat([pictures, latents]), step)[len(pictures) :]

    return of_images
