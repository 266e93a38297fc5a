"""Benchmarks: what each prints is written as JSON and as a table under results/benchmarks/, with versions and device."""
