"""What runs on one GPU: models, methods, the sampler, the spectral filter, metrics.

Nothing here imports torch before it is used, so the login node's commands stay quick.
"""

from importlib import import_module

_WHERE = {
    "Method": "config.methods",
    "SpectralFilter": "config.spectral_filter",
    "FreeU": "config.methods",
    "named": "config.named_methods",
    "InputError": "config.strict",
    "PromptSet": "config.prompt_sets",
    "load_model": "models.load",
    "Model": "models.load",
    "generate": "generation",
    "attach": "sampling.attach",
    "sample": "sampling.sampler",
    "Conditioning": "sampling.denoiser",
}


def __getattr__(name: str):
    if name in _WHERE:
        return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(_WHERE)
