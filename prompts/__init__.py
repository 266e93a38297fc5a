"""The curated prompt sets, one YAML file each: good/ (the baseline does well) and bad/ (it does badly)."""
