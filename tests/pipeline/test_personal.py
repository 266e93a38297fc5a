"""Subjects learned and brought: trained as described, applied wholly, put back to the bit."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.config.tokens import tokenizer_of
from svdstory.pipeline.config.tuning import KINDS, Recipe, SubjectFile, Word, first_word, knowing, worded
from svdstory.pipeline.decoding import NotFinite
from svdstory.pipeline.encoding import encode
from svdstory.pipeline.generation import generate
from svdstory.pipeline.models.load import load_model
from svdstory.pipeline.models.spec import resolve_model
from svdstory.pipeline.models.subject_files import located, made_by
from svdstory.pipeline.personal.examples import Examples, draws, training_prompts
from svdstory.pipeline.personal.personalised import as_words, personalised
from svdstory.pipeline.personal.training import Checkpoints, Interrupted, tune

FOX = PromptSet(style="A photo of", subject="a red fox", concept=("fox",), settings=("in the snow", "at the beach"))
SETTINGS = dict(steps=2, size=(64, 64))
PLAIN = named("sdxl-no-freeu")


@pytest.fixture(scope="module")
def tiny():
    model = load_model("tiny", device="cpu")
    encode(model, FOX, (64, 64))  # transformers puts hooks of its own on encoders at their first call
    return model


def recipe_of(kind, **changes):
    return Recipe(kind=kind, **{"updates": 2, "pictures": 1, **changes}).resolved(resolve_model("tiny").tuning, "tiny")


def examples_of(model, recipe, prior=False):
    pictures = [
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (64, 64, 3), dtype=np.uint8)) for i in range(2)
    ]
    own = Examples.of(model, pictures, training_prompts(worded(FOX, recipe.words()), ["in a wood", ""]))
    return [own] + [Examples(own.latents.flip(0), ("A photo of a red fox",) * 2, 1.0)] * prior


def state_of(model):
    parts = {name: getattr(model.pipe, name) for name in ("unet", "text_encoder", "text_encoder_2", "vae")}
    weights = {f"{part}.{name}": x.clone() for part, module in parts.items() for name, x in module.state_dict().items()}
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for part in parts.values() for m in part.modules())
    needs = [weight.requires_grad for module in parts.values() for weight in module.parameters()]
    return weights, (hooks, needs, id(model.pipe.tokenizer), id(model.pipe.tokenizer_2), model.pipe.get_list_adapters())


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(x, other[name]) for name, x in one.items())


@pytest.fixture(scope="module", params=KINDS)
def learned(request, tiny, tmp_path_factory):
    """Each kind, tuned in two updates: recipe, what was made, its files, the model's state before."""
    before, recipe = state_of(tiny), recipe_of(request.param)
    made = tune(tiny, examples_of(tiny, recipe, request.param != "textual-inversion"), recipe, "key", initial="fox")
    folder = tmp_path_factory.mktemp("subject")
    for name, tensors in made.files.items():
        save_file(tensors, folder / name)
    return recipe, made, made_by(recipe, folder), before


def test_the_model_is_as_before_after_tuning_and_after_wearing_also_after_an_error(tiny, learned):
    recipe, _, files, (weights, rest) = learned
    plain = generate(tiny, FOX, PLAIN, **SETTINGS).sample.latents
    with pytest.raises(ZeroDivisionError), personalised(tiny, files):
        dressed = generate(tiny, worded(FOX, as_words(files)), PLAIN, **SETTINGS).sample.latents
        assert state_of(tiny)[1] != rest
        raise ZeroDivisionError
    assert not torch.equal(dressed, plain) and as_words(files) == recipe.words()
    after = state_of(tiny)
    assert same(after[0], weights) and after[1] == rest
    assert torch.equal(generate(tiny, FOX, PLAIN, **SETTINGS).sample.latents, plain)


def test_a_tuning_parted_anywhere_comes_to_the_same_bits(tiny, learned):
    recipe, made, _, _ = learned
    examples = examples_of(tiny, recipe, recipe.kind != "textual-inversion")
    kept = {}
    with pytest.raises(Interrupted):
        stopping = Checkpoints(keep=kept.__setitem__, stop=lambda: True)
        tune(tiny, examples, recipe, "key", initial="fox", checkpoints=stopping)
    again = tune(tiny, examples, recipe, "key", initial="fox", checkpoints=Checkpoints(start=kept[1]))
    assert all(same(tensors, again.files[name]) for name, tensors in made.files.items())
    assert again.losses == made.losses


