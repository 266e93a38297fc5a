"""Figures: all of the report's, by name, in two languages, from any run; and what cannot be drawn says why."""

import re

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from svdstory.jobs.report.cells import read_study
from svdstory.jobs.report.figures import FIGURES, chosen
from svdstory.jobs.report.figures.heatmaps import kv_points, winners
from svdstory.jobs.report.figures.material import Material
from svdstory.jobs.report.figures.pictures import extreme_set
from svdstory.jobs.report.figures.scatter import pareto, shares
from svdstory.jobs.report.figures.token_maps import recorded
from svdstory.jobs.report.findings import find
from svdstory.jobs.report.labels import LANGUAGES, WORDS, method_label, metric_label
from svdstory.jobs.report.reduce import file_names, pack_path, reduce
from svdstory.pipeline.config.named_methods import expand, shipped_entries
from svdstory.pipeline.config.strict import InputError
from tests.jobs.synthetic import score, synthetic_run

METHODS = (
    "sdxl",
    "consistory",
    "consistory-same-latent",
    "consistory-dropout",
    "unmasked",
    "svd-fraction",
    "svd-kv",
    "svd-log",
    "svd-log2",
)


SQUARE = np.zeros((16, 16), np.uint8)
SQUARE[4:10, 6:12] = 1


