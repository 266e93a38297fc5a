"""The denoiser: latents and a step in, the noise in all images of a set out. What a method does is behind it.

B images, C channels, H × W latents, L prompt tokens; a UNet call carries rows [uncond × R, cond × R].
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from svdstory.pipeline.sampling.call import Call, Group
from svdstory.pipeline.sampling.family import Family, row_groups
from svdstory.pipeline.sampling.layers import execution_device, inner_unet

Denoiser = Callable[[Tensor, int], Tensor]  # latents (B, C, H, W), step -> noise_pred (B, C, H, W), after guidance


@dataclass(frozen=True)
class Conditioning:
    """What the UNet is told about each image. The pooled ones and time_ids are SDXL's; None for SD 1.5 and 2.1.

    prompt_embeds, negative_prompt_embeds: (B, L, D); pooled_prompt_embeds, negative_pooled_prompt_embeds: (B, P);
    time_ids: (6,) original size, crop corner, target size; subject_tokens: (B, S) positions of the subject's tokens,
    repeated where a prompt has fewer than S. The negative ones are unused without guidance. identity_tokens: how many
    positions of every text, from the start token on, name the set's identity (One-Prompt-One-Story).
    """

    prompt_embeds: Tensor
    pooled_prompt_embeds: Tensor | None
    negative_prompt_embeds: Tensor
    negative_pooled_prompt_embeds: Tensor | None
    time_ids: Tensor | None
    subject_tokens: Tensor
    identity_tokens: int = 0

    def __len__(self) -> int:
        return len(self.prompt_embeds)

    def of(self, rows: Tensor, halves: int) -> dict:
        """The UNet's keyword arguments for these images, (R,) indices."""
        text, pooled = self.prompt_embeds[rows], self.pooled_prompt_embeds
        if halves == 2:
            text = torch.cat([self.negative_prompt_embeds[rows], text])
        if pooled is None:
            return {"encoder_hidden_states": text}
        pooled = pooled[rows]
        if halves == 2:
            pooled = torch.cat([self.negative_pooled_prompt_embeds[rows], pooled])
        time_ids = self.time_ids.expand(len(text), -1)
        return {"encoder_hidden_states": text, "added_cond_kwargs": {"text_embeds": pooled, "time_ids": time_ids}}


def make_denoiser(
    unet, scheduler, family: Family, conditioning: Conditioning, guidance: float, micro_batch: int | None
) -> Denoiser:
    """The denoiser of one pass, whose schedule is set. Guidance of 1 or less runs without the uncond half, and so does a
    UNet that was distilled with its guidance (LCM, arXiv 2310.04378): it is told of it instead."""
    device, dtype, width = execution_device(unet), unet.dtype, inner_unet(unet).config.time_cond_proj_dim
    halves = 2 if guidance > 1 and width is None else 1
    timesteps = scheduler.timesteps.to(device)
    groups = groups_of(family, len(conditioning), micro_batch, device)
    known = [conditioning.of(group.index, halves) for group in groups]  # once: it doesn't change with the steps
    for conditions, group in zip(known, groups) if width else ():
        conditions["timestep_cond"] = guidance_embedding(guidance, len(group.rows), width).to(device, dtype)

    def denoiser(latents: Tensor, step: int) -> Tensor:
        x = scheduler.scale_model_input(latents, scheduler.timesteps[step]).to(dtype)
        rows = [x[group.index].repeat(halves, 1, 1, 1) for group in groups]
        predicted = predict(unet, family, groups, step, rows, timesteps[step], known).float()
        uncond, cond = predicted[0], predicted[-1]
        return cond if halves == 1 else uncond + guidance * (cond - uncond)

    return denoiser


def guidance_embedding(guidance: float, rows: int, width: int) -> Tensor:
    """(R, width): sines and cosines of 1000 (guidance - 1) at frequencies 10000^(-i / (width/2 - 1)), as LCM's UNets read
    it (arXiv 2310.04378, section 4.2; Stable Diffusion's guidance is the paper's omega plus one)."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half) / (half - 1))
    angles = 1000 * (guidance - 1) * frequencies
    return F.pad(torch.cat([angles.sin(), angles.cos()]), (0, width % 2)).expand(rows, -1)


def groups_of(family: Family, images: int, micro_batch: int | None, device) -> list[Group]:
    rows = row_groups(family.run.method.anchors(images), images, micro_batch)
    return [
        Group(images_of, torch.tensor(images_of, device=device), leads=i == 0, last=i == len(rows) - 1)
        for i, images_of in enumerate(rows)
    ]


def predict(
    unet,
    family: Family,
    groups: Sequence[Group],
    step: int,
    rows: Sequence[Tensor],
    timestep: Tensor,
    known: Sequence[dict],
) -> Tensor:
    """The UNet's output for all images, (halves, B, C, H, W), from each group's `rows` and keyword arguments."""
    plan, memory, stage, outputs = family.begin_step(step), {}, family.run.stage, []
    for group, x, conditions in zip(groups, rows, known):
        halves = len(x) // len(group.rows)
        call = Call(group, plan, halves, memory)
        if plan.blend is not None:
            with stage.showing(replace(call, plain=True)):
                unet(x, timestep, **conditions)
        with stage.showing(call), family.around(call):
            outputs.append(unet(x, timestep, **conditions, return_dict=False)[0].unflatten(0, (halves, -1)))
    family.run.masks.end_step(calls=len(groups))
    return torch.cat(outputs, dim=1)