def test_a_subjects_own_files_are_told_for_what_they_are(learned):
    recipe, _, files, _ = learned
    brought = [SubjectFile(file=one.file, word=one.word) for one in files]
    found = located(brought, Path(), 64, (32, 32))
    assert [one.model_copy(update={"sha256": ""}) for one in found] == list(files)


def test_learning_lowers_the_loss_of_what_is_learned(tiny):
    for kind, rate in (("textual-inversion", 0.1), ("custom-diffusion", 0.01)):
        recipe = recipe_of(kind, updates=1, rate=rate, pictures=2)
        state = {}
        short = tune(
            tiny,
            examples_of(tiny, recipe),
            recipe,
            "key",
            initial="fox",
            checkpoints=Checkpoints(keep=state.__setitem__, every_s=0, now=iter(range(99)).__next__),
        )
        again = {**state[1], "counts": torch.tensor([0, 0, 0, 0]), "losses": torch.zeros(1)}
        after = tune(
            tiny, examples_of(tiny, recipe), recipe, "key", initial="fox", checkpoints=Checkpoints(start=again)
        )
        assert after.losses[0] < short.losses[0], kind


def test_draws_depend_on_the_key_and_the_update_alone():
    kind = Examples(torch.zeros(5, 4, 8, 8), ("",) * 5)
    one, other = draws("key", 3, [kind, kind], 2, 1000), draws("key", 3, [kind], 2, 1000)
    assert torch.equal(one[0].noise, other[0].noise) and torch.equal(one[0].timesteps, other[0].timesteps)
    assert not torch.equal(one[0].noise, draws("key", 4, [kind], 2, 1000)[0].noise)


def test_a_word_of_several_rows_is_all_of_them_in_the_text_the_masks_and_the_plan(tiny, tmp_path):
    rows = {"clip_l": torch.randn(3, 32), "clip_g": torch.randn(3, 32)}
    save_file(rows, tmp_path / "fox.safetensors")
    [file] = located([SubjectFile(file="fox.safetensors", word="<mine>")], tmp_path, 64, (32, 32))
    changed = worded(FOX, file.words())
    assert changed.prompts[0] == "A photo of a red <mine> in the snow" and file.rows == 3
    with personalised(tiny, [file]):
        told = encode(tiny, changed, (64, 64))
    assert told.subject_tokens.tolist() == [[6, 7, 8]] * 2
    known = knowing(tokenizer_of(None), file.words())
    assert known.tokens("a <mine>") == ["a</w>", "<mine>", "<mine>_1", "<mine>_2"]


def test_the_pooled_text_is_read_at_the_end_token_whatever_the_word(tiny, tmp_path):
    """Of an encoder that finds it as the highest id, as SDXL's second does."""
    tiny.pipe.text_encoder_2.config.eos_token_id, own = 2, tiny.pipe.text_encoder_2.config.eos_token_id
    word = Word("<mine>", 1, instead=True)
    table = tiny.pipe.text_encoder_2.get_input_embeddings().weight
    fox = tiny.pipe.tokenizer("fox").input_ids[1]
    rows = {"clip_l": tiny.pipe.text_encoder.get_input_embeddings().weight[[fox]].detach().clone()}
    save_file({**rows, "clip_g": table[[fox]].detach().clone()}, tmp_path / "fox.safetensors")
    try:
        plain = encode(tiny, FOX, (64, 64))
        [file] = located([SubjectFile(file="fox.safetensors", word=word.text)], tmp_path, 64, (32, 32))
        with personalised(tiny, [file]):
            told = encode(tiny, worded(FOX, [word]), (64, 64))
    finally:
        tiny.pipe.text_encoder_2.config.eos_token_id = own
    assert torch.equal(told.prompt_embeds, plain.prompt_embeds)
    assert torch.equal(told.pooled_prompt_embeds, plain.pooled_prompt_embeds)


def test_a_file_for_one_encoder_leaves_the_other_at_the_words_embedding(tiny, tmp_path):
    save_file({"<cat-toy>": torch.randn(32)}, tmp_path / "learned_embeds.safetensors")
    [file] = located([SubjectFile(file="learned_embeds.safetensors", word="<toy>")], tmp_path, 64, (32, 32))
    plain = encode(tiny, FOX, (64, 64)).prompt_embeds
    with personalised(tiny, [file], first_word(FOX)):
        told = encode(tiny, worded(FOX, file.words()), (64, 64)).prompt_embeds
    assert torch.equal(told[..., 32:], plain[..., 32:]) and not torch.equal(told[..., :32], plain[..., :32])


