"""Tables against means and deviations by hand."""

from __future__ import annotations

import json
import statistics

import pandas as pd
import pytest

from analysis.runs import load_runs
from analysis.tables import compare, to_latex, to_text, write

ACCURACIES = {
    ("dense", False): [0.97, 0.98],
    ("random", False): [0.90, 0.92, 0.91],
    ("random", True): [0.93, 0.95, 0.97],
    ("50% & more", False): [0.5],
}


@pytest.fixture
def folders(tmp_path):
    for (label, sign_in), values in ACCURACIES.items():
        for seed, accuracy in enumerate(values):
            folder = tmp_path / f"{label}-{sign_in}-{seed}"
            folder.mkdir()
            sparsity = 0.0 if label == "dense" else 0.9
            run = {"recipe": "digits", "method": "m", "sparsity": sparsity, "sign_in": sign_in}
            config = {"run": {**run, "seed": seed, "settings": {"lr": 0.1}}, "label": label}
            result = {
                "accuracy": accuracy,
                "sparsity": sparsity,
                "sparsity_all": sparsity,
                "seconds": 1.0,
            }
            (folder / "config.json").write_text(json.dumps(config))
            (folder / "result.json").write_text(json.dumps(result))
    return sorted(tmp_path.iterdir())


def test_compare_gives_mean_and_sample_deviation(folders):
    table = compare(load_runs(folders)).set_index(["label", "sign_in"])
    for key, values in ACCURACIES.items():
        row = table.loc[key]
        assert row["accuracy"] == pytest.approx(100 * statistics.mean(values))
        assert row["runs"] == len(values)
        if len(values) > 1:
            assert row["std"] == pytest.approx(100 * statistics.stdev(values))
        else:
            assert pd.isna(row["std"])
    assert table["best"].to_dict() == {
        ("dense", False): True,
        ("random", False): False,
        ("random", True): True,
        ("50% & more", False): False,
    }


def test_gain_is_over_runs_of_the_same_seed(folders):
    table = compare(load_runs(folders)).set_index(["label", "sign_in"])
    differences = [
        100 * (b - a)
        for a, b in zip(ACCURACIES["random", False], ACCURACIES["random", True], strict=True)
    ]
    row = table.loc[("random", True)]
    assert row["gain"] == pytest.approx(statistics.mean(differences))
    assert row["gain_std"] == pytest.approx(statistics.stdev(differences))
    assert table["gain"].notna().sum() == 1
    only_plain = [f for f in folders if "True" not in f.name]
    assert compare(load_runs(only_plain))["gain"].isna().all()


def test_text_marks_the_best(folders):
    table = compare(load_runs(folders))
    lines = to_text(table, colour=False).splitlines()
    assert [line.endswith("*") for line in lines[1:]] == table["best"].tolist()
    assert "95.00 ± 2.00" in to_text(table, colour=False)
    assert to_text(table, colour=True).count("\033[1m") == 2


def test_latex_is_booktabs_escaped_and_bold(folders):
    text = to_latex(compare(load_runs(folders)))
    assert "\\toprule" in text and "\\bottomrule" in text
    assert "\\bfseries 95.00 $\\pm$ 2.00" in text
    assert "50\\% \\& more" in text


def test_written_csv_has_the_numbers(folders, tmp_path):
    csv, tex = write(compare(load_runs(folders)), tmp_path / "out", "name")
    table = pd.read_csv(csv)
    assert len(table) == 4 and tex.exists()
    assert table["accuracy"].max() == pytest.approx(97.5)


def test_folders_that_cannot_be_read_are_named_and_left_out(folders):
    (folders[0] / "result.json").write_text('{"accuracy": 0.')
    (folders[1] / "config.json").write_text("[]")
    (folders[2] / "result.json").unlink()
    with pytest.warns(UserWarning, match="is left out") as warned:
        runs = load_runs(folders)
    assert len(warned) == 2
    assert len(runs) == len(folders) - 3
