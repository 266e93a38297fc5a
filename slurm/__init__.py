"""Site profiles, sbatch scripts and a real test cluster on one machine."""
