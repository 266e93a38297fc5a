"""SDXL in miniature, trained on the world: its architecture, its training, its judges and the shipped weights."""
