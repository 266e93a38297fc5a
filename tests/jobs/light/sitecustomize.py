"""A task without torch, for tests of scheduling: the real worker and the real store around pictures made in a moment.

Only the model, the sampler and the scorers are stood in for, and what reduce imports for seconds: scipy's bootstrap and
matplotlib. What happens in a unit is told by a control folder:

    step_s              seconds of one denoising step
    hold                while it is there, a unit waits between its steps
    bad-node-NAME       on this node every unit fails
    SUBJECT.fails       units of this subject fail: `memory`, `nan`, `bug`, or `eat` (memory, until it is killed)
    score_s, score_hold seconds of scoring a unit; while it is there, scoring waits
    SCORER.fails        the scorer fails so (its colons written as -)
    began/SUBJECT-SEED.ATTEMPT, scored/SCORER-IMAGE.ATTEMPT, loads/ATTEMPT      written here: what was begun, scored,
                        and each load of a model
"""

import os
import sys
import threading
import types
from pathlib import Path

CONTROL = os.environ.get("SVDSTORY_LIGHT")


def stub(name: str, **members) -> None:
    module = types.ModuleType(name)
    module.__dict__.update(members)
    sys.modules[name] = module


def read(name: str) -> str | None:
    try:
        return Path(CONTROL, name).read_text()
    except FileNotFoundError:
        return None


def note(folder: str, name: str) -> None:
    from svdstory.jobs.study.store import Attempt

    Path(CONTROL, folder).mkdir(exist_ok=True)
    Path(CONTROL, folder, f"{name}{Attempt.here()}").touch()


class OutOfMemoryError(RuntimeError):
    pass


class NotFinite(ArithmeticError):
    pass


def load_model(spec, device=None, **_):
    note("loads", "")
    return types.SimpleNamespace(spec=spec, device=types.SimpleNamespace(type="cpu"), spoiled=False)


def generate(model, prompts, method, *, seed, steps, size, on_step, **_):
    import hashlib

    from PIL import Image

    note("began", f"{prompts.subject.replace(' ', '-')}-{seed}.")
    fails(read(f"{prompts.subject.split()[-1]}.fails"))
    for step in range(steps):
        threading.Event().wait(float(read("step_s") or 0))
        on_step(step)
        while read("hold") is not None:
            threading.Event().wait(0.05)
            on_step(step)
        if read(f"bad-node-{os.environ['SLURMD_NODENAME']}") is not None:
            raise RuntimeError("this node is bad")
    images = []
    for prompt in prompts.prompts:
        seedling = hashlib.sha256(f"{prompt} {method.switches()} {seed}".encode()).digest()
        images.append(
            Image.frombytes("RGB", size, (seedling * (size[0] * size[1] * 3 // 32 + 1))[: size[0] * size[1] * 3])
        )
    return types.SimpleNamespace(images=images, sample=Sample(len(images)), counters={})


class Sample:
    """As much of a sample as the worker writes down: empty masks."""

    reference_masks = None

    def __init__(self, images: int):
        self.images, self.latents, self.masks = images, types.SimpleNamespace(shape=(images, 4, 8, 8)), self

    def unflatten(self, *_):
        return self

    to = contiguous = unflatten


def save(tensors: dict) -> bytes:
    import numpy
    from safetensors.numpy import save as save_arrays

    return save_arrays({"masks": numpy.zeros((tensors["masks"].images, 4, 4), numpy.uint8)})


def fails(how: str | None) -> None:
    if how == "memory":
        raise OutOfMemoryError("CUDA out of memory")
    if how == "nan":
        raise NotFinite("the latents hold inf or nan")
    if how == "bug":
        raise ValueError("a bug")
    if how == "eat":
        eaten = []
        while True:
            eaten.append(b"x" * (64 << 20))
            threading.Event().wait(0.02)


class Weighed:
    """A scorer without a network: its number comes from the images' hashes."""

    def __init__(self, name: str):
        self.name, self.protocol = name, {"scorer": name}

    def score_many(self, units: list) -> list[dict]:
        for unit in units:
            note("scored", f"{self.name.replace(':', '-')}-{unit.hashes[0][:12]}.")
            fails(read(f"{self.name.replace(':', '-')}.fails"))
            threading.Event().wait(float(read("score_s") or 0))
        while read("score_hold") is not None:
            threading.Event().wait(0.05)
        return [{self.name.partition(":")[0]: int(unit.hashes[0][:4], 16) / 2**16} for unit in units]


def bootstrap(data: tuple, statistic, axis: int, **_):
    """As much of scipy's as a report of one method asks for: the samples' extremes. scipy.stats is half of what a
    reduce job of a few units takes."""
    (samples,) = data
    bounds = types.SimpleNamespace(low=samples.min(axis), high=samples.max(axis))
    return types.SimpleNamespace(confidence_interval=bounds)


class Specimen:
    """What is certified: no model, as all here. Of the checks the one of the signal is left, which is a process's."""

    device, place, rounding = None, "cpu", 0.0

    def __init__(self, spec, device, signal_s: float, steps: int):
        from svdstory.pipeline.config.prompt_files import find_sets

        self.spec, self.signal_s, self.steps, self.model = spec, signal_s, steps, load_model(spec)
        (self.prompts,) = find_sets("red-fox")

    def draw(self, method: str):
        from svdstory.pipeline.config.named_methods import named

        how = {"seed": 0, "steps": 1, "size": self.spec.size, "on_step": lambda step: None}
        return types.SimpleNamespace(made=generate(self.model, self.prompts, named(method), **how))


class Wardrobe:
    """Nothing is tuned here."""

    def __init__(self, *_):
        pass

    def put_on(self, model, cell) -> None:
        pass

    def take_off(self) -> None:
        pass


if CONTROL:
    stub(
        "torch",
        OutOfMemoryError=OutOfMemoryError,
        Tensor=type("Tensor", (), {}),
        device=object,
        uint8=None,
        set_num_threads=lambda count: None,
        cuda=types.SimpleNamespace(is_available=lambda: False),
    )
    stub("safetensors.torch", save=save)
    stub("scipy.stats", bootstrap=bootstrap)
    stub("svdstory.jobs.report.figures.style", __getattr__=lambda name: None)  # a run of one method gives no figure
    stub("svdstory.pipeline.decoding", NotFinite=NotFinite)
    stub("svdstory.pipeline.generation", Generated=object, generate=generate)
    stub("svdstory.pipeline.metrics.registry", load_scorer=lambda name, *_, **__: Weighed(name))
    stub(
        "svdstory.pipeline.models.device",
        choose_device=lambda device: "cpu",
        device_name=lambda device: device.type,
        fitting=lambda *_: None,
    )
    stub("svdstory.pipeline.models.load", Model=object, load_model=load_model)
    stub("svdstory.jobs.node.subject_making", Wardrobe=Wardrobe)
    stub("svdstory.pipeline.personal.training", Interrupted=type("Interrupted", (Exception,), {}))
    stub("svdstory.pipeline.sampling.sampler", Sample=object)
    stub("svdstory.pipeline.certify.specimen", Specimen=Specimen, PLAIN="sdxl", SEED=0)
    stub("svdstory.pipeline.certify.checks", CHECKS=(), Check=object)
    stub("svdstory.pipeline.bench.record", environment=lambda place: {"device": "no device"})
