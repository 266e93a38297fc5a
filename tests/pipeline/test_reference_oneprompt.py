"""One-Prompt-One-Story's published functions in numbers (tests/reference_oneprompt)."""

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from svdstory.pipeline.config.consolidation import Consolidated, consolidate, window
from svdstory.pipeline.config.families import IdentityAttention, OnePrompt, Reweighting
from svdstory.pipeline.config.methods import Method
from svdstory.pipeline.config.tokens import tokenizer_of
from svdstory.pipeline.sampling.denoiser import Conditioning
from svdstory.pipeline.sampling.families.oneprompt import reweighted, reweighted_set
from svdstory.pipeline.sampling.noise import Draws
from svdstory.pipeline.sampling.sampler import sample
from tests.pipeline import reference

FOLDER = Path(__file__).parents[1] / "reference_oneprompt"
CASES = json.loads((FOLDER / "cases.json").read_text())
STORIES = json.loads((FOLDER / "prompts.json").read_text())
OF_TEXT = [name for name, case in CASES.items() if case["kind"] == "reweighting"]
SAMPLED = [name for name in CASES if name not in OF_TEXT]
WIDTHS = (32, 32)


@dataclass(frozen=True)
class Recorded(Draws):
    """The published program's draws; 1 - keep, so that it is at least the dropout's 0.5 where a key is kept."""

    arrays: dict

    def identity_keys(self, image, step, layer, queries, keys):
        kept = self.arrays[f"keep.{layer}"][image, step].float()
        assert kept.shape == (queries, keys)
        return kept


def span(listed):
    return None if listed is None else tuple(listed)


def texts_of(case: dict) -> list[Consolidated]:
    return [
        Consolidated("", (1, 7), span(i["express"]), tuple(map(span, i["suppress"])), i["end"]) for i in case["images"]
    ]


def parsed(record, content: dict | None):
    return content and record.model_validate_json(json.dumps(content))


@lru_cache
def inputs() -> dict[str, torch.Tensor]:
    return load_file(FOLDER / "inputs.safetensors")


def print_errors(capsys, name: str, errors: dict[str, float]) -> None:
    with capsys.disabled():
        print(f"\n{name}: " + ", ".join(f"{key} {error:.1e}" for key, error in errors.items()))


@pytest.mark.parametrize("name", STORIES)
def test_texts_and_spans_are_the_published_ones(name):
    story, tokenize = STORIES[name], tokenizer_of(None)
    identity, frames, length = story["identity"], story["frames"], story["window_length"]
    assert window(identity, frames, length) == story["window"]
    for text, expected in zip(consolidate(identity, frames, length, tokenize), story["images"], strict=True):
        got = {key: value for key, value in asdict(text).items() if key in ("prompt", "express", "suppress", "end")}
        assert json.loads(json.dumps({**got, "identity_span": text.identity})) == expected


@pytest.mark.parametrize("name", OF_TEXT)
def test_reweighting_agrees_with_the_published_functions(name, capsys):
    case, arrays = CASES[name], load_file(FOLDER / f"case_{name}.safetensors")
    how, errors = parsed(Reweighting, case["reweighting"]), {}
    for encoder in ("1", "2"):
        before = arrays[f"embeds_{encoder}"].clone()
        got = torch.stack([reweighted(arrays[f"embeds_{encoder}"], text, how) for text in texts_of(case)])
        errors[f"reweighted_{encoder}"] = reference.relative_error(got, arrays[f"reweighted_{encoder}"])
        assert torch.equal(before, arrays[f"embeds_{encoder}"]), "the encoder's output is edited in place"
    print_errors(capsys, name, errors)
    assert max(errors.values()) < 1e-6


def conditioning(case: dict, embeds: torch.Tensor) -> Conditioning:
    x, images = inputs(), len(case["images"])

    def each(name):
        return x[name].expand(images, *x[name].shape[-1:])

    return Conditioning(
        embeds,
        each("pooled_prompt_embeds"),
        x["negative_prompt_embeds"].expand(images, -1, -1),
        each("negative_pooled_prompt_embeds"),
        x["time_ids"][0],
        torch.ones(images, 1, dtype=torch.long),
        identity_tokens=case["identity_span"][1],
    )


def run(name: str, arrays: dict, draws: Draws, micro_batch: int | None = None) -> dict[str, torch.Tensor]:
    case, seen = CASES[name], {}
    how = parsed(Reweighting, case["reweighting"])
    identity = parsed(IdentityAttention, case["identity_attention"])
    embeds = inputs()["prompt_embeds"].expand(len(case["images"]), -1, -1)
    if how:
        embeds = reweighted_set(embeds, texts_of(case), how, WIDTHS)
    switches = OnePrompt(window_length=10, reweighting=how, identity_attention=identity, zero_pooled=False)
    result = sample(
        reference.unet(),
        reference.scheduler(),
        conditioning(case, embeds),
        Method(oneprompt=switches, same_latent=True),
        seed=0,
        steps=case["steps"],
        guidance=reference.GUIDANCE,
        latents=inputs()["latents"].expand(len(case["images"]), -1, -1, -1),
        micro_batch=micro_batch,
        draws=draws,
        on_step=lambda at: seen.update({at.step: at.noise_pred}),
    )
    arrays = {f"noise_pred_step{step}": seen[step] for step in (0, 5)}
    arrays |= {"noise_pred_last": seen[case["steps"] - 1], "latents": result.latents}
    return arrays | ({"reweighted": embeds} if how else {})


@pytest.mark.parametrize("name", SAMPLED)
def test_sampling_agrees_with_the_published_program(name, capsys):
    expected = load_file(FOLDER / f"case_{name}.safetensors")
    got = run(name, expected, Recorded(0, expected))
    assert {key for key in expected if not key.startswith("keep.")} == set(got)
    errors = {key: reference.relative_error(value, expected[key]) for key, value in got.items()}
    print_errors(capsys, name, errors)
    assert max(errors.values()) < 1e-5


def test_dropout_is_drawn_from_the_seed_and_leaves_images_free_of_the_micro_batch():
    first = run("ipca_dropout", {}, Draws(5))["latents"]
    assert reference.relative_error(run("ipca_dropout", {}, Draws(5), micro_batch=1)["latents"], first) < 1e-5
    assert reference.relative_error(first[0], first[1]) > 1e-4
    assert reference.relative_error(run("ipca_dropout", {}, Draws(6))["latents"], first) > 1e-4


def test_reweighting_that_overflows_names_the_alpha():
    how = parsed(Reweighting, CASES["svr"]["reweighting"])
    strong = replace_alpha(how, 5.0)
    with pytest.raises(ValueError, match="overflows float16 with enhance.alpha 5.0"):
        reweighted(
            torch.randn(77, 96, generator=torch.Generator().manual_seed(0)).half(), texts_of(CASES["svr"])[0], strong
        )


def replace_alpha(how: Reweighting, alpha: float) -> Reweighting:
    return how.model_copy(update={"enhance": how.enhance.model_copy(update={"alpha": alpha})})


def test_a_frame_that_is_found_inside_another_is_reported():
    story = STORIES["a_frame_inside_another"]
    texts = consolidate(story["identity"], story["frames"], 10, tokenizer_of(None))
    assert texts[0].elsewhere == ("standing in water",) and texts[0].within_identity == ()
    inside = consolidate("a fox in the rain", ["asleep", "in the rain"], 10, tokenizer_of(None))
    assert inside[0].within_identity == ("in the rain",)
