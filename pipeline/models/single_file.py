"""A checkpoint in one .safetensors file, as Civitai and ComfyUI have them: what it is, told by its header. No torch."""

import json
from importlib import resources
from pathlib import Path

from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.models.weight_files import header_of, weights_problem

PARTS = {
    "UNet": "model.diffusion_model.",
    "VAE": "first_stage_model.",
    "first text encoder": "conditioner.embedders.0.",
    "second text encoder": "conditioner.embedders.1.",
}
DTYPES = ("F16", "F32", "BF16", "I32", "I64")  # integers: position_ids, global_step
ADVICE = "A folder in diffusers' layout is taken too."


def configuration() -> Path:
    """SDXL's configurations, in diffusers' layout and without weights."""
    return Path(str(resources.files("svdstory.pipeline.models"))) / "configurations" / "sdxl"


def check_single_file(path: Path) -> None:
    """Raises InputError for a file that is no whole SDXL checkpoint that can be sampled here, with the reason."""
    if path.suffix != ".safetensors":
        raise InputError(
            f"model {path}: only .safetensors are read: a {path.suffix} is a pickle, which can run any code. Convert it "
            "where that doesn't matter, or fetch the .safetensors of the same model."
        )
    if problem := weights_problem(path, [path]):
        raise InputError(f"model {path}: {problem}")
    header = header_of(path)
    if reason := _foreign(header) or _quantised(header) or _incomplete(header) or _other_shape(header):
        raise InputError(f"model {path}: {reason}")


def scheduler_changes(path: Path) -> dict:
    """What the file says of its noise schedule: ComfyUI's keys `v_pred` and `ztsnr`, which have no content."""
    header = header_of(path)
    changes = {"prediction_type": "v_prediction"} if "v_pred" in header else {}
    return changes | ({"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if "ztsnr" in header else {})


def _foreign(header: dict) -> str:
    """What else it is, if something else."""
    has = lambda *parts: any(part in name for name in header for part in parts)  # noqa: E731
    if has("lora_", ".lora.", "hada_", "lokr_"):
        return "this is a LoRA, not a model: give it as loras: [{file: ...}] beside a model."
    if has("double_blocks", "joint_blocks", "transformer_blocks.0.attn.add_q_proj"):
        return "a DiT (FLUX, SD3): svdstory's methods work on UNets (pipeline/README.md says why)."
    if has("cond_stage_model."):
        return f"Stable Diffusion 1 or 2. In one file svdstory takes SDXL alone. {ADVICE}"
    if has("conditioner.embedders.0.model.") and not has("conditioner.embedders.1."):
        return "SDXL's refiner, which svdstory has no use for: give the base model."
    if has("edm_mean"):
        return "Playground v2.5: its EDM schedule stands in its folder alone. Give the folder in diffusers' layout."
    return ""


def _quantised(header: dict) -> str:
    """Why weights of 8 bits or fewer are refused."""
    odd = sorted({entry["dtype"] for entry in header.values()} - set(DTYPES))
    if not odd:
        return ""
    return (
        f"weights in {', '.join(odd)}: svdstory reads float16, bfloat16 and float32. With 8 bits the keys and values that "
        "its methods filter would be rounded by more than the filters change, and cards below sm_89 (V100, A100) have no "
        "such arithmetic. Fetch the fp16 file of the same model."
    )


def _incomplete(header: dict) -> str:
    lacking = [part for part, prefix in PARTS.items() if not any(name.startswith(prefix) for name in header)]
    return f"it holds no {' and no '.join(lacking)}: give a whole checkpoint. {ADVICE}" if lacking else ""


def _other_shape(header: dict) -> str:
    """Where its UNet differs from the configuration: pruned, inpainting, another width."""
    config = json.loads((configuration() / "unet" / "config.json").read_text(encoding="utf-8"))
    unet = {name.removeprefix(PARTS["UNet"]): entry for name, entry in header.items() if name.startswith(PARTS["UNet"])}
    [first, inputs] = unet.get("input_blocks.0.0.weight", {}).get("shape", [0, 0])[:2]
    text = {entry["shape"][1] for name, entry in unet.items() if name.endswith("attn2.to_k.weight")}
    found = {
        "input channels": (inputs, config["in_channels"]),
        "channels": (first, config["block_out_channels"][0]),
        "self-attention layers": (sum(n.endswith("attn1.to_q.weight") for n in unet), self_attentions(config)),
        "text width": (max(text, default=0), config["cross_attention_dim"]),
    }
    wrong = [f"{name}: got {got}, SDXL has {expected}" for name, (got, expected) in found.items() if got != expected]
    return f"its UNet is another one ({'; '.join(wrong)}): in one file svdstory takes SDXL alone. {ADVICE}" * bool(
        wrong
    )


def self_attentions(config: dict) -> int:
    """How many self-attention layers a UNet of this configuration has."""
    depths, per_block = config["transformer_layers_per_block"], config["layers_per_block"]
    down = sum(d * per_block for d, kind in zip(depths, config["down_block_types"]) if "CrossAttn" in kind)
    up = sum(d * (per_block + 1) for d, kind in zip(depths[::-1], config["up_block_types"]) if "CrossAttn" in kind)
    return down + up + depths[-1]
