"""Reference pictures: how they are said, how they are read, and what is refused before anything is queued."""

import io
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageCms

from svdstory.jobs.node.scoring import score_run
from svdstory.jobs.node.worker import work
from svdstory.jobs.report.measurements import read_measurements
from svdstory.jobs.report.set_grids import reference_rows
from svdstory.jobs.study.experiment import Experiment
from svdstory.jobs.study.notes import notes
from svdstory.jobs.study.plan import make_plan, read_plan, write_plan
from svdstory.jobs.study.reference_files import placed
from svdstory.jobs.study.run_folder import check_growth
from svdstory.jobs.study.store import Store
from svdstory.pipeline.config.prompt_files import read_sets
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.references import Reference, located, read_picture
from svdstory.pipeline.config.strict import InputError, parse

SET = "style: A photo of\nsubject: a corgi\nconcept: corgi\nsettings: [on the beach, in the snow, in a city]\n"
SIZE = (64, 64)


def photo(path: Path, size=(96, 64), colour=(200, 30, 40), **saved) -> Path:
    Image.new("RGB", size, colour).save(path, **saved)
    return path


def set_of(folder: Path, text: str) -> PromptSet:
    (folder / "corgi.yaml").write_text(text)
    [one] = read_sets(folder / "corgi.yaml")
    return one


def plan_of(folder: Path, text: str, methods=("sdxl", "consistory"), **experiment):
    (folder / "corgi.yaml").write_text(text)
    content = {"sets": ["corgi.yaml"], "methods": list(methods), "model": "tiny", "size": list(SIZE), **experiment}
    return make_plan("test", parse(Experiment, content, "test"), folder)


def keys(plan) -> dict[str, str]:
    return {cell.method: cell.key for cell in plan.cells}


def test_a_set_names_pictures_alone_or_with_their_setting_relative_to_its_file(tmp_path):
    one = set_of(tmp_path, SET + "references: [my-photo.png, {image: second.jpg, setting: on a sofa}]\n")
    assert [r.image for r in one.references] == [str(tmp_path / "my-photo.png"), str(tmp_path / "second.jpg")]
    assert one.reference_prompts == ["A photo of a corgi", "A photo of a corgi on a sofa"]


@pytest.mark.parametrize("concept, subject", [("corgi", "a corgi"), ("[owl]", "an owl")])
def test_a_picture_as_subject_is_the_first_reference_and_the_concept_its_words(tmp_path, concept, subject):
    text = f"style: A photo of\nsubject: me.PNG\nconcept: {concept}\nreferences: [b.png]\nsettings: [on the beach]\n"
    one = set_of(tmp_path, text)
    assert one.subject == subject and one.prompts == [f"A photo of {subject} on the beach"]
    assert [Path(r.image).name for r in one.references] == ["me.PNG", "b.png"]


@pytest.mark.parametrize(
    "text, said",
    [
        ("style: x\nsubject: me.png\nsettings: [here]\n", "Write two lines: `subject: me.png` and `concept: corgi`"),
        ("style: x\nsubject: [me.png, a cat]\nconcept: cat\nsettings: [here]\n", "Give pictures as `references:`"),
        (SET + "references: []\n", "references: got none, expected 1 to 20 pictures"),
        (SET + f"references: {[f'{i}.png' for i in range(21)]}\n", "21 pictures, expected 1 to 20"),
    ],
)
def test_sets_that_cannot_be_are_told_of(tmp_path, text, said):
    with pytest.raises(InputError) as error:
        set_of(tmp_path, text)
    assert said in str(error.value) and "corgi.yaml" in str(error.value)


def test_python_takes_paths():
    one = PromptSet(style="x", subject="a dog", concept="dog", settings="here", references=(Path("a.png"), "b.png"))
    assert [r.image for r in one.references] == ["a.png", "b.png"]


def test_a_set_without_references_keeps_its_keys_and_plan(tmp_path):
    folder = tmp_path / "sets"
    folder.mkdir()
    text = "style: A photo of\nsubject: a red fox\nconcept: fox\nsettings: [in the snow, at the beach, in a city]\n"
    (folder / "fox.yaml").write_text(text)
    experiment = parse(Experiment, {"sets": ["fox.yaml"], "methods": ["sdxl", "consistory"], "model": "tiny"}, "test")
    plan = make_plan("test", experiment, folder)
    assert keys(plan) == {"sdxl": "c1694155ea5e888e4fc78d4f", "consistory": "d4adce2e76032ce7a3a1c89a"}
    assert plan.hash() == "37af579784f9"  # all of them as before there were references


