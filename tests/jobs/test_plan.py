"""Plans: unit keys, strict configuration, checks before anything is queued."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from svdstory.jobs.cli.commands_study import memory_lines
from svdstory.jobs.study.experiment import Experiment, find_experiment, read_experiment
from svdstory.jobs.study.plan import make_plan, plan_path, read_plan, write_plan
from svdstory.pipeline.config.methods import Method, SpectralFilter
from svdstory.pipeline.config.named_methods import expand, named, shipped_entries
from svdstory.pipeline.config.prompt_files import find_sets, read_sets
from svdstory.pipeline.config.strict import InputError, parse

FOX = """style: A photo of
subject: a red fox
concept: fox
settings: [in the snow, at the beach, in a city]
"""


def plan_of(tmp_path: Path, text: str = FOX, name: str = "fox", **experiment):
    (tmp_path / f"{name}.yaml").write_text(text)
    content = {"sets": [f"{name}.yaml"], "methods": ["sdxl", "consistory"], "model": "tiny", **experiment}
    return make_plan("test", parse(Experiment, content, "test"), tmp_path)


def keys(plan):
    return [cell.key for cell in plan.cells]


def test_keys_do_not_depend_on_names_order_or_comments(tmp_path):
    one = plan_of(tmp_path)
    other = (
        "# a comment\nsettings: [in the snow, at the beach, in a city]\nwhy: other words\nconcept: [fox]\n"
        "subject: a red fox\nstyle: A photo of\norigin: curated\n"
    )
    assert keys(plan_of(tmp_path, other, name="renamed")) == keys(one)


@pytest.mark.parametrize(
    "change", [{"steps": 7}, {"seeds": [1]}, {"guidance": 4.0}, {"size": [128, 192]}, {"scheduler": "euler"}]
)
def test_keys_change_with_everything_that_changes_pixels(tmp_path, change):
    assert not set(keys(plan_of(tmp_path))) & set(keys(plan_of(tmp_path, **change)))


def test_exact_filters_are_other_units_of_filtered_methods_alone(tmp_path):
    within, exact = (
        {cell.method: cell.key for cell in plan_of(tmp_path, methods=["consistory", "svd-log"], **chosen).cells}
        for chosen in ({}, {"exact_filter": True})
    )
    assert within["consistory"] == exact["consistory"] and within["svd-log"] != exact["svd-log"]


def test_methods_with_equal_switches_are_one_unit(tmp_path):
    same = {"name": "my-consistory", "base": "consistory", "set": {"mask_dropout": 0.5}}
    plan = plan_of(tmp_path, methods=["consistory", same])
    assert len(plan.cells) == 2 and len(plan.units) == 1


def test_report_covers_the_reports_methods_on_twenty_sets():
    path = find_experiment("report")
    plan = make_plan("report", read_experiment(path, model="tiny"), path.parent)
    assert len(plan.sets) == 20 and sum(s.group == "good" for s in plan.sets.values()) == 10
    assert {f"svd-kv-{k}-{v}" for k in (0.01, 0.05, 0.1) for v in (0.01, 0.05, 0.1)} <= set(plan.methods)
    assert all(3 <= len(s.settings) <= 5 and s.why for s in plan.sets.values())
    assert sum(s.origin == "report" for s in plan.sets.values()) == 5


def test_units_made_before_the_reports_methods_injected_are_their_twins(tmp_path):
    before = {
        "unmasked-no-injection": "92b7c2b31993173073843e8d",
        "svd-fraction-0.05-no-injection": "452471c4169c47ac1d5aa642",
        "svd-log2-no-injection": "f3ee5c4b18a389da74083546",
        "svd-clip-1-no-injection": "8bde9e1ab2755f2f17a7d892",
        "svd-fraction-0.05": "6d978d3df104cb2f45a958f9",  # svd-fraction-injection then
        "consistory-no-injection": "8f2397784bc68cb1631ac864",
    }
    experiment = Experiment(sets=("red-fox",), methods=tuple(before), model="tiny", seeds=(0,))
    assert {cell.method: cell.key for cell in make_plan("x", experiment, tmp_path).cells} == before


def test_every_shipped_method_is_possible():
    assert all(expand(name) for name in shipped_entries())


@pytest.mark.parametrize(
    "switches, message",
    [
        (dict(mask_dropout=0.5, extended_attention="unmasked", n_anchors=2), "needs extended_attention: masked"),
        (dict(filter_k=SpectralFilter(keep_top=3)), "needs extended_attention"),
        (dict(extended_attention="masked"), "need n_anchors of at least 1"),
        (dict(n_anchors=2), "would do nothing"),
        (dict(reference="random"), "needs extended_attention"),
        (
            dict(storydiffusion=named("storydiffusion").storydiffusion, extended_attention="unmasked", n_anchors=2),
            "storydiffusion and extended_attention exclude each other",
        ),
        (
            dict(
                storydiffusion=named("storydiffusion").storydiffusion,
                style_aligned=named("style-aligned").style_aligned,
            ),
            "storydiffusion and style_aligned exclude each other",
        ),
        (
            dict(style_aligned=named("style-aligned").style_aligned, filter_k=SpectralFilter(keep_top=3)),
            "a spectral filter needs extended_attention: unmasked or masked, or storydiffusion",
        ),
    ],
)
def test_impossible_methods_are_refused(switches, message):
    with pytest.raises(ValueError, match=message):
        Method(**switches)


@pytest.mark.parametrize(
    "filter_, message",
    [
        ({}, "empty filter"),
        ({"keep_top": 3, "keep_energy": 0.9}, "exclude each other"),
        ({"reweight": "exp"}, "alpha belongs to reweight: exp"),
        ({"keep_fraction": 1.5}, "less than or equal to 1"),
    ],
)
def test_impossible_filters_are_refused(filter_, message):
    with pytest.raises(ValueError, match=message):
        SpectralFilter(**filter_)


def test_a_text_that_clip_would_cut_is_refused_before_anything_is_queued(tmp_path):
    settings = [f"rowing boat number {i}, over a very wide, quiet lake at misty dawn" for i in range(5)]
    (tmp_path / "long.yaml").write_text(
        f"style: a photo of\nsubject: a fox\nconcept: fox\nsettings: {json.dumps(settings)}\n"
    )
    with pytest.raises(
        InputError, match=r'method oneprompt: the text of image 1 has 82 tokens.*"quiet lake at misty dawn" would be'
    ):
        plan_of(tmp_path, sets=["long.yaml"], methods=["oneprompt"])
    assert plan_of(tmp_path, sets=["long.yaml"], methods=["oneprompt-ipca"]).units


def test_new_switches_leave_the_keys_of_methods_without_them():
    assert named("consistory").switches().keys() == {
        "extended_attention",
        "n_anchors",
        "mask_dropout",
        "query_blending",
        "feature_injection",
        "freeu",
    }


def test_a_nested_switch_is_set_by_its_path():
    paper, program = named("oneprompt-paper").oneprompt, named("oneprompt").oneprompt
    assert paper.reweighting.enhance.beta == 0.05 and program.reweighting.enhance.beta == 1.0
    assert paper.reweighting.mode == program.reweighting.mode


def test_unknown_switch_names_file_key_and_the_nearest_one(tmp_path):
    with pytest.raises(InputError, match=r"method my: unknown key 'mask_droput' \(did you mean 'mask_dropout'\?\)"):
        plan_of(tmp_path, methods=[{"name": "my", "base": "consistory", "set": {"mask_droput": 0.1}}])


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(InputError, match="did you mean 'consistory'"):
        named("consistori")
    with pytest.raises(InputError, match="did you mean 'report'"):
        find_experiment("reprot")
    with pytest.raises(InputError, match="did you mean 'blue-bus'"):
        find_sets("blue-buss")


def test_wrong_type_and_unknown_key_in_a_prompt_set(tmp_path):
    with pytest.raises(InputError, match=r"fox.yaml: unknown key 'setings' \(did you mean 'settings'\?\)"):
        plan_of(tmp_path, FOX + "setings: [x]\n")
    with pytest.raises(InputError, match="style: got 3"):
        plan_of(tmp_path, FOX.replace("A photo of", "3"))


def test_prompt_without_its_subject_word(tmp_path):
    with pytest.raises(InputError, match="the concept 'wolf' does not occur in the prompt 'A photo of a red fox"):
        plan_of(tmp_path, FOX.replace("concept: fox", "concept: wolf"))


def test_part_of_a_word_is_not_the_subject(tmp_path):
    with pytest.raises(InputError, match="does not contain the subject word 'ox'"):
        plan_of(tmp_path, FOX.replace("concept: fox", "concept: ox"))


def test_long_prompt_names_the_words_that_would_be_cut(tmp_path):
    long = FOX.replace("in a city", "in a city" + " very" * 68 + " red scarf")
    with pytest.raises(
        InputError,
        match=r"prompt set fox, prompt 3: prompt has 81 tokens, the model reads 77: "
        r'"very very red scarf" would be cut',
    ):
        plan_of(tmp_path, long)


def test_more_anchors_than_images(tmp_path):
    with pytest.raises(InputError, match="prompt set fox, method five: n_anchors 5 with 3 images"):
        plan_of(tmp_path, methods=[{"name": "five", "base": "consistory", "set": {"n_anchors": 5}}])


def test_size_that_does_not_fit_names_the_nearest(tmp_path):
    with pytest.raises(InputError, match="size 100x128: model tiny needs multiples of 64 pixels. Nearest: 128x128"):
        plan_of(tmp_path, size=[100, 128])


def test_missing_weights_are_named_with_the_command_that_fetches_them(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError) as error:
        plan_of(tmp_path, model="sdxl")
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in str(error.value)
    assert "svdstory prefetch sdxl" in str(error.value)


def test_benchmark_file_with_192_sets_runs_unchanged(tmp_path):
    lines = []
    for superclass in ("animals", "humans", "inanimate objects"):
        lines.append(f"{superclass}:")
        for i in range(64):
            lines += [
                "  - style: A photo of",
                f"    subject: a dog number {i} among {superclass}",
                "    concept_token: [dog]",
                "    settings: [in the park, at home, on a boat, in the rain, on a sofa]",
            ]
    (tmp_path / "benchmark.yaml").write_text("\n".join(lines))
    sets = read_sets(tmp_path / "benchmark.yaml")
    assert len(sets) == 192 and len({s.name for s in sets}) == 192
    plan = make_plan(
        "b", parse(Experiment, {"sets": ["benchmark.yaml"], "methods": ["consistory"], "model": "tiny"}, "b"), tmp_path
    )
    assert len(plan.units) == 192 and {s.group for s in plan.sets.values()} == {
        "animals",
        "humans",
        "inanimate-objects",
    }


def test_plan_is_written_once_and_a_changed_one_is_added(tmp_path):
    plan, run = plan_of(tmp_path), tmp_path / "run"
    first = write_plan(plan, run)
    assert write_plan(plan, run) == first and read_plan(first) == plan
    second = write_plan(plan_of(tmp_path, steps=9), run)
    assert plan_path(run) == second and first.exists() and second.name.startswith("0002-")


def test_planning_does_not_import_torch():
    code = (
        "import sys; from svdstory.jobs.cli import app; from svdstory.jobs.study import experiment, plan\n"
        "p = experiment.find_experiment('report')\n"
        "plan.make_plan('report', experiment.read_experiment(p, model='tiny'), p.parent)\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_sets_and_methods_of_a_users_own_can_be_chosen_by_name_and_make_the_same_units(tmp_path):
    (tmp_path / "mine.yaml").write_text("style: A photo of\nsubject: a red fox\nconcept: fox\nsettings: [a, b]\n")
    content = {
        "sets": ["./mine.yaml", "blue-bus"],
        "model": "tiny",
        "seeds": [0],
        "methods": ["sdxl", {"name": "mine", "base": "unmasked", "sweep": {"filter.keep_top": [1, 4]}}],
    }
    experiment = parse(Experiment, content, "test")
    whole = make_plan("test", experiment, tmp_path)
    one = make_plan("test", experiment, tmp_path, sets=["mine"], methods=["mine-4", "consistory"])
    assert list(one.sets) == ["mine"] and list(one.methods) == ["mine-4", "consistory"]
    assert one.cells[0].key in whole.units
    with pytest.raises(InputError, match="mine-5"):
        make_plan("test", experiment, tmp_path, methods=["mine-5"])


def test_plan_says_what_a_card_holds_where_the_formula_knows_the_model(tmp_path):
    small = plan_of(tmp_path, sets=["blue-bus"], methods=["sdxl", "consistory"])
    assert memory_lines(small) == []
    like_sdxl = small.model.model_copy(update={"source": "folder", "dtype": "float16"})
    sdxl = small.model_copy(update={"model": like_sdxl, "size": (1024, 1024)})
    assert memory_lines(sdxl) == ["16 GB card  holds whole sets", "32 GB card  holds whole sets"]
    large = sdxl.model_copy(update={"size": (3072, 3072)})
    assert memory_lines(large) == ["16 GB card  too small for consistory", "32 GB card  holds whole sets"]
    fox = small.sets["blue-bus"].model_copy(update={"settings": tuple(f"in place {i}" for i in range(60))})
    crowd = memory_lines(sdxl.model_copy(update={"sets": {"crowd": fox}}))
    assert crowd[0].startswith("16 GB card  takes micro-batches, of ") and crowd[1].startswith("32 GB card  takes")
