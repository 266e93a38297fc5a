"""Scorers: numbers from finished units, recomputable without the GPU run."""
