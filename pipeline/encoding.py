"""From a set's prompts to what the UNet is told: the text encoders' work.

B images, K chunks of L tokens, D channels.
"""

import torch
from torch import Tensor

from svdstory.pipeline.config.consolidation import consolidate_set, identity_of
from svdstory.pipeline.config.families import OnePrompt
from svdstory.pipeline.config.methods import Method
from svdstory.pipeline.config.prompt_reading import Reading, positions_in, read_prompt
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.tokens import Tokenizer
from svdstory.pipeline.models.load import Model
from svdstory.pipeline.sampling.denoiser import Conditioning
from svdstory.pipeline.sampling.families.oneprompt import reweighted_set


def tokenizer_of(pipe) -> Tokenizer:
    """The pipeline's first tokenizer, with what Textual Inversion added to it."""
    own = pipe.tokenizer
    return Tokenizer(own.tokenize, frozenset(own.get_added_vocab()), own.model_max_length)


@torch.no_grad()
def encode(
    model: Model,
    prompts: PromptSet,
    size: tuple[int, int],
    oneprompt: OnePrompt | None = None,
    long_prompts: str = "error",
    prompt_weights: bool = False,
) -> Conditioning:
    """The set's conditioning by the pipeline's own text encoders; the last set's is kept for its other methods.

    Rows are the reference pictures, then the images. With `oneprompt` each image's text is the consolidated one,
    reweighted for its setting. Raises InputError for a prompt without its subject, and for a long one unless
    long_prompts is chunk.
    """
    key = str(prompts.content()), size, oneprompt, long_prompts, prompt_weights
    if key not in model.encoded:
        pipe, tokenizer = model.pipe, tokenizer_of(model.pipe)
        consolidated = consolidate_set(prompts, oneprompt, tokenizer) if oneprompt else []
        texts = [text.prompt for text in consolidated] or [*prompts.reference_prompts, *prompts.prompts]
        read = lambda text: read_prompt(text, tokenizer, long_prompts == "chunk", prompt_weights)  # noqa: E731
        readings, negative = [read(text) for text in texts], read(prompts.negative)
        embeds, negative, pooled, negative_pooled = embeddings(model, readings, negative)
        if oneprompt and oneprompt.reweighting:
            widths = tuple(encoder.config.hidden_size for encoder in text_encoders(pipe))
            embeds = reweighted_set(embeds, consolidated, oneprompt.reweighting, widths)
        if oneprompt and oneprompt.zero_pooled and pooled is not None:
            pooled = torch.zeros_like(pooled)
        width, height = size
        time_ids = torch.tensor([height, width, 0, 0, height, width], dtype=embeds.dtype, device=model.device)
        time_ids = None if pooled is None else time_ids
        subject_in = [read(identity_of(prompts))] * len(texts) if oneprompt else readings
        subject = padded([positions_in(reading, prompts.concept, tokenizer) for reading in subject_in])
        identity_tokens = consolidated[0].identity[1] if oneprompt else 0
        told = embeds, pooled, negative, negative_pooled, time_ids, torch.tensor(subject, device=model.device)
        model.encoded.clear()
        model.encoded[key] = Conditioning(*told, identity_tokens)
    return model.encoded[key]


def text_encoders(pipe) -> list:
    """SDXL's two, SD's one."""
    return [one for one in (pipe.text_encoder, getattr(pipe, "text_encoder_2", None)) if one is not None]


def embeddings(model: Model, readings: list[Reading], negative: Reading) -> tuple[Tensor | None, ...]:
    """prompt_embeds and the negative ones, (B, K L, D); pooled and the negative one, (B, P), of the first chunk, as A1111
    and ComfyUI take it, or None twice (SD). Prompts with fewer chunks are filled up with empty ones.

    A weight w makes z of a token z_empty + w (z - z_empty), where z_empty stands at its place in an empty prompt's.
    """
    chunks = max(len(reading.chunks) for reading in (*readings, negative))
    filled = lambda reading: [*reading.chunks, *[""] * (chunks - len(reading.chunks))]  # noqa: E731
    texts = [chunk for reading in readings for chunk in filled(reading)]
    against = filled(negative) * len(readings) if negative.plain else None  # None: zeros, where the model wants them
    settings = dict(device=model.device, num_images_per_prompt=1)
    encoded = model.pipe.encode_prompt(texts, do_classifier_free_guidance=True, negative_prompt=against, **settings)
    embeds, negatives = (x.unflatten(0, (-1, chunks)).flatten(1, 2) for x in encoded[:2])
    pooled = tuple(x.unflatten(0, (-1, chunks))[:, 0] for x in encoded[2:]) or (None, None)
    if any(reading.weights for reading in (*readings, negative)):
        empty = model.pipe.encode_prompt([""], do_classifier_free_guidance=False, **settings)[0][0]
        embeds = torch.stack([weighted(x, empty, reading) for x, reading in zip(embeds, readings)])
        negatives = torch.stack([weighted(x, empty, negative) for x in negatives])
    return embeds, negatives, *pooled


def weighted(embeds: Tensor, empty: Tensor, reading: Reading) -> Tensor:
    """(K L, D), from the same and the empty prompt's (L, D)."""
    embeds = embeds.clone()
    for position, weight in reading.weights:
        base = empty[position % len(empty)]
        embeds[position] = base + weight * (embeds[position] - base)
    return embeds


def found_elsewhere(tokenizer: Tokenizer, prompts: PromptSet, method: Method) -> int:
    """How many settings One-Prompt-One-Story finds not at their own place, but inside an earlier one's words."""
    if not method.oneprompt:
        return 0
    texts = consolidate_set(prompts, method.oneprompt, tokenizer)
    return len({setting for text in texts for setting in text.elsewhere})


def padded(positions: list[list[int]]) -> list[list[int]]:
    """Lists of one length: the first position repeated."""
    longest = max(map(len, positions))
    return [p + p[:1] * (longest - len(p)) for p in positions]
