"""Tables: every number with its n and protocol, stable bytes, nothing of a user's text in LaTeX's or a sheet's code."""

import csv
import io

from svdstory.jobs.report.escaping import latex
from svdstory.jobs.report.statistics import Measurement, compare, summarise
from svdstory.jobs.report.tables.rows import statistics_rows, to_csv, to_latex

PROTOCOLS = {
    "clipscore": {
        "scorer": "clipscore",
        "embedder": "clip ViT-B-32-quickgelu",
        "weights": "ab12" * 16,
        "library": "open_clip_torch 3.3.0",
        "preprocessing": "bicubic 224",
        "background": "whole",
    }
}


def measured(missing=False):
    values = {"sdxl": [0.7, 0.6, 0.8], "svd_log&5%": [0.75, 0.66, 0.83]}
    return [
        Measurement(
            "clipscore",
            method,
            f"set{i}",
            "good",
            0,
            None if missing and i == 1 else value,
            "out of memory" if missing and i == 1 else "",
        )
        for method, numbers in values.items()
        for i, value in enumerate(numbers)
    ]


def rows(missing=False):
    cells = measured(missing)
    return statistics_rows(summarise(cells), compare(cells, "sdxl"), PROTOCOLS)


def test_each_row_carries_n_what_is_missing_and_the_protocol():
    row = rows(missing=True)[0]
    assert (row["sets"], row["sets_left_out"], row["cells_missing"]) == (2, 1, 1)
    assert row["weights"] == "ab12" * 16 and len(row["protocol"]) == 12


def test_the_csv_reads_back_and_has_the_same_bytes_each_time():
    text = to_csv(rows())
    assert text == to_csv(rows()) and "\r" not in text
    read = list(csv.DictReader(io.StringIO(text)))
    assert read[0]["mean"] == "0.700000" and read[0]["difference"] == "" and read[2]["method"] == "svd_log&5%"
    assert float(read[2]["difference"]) == 0.046667


def test_text_that_a_spreadsheet_would_run_is_made_harmless_and_negative_numbers_stay():
    assert to_csv([{"set": "=1+1", "difference": -0.5, "seed": -1}]) == "set,difference,seed\n'=1+1,-0.500000,-1\n"


def test_the_latex_table_is_booktabs_with_n_beside_each_number_and_escaped_names():
    text = to_latex(rows(), ["clipscore"])
    assert r"\toprule" in text and r"\bottomrule" in text
    assert r"svd\_log\&5\%" in text and text.count("$n$=3") == 2
    assert "ab12ab12ab12" in text and "RANDOM" not in text
    assert text == to_latex(rows(), ["clipscore"])


def test_the_latex_caption_says_that_cells_are_missing_and_that_weights_are_random():
    protocols = {"clipscore": {**PROTOCOLS["clipscore"], "weights": "random (no weights staged)"}}
    cells = measured(missing=True)
    text = to_latex(statistics_rows(summarise(cells), compare(cells, "sdxl"), protocols), ["clipscore"])
    assert "up to 1 cells of a method are missing" in text and "RANDOM WEIGHTS: NO MEANING" in text


def test_latex_special_characters_are_escaped():
    assert latex(r"a_b\c^{~}") == r"a\_b\textbackslash{}c\textasciicircum{}\{\textasciitilde{}\}"
