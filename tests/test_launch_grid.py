"""The table that a grid ends with, of made-up runs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from test_analysis_tables import write_run

from analysis.folder import read_result
from analysis.frame import load_runs
from analysis.tables import table_of_grid
from baselines.errors import UserError
from launch.commands import grid
from launch.config.machine import Machine
from launch.config.run import Run
from launch.executors.local import Outcome
from launch.executors.outcomes import load_outcomes
from launch.runs.atomic import write_json
from launch.runs.provenance import write_config


def outcome(folder, error=""):
    return Outcome(SimpleNamespace(name=folder.name), None if error else {}, error)


def test_a_numbered_grid_of_several_values_ends_with_a_comparison(tmp_path, capsys):
    folders = []
    for lr, accuracy in ((0.05, 0.8), (0.1, 0.9)):
        folder = write_run(tmp_path, "random", accuracy, recipe=f"digits-{lr}", lr=lr)
        text = (folder / "config.json").read_text().replace(f"digits-{lr}", "digits")
        (folder / "config.json").write_text(text)
        folders.append(folder)
    outcomes = list(map(outcome, folders))
    assert grid.show("table3", outcomes[:1], Machine(runs=tmp_path)) == 0
    assert "Table 3: random masks" in capsys.readouterr().out
    assert grid.show("table3", outcomes, Machine(runs=tmp_path)) == 0
    out = capsys.readouterr().out
    assert "90.00" in out and "80.00" in out and "no choice of lr: --validation 0.1" in out
    assert "settings.lr" in (tmp_path / "tables" / "table3.csv").read_text()
    assert grid.show("table3.yaml", outcomes[:1], Machine(runs=tmp_path)) == 0
    assert "Table 3" not in capsys.readouterr().out  # a file of one's own


def test_runs_that_failed_before_they_had_a_folder_are_rows(tmp_path, capsys):
    runs = [Run.make("digits", "random", sign_in=sign_in) for sign_in in (False, True)]
    (tmp_path / runs[0].name).mkdir()
    write_config(tmp_path / runs[0].name, runs[0])
    made_up = write_run(tmp_path / "made-up", "random", 0.8)
    write_json(tmp_path / runs[0].name / "result.json", read_result(made_up))
    outcomes = [Outcome(runs[0], {}), Outcome(runs[1], None, "no layer has weights")]
    assert grid.show("mine.yaml", outcomes, Machine(runs=tmp_path)) == 1
    lines = capsys.readouterr().out.splitlines()
    plain, failed = (line.split() for line in lines if line.startswith("Random"))
    assert plain[:2] == ["Random", "**80.00**"] and failed[:3] == ["Random", "Sign-In", "failed"]
    assert grid.show("table3", outcomes, Machine(runs=tmp_path)) == 1
    shown = capsys.readouterr().out
    assert "failed" in shown and "signbench grid table3 --recipe digits" in shown
    assert grid.show("table10", outcomes, Machine(runs=tmp_path)) == 1
    output = capsys.readouterr()
    assert "signbench grid table10 --recipe digits" in output.out
    assert "left out" not in output.err
    assert not (tmp_path / runs[1].name).exists()


def test_runs_without_a_place_in_a_numbered_table_are_compared(tmp_path):
    folders = [write_run(tmp_path, label, 0.9) for label in ("random", "random (uniform)")]
    assert table_of_grid("table3", load_runs(folders[:1])) == "3"
    assert table_of_grid("table3", load_runs(folders)) == "compare"
    legacy = write_run(tmp_path, "random (legacy-balanced)", 0.9)
    assert table_of_grid("table3", load_runs([legacy]), "paper") == "3"


def test_failed_runs_are_named_where_there_is_no_table(tmp_path, capsys, monkeypatch):
    def refuse(*_):
        raise UserError("no table")

    monkeypatch.setattr(grid, "_show_table", refuse)
    folders = [
        write_run(tmp_path, "random", accuracy, seed) for seed, accuracy in enumerate([1, None])
    ]
    with pytest.raises(UserError, match="no table"):
        grid.show("table3", [outcome(folders[0]), outcome(folders[1], "NaN")], Machine())
    assert f"failed: {folders[1].name}: NaN" in capsys.readouterr().err


def test_masks_of_runs_outside_the_grid_are_averaged(tmp_path, capsys):
    """Each run trains the mask of the run of its seed, which is not in the grid."""
    folders = []
    for seed in range(3):
        source = write_run(tmp_path, "gmp", 0.95, seed)
        options, label = {"mask": f"{source.name}@final"}, f"fixed ({source.name}@final)"
        accuracy = 0.90 + seed / 100
        folders.append(write_run(tmp_path, label, accuracy, seed, options=options, method="fixed"))
    outcomes = list(map(outcome, folders))
    assert grid.show("mine.yaml", outcomes, Machine(runs=tmp_path)) == 0
    shown = capsys.readouterr().out
    assert "GMP mask" in shown and "91.00 ± 1.00" in shown
    assert set(load_outcomes(outcomes, tmp_path)["label"]) == {"fixed (gmp@final)"}
