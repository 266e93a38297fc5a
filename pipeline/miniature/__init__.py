"""SDXL in miniature, trained on the world: its architecture, its training, its judges and the shipped weights."""

from pathlib import Path

# What is shipped: a folder that StableDiffusionXLPipeline.from_pretrained loads, and in it `judges`.
WEIGHTS = Path(__file__).parent / "weights"
