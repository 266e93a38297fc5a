"""What people really paste in: each kind is read, or refused before anything is queued, in words that help."""

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from svdstory.jobs.study.experiment import Experiment, find_experiment, read_experiment
from svdstory.jobs.study.notes import notes
from svdstory.jobs.study.plan import make_plan
from svdstory.pipeline.config.prompt_files import find_sets, read_sets
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.strict import InputError, parse
from svdstory.pipeline.models.spec import check_device
from tests.jobs.test_plan import FOX, keys, plan_of

PART = Path(__file__).parents[1] / "prompts" / "consistory+part.yaml"


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def planned(folder: Path, only=None, **content):
    content = {"sets": ["b.yaml"], "methods": ["sdxl"], "model": "tiny", **content}
    return make_plan("test", parse(Experiment, content, "test"), folder, sets=only)


def mine(name="mine", **switches) -> dict:
    return {"name": name, "base": "unmasked", "set": switches}


# ------------------------------------------------------------ benchmark files


def test_the_fields_benchmark_file_is_planned_as_it_is_with_a_note_on_each_concept_that_was_looked_for(tmp_path):
    plan = planned(tmp_path, sets=[str(PART)])
    assert len(plan.sets) == 7 and len(plan.units) == 7
    assert [line.partition(": the concept ")[2] for line in notes(plan)] == [
        "loaf of bread was found in the subject as loaf, bread",
        "macaron was found in the subject as macarons",
        "waterfall mist was found in the subject as Mist, waterfall",
    ]


BENCHMARK = """animals:
- {style: A photo of, subject: a lone canine, concept_token: wolf, settings: [in snow, at home]}
- {style: A photo of, subject: a red fox, concept_token: fox, settings: in the snow}
- {style: A photo of, subject: a red fox, concept_token: fox, settings: [in the snow]}
plants: []
people:
- {style: A photo of, subject: [a man, a woman], concept_token: [man, woman], settings: [on a boat]}
- a man on a boat
"""


def test_a_bad_entry_stops_itself_and_all_are_told_at_once(tmp_path):
    write(tmp_path, "b.yaml", BENCHMARK)
    with pytest.raises(InputError) as error:
        planned(tmp_path)
    assert "animals[1]: settings: got 'in the snow'" in str(error.value)
    assert "people[1]: got str, expected a set" in str(error.value)
    assert "other 3 can be read" in str(error.value) and "animals[0]" not in str(error.value)
    chosen = planned(tmp_path, only=["animals-002-a-red-fox", "people-000-a-man-and-a-woman"])
    assert len(chosen.units) == 2
    with pytest.raises(InputError, match=r"animals\[1\]"):
        planned(tmp_path, only=["animals-001-a-red-fox"])


def test_a_concept_that_stands_nowhere_is_the_whole_subject_of_a_benchmark_set_and_an_error_in_ones_own(tmp_path):
    write(tmp_path, "b.yaml", BENCHMARK)
    plan = planned(tmp_path, only=["animals-000-a-lone-canine"])
    assert plan.sets["animals-000-a-lone-canine"].concept == ("a lone canine",)
    assert "masks follow its whole phrase" in notes(plan)[0]
    with pytest.raises(InputError, match="the concept 'wolf' does not occur"):
        plan_of(tmp_path, FOX.replace("concept: fox", "concept: wolf"))


def test_two_subjects_are_two_concepts_and_a_group_is_a_choice(tmp_path):
    write(tmp_path, "b.yaml", BENCHMARK.replace("- a man on a boat\n", ""))
    plan = planned(tmp_path, only=["people"])
    assert [one.concept for one in plan.sets.values()] == [("man", "woman")]
    assert next(iter(plan.sets.values())).prompts == ["A photo of a man and a woman on a boat"]


def test_two_files_of_the_same_names_are_told_apart_by_their_files(tmp_path):
    one = "animals:\n- {style: , subject: a red fox, concept_token: fox, settings: [in snow]}\n".replace(
        "style: ,", "style: '',"
    )
    write(tmp_path, "first.yaml", one)
    write(tmp_path, "second.yaml", one.replace("in snow", "in rain"))
    write(tmp_path, "a/fox.yaml", FOX)
    write(tmp_path, "b/fox.yaml", FOX.replace("snow", "rain"))
    write(tmp_path, "c/fox.yaml", FOX)
    plan = planned(tmp_path, sets=["first.yaml", "second.yaml", "a/fox.yaml", "b/fox.yaml", "c/fox.yaml"])
    assert list(plan.sets)[:4] == ["animals-000-a-red-fox", "second-animals-000-a-red-fox", "fox", "b-fox"]
    assert len(plan.units) == 4


