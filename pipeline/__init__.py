"""What runs on one GPU: models, methods, the sampler, the spectral filter, metrics.

Nothing here imports torch before it is used, so the login node's commands stay quick.
"""

from importlib import import_module

_WHERE = {
    "Method": "methods", "SpectralFilter": "methods", "FreeU": "methods", "named": "methods",
    "InputError": "strict",
    "PromptSet": "promptset",
    "load_model": "models", "Model": "models",
    "generate": "generation",
    "sample": "sampler", "Conditioning": "sampler",
}


def __getattr__(name: str):
    if name in _WHERE:
        return getattr(import_module(f".{_WHERE[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(_WHERE)
