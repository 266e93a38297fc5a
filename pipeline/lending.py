"""A pipeline lent to somebody else's function, and put back whatever was done to it.

Put back: the pipeline's parts and scheduler, every module's class, attributes, hooks, attention processor, adapters,
dtype and device, methods patched onto diffusers' and transformers' classes, the global generators, the grad mode and
the default dtype. What stands in memory is compared afterwards; weights that were written over are found by a sum over
their bits and cannot be put back: then the model is to be loaded anew.
"""

import os
import random
import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from svdstory.pipeline.models.load import Model

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # bytes of an element -> as whole numbers
COPIED = (dict, OrderedDict, list, set)  # attributes that are changed in place
LIBRARIES = ("diffusers", "transformers", "peft")
FUNCTIONS = ("torch.nn.functional", "diffusers.models.attention_processor")  # modules whose names are patched, too


@contextmanager
def lent(model: Model, scheduler, seed: int) -> Iterator[Model]:
    """The model with that scheduler, without gradients, every global generator at `seed`; all is put back after it.

    What could not be put back stands in `model.spoiled`.
    """
    before = State.of(model.pipe)
    sums = before.checksums()
    model.pipe.scheduler = scheduler
    try:
        with own_globals(seed, model.device):
            yield model
    finally:
        before.put_back()
        model.encoded.clear()
        model.spoiled = model.spoiled or before.difference(sums)


@dataclass(frozen=True)
class State:
    """What a pipeline is made of, by reference: nothing is copied but lists of names.

    modules: (module, its class, its attributes); tensors: (parameter or buffer, its data, whether it takes gradients);
    patched: (class or module of code, its names).
    """

    pipe: object
    own: dict
    modules: list[tuple[nn.Module, type, dict]]
    tensors: list[tuple[Tensor, Tensor, bool]]
    patched: list[tuple[object, dict]]

    @classmethod
    def of(cls, pipe) -> "State":
        parts = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
        modules = list(dict.fromkeys(module for part in parts for module in part.modules()))
        tensors = [t for m in modules for t in (*m._parameters.values(), *m._buffers.values()) if t is not None]
        kinds = {type(module): None for module in modules} | {type(getattr(m, "processor", m)): None for m in modules}
        classes = dict.fromkeys(c for kind in (type(pipe), *kinds) for c in kind.__mro__ if _of_library(c))
        code = [*classes, nn.Module, *(sys.modules[name] for name in FUNCTIONS if name in sys.modules)]
        return cls(
            pipe,
            dict(pipe.__dict__),
            [(m, type(m), {k: _copied(v) for k, v in m.__dict__.items()}) for m in modules],
            [(t, t.data, t.requires_grad) for t in dict.fromkeys(tensors)],
            [(where, dict(vars(where))) for where in code],
        )

    def put_back(self) -> None:
        for where, names in self.patched:
            for name in vars(where).keys() - names.keys():
                delattr(where, name)
            for name, value in names.items():
                if vars(where).get(name) is not value:
                    setattr(where, name, value)
        for module, kind, attributes in self.modules:
            if type(module) is not kind:
                module.__class__ = kind
            module.__dict__.clear()
            module.__dict__.update({name: _restored(*value) for name, value in attributes.items()})
        for tensor, data, requires_grad in self.tensors:
            if not _same(tensor.data, data):
                tensor.data = data
            tensor.requires_grad_(requires_grad)
        self.pipe.__dict__.clear()
        self.pipe.__dict__.update(self.own)

    def checksums(self) -> list[int]:
        """Of each tensor the sum of its bits as whole numbers: one pass over the weights, where they are."""
        by_device: dict[torch.device, list[int]] = {}
        for i, (_, data, _) in enumerate(self.tensors):
            by_device.setdefault(data.device, []).append(i)
        sums = [0] * len(self.tensors)
        for device, numbers in by_device.items():
            if device.type != "meta" and numbers:
                found = torch.stack([_sum(self.tensors[i][1]) for i in numbers])  # one wait for the device
                for i, value in zip(numbers, found.tolist()):
                    sums[i] = value
        return sums

    def difference(self, sums: list[int]) -> str:
        """What is not as it was, in words; empty where all is."""
        changed = sum(before != now for before, now in zip(sums, self.checksums()))
        if changed:
            return f"{changed} of {len(sums)} weights were written over"
        now = State.of(self.pipe)
        if [(m, kind) for m, kind, _ in now.modules] != [(m, kind) for m, kind, _ in self.modules]:
            return "its modules are others"
        for (module, _, attributes), (_, _, found) in zip(self.modules, now.modules):
            if attributes.keys() != found.keys() or any(not _alike(a, found[k]) for k, a in attributes.items()):
                return f"attributes of a {type(module).__name__} are others"
        return ""


@contextmanager
def own_globals(seed: int, device: torch.device) -> Iterator[None]:
    """The global generators of Python, numpy and torch at `seed`, no gradients; all of that as it was afterwards."""
    states = random.getstate(), np.random.get_state()
    grad, dtype, precision = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_float32_matmul_precision()
    folder, environment = os.getcwd(), dict(os.environ)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        torch.set_grad_enabled(False)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_grad_enabled(grad)
            torch.set_default_dtype(dtype)
            torch.set_float32_matmul_precision(precision)
            os.chdir(folder)
            if os.environ != environment:
                os.environ.clear()
                os.environ.update(environment)


def _of_library(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in LIBRARIES


def _copied(value) -> tuple:
    """The value, and a copy of what it holds where that is changed in place."""
    return (value, type(value)(value)) if type(value) in COPIED else (value, None)


def _alike(one: tuple, other: tuple) -> bool:
    return one[0] is other[0] and _members(one[1]) == _members(other[1])


def _members(held) -> list:
    """What a collection holds, by identity: tensors have no equality that is true or false."""
    return [(k, id(v)) for k, v in held.items()] if isinstance(held, dict) else sorted(map(id, held or ()))


def _restored(value, held):
    if held is None or _members(value) == _members(held):
        return value
    value.clear()
    value.extend(held) if isinstance(value, list) else value.update(held)
    return value


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether they are one piece of memory, seen in one way."""
    return one.data_ptr() == other.data_ptr() and one.dtype == other.dtype and one.shape == other.shape


def _sum(tensor: Tensor) -> Tensor:
    flat = tensor.detach().contiguous().view(-1)
    return (
        flat.view(BITS[flat.element_size()]).sum(dtype=torch.int64)
        if flat.numel()
        else torch.zeros_like(flat, dtype=torch.int64).sum()
    )