@pytest.mark.parametrize(
    "text, message",
    [
        ("plants: []\nanimals:\n", "all its groups are empty: plants, animals"),
        ("animals: a red fox\n", "expected one prompt set"),
        ("animals: a red fox\nplants: [{subject: x}]", "animals: got str, expected a list of sets"),
        ("animals:\n- {style: x, subject: a fox, concept_token: [], settings: [y]}", r"animals\[0\]: concept_token"),
    ],
)
def test_a_benchmark_file_that_cannot_be_read_says_why(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_sets(write(tmp_path, "b.yaml", text))


def test_sets_may_be_a_list_or_named_one_by_one(tmp_path):
    one = "{style: x, subject: a fox, concept: fox, settings: [y]}"
    assert [s.name for s in read_sets(write(tmp_path, "mine.yaml", f"- {one}\n- {one}\n"))] == [
        "mine-000-a-fox",
        "mine-001-a-fox",
    ]
    assert [s.name for s in read_sets(write(tmp_path, "names.yaml", f"Red Fox: {one}\n"))] == ["red-fox"]


# ------------------------------------------------------------ names and numbers


@pytest.mark.parametrize(
    "content, message",
    [
        ({"methods": ["sdxl", "sdxl"]}, "a method stands twice: 'sdxl'"),
        ({"methods": [mine(same_latent=True), mine()]}, "a method stands twice: 'mine'"),
        ({"methods": [{**mine(), "sweep": {"n_anchors": [1, 1]}}]}, "a method stands twice: 'mine-1'"),
        ({"methods": [{**mine(), "sweep": {"n_anchors": [1]}}, mine("mine-1")]}, "a method stands twice: 'mine-1'"),
        ({"methods": [mine("svd-top-16")]}, "taken by svdstory's own"),
        ({"methods": [mine("svd-log-no-injection")]}, "taken by svdstory's own"),
        ({"methods": ["oneprompt-no-injection"]}, "oneprompt has no feature injection to go without. Use oneprompt"),
        ({"methods": [{"name": "a", "base": "b-no-injection"}, {"name": "b", "base": "a"}]}, "a -> b -> a"),
        ({"methods": [{"name": "a", "base": "b"}, {"name": "b", "base": "a"}]}, "its bases go round: a -> b -> a"),
        ({"methods": [{**mine(), "sweep": {"n_anchors": []}}]}, "at least 1 item"),
        ({"methods": [mine(**{"n_anchors.x": 1})]}, "n_anchors is 2 here and has no 'x'"),
        ({"sets": ["b.yaml", "b.yaml"]}, "a set stands twice: 'b.yaml'"),
        ({"seeds": [1, 1]}, "a seed stands twice: 1"),
        ({"scorers": ["clipscore:tiny", "clipscore:tiny"]}, "a scorer stands twice: 'clipscore:tiny'"),
        ({"guidance": float("nan")}, "guidance: got nan"),
        ({"guidance": float("inf")}, "guidance: got inf"),
        ({"seeds": [True]}, "seeds.0: got True"),
        ({"seeds": [1.0]}, "seeds.0: got 1.0"),
        ({"seeds": ["0"]}, "seeds.0: got '0'"),
        ({"steps": 1000}, "steps 1000: expected 1 or more, and at most 999"),
        ({"steps": 1001, "scheduler": "euler"}, "steps 1001: .* at most 1000"),
        ({"steps": 999, "scheduler": "unipc"}, "at most 998"),
        ({"steps": 0}, "steps 0"),
        ({"methods": [mine(**{"filter.keep_top": 4, "filter.steps": [60, 80]})]}, "filter_k acts at steps 60 to 80"),
        (
            {
                "methods": [mine(**{"filter_v.keep_top": 4, "filter_v.steps": [0, 11], "filter_v.every": 11})],
                "steps": 11,
            },
            "filter_v acts at",
        ),
        ({"methods": [mine(query_blending=True)], "steps": 9}, "mine: query_blending lasts a tenth of the steps"),
        ({"methods": [mine(query_blending=False)], "steps": 9}, "the same on or off below 10"),
        ({"methods": ["oneprompt"], "negative": "dull " * 90}, "prompt set b, negative: .* tokens"),
        ({"methods": ["unmasked"], "steps": 1}, "extended_attention acts from the second step on"),
    ],
)
def test_what_stands_twice_or_cannot_act_is_refused(tmp_path, content, message):
    write(tmp_path, "b.yaml", FOX)
    with pytest.raises(InputError, match=message):
        planned(tmp_path, **content)


def test_switches_that_need_another_image_are_refused_where_every_set_has_one(tmp_path):
    write(tmp_path, "b.yaml", FOX.replace("[in the snow, at the beach, in a city]", "in the snow"))
    same = {"name": "same", "base": "sdxl", "set": {"same_latent": True}}
    for method, switch in ((same, "same_latent"), ("random-reference", "extended_attention")):
        with pytest.raises(InputError, match=f"{switch} needs another image"):
            planned(tmp_path, methods=[method])


def test_a_sets_own_seeds_are_whole_numbers_each_once():
    fox = dict(style="", subject="a fox", concept=("fox",), settings=("x",))
    assert PromptSet(**fox, seeds=(np.int64(3), np.uint8(4))).seeds == (3, 4)
    assert type(PromptSet(**fox, seeds=np.int64(3)).seeds[0]) is int
    for seeds in ((0, 0), (np.float64(1),), (np.bool_(True),), ("1",), ()):
        with pytest.raises(ValueError):
            PromptSet(**fox, seeds=seeds)


def test_no_scorers_are_none_and_not_the_models(tmp_path):
    write(tmp_path, "b.yaml", FOX)
    assert planned(tmp_path, scorers=[]).scorers == () and planned(tmp_path).scorers


def test_white_space_of_a_users_texts_changes_no_key(tmp_path):
    plain = plan_of(tmp_path)
    spaced = FOX.replace("a red fox", "|\n  a red\n  fox\n").replace("in the snow", '" in\\u2028the  snow\\n"')
    assert keys(plan_of(tmp_path, spaced, name="spaced")) == keys(plain)


# ------------------------------------------------------------ files as people have them


@pytest.mark.parametrize(
    "wanted", ["mine/Fox.YAML", "mine/fox.json", "mine/link.yml", "mine", "./mine", "mine/", "~/mine/Fox.YAML"]
)
def test_files_are_read_as_people_have_them(tmp_path, monkeypatch, wanted):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, "mine/Fox.YAML", FOX)
    write(
        tmp_path, "mine/fox.json", json.dumps(dict(style="A photo of", subject="a fox", concept="fox", settings=["x"]))
    )
    write(tmp_path, "mine/._Fox.YAML", "\x00\x05\x16\x07")
    (tmp_path / "mine" / "link.yml").symlink_to("Fox.YAML")
    folder = Path(wanted).suffix == ""
    assert len(find_sets(wanted, tmp_path)) == (3 if folder else 1)


