"""Each check of the certificate holds on what is right, and fails on a fault that is planted in what it looks at."""

from dataclasses import replace

import pytest
import torch

from svdstory.pipeline import generation
from svdstory.pipeline.bench.peak_memory import GIB
from svdstory.pipeline.certify import drawings as drawings_module
from svdstory.pipeline.certify import filtering as filtering_module
from svdstory.pipeline.certify import formula as memory_line
from svdstory.pipeline.certify.drawings import drawings
from svdstory.pipeline.certify.filtering import filtering
from svdstory.pipeline.certify.formula import allocated, counted
from svdstory.pipeline.certify.known import sketch
from svdstory.pipeline.certify.line import Line, Number
from svdstory.pipeline.certify.micro_batches import micro_batches
from svdstory.pipeline.certify.scorers import of_scorer, scorers
from svdstory.pipeline.certify.specimen import IMAGES, PLAIN, STEPS, TRUNCATED, Drawn, Specimen
from svdstory.pipeline.certify.stock import relative, stock
from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.metrics import clipscore, consistency, layout
from svdstory.pipeline.metrics.registry import load_scorer
from svdstory.pipeline.models import memory
from svdstory.pipeline.models.spec import resolve_model
from svdstory.pipeline.sampling.attention import ExtendedSelfAttention
from svdstory.pipeline.spectral import fast


@pytest.fixture(scope="module")
def tiny() -> Specimen:
    torch.set_num_threads(1)
    return Specimen(resolve_model("tiny"), "cpu")


@pytest.fixture(scope="module")
def miniature() -> Specimen:
    return Specimen(resolve_model("miniature"), "cpu")


@pytest.fixture
def anew(tiny) -> Specimen:
    """The same model, of which nothing is drawn yet, in few steps: for planted faults."""
    return Specimen(tiny.spec, "cpu", steps=4)


def failing(line: Line) -> list[str]:
    return [number.what for number in line.numbers if not number.holds]


def test_a_line_holds_if_all_its_numbers_do_and_not_a_number_never_does():
    good, told = Number("a", 1.0, 0.5, 2.0), Number("b", 7.0)
    assert Line("c", [good, told]).verdict == "holds"
    assert Line("c", [good, Number("d", float("nan"), most=1.0)]).verdict == "fails"
    assert Line("c", [told]).verdict == "not measured" and Line("c", [good], broken="why").verdict == "fails"


@pytest.mark.parametrize("check", [stock, micro_batches, drawings, filtering, scorers])
def test_every_line_holds_on_tiny(tiny, anew, check):
    line = check(anew if check is micro_batches else tiny)  # each of whose steps is drawn by every cut
    assert line.verdict == "holds", failing(line)


@pytest.mark.parametrize("check", [drawings, filtering, scorers])
def test_lines_hold_on_the_miniature_drawn_by_three_methods(miniature, monkeypatch, check):
    monkeypatch.setattr(drawings_module, "FILTERED", (PLAIN, "consistory"))
    monkeypatch.setattr(filtering_module, "FILTERED", ())
    line = check(miniature)
    assert line.verdict == "holds", failing(line)


def test_noise_of_another_seed_is_not_the_stock_pipelines(anew, monkeypatch):
    right = generation.initial_latents
    monkeypatch.setattr(generation, "initial_latents", lambda seed, *shape: right(seed + 1, *shape))
    assert stock(anew).verdict == "fails"


def test_a_group_that_loses_the_anchors_shows_in_micro_batches(anew, monkeypatch):
    right = ExtendedSelfAttention.extended

    def forgetful(self, call, k, v, heads):
        last_alone = not call.group.leads and len(call.group.rows) == 1
        return (k, v, None) if last_alone else right(self, call, k, v, heads)

    monkeypatch.setattr(ExtendedSelfAttention, "extended", forgetful)
    assert len(failing(micro_batches(anew))) == 2


def test_attention_that_sees_no_anchors_shows_in_pictures_of_which_nothing_is_known(anew, monkeypatch):
    monkeypatch.setattr(ExtendedSelfAttention, "extended", lambda self, call, k, v, heads: (k, v, None))
    assert "mean change from svd-log2 to svd-clip-2, of 255" in failing(drawings(anew))


def test_latents_of_another_seed_are_not_the_known_ones(anew, monkeypatch):
    right = generation.initial_latents
    monkeypatch.setattr(generation, "initial_latents", lambda seed, *shape: right(seed + 1, *shape))
    monkeypatch.setattr(drawings_module, "CONSISTORY", PLAIN)  # this one alone is drawn
    monkeypatch.setattr(drawings_module, "FILTERED", (PLAIN, PLAIN))
    assert "sdxl: distance from the known latents" in failing(drawings(replace(anew, steps=STEPS)))


