"""What a UNet call is to the layers in it.

B images of a set; a call holds R of them as rows [uncond × R, cond × R], or [cond × R] without guidance: the halves
never mix. A anchors, T tokens.
"""

from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from svdstory.pipeline.sampling.injection import Correspondences


@dataclass(frozen=True)
class Group:
    """The images of one UNet call. In each step the leading group goes first: later ones look at its images."""

    rows: list[int]
    index: Tensor  # (R,) the same, on the device
    leads: bool
    last: bool  # no later call of the step reads what the layers keep


@dataclass(frozen=True)
class StepPlan:
    """What a step does, the same for all its calls: which layers look at whom, at which tokens, and what is mixed in."""

    step: int
    anchors_extend: bool = False  # the anchors attend to one another
    others_extend: bool = False  # the other images attend to the anchors
    closed: frozenset[int] = frozenset()  # layers that don't extend, whatever the two above say
    kept: dict[int, Tensor] | None = None  # tokens -> (A, T) bool: the anchors' kept tokens; None: all
    blend: float | None = None  # nu_t of query blending; None: off
    injection: Correspondences | None = None
    keeps_features: bool = False  # the DIFT features are taken at this step


@dataclass(frozen=True)
class Call:
    """One UNet call: its images, its step's plan, and what layers keep for the step's later calls."""

    group: Group
    plan: StepPlan
    halves: int  # 2: uncond and cond, 1: cond alone
    memory: dict[tuple[str, int], object]  # (what, layer) -> what that layer keeps
    plain: bool = False  # only the queries are kept, for query blending


class Stage:
    """Where the layers find the present call: the one thing that changes while a set is sampled."""

    call: Call | None = None

    @contextmanager
    def showing(self, call: Call):
        self.call = call
        try:
            yield
        finally:
            self.call = None
