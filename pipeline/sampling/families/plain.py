"""Plain SDXL: every image by itself. Subject attention is recorded all the same, as the metrics want masks."""

from svdstory.pipeline.sampling.family import Family

family = Family