@pytest.mark.parametrize(
    "wanted, message",
    [
        ("https://example.org/consistory+.yaml", "download the file and give its path"),
        ("gone.yaml", "no such file in"),
        ("broken.yaml", "no such file in"),
        ("~nobody-here/x.yaml", "no such user's home"),
        ("empty", "holds no YAML or JSON files"),
    ],
)
def test_a_file_that_is_not_there_says_where_it_was_looked_for(tmp_path, wanted, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.yaml").symlink_to(tmp_path / "nowhere.yaml")
    with pytest.raises(InputError, match=message):
        find_sets(wanted, tmp_path)


def test_an_experiment_may_be_json_in_capitals_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, "E.JSON", json.dumps({"sets": ["blue-bus"], "methods": ["sdxl"], "guidance": 1e-3}))
    assert read_experiment(find_experiment("~/E.JSON")).guidance == 0.001


@pytest.mark.parametrize("device", ["gpu", "cuda:", "CUDA:0", "cuda:-1", "mps", "", "cpu:0", "0"])
def test_an_odd_device_is_refused_by_name(device):
    with pytest.raises(InputError, match="expected cpu, cuda, or cuda:1"):
        check_device(device)


# ------------------------------------------------------------ notes


@pytest.mark.parametrize(
    "text, note",
    [
        ("(red:1.3) fox", "'(red:1.3)' looks like weights"),
        ("((red)) fox", "looks like weights"),
        ("fox [NC]", "'[NC]' looks like StoryDiffusion's marks"),
        ("fox <lora:x:1>", "looks like a LoRA"),
        ("[red|blue] fox", "looks like alternatives"),
        ("fox #1 best", "YAML takes '#1 best' for a comment"),
    ],
)
def test_what_a_prompt_does_not_do_here_is_noted(tmp_path, text, note):
    plan = plan_of(tmp_path, FOX.replace("a red fox", text if "#" in text or "[" not in text[0] else f"'{text}'"))
    assert any(note in line for line in notes(plan))


