"""The experiments that ship with svdstory, one YAML file each."""
