"""DreamSim's release files with random weights in the true shapes: loaded by the same path as the real ones."""

import json
import re
from pathlib import Path

import torch
from dreamsim.config import dreamsim_args
from dreamsim.feature_extraction.vision_transformer import vit_base
from safetensors.torch import save_file

from svdstory.pipeline.metrics.random_weights import random_tensor

RANK, ALPHA, WIDTH, JOINT, BLOCKS = 16, 0.5, 768, 512, 12
HEAD = {
    "mlp.0.weight": (2048, 768),
    "mlp.0.bias": (2048,),
    "mlp.2.weight": (2048, 2048),
    "mlp.2.bias": (2048,),
    "mlp.4.weight": (256, 2048),
    "mlp.4.bias": (256,),
    "last_layer.weight": (2048, 256),
}


def write_random_dreamsim(kind: str, folder: Path, seed: int = 0) -> None:
    """Write all files of `dreamsim_type` kind into `folder` (about 50 MB for each backbone)."""
    folder.mkdir(parents=True, exist_ok=True)
    backbones = dreamsim_args["model_config"][kind]["model_type"].split(",")
    for backbone in backbones:
        if backbone == "dino_vitb16":
            write_random_dino(folder, seed)
            head = {f"module.head.{name}": random_tensor(name, shape, seed) for name, shape in HEAD.items()}
            torch.save({"student": head}, folder / "dino_vitb16_pretrain.pth")
        else:
            torch.save({"state_dict": _clip_as_dino(backbone, seed)}, folder / f"{backbone}_pretrain.pth.tar")
    _write_adapter(folder / ("ensemble_lora" if kind == "ensemble" else f"{kind}_single_lora"), len(backbones), seed)


def write_random_dino(folder: Path, seed: int = 0) -> None:
    """Write checkpoints/dino_vitbase16_pretrain.pth."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    torch.save(_vit("dino_vitb16", 16, seed), folder / "checkpoints" / "dino_vitbase16_pretrain.pth")


def _vit(name: str, patch: int, seed: int) -> dict[str, torch.Tensor]:
    """A ViT-B's weights. All blocks share one block's tensors, which makes a tenth to write and to read."""
    with torch.random.fork_rng(devices=[]):
        shapes = {key: tensor.shape for key, tensor in vit_base(patch_size=patch).state_dict().items()}
    first = {
        key: random_tensor(f"{name} {key}", shape, seed)
        for key, shape in shapes.items()
        if not key.startswith("blocks.") or key.startswith("blocks.0.")
    }
    return {key: first[re.sub(r"^blocks\.\d+\.", "blocks.0.", key)] for key in shapes}


def _clip_as_dino(backbone: str, seed: int) -> dict[str, torch.Tensor]:
    state = _vit(backbone, int(backbone[-2:]), seed)
    state["pos_drop.weight"], state["pos_drop.bias"] = torch.ones(WIDTH), torch.zeros(WIDTH)  # CLIP's ln_pre
    state["proj"] = random_tensor(f"{backbone} proj", (WIDTH, JOINT), seed)
    return state


def _write_adapter(folder: Path, backbones: int, seed: int) -> None:
    folder.mkdir(exist_ok=True)
    tensors = {}
    for backbone in range(backbones):
        for block in range(BLOCKS):
            layer = f"base_model.model.extractor_list.{backbone}.model.blocks.{block}.attn.qkv"
            for half, shape in (("lora_A", (RANK, WIDTH)), ("lora_B", (3 * WIDTH, RANK))):
                name = f"{layer}.{half}.weight"
                tensors[name] = random_tensor(name, shape, seed)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.3,
        "bias": "none",
        "target_modules": ["qkv"],
        "base_model_name_or_path": None,
        "task_type": None,
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