def planted(side: int) -> np.ndarray:
    """(2, side²) token maps: the subject's square alone, and the same everywhere."""
    square = SQUARE if side == 16 else SQUARE[::2, ::2]
    maps = np.stack([square.ravel().astype(np.float32), np.ones(side * side, np.float32)])
    return maps / np.linalg.norm(maps, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that gives every figure."""
    run = tmp_path_factory.mktemp("figures") / "run"
    plan = synthetic_run(run, sets=("blue-bus", "doctor", "red-fox", "dolphin"), methods=METHODS, seeds=(0,))
    score(run, plan, "clipscore:tiny", {"clipscore": 0.7})
    score(run, plan, "dreamsim", {"dreamsim": 0.3, "dreamsim_subject": 0.4})
    score(run, plan, "background", {"background": 0.2})
    (run / "spectra").mkdir()
    decay = (1600 * np.arange(1, 201.0) ** -1.2).astype(np.float32)
    save_file(
        {f"{m}.{layer}.{step}": decay / (1 + step) for m in "kv" for layer in (24, 41, 59) for step in (1, 5)}
        | {
            f"{m}.{layer}.{step}.tokens": planted(16 if layer == 59 else 8)
            for m in "kv"
            for layer in (24, 41, 59)
            for step in (1, 5)
        }
        | {"mask": SQUARE},
        run / "spectra" / "unit.safetensors",
    )
    return run, plan, reduce(run)


@pytest.fixture(scope="module")
def material(run):
    study = read_study(run[0])
    return Material(study, find(study), {s: pack_path(run[0], n) for s, n in file_names(study).items()})


def test_every_figure_is_there_for_looking_and_for_latex(run):
    folder = run[0] / "report" / "figures"
    assert not run[2].not_drawn
    assert {p.name for p in folder.glob("*.p*")} == {f"{n}.{kind}" for n in FIGURES for kind in ("png", "pdf")}
    for path in folder.glob("*.png"):
        image = Image.open(path)
        assert image.width > 700 and {"prompt", "seed", "method", "unit"} <= set(image.text), path
    assert all(p.read_bytes().startswith(b"%PDF") for p in folder.glob("*.pdf"))


def test_the_same_run_gives_the_same_bytes(material):
    from svdstory.jobs.report.figures.style import files

    for name in ("leakage", "comparison"):
        assert files(FIGURES[name].draw(material)) == files(FIGURES[name].draw(material))


def test_labels_can_be_russian(run, material):
    from svdstory.jobs.report.figures.style import plt

    figure = FIGURES["leakage"].draw(Material(material.study, material.findings, material.packs, "ru"))
    assert figure.axes[0].get_xlabel() == "Доля сохранённых сингулярных чисел"
    plt.close(figure)
    assert all(len(texts) == len(LANGUAGES) for texts in WORDS.values())
    with pytest.raises(InputError, match="expected en or ru"):
        reduce(run[0], lang="de")


def test_what_the_run_does_not_give_is_said_with_the_command_that_helps(tmp_path):
    synthetic_run(tmp_path, sets=("blue-bus",), methods=("sdxl",), seeds=(0,))
    result = reduce(tmp_path)
    assert set(result.not_drawn) == set(FIGURES)
    assert "svdstory spectra RUN" in result.not_drawn["spectra"]
    assert "svdstory score RUN" in result.not_drawn["tradeoff"]
    assert "no good sets" in result.not_drawn["good-bad"]
    assert "not drawn: spectra, reweighting (no spectra" in result.summary


def test_figures_can_be_chosen_by_name_and_a_wrong_name_is_an_error():
    assert [f.name for f in chosen(["sets", "kv-grid"])] == ["kv-grid", "sets"]
    with pytest.raises(InputError, match="did you mean 'tradeoff'"):
        chosen(["trade-off"])


def test_pareto_front_holds_what_nothing_beats_in_both():
    points = {"a": (1.0, 3.0), "b": (2.0, 2.0), "beaten": (1.5, 1.9), "c": (3.0, 1.0), "low": (0.0, 0.0)}
    assert pareto(points) == ["a", "b", "c"]


def test_kv_grid_takes_equal_shares_from_svd_fraction_too(material):
    points = kv_points(material)
    assert set(points) == {(k, v) for k in (0.01, 0.05, 0.1) for v in (0.01, 0.05, 0.1)}


def test_a_components_share_of_the_subject_is_all_where_it_was_planted_and_the_area_where_it_has_no_pattern(run):
    (found,) = recorded(run[0])
    for place in found.maps:  # at the mask's resolution and at half of it
        assert found.subject_share(place) == pytest.approx([1, SQUARE.mean()])
        assert (found.picture(place, 0) > 0).sum() == found.mask_at(place).sum()


def test_leakage_is_drawn_over_the_share_kept_of_both(material):
    assert {share for share in shares(material).values()} == {0.01, 0.05, 0.1, 0.2, 1.0}
    assert shares(material)["unmasked"] == 1.0


def test_winners_repair_a_bad_set_when_they_reach_the_baselines_good_sets(material):
    metric, won = material.findings.axes["consistency"], winners(material)
    assert metric == "dreamsim_subject"
    good = np.median([material.set_mean(metric, "consistory", s) for s in ("red-fox", "dolphin")])
    for (method, name), state in won.items():
        ours, theirs = (material.set_mean(metric, m, name) for m in (method, "consistory"))
        assert state == ("not" if ours >= theirs else "repaired" if ours <= good else "improved")


def test_good_bad_shows_the_most_and_the_least_consistent_set(material):
    metric = material.findings.axes["consistency"]
    value = {s: material.set_mean(metric, "consistory", s) for s in material.study.plan.sets}
    assert extreme_set(material, "consistory", "good") == min(("red-fox", "dolphin"), key=value.get)
    assert extreme_set(material, "consistory", "bad") == max(("blue-bus", "doctor"), key=value.get)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_shipped_method_has_a_label_of_its_own(lang):
    labels = {name: method_label(name, lang) for entry in shipped_entries() for name in expand(entry)}
    twins = {f"{name}-no-injection": label for name, label in labels.items()}
    labels |= {name: method_label(name, lang) for name in twins}
    assert all(label != labels[name] and label in labels[name] for name, label in twins.items())
    assert len(set(labels.values())) == len(labels)
    assert not [name for name, label in labels.items() if re.search(r"[{}]", label) or label == name]


def test_metrics_are_named_as_papers_name_them():
    assert metric_label("dreamsim_subject:dino_vitb16") == "DreamSim distance (subject), dino_vitb16"
    assert metric_label("clipscore:tiny") == "CLIPScore, tiny"