def test_keys_hold_what_a_picture_is_not_where_it_lies_and_only_for_methods_that_use_it(tmp_path):
    bare = keys(plan_of(tmp_path, SET))
    photo(tmp_path / "one.png"), photo(tmp_path / "two.png", colour=(0, 0, 90))
    shown = keys(plan_of(tmp_path, SET + "references: [one.png]\n"))
    assert shown["sdxl"] == bare["sdxl"] and shown["consistory"] != bare["consistory"]
    (tmp_path / "elsewhere").mkdir(), (tmp_path / "one.png").rename(tmp_path / "elsewhere" / "other-name.png")
    moved = plan_of(tmp_path, SET + "references: [elsewhere/other-name.png]\n")
    assert keys(moved) == shown
    setting = keys(plan_of(tmp_path, SET + "references: [{image: elsewhere/other-name.png, setting: on a sofa}]\n"))
    other = keys(plan_of(tmp_path, SET + "references: [two.png]\n"))
    assert len({k["consistory"] for k in (bare, shown, setting, other)}) == 4


def test_pictures_beyond_a_methods_anchors_change_no_key_and_fewer_pictures_are_as_fewer_anchors(tmp_path):
    for i in range(3):
        photo(tmp_path / f"{i}.png", colour=(i, 0, 0))
    methods = ["consistory", "consistory-anchors-1"]
    counts = ("[0.png]", "[0.png, 1.png]", "[0.png, 1.png, 2.png]")
    by_count = [keys(plan_of(tmp_path, SET + f"references: {names}\n", methods)) for names in counts]
    assert by_count[1] == by_count[2]
    assert by_count[0]["consistory"] == by_count[0]["consistory-anchors-1"] == by_count[1]["consistory-anchors-1"]


def test_the_plan_keeps_the_pictures_beside_the_run(tmp_path):
    given = photo(tmp_path / "one.png")
    plan = plan_of(tmp_path, SET + "references: [one.png]\n")
    path = write_plan(plan, tmp_path / "run")
    given.unlink()
    [reference] = placed(read_plan(path).sets["corgi"], tmp_path / "run").references
    assert reference.image == str(tmp_path / "run" / "references" / f"{reference.sha256}.png")
    assert reference.pixels == (96, 64) and read_picture(reference, SIZE).size == SIZE


def test_a_picture_that_changes_after_the_plan_is_an_error(tmp_path):
    photo(tmp_path / "one.png")
    plan = plan_of(tmp_path, SET + "references: [one.png]\n")
    photo(tmp_path / "one.png", colour=(1, 2, 3))
    with pytest.raises(InputError, match=r"one.png: changed since the plan: its sha256 is .* make another run"):
        write_plan(plan, tmp_path / "run")
    assert not list((tmp_path / "run" / "plans").iterdir())
    changed = plan_of(tmp_path, SET + "references: [one.png]\n")
    write_plan(changed, tmp_path / "run")
    photo(tmp_path / "one.png", colour=(9, 9, 9))
    with pytest.raises(InputError, match="one.png: changed since the plan"):
        check_growth(plan_of(tmp_path, SET + "references: [one.png]\n"), tmp_path / "run")


