"""Run folders of version 0.1 can be read, shown and resumed.

The archive has eight finished runs, one that failed and one that was stopped after 5 of 12 epochs,
with the output of version 0.1 for them: their comparison, and the result of the stopped run.
"""

from __future__ import annotations

import io
import json
import tarfile
import warnings
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from test_launch_train import train

import launch.training.run
from analysis.folder import is_finished, list_runs, read_epochs, read_result
from launch.cli import main
from launch.runs.reading import read_run

ARCHIVE = Path(__file__).parent / "fixtures" / "runs-0.1.tar.xz"


@pytest.fixture
def root(tmp_path):
    with tarfile.open(ARCHIVE) as archive:
        # Python 3.11.2, which Debian 12 has, knows no filters
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(tmp_path)
    return tmp_path / "runs"


@pytest.fixture
def expected(root):
    return json.loads((root.parent / "expected.json").read_text())


def test_the_comparison_is_that_of_version_0_1(root, expected, capsys):
    assert main(["table", "compare", "--format", "csv", "--runs", str(root)]) == 0
    now, then = (
        pd.read_csv(io.StringIO(text)) for text in (capsys.readouterr().out, expected["compare"])
    )
    assert now["failed"].tolist().count(1) == 1  # version 0.1 did not show it
    finished = now[now["runs"] > 0].reset_index(drop=True)
    # what the default of str is now, and labels that say which part is of which run
    now_named = {
        "str": "str-target",
        "fixed (rigl@final, rigl@1)": "fixed (rigl@final, signs=rigl@1)",
    }
    then["label"] = then["label"].replace(now_named)
    same = then.drop(columns=["tied", "gain_low", "gain_high"])  # need three seeds now
    pd.testing.assert_frame_equal(finished[list(same)], same, check_dtype=False)
    assert not finished["tied"].any() and finished["gain_low"].isna().all()


def test_curves_are_drawn(root, tmp_path):
    path = tmp_path / "curves.svg"
    assert main(["figure", "curves", "--runs", str(root), "-o", str(path)]) == 0
    picture = path.read_text()
    entries = ("Random + Sign-In", "STR (target)", "RigL mask", "Dense")
    assert all(entry in picture for entry in entries)


def test_the_report_has_all_runs(root, tmp_path, capsys):
    path = tmp_path / "report.html"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a folder that cannot be read is left out with a warning
        assert main(["report", "--runs", str(root), "-o", str(path)]) == 0
    report = path.read_text()
    assert all(folder.name in report for folder in list_runs(root))
    assert "8 finished, 1 stopped, 1 failed" in report and "<figure>" in report


def test_the_status_of_each_run(root, expected, capsys):
    assert main(["status", "--runs", str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "1 stopped, 1 failed, 8 finished"
    states = {line.split()[1]: line for line in lines[:-1]}
    assert "epoch 5/12, accuracy 82.80%" in states[expected["stopped"]]
    (failed,) = (line for line in lines if line.startswith("failed"))
    assert "Diverged: loss is nan at epoch 0, step 2" in failed


def test_finished_runs_keep_their_names_and_are_not_trained_again(root, machine, monkeypatch):
    monkeypatch.setattr(launch.training.run, "Training", None)
    finished = [folder for folder in list_runs(root) if is_finished(folder)]
    assert len(finished) == 8
    for folder in finished:
        run = read_run(folder)
        assert run.name == folder.name
        assert train(run, replace(machine, runs=root)) == read_result(folder)


def test_the_stopped_run_resumes_and_ends_as_in_version_0_1(root, expected, machine):
    folder = root / expected["stopped"]
    before = read_epochs(folder)
    run = read_run(folder)
    assert run.name == folder.name and len(before) == 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a state that cannot be read is set aside with a warning
        warnings.filterwarnings("ignore", message=".* resumes with (torch|revision) ")
        result = train(run, replace(machine, runs=root))
    after = read_epochs(folder)
    assert after[:5] == before and [row["epoch"] for row in after] == list(range(12))
    # other CPUs round differently, which an epoch of SGD amplifies
    assert result["accuracy"] == pytest.approx(expected["result"]["accuracy"], abs=0.005)
    for name in ("active", "prunable", "parameters", "sparsity", "epochs", "dense_flops"):
        assert result[name] == expected["result"][name]
    assert result.keys() >= expected["result"].keys()


@pytest.mark.parametrize("file", ["epochs.csv", "layers.csv"])
def test_rows_that_the_stopped_run_has_lost_stay_missing_with_a_warning(
    root, expected, machine, file
):
    folder = root / expected["stopped"]
    (folder / file).unlink()
    with pytest.warns(UserWarning, match=rf"{file} lacks rows of epochs 0, 1, 2, 3, 4"):
        result = train(read_run(folder), replace(machine, runs=root))
    assert result["accuracy"] == pytest.approx(expected["result"]["accuracy"], abs=0.005)
    known = file == "epochs.csv"
    assert ("training_flops" in result) == ("dense_epochs" in result) == known