def test_a_tuned_method_is_not_drawn_without_its_subject(tiny):
    with pytest.raises(InputError, match="subject is not on the model"):
        generate(tiny, FOX, named("dreambooth-lora"), **SETTINGS)


def test_a_loss_that_is_no_number_ends_the_tuning_and_leaves_the_model_whole(tiny):
    before, recipe = state_of(tiny), recipe_of("textual-inversion")
    [examples] = examples_of(tiny, recipe)
    with pytest.raises(NotFinite, match="the loss of update 0"):
        tune(tiny, [Examples(examples.latents * float("nan"), examples.prompts)], recipe, "key", initial="fox")
    after = state_of(tiny)
    assert same(after[0], before[0]) and after[1] == before[1]


CUSTOM_K = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.processor.to_k_custom_diffusion.weight"
BAD = {
    "cross": ({CUSTOM_K: torch.zeros(32, 768)}, "this is for Stable Diffusion 1, whose text is 768 wide"),
    "empty": ({"<a>": torch.zeros(0, 32)}, "it is empty"),
    "nan": ({"<a>": torch.full((1, 32), float("nan"))}, "<a> holds inf or nan"),
    "half nan": ({"<a>": torch.full((1, 32), float("inf"), dtype=torch.bfloat16)}, "<a> holds inf or nan"),
    "wide": ({"<a>": torch.zeros(1, 768)}, "<a> is 768 wide; this model's text encoders are 32 and 32"),
    "uneven": ({"clip_l": torch.zeros(1, 32), "clip_g": torch.zeros(2, 32)}, "a word has as many in both"),
    "dora": ({"unet.a.attn1.to_k.dora_scale": torch.zeros(4, 4), "x": torch.zeros(1)}, "a DoRA"),
    "adapter": ({"image_proj.proj.weight": torch.zeros(4, 4), "x": torch.zeros(1)}, "an IP-Adapter"),
}


@pytest.mark.parametrize("case", BAD)
def test_files_that_cannot_be_used_are_refused_by_what_they_hold(tmp_path, case):
    tensors, message = BAD[case]
    save_file(tensors, tmp_path / "mine.safetensors")
    with pytest.raises(InputError, match=f"mine.safetensors: .*{message}"):
        located([SubjectFile(file="mine.safetensors")], tmp_path, 2048 if case == "cross" else 64, (32, 32))


def test_pickles_are_refused_with_how_to_convert_them(tmp_path):
    (tmp_path / "mine.bin").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"only .safetensors are read. Convert it: python -c .*mine.safetensors"):
        located([SubjectFile(file="mine.bin")], tmp_path, 64, (32, 32))


def test_custom_diffusion_of_other_layers_is_an_error_and_nothing_of_it_stays(tiny, tmp_path):
    before = state_of(tiny)
    layer = tiny.pipe.unet.down_blocks[1].attentions[0].transformer_blocks[0].attn2.to_k.weight
    both = {CUSTOM_K: layer.detach() + 1, CUSTOM_K.replace("blocks.1.", "blocks.7."): torch.zeros(32, 64)}
    save_file({name: x.contiguous() for name, x in both.items()}, tmp_path / "mine.safetensors")
    files = located([SubjectFile(file="mine.safetensors")], tmp_path, 64, (32, 32))
    with pytest.raises(InputError, match="it has no such layer. Is it another model's"), personalised(tiny, files):
        pass
    after = state_of(tiny)
    assert same(after[0], before[0]) and after[1] == before[1]


@pytest.mark.parametrize("learned", ["dreambooth-lora"], indirect=True)
def test_a_tuned_lora_draws_the_same_under_kohyas_names(tiny, tmp_path, learned):
    recipe, made, files, _ = learned
    found = {}
    for name, weight in load_file(files[0].file).items():
        module, _, side = name.removeprefix("unet.").partition(".lora.")
        if not side:
            module, _, side = name.removeprefix("unet.").partition(".lora_")
        kohya = "lora_unet_" + module.replace(".", "_")
        found[f"{kohya}.lora_{'down' if side.startswith(('down', 'A')) else 'up'}.weight"] = weight
        found[f"{kohya}.alpha"] = torch.tensor(float(recipe.rank))
    save_file(found, tmp_path / "kohya.safetensors")
    other = located([SubjectFile(file="kohya.safetensors", word="sks")], tmp_path, 64, (32, 32))
    drawn = []
    for one in (files, other):
        with personalised(tiny, one):
            drawn.append(generate(tiny, worded(FOX, as_words(one)), PLAIN, **SETTINGS).sample.latents)
    assert torch.equal(*drawn)