def test_a_plain_plan_has_no_notes(tmp_path):
    assert notes(plan_of(tmp_path, sets=["good", "bad"])) == []


def test_a_set_outside_the_miniatures_world_is_noted_and_its_own_are_not(tmp_path):
    plan = make_plan(
        "x",
        parse(Experiment, {"sets": ["world", "blue-bus"], "methods": ["sdxl"], "model": "miniature"}, "x"),
        tmp_path,
    )
    (line,) = notes(plan)
    assert line.startswith("set blue-bus: outside the miniature's world, which knows no ")


def test_filters_that_keep_everything_and_switches_without_time_are_noted(tmp_path):
    methods = ["consistory", "consistory-no-query-blending", mine(**{"filter_k.keep_energy": 95})]
    lines = "\n".join(notes(plan_of(tmp_path, methods=methods, steps=6, exact_filter=True)))
    assert "filter_k.keep_energy 95 is all of the energy or more: it keeps everything; 95 % is 0.95" in lines
    assert "with 6 it does nothing (consistory, mine); it needs 10" in lines
    assert "consistory and consistory-no-query-blending differ in query_blending alone" in lines
    lines = notes(plan_of(tmp_path, methods=[mine(**{"filter.keep_top": 32})]))
    assert "method mine: filter_v.keep_top 32 keeps all: the rank is 32" in lines
    assert notes(plan_of(tmp_path, methods=[mine(**{"filter.keep_top": 31})])) == []
    assert "exact_filter does nothing" in "\n".join(notes(plan_of(tmp_path, methods=["sdxl"], exact_filter=True)))


# ------------------------------------------------------------ models that every unit would fail on


@pytest.fixture
def model(tmp_path) -> Path:
    """The shipped miniature's folder, as a user's own."""
    shipped = Path(plan_of(tmp_path, sets=["world-bus"], model="miniature").model.folder)
    return shutil.copytree(shipped, tmp_path / "own", ignore=shutil.ignore_patterns("judges", "*.log"))


def refused(tmp_path: Path, model: Path) -> str:
    write(tmp_path, "b.yaml", FOX)
    with pytest.raises(InputError) as error:
        planned(tmp_path, model=str(model), size=[64, 64])
    return str(error.value)


def test_a_model_folder_as_it_should_be_is_planned(tmp_path, model):
    write(tmp_path, "b.yaml", FOX)
    assert len(planned(tmp_path, model=str(model), size=[64, 64]).units) == 1