def test_a_sketch_tells_small_changes_about_as_large_as_they_are():
    latents = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    changed = latents + 0.01 * torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    assert 0.005 < relative(sketch(changed), sketch(latents)) < 0.02


@pytest.mark.parametrize(
    "part, fault, method",
    [
        ("wanted_rank", lambda right: lambda spec, r: right(spec, r) and right(spec, r) + 1, TRUNCATED),
        ("product", lambda right: lambda block, g, wide: torch.zeros_like(right(block, g, wide)), "svd-clip-2"),
        ("factor", lambda right: lambda spec, kept, after: torch.ones_like(after), "svd-log2"),
    ],
    ids=["a rank too many", "nothing clipped", "the norm not restored"],
)
def test_a_filter_that_is_wrong_shows_against_the_exact_one(anew, monkeypatch, part, fault, method):
    monkeypatch.setattr(fast, part, fault(getattr(fast, part)))
    monkeypatch.setattr(filtering_module, "FILTERED", (method,))
    monkeypatch.setattr(filtering_module, "TRUNCATED", method)
    assert any(what.startswith(f"{method}: largest relative error") for what in failing(filtering(anew)))


def peak(micro_batch: int | None = None) -> float:
    return memory.WEIGHTS + memory.sampling_gib(named("consistory"), IMAGES, (1024, 1024), micro_batch)


@pytest.mark.parametrize("share, verdict", [(1.0, "holds"), (1.3, "fails"), (0.6, "fails")])
def test_memory_that_is_not_the_formulas_fails_counted_and_measured(tiny, monkeypatch, share, verdict):
    class Card(Specimen):
        def draw(self, method: str, micro_batch: int | None = None) -> Drawn:
            predicted = memory.peak_gib(named(method), IMAGES, self.spec.size, 1) - memory.CONTEXT
            return Drawn(None, [], 0.0, int(share * predicted * GIB), 1)

    sampled = share * peak() - memory.WEIGHTS
    monkeypatch.setattr(memory_line.full_size, "sdxl_unet", lambda *_: torch.nn.Linear(1, 1, bias=False))
    monkeypatch.setattr(memory_line, "activations", lambda *_: int((sampled + memory.WEIGHTS) * GIB))
    assert counted().verdict == verdict and allocated(Card(tiny.spec, "cpu")).verdict == verdict


def test_memory_of_a_model_that_the_formula_does_not_speak_of_is_not_measured(tiny, monkeypatch):
    card = Specimen(tiny.spec)
    card.__dict__["place"] = torch.device("cuda")
    assert memory_line.formula(card).verdict == "not measured"


def scaled(right):
    return lambda *args: 0.9 * right(*args)


@pytest.mark.parametrize(
    "name, module, part, fault",
    [
        ("clipscore:tiny", clipscore, "WEIGHT", lambda right: 2.0),
        ("clip-i:tiny", consistency, "pairwise_cosines", scaled),
        ("layout:tiny", layout, "displacement", scaled),
        ("clipscore:miniature", clipscore, "WEIGHT", lambda right: 2.6),
    ],
)
def test_a_scorer_that_is_scaled_does_not_give_the_known_numbers(monkeypatch, name, module, part, fault):
    monkeypatch.setattr(module, part, fault(getattr(module, part)))
    assert scorers(Specimen(resolve_model("tiny").model_copy(update={"scorers": (name,)}), "cpu")).verdict == "fails"


def test_a_scorer_without_known_numbers_is_held_to_the_papers_formula_and_to_identity(monkeypatch):
    """As real weights are: nothing of theirs ships."""
    scorer = load_scorer("clip-i:tiny")
    assert all(number.holds for number in of_scorer(scorer, {}, 0.0))
    monkeypatch.setattr(consistency, "pairwise_cosines", scaled(consistency.pairwise_cosines))
    assert "clip-i:tiny: clip_i of one picture four times" in [
        n.what for n in of_scorer(scorer, {}, 0.0) if not n.holds
    ]
    monkeypatch.setattr(clipscore, "WEIGHT", 2.0)
    (wrong,) = [n.what for n in of_scorer(load_scorer("clipscore:tiny"), {}, 0.0) if not n.holds]
    assert "by the paper's formula" in wrong


def test_scorers_whose_weights_are_not_here_are_named_and_not_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("SVDSTORY_WEIGHTS", str(tmp_path))
    line = scorers(Specimen(resolve_model("tiny").model_copy(update={"scorers": ("dreamsim",)}), "cpu"))
    assert line.verdict == "not measured" and "svdstory prefetch --scorer dreamsim" in line.words
