"""A pipeline's weights under the names that SDXL's own checkpoints have: what a single file from Civitai looks like."""

import re

import torch

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3"}
RESNET |= {"time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}
UNET = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
OPEN_CLIP = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
OPEN_CLIP |= {"self_attn.out_proj": "attn.out_proj"}


def checkpoint(pipe) -> dict[str, torch.Tensor]:
    """Of a StableDiffusionXLPipeline."""
    made = {f"model.diffusion_model.{unet_name(k, pipe.unet.config)}": v for k, v in pipe.unet.state_dict().items()}
    made |= {f"first_stage_model.{vae_name(k, pipe.vae.config)}": v for k, v in pipe.vae.state_dict().items()}
    one = "conditioner.embedders.0.transformer.text_model."
    made |= {one + k.removeprefix("text_model."): v for k, v in pipe.text_encoder.state_dict().items()}
    made[one + "embeddings.position_ids"] = torch.arange(77)[None]
    made |= {f"conditioner.embedders.1.model.{k}": v for k, v in open_clip(pipe.text_encoder_2.state_dict()).items()}
    return {name: weight.contiguous() for name, weight in made.items()}


def unet_name(name: str, config) -> str:
    for mine, theirs in UNET.items():
        if name.startswith(mine + "."):
            return theirs + name[len(mine) :]
    part, rest = name.split(".", 1)
    per_block = config.layers_per_block
    if part == "mid_block":
        kind, number, rest = rest.split(".", 2)
        place = f"middle_block.{1 if kind == 'attentions' else 2 * int(number)}"
    else:
        block, kind, number, rest = rest.split(".", 3)
        block, number = int(block), int(number)
        if part == "down_blocks":
            first = 1 + block * (per_block + 1)
            place = f"input_blocks.{first + (per_block if kind == 'downsamplers' else number)}"
            place += {"resnets": ".0", "attentions": ".1", "downsamplers": ".0.op"}[kind]
            rest = rest.removeprefix("conv.") if kind == "downsamplers" else rest
        else:
            place = f"output_blocks.{block * (per_block + 1) + (per_block if kind == 'upsamplers' else number)}"
            attends = "CrossAttn" in config.up_block_types[block]
            place += {"resnets": ".0", "attentions": ".1", "upsamplers": ".2" if attends else ".1"}[kind]
    if ".attentions" not in name:
        for mine, theirs in RESNET.items():
            rest = re.sub(rf"^{mine}\b", theirs, rest)
    return f"{place}.{rest}"


def vae_name(name: str, config) -> str:
    last = len(config.block_out_channels) - 1
    name = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets\.", lambda m: f"up.{last - int(m[1])}.block.", name)
    name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{last - int(m[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = name.replace("mid_block.attentions.0", "mid.attn_1").replace("conv_shortcut", "nin_shortcut")
    for mine, theirs in {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}.items():
        name = name.replace(f"attn_1.{mine}.", f"attn_1.{theirs}.")
    return name.replace("conv_norm_out", "norm_out")


def open_clip(weights: dict) -> dict:
    made = {"text_projection": weights["text_projection.weight"].T}
    for name, weight in weights.items():
        name = name.removeprefix("text_model.")
        if name.startswith("encoder.layers."):
            number, rest = name.removeprefix("encoder.layers.").split(".", 1)
            for mine, theirs in OPEN_CLIP.items():
                rest = rest.replace(mine, theirs)
            if rest.startswith("self_attn.q_proj"):
                kind = rest.rsplit(".", 1)[1]
                rest = f"attn.in_proj_{kind}"
                layer = f"text_model.encoder.layers.{number}.self_attn"
                weight = torch.cat([weights[f"{layer}.{x}_proj.{kind}"] for x in "qkv"])
            elif rest.startswith("self_attn"):
                continue
            made[f"transformer.resblocks.{number}.{rest}"] = weight
    made["token_embedding.weight"] = weights["text_model.embeddings.token_embedding.weight"]
    made["positional_embedding"] = weights["text_model.embeddings.position_embedding.weight"]
    for kind in ("weight", "bias"):
        made[f"ln_final.{kind}"] = weights[f"text_model.final_layer_norm.{kind}"]
    return made
