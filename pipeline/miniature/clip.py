"""A CLIP of the world: open_clip's own model class, small, with the miniature's tokenizer, for CLIPScore.

`clip.json` holds open_clip's configuration, `clip.safetensors` the weights.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from open_clip import CLIP
from safetensors.torch import load_file, save_file
from torch import nn

from svdstory.pipeline.miniature.stream import batches, picture, pixels
from svdstory.pipeline.miniature.training_clock import (
    Clock,
    Log,
    learning_rate,
    load_checkpoint,
    save_atomically,
    seeded_weights,
)
from svdstory.pipeline.miniature.vocabulary import PROMPT_LENGTH, build_tokenizer
from svdstory.pipeline.miniature.world import ACCESSORY_NAMES, KINDS, LOOKS, SCENE_NAMES, caption

CONFIG = {
    "embed_dim": 64,
    "vision_cfg": {"layers": [1, 1, 1, 1], "width": 16, "image_size": 64},
    "text_cfg": {"context_length": PROMPT_LENGTH, "vocab_size": 680, "width": 64, "heads": 2, "layers": 2},
}
PEAK = 2e-3
BATCH = 48
POOL = 64
FRESH = 3
SAVE_EVERY = 60.0


class WorldClip:
    """The model and its tokenizer: pictures and prompts into one space."""

    def __init__(self, model: CLIP):
        self.model, self.tokenizer = model, build_tokenizer()

    def tokens(self, prompts: Sequence[str]) -> torch.Tensor:
        """Prompts -> ids (N, T), zeros after the end token. Its id is the largest: that is how open_clip finds it."""
        ids = torch.zeros(len(prompts), PROMPT_LENGTH, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            found = self.tokenizer(prompt, truncation=True, max_length=PROMPT_LENGTH).input_ids
            ids[row, : len(found)] = torch.tensor(found)
        return ids

    def embed_prompts(self, prompts: Sequence[str]) -> torch.Tensor:
        """Unit vectors (N, 64)."""
        return self.model.encode_text(self.tokens(prompts), normalize=True)

    def embed_pictures(self, pictures: torch.Tensor) -> torch.Tensor:
        """Pictures (N, 3, 64, 64) in -1..1 -> unit vectors (N, 64)."""
        return self.model.encode_image(pictures, normalize=True)

    @torch.no_grad()
    def score(self, pictures: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        """Cosine of each picture (uint8 (N, 64, 64, 3)) and its prompt, (N,)."""
        tensor = torch.from_numpy(np.asarray(pictures).copy()).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        return (self.embed_pictures(tensor) * self.embed_prompts(prompts)).sum(dim=1).numpy()


def build_clip() -> CLIP:
    """A fresh model; token embeddings start at a deviation of 0.5, as the miniature's do."""
    with seeded_weights(4):
        model = CLIP(**CONFIG)
        nn.init.normal_(model.token_embedding.weight, std=0.5)
    return model


def load_clip(folder: Path) -> WorldClip:
    """The CLIP in `folder`: clip.json and clip.safetensors."""
    model = CLIP(**json.loads((folder / "clip.json").read_text(encoding="utf-8")))
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(folder / "clip.safetensors").items()})
    return WorldClip(model.eval())


def save_clip(model: CLIP, folder: Path) -> None:
    """Write configuration and fp16 weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "clip.json").write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")
    tensors = {name: tensor.half().contiguous().cpu() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "clip.safetensors")


def contrastive_loss(
    images: torch.Tensor, texts: torch.Tensor, captions: list[str], scale: torch.Tensor
) -> torch.Tensor:
    """CLIP's symmetric loss; pictures with the same caption are all right answers."""
    logits = scale.exp().clamp(max=100.0) * images @ texts.T
    same = torch.tensor([[float(one == other) for other in captions] for one in captions])
    target = same / same.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


