"""`python -m svdstory.jobs` is the `svdstory` command."""

from .cli import main

main()
