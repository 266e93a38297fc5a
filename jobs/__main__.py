"""`python -m svdstory.jobs` is the `svdstory` command."""

from svdstory.jobs.cli.app import main

main()