@pytest.mark.parametrize(
    "name, content, message",
    [
        (
            "unet/diffusion_pytorch_model.safetensors",
            b"version https://git-lfs.github.com/spec/v1\noid",
            "Git LFS pointer",
        ),
        ("vae/diffusion_pytorch_model.safetensors", b"", "0 bytes: cut short"),
        ("vae/diffusion_pytorch_model.safetensors", struct.pack("<Q", 5) + b"{bad}", "header cannot be read"),
        ("text_encoder/model.safetensors", b"<html>not found</html>", "cut short, or not safetensors"),
        ("vae/config.json", b"{", "not JSON"),
        ("vae/config.json", b"{}", "block_out_channels: got None"),
        ("unet/config.json", b'{"in_channels": 9}', "in_channels: got 9"),
        ("scheduler/scheduler_config.json", b"[]", "expected a JSON mapping"),
        ("tokenizer/tokenizer_config.json", b"{}", "model_max_length: got None"),
        ("tokenizer_2/tokenizer_config.json", b'{"model_max_length": 1e30}', r"model_max_length: got 1e\+30"),
        ("model_index.json", b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer, not the file"),
    ],
)
def test_a_broken_file_of_a_model_is_refused_by_its_name(tmp_path, model, name, content, message):
    (model / name).write_bytes(content)
    error = refused(tmp_path, model)
    assert str(model / name) in error
    with pytest.raises(InputError, match=message):
        raise InputError(error)


def test_weights_that_are_cut_short_say_both_sizes(tmp_path, model):
    path = model / "unet" / "diffusion_pytorch_model.safetensors"
    size = path.stat().st_size
    os.truncate(path, size - 10)
    assert f"{path}: {size - 10} bytes, its header tells of {size}: cut short" in refused(tmp_path, model)


def test_a_part_of_the_weights_that_is_missing_is_told(tmp_path, model):
    whole = model / "unet" / "diffusion_pytorch_model.safetensors"
    whole.rename(whole.with_name("diffusion_pytorch_model-00001-of-00002.safetensors"))
    assert "one of 2 parts, of which 1 are here" in refused(tmp_path, model)


def test_a_tokenizer_without_its_configuration_is_missing(tmp_path, model):
    (model / "tokenizer_2" / "tokenizer_config.json").unlink()
    assert "tokenizer_2/tokenizer_config.json" in refused(tmp_path, model)


# ------------------------------------------------------------ the command


def command(*words: str, **environment: str) -> subprocess.CompletedProcess:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHONUTF8"))}
    return subprocess.run([sys.executable, "-m", "svdstory.jobs", *words], env=env | environment, capture_output=True)


@pytest.mark.parametrize(
    "words",
    [
        ("plan", "e.yaml", "--sets", ""),
        ("plan", "e.yaml", "--methods", " , "),
        ("plan", "e.yaml", "--seeds", ""),
        ("plan", "e.yaml", "--sets", "gone"),
        ("run", "e.yaml", "--device", "gpu"),
        ("run", "e.yaml", "--out", "e.yaml"),
        ("plan", "loop.yaml"),
        ("plan", "nan.yaml"),
        ("reduce", "e.yaml"),
    ],
)
def test_bad_input_is_a_message_and_exit_status_2_without_a_traceback(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "b.yaml", FOX)
    write(tmp_path, "e.yaml", "sets: [b.yaml]\nmethods: [sdxl]\nmodel: tiny\n")
    write(tmp_path, "loop.yaml", "sets: &a [*a]\nmethods: [sdxl]\n")
    write(tmp_path, "nan.yaml", "sets: [b.yaml]\nmethods: [sdxl]\nmodel: tiny\nguidance: .nan\n")
    done = command(*words)
    assert done.returncode == 2 and done.stderr.startswith(b"svdstory: ") and len(done.stderr.splitlines()) == 1


def test_a_locale_that_is_not_utf8_changes_no_file_and_replaces_what_a_terminal_cannot_show(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "лиса.yaml", FOX.replace("a red fox", "рыжая лиса").replace("concept: fox", "concept: лиса"))
    write(tmp_path, "e.yaml", "sets: [лиса.yaml]\nmethods: [sdxl]\nmodel: tiny\n")
    done = command("plan", "e.yaml", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", PYTHONIOENCODING="latin-1")
    assert done.returncode == 0 and b"????" in done.stdout


def test_names_between_commas_may_have_blanks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "e.yaml", "sets: [good]\nmethods: [sdxl]\nmodel: tiny\n")
    done = command("plan", "e.yaml", "--sets", "blue-bus, corgi-puppy ,", "--methods", "sdxl , consistory")
    assert done.returncode == 0 and b"cells       4" in done.stdout


def test_a_device_that_is_not_here_ends_the_run_before_anything_is_scored(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "b.yaml", FOX)
    write(tmp_path, "e.yaml", "sets: [b.yaml]\nmethods: [sdxl]\nmodel: tiny\n")
    done = command("run", "e.yaml", "--device", "cuda:99", "--out", "run")
    assert done.returncode == 2 and b"device cuda:99" in done.stderr and b"Traceback" not in done.stderr
    assert not (tmp_path / "run" / "report").exists()


WORD = st.sampled_from(
    ["good", "blue-bus", "sdxl", "consistory", "svd-log", "tiny", "a", "on", "~", "x.yaml", "\x00", ""]
)
VALUE = st.recursive(
    WORD | st.none() | st.booleans() | st.integers(-2, 1200) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORD, inner, max_size=3),
    max_leaves=8,
)
SWITCH = st.sampled_from(["filter.keep_top", "filter.steps", "filter", "n_anchors.x", "mask_dropout", "freeu.s1"])
METHOD = st.fixed_dictionaries(
    {"name": st.sampled_from(["a", "b", "a-1"])},
    optional={
        "base": st.sampled_from(["a", "b", "unmasked", "svd-top"]),
        "set": st.dictionaries(SWITCH, VALUE, max_size=2),
        "sweep": st.dictionaries(SWITCH, st.lists(VALUE, max_size=2), max_size=2),
    },
)
EXPERIMENT = st.fixed_dictionaries(
    {"sets": VALUE | st.just(["blue-bus"]), "methods": st.lists(METHOD, max_size=3) | VALUE, "model": st.just("tiny")},
    optional={key: VALUE for key in ("steps", "seeds", "size", "guidance", "scheduler", "scorers", "font", "about")},
)


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(content=EXPERIMENT)
def test_no_experiment_makes_the_plan_anything_but_a_plan_or_an_input_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzz-experiment.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    try:
        notes(make_plan("fuzz", read_experiment(path), path.parent))
    except InputError as error:
        assert str(error).strip()