def gif(path: Path):
    frames = [Image.new("RGB", SIZE, (i * 90, 0, 0)) for i in range(2)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def cut(path: Path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    noise.save(path, "PNG")
    path.write_bytes(path.read_bytes()[:3000])


def large(path: Path):
    buffer = io.BytesIO()
    Image.new("1", (16, 16)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = (20000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    path.write_bytes(data)


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda path: None, "cannot be read (No such file or directory): check the path"),
        (lambda path: path.write_text("words"), "not a picture that can be read"),
        (gif, "animated (2 pictures): save one of them"),
        (cut, "cut off"),
        (lambda path: photo(path, (15, 64), format="PNG"), "15 × 64 pixels, expected at least 16 × 16"),
        (large, "over 100 megapixels"),
    ],
)
def test_pictures_that_cannot_serve_are_refused_by_name_before_anything_is_queued(tmp_path, make, said):
    make(tmp_path / "bad.gif")
    with pytest.raises(InputError) as error:
        plan_of(tmp_path, SET + "references: [bad.gif]\n")
    assert f"prompt set corgi: reference {tmp_path / 'bad.gif'}: {said}" in str(error.value)


def test_the_same_picture_twice_is_refused_and_all_faults_are_told_at_once(tmp_path):
    photo(tmp_path / "a.png"), photo(tmp_path / "b.png")
    with pytest.raises(InputError) as error:
        plan_of(tmp_path, SET + "references: [a.png, b.png, none.png]\n")
    assert f"b.png: the same picture as {tmp_path / 'a.png'}" in str(error.value)
    assert "none.png: cannot be read" in str(error.value)


def test_a_small_picture_is_told_of(tmp_path):
    photo(tmp_path / "small.png", (30, 31))
    _, [note] = located([Reference(image=str(tmp_path / "small.png"))], SIZE)
    assert "30 × 31 pixels: it will be enlarged" in note
    assert "enlarged" in plan_of(tmp_path, SET + "references: [small.png]\n").sets["corgi"].note


def test_one_text_for_all_images_leaves_reference_pictures_no_place(tmp_path):
    photo(tmp_path / "a.png")
    off = {"window_length": 2, "reweighting": None, "identity_attention": None, "zero_pooled": False}
    both = {"name": "both", "base": "consistory", "set": {"oneprompt": off}}
    with pytest.raises(InputError, match="method both: oneprompt writes one text"):
        plan_of(tmp_path, SET + "references: [a.png]\n", [both])


def read(path: Path) -> np.ndarray:
    return np.asarray(read_picture(Reference(image=str(path)), SIZE))


def test_the_centre_is_cropped_to_the_studys_aspect(tmp_path):
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[:, 32:96] = 255
    Image.fromarray(wide).save(tmp_path / "a.png")
    assert (read(tmp_path / "a.png") == 255).all()


def test_a_phones_picture_is_turned_as_its_exif_says(tmp_path):
    image, exif = Image.new("RGB", SIZE), Image.Exif()
    image.paste((255, 255, 255), (0, 0, 64, 32))  # its upper half
    exif[0x0112] = 6  # to be turned clockwise: the upper half is then the right one
    image.save(tmp_path / "a.png", exif=exif)
    assert read(tmp_path / "a.png")[:, 40:].min() > 200 and read(tmp_path / "a.png")[:, :24].max() < 50


def test_what_is_transparent_is_white(tmp_path):
    Image.new("RGBA", SIZE, (255, 0, 0, 0)).save(tmp_path / "a.png")
    assert (read(tmp_path / "a.png") == 255).all()


def test_an_embedded_profile_is_heeded(tmp_path):
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    photo(tmp_path / "srgb.png", icc_profile=lab)
    photo(tmp_path / "broken.png", icc_profile=b"no profile")
    for name in ("srgb.png", "broken.png"):
        assert np.abs(read(tmp_path / name).astype(int) - (200, 30, 40)).max() <= 1
    wide = lab.replace(lab[tag_at(lab, b"rXYZ") :][:20], xyz(0.515, 0.241, -0.001)).replace(
        lab[tag_at(lab, b"gXYZ") :][:20], xyz(0.292, 0.692, 0.042)
    )  # Display P3's primaries
    photo(tmp_path / "p3.png", icc_profile=wide)
    assert read(tmp_path / "p3.png")[0, 0, 0] > 210  # the same numbers are a redder red there


def tag_at(profile: bytes, name: bytes) -> int:
    entry = profile.index(name)
    return int.from_bytes(profile[entry + 4 : entry + 8], "big")


def xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(round(v * 65536).to_bytes(4, "big", signed=True) for v in values)


def test_sixteen_bits_of_grey_are_not_clipped(tmp_path):
    Image.fromarray(np.full((64, 64), 0x8000, np.uint16)).save(tmp_path / "a.png")
    assert (read(tmp_path / "a.png") == 128).all()


def test_the_grid_begins_with_the_pictures(tmp_path):
    photo(tmp_path / "one.png")
    plan = plan_of(tmp_path, SET + "references: [one.png]\n")
    write_plan(plan, tmp_path / "run")
    study = SimpleNamespace(run=tmp_path / "run", plan=plan)
    [row] = reference_rows(study, plan.sets["corgi"], seeds=2, lang="en")
    assert row.label == "reference pictures" and [len(part) for part in row.parts] == [1, 0]
    assert row.parts[0][0].size == SIZE
    next((tmp_path / "run" / "references").iterdir()).write_bytes(b"damaged")
    assert "changed since the plan" in reference_rows(study, plan.sets["corgi"], 1, "en")[0].parts[0]


def test_the_plan_says_who_ignores_the_pictures_and_which_serve(tmp_path):
    for i in range(3):
        photo(tmp_path / f"{i}.png", colour=(i, 0, 0))
    said = notes(plan_of(tmp_path, SET + "references: [0.png, 1.png, 2.png]\n"))
    assert any("reference pictures are not for sdxl" in line for line in said)
    assert any("method consistory" in line and "the first 2 serve" in line for line in said)
    assert not any("reference" in line for line in notes(plan_of(tmp_path, SET)))


def test_a_unit_scored_before_its_set_had_pictures_is_scored_again_beside_them(tmp_path):
    run, beside = tmp_path / "run", "clip_i_reference:tiny"
    for references in ("", "references: [one.png]\n"):
        photo(tmp_path / "one.png")
        plan = plan_of(tmp_path, SET + references, methods=["sdxl"], steps=2)
        write_plan(plan, run)
        work(plan, Store(run), plan.units, device="cpu")
        scored = score_run(run, ["clip-i:tiny"])
        assert len(scored.scored) == 1 and len(score_run(run, ["clip-i:tiny"]).fresh) == 1
        told = {m.metric: m.value for m in read_measurements(plan, Store(run), ["clip-i:tiny"]).cells}
        assert (told.get(beside) is not None) == bool(references)