@torch.no_grad()
def retrieval(clip: WorldClip, count: int = 512) -> dict[str, float]:
    """On held-out renders: how often the caption with the right kind, scene or accessory scores highest among all."""
    pictures = [picture("held out", number) for number in range(count)]
    embedded = torch.cat([clip.embed_pictures(pixels(pictures[start : start + 64])) for start in range(0, count, 64)])
    views = [one.view for one in pictures]
    asked = {
        "kind": [[replace(view, kind=kind) for kind in KINDS] for view in views],
        "scene": [
            [replace(view, scene=scene, look=LOOKS[scene][0], scene_named=True) for scene in SCENE_NAMES]
            for view in views
        ],
        "accessory": [[replace(view, accessory=worn) for worn in ACCESSORY_NAMES] for view in views if view.accessory],
    }
    found = {}
    for what, variants in asked.items():
        rows = [row for row, view in enumerate(views) if what != "accessory" or view.accessory]
        texts = torch.stack([clip.embed_prompts([caption(view) for view in several]) for several in variants])
        best = torch.einsum("nd,nkd->nk", embedded[rows], texts).argmax(dim=1).tolist()
        right = [
            getattr(several[n], what) == getattr(views[row], what) for several, n, row in zip(variants, best, rows)
        ]
        found[what] = float(np.mean(right))
    return found


def train_clip(out: Path, vae, minutes: float, device: torch.device, workers: int, log: Log) -> WorldClip:
    """Train (or take up) the CLIP of `out`/state/clip.pt, print its retrieval accuracy, write it to `out`/judges."""
    model = build_clip()
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK, betas=(0.9, 0.98), weight_decay=0.02)
    clock, step, file = Clock(60 * minutes), 0, out / "state" / "clip.pt"
    saved = load_checkpoint(file, torch.device("cpu"))
    if saved:
        model.load_state_dict(saved["clip"])
        if saved["optimizer"]:
            optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
        if saved["spent"] < saved["budget"]:
            clock = Clock(saved["budget"], saved["spent"])
    clip = WorldClip(model.train())
    _fit(clip, optimizer, clock, step, file, workers, log)
    model.eval()
    shares = ", ".join(f"{key} retrieved {share:.3f}" for key, share in retrieval(clip).items())
    log(f"clip on 512 held-out renders: {shares}")
    save_clip(model, out / "judges")
    return clip


def _fit(clip: WorldClip, optimizer, clock, step, file, workers, log) -> None:
    source = batches("clip", BATCH, first=step * BATCH, workers=workers)
    generator = torch.Generator().manual_seed(step)
    pool: list[tuple[torch.Tensor, list[str]]] = []
    first, next_save = step, clock.seconds + SAVE_EVERY
    while clock.progress < 1.0:
        if len(pool) < 8 or step % FRESH == 0:
            pictures = next(source)
            pool = pool[-(POOL - 1) :] + [(pixels(pictures), [caption(one.view) for one in pictures])]
        images, captions = pool[int(torch.randint(len(pool), (1,), generator=generator))]
        flawed = _flawed(images, generator)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(PEAK, step - first, clock.progress)
        loss = contrastive_loss(
            clip.embed_pictures(flawed), clip.embed_prompts(captions), captions, clip.model.logit_scale
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(clip.model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if clock.seconds > next_save:
            next_save = clock.seconds + SAVE_EVERY
            save_atomically(
                {
                    "clip": clip.model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step,
                    "budget": clock.budget,
                    "spent": clock.seconds,
                },
                file,
            )
            log(f"clip {clock.seconds / 60:.1f} min, step {step}: loss {loss.item():.3f}")
    save_atomically(
        {
            "clip": clip.model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step,
            "budget": clock.budget,
            "spent": clock.budget,
        },
        file,
    )


def _flawed(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Half of the batch blurred, all a little noisy: what the model samples is not as clean as a render."""
    half = len(images) // 2
    blurred = F.avg_pool2d(F.pad(images[:half], (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    noise = 0.1 * torch.rand(len(images), 1, 1, 1, generator=generator)
    return torch.cat([blurred, images[half:]]) + noise * torch.randn(images.shape, generator=generator)
