"""The suite in Python: runs, grids and results, in scripts without a guard and in notebooks."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial

import pytest
import torch

import launch
import launch.executors.progress
from baselines.errors import UserError
from launch import Run, grid, results, run
from launch.config import grid_file, str_constants
from launch.executors.main_module import uses_main
from launch.executors.progress import Display
from launch.packages import root as code
from launch.runs.atomic import write_json
from launch.runs.provenance import write_config

QUICK = {"epochs": 1, "threads": 1, "device": "cpu", "progress": False}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_is_a_row_of_the_results(here, capsys):
    before = torch.get_num_threads()
    with pytest.warns(UserWarning, match="too few epochs .1. for rescale_period 1"):
        row = run("digits", "random", sparsity=0.8, sign_in=True, lr=0.1, **{**QUICK, "threads": 2})
    assert torch.get_num_threads() == before
    assert capsys.readouterr().out == ""
    assert row["result.sparsity"] == pytest.approx(0.8, abs=1e-3) and row["settings.lr"] == 0.1
    assert row["state"] == "finished" and row["folder"].parent.name == "runs"
    one = Run.make("digits", "random", sparsity=0.8, sign_in=True, lr=0.1, epochs=1)
    again = run(one, runs="runs", threads=1)
    assert again["result.loss"] == row["result.loss"]
    assert "finished before" in capsys.readouterr().out
    found = results()
    assert len(found) == 1 and found.iloc[0]["result.loss"] == row["result.loss"]
    for call in (partial(run, one), partial(run, one, "rigl"), partial(grid, [one])):
        with pytest.raises(UserError, match=r"give (lr|lr, method) to Run.make"):
            call(runs="runs", lr=0.2)


def test_lists_make_a_grid(forked_workers, here):
    lists = {"method": ["random", "dense"], "sign_in": [False, True], "seed": [0, 1]}
    with pytest.warns(UserWarning, match="too few epochs .*4 of 8 runs"):
        frame = grid(recipe="digits", sparsity=0.8, slots=2, **lists, **QUICK)
    assert len(frame) == 8 and set(frame["state"]) == {"finished"}
    assert frame.groupby(["label", "sign_in"]).size().to_dict() == {
        (label, sign_in): 2 for label in ("random", "dense") for sign_in in (False, True)
    }
    assert len(results(where="method=random")) == 4
    assert len(results("runs", where=["method=random", "seed=0"])) == 2
    more = grid("table3", recipe="digits", sparsity=0.8, seeds=[0], lr=[0.05, 0.1], **QUICK)
    assert len(more) == 4 and set(more["settings.lr"]) == {0.05, 0.1}
    some = grid([Run.make("digits", "dense", epochs=1)], threads=1, device="cpu", progress=False)
    assert some["label"].tolist() == ["dense"]


def test_calibrations_in_the_folder_of_the_runs_are_used(here, monkeypatch):
    monkeypatch.setattr(str_constants, "_ADDED", {})
    folder = here / "runs" / "calibrations" / Run.make("digits", "str", epochs=1).conditions
    folder.mkdir(parents=True)
    write_json(folder / "calibration.json", {"s_init": -20.0, "threshold_decay": 0.01})
    machine = {key: value for key, value in QUICK.items() if key != "epochs"}
    early = Run.make("digits", "str", epochs=1)  # before the folder is known
    assert run("digits", "str", **QUICK)["options.calibrated"] == "[-20.0, 0.01]"
    assert run(early, **machine)["options.calibrated"] == "[-20.0, 0.01]"
    assert grid([early], **machine)["options.calibrated"].tolist() == ["[-20.0, 0.01]"]
    with pytest.raises(UserError, match="no constants"):  # they are those of another folder
        run("digits", "str", **QUICK, runs="others")


def test_failures_are_rows_and_a_warning(forked_workers, here):
    with pytest.warns(UserWarning, match="1 of 2 runs failed: .*Diverged"):
        frame = grid(method="dense", lr=[0.05, 1e30], **QUICK)
    assert sorted(frame["state"]) == ["failed", "finished"]
    assert "Diverged" in "".join(frame["reason"])


def test_what_fails_before_its_folder_says_why_is_a_row(forked_workers, here):
    (here / "bad.pt").write_bytes(b"PK garbage")
    broken = Run.make("digits", "fixed", mask=str(here / "bad.pt"), epochs=1)
    after = Run.make("digits", "fixed", mask=broken.name, epochs=1, seed=1)
    good = Run.make("digits", "random", epochs=1)
    started = here / "runs" / after.name  # an earlier start has left it
    started.mkdir(parents=True)
    write_config(started, after)
    machine = {key: value for key, value in QUICK.items() if key != "epochs"}
    with pytest.warns(UserWarning, match="2 of 3 runs failed"):
        frame = grid([good, broken, after], slots=1, **machine)
    rows = {row["folder"].name: row for _, row in frame.iterrows()}
    assert {name: row["state"] for name, row in rows.items()} == {
        good.name: "finished",
        broken.name: "failed",
        after.name: "failed",
    }
    assert "bad.pt" in rows[broken.name]["reason"] and rows[after.name]["seed"] == 1
    assert rows[after.name]["reason"] == f"needs {broken.name}, which did not finish"
    assert {folder.parent.resolve() for folder in frame["folder"]} == {here / "runs"}
    assert len(results()) == 2


def test_choices_of_a_named_grid_are_those_of_a_run(monkeypatch):
    some = {"recipe": "digits", "epochs": 1, "sparsity": 0.9, "seed": 0}
    for key, value in (("exclude", ["8.weight"]), ("keep_epochs", [0, 1])):
        runs = launch.api._runs("table9", {**some, key: value})
        assert len(runs) == 6 and {getattr(run, key) for run in runs} == {tuple(value)}
    several = launch.api._runs("table9", {**some, "exclude": [["0.weight"], ["8.weight"]]})
    assert {run.exclude for run in several} == {("0.weight",), ("8.weight",)}
    runs = launch.api._runs(
        "quick", {**some, "method": ["rigl", "set"], "drop_fraction": [0.2, 0.4]}
    )
    assert {(r.method, r.options.drop_fraction) for r in runs} == {
        (method, fraction) for method in ("rigl", "set") for fraction in (0.2, 0.4)
    }
    assert len(launch.api._runs("table9", {**some, "lr": [0.1, 0.1]})) == 6
    monkeypatch.setattr(grid_file, "MOST_RUNS", 11)
    with pytest.raises(UserError, match="a grid has at most 11 runs, not 12"):
        launch.api._runs("table9", {**some, "lr": [0.1, 0.2]})
    paper = launch.api._runs("table9", {**some, "protocol": "paper"})
    assert {run.options.iterations for run in paper if run.method == "synflow"} == {1}
    assert {r.seed for r in launch.api._runs("", {"epochs": 1, "seed": range(3)})} == {0, 1, 2}


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: run("digits", "randm"), "unknown method 'randm'"),
        (lambda: run(spasity=0.9), "unknown field 'spasity', did you mean sparsity"),
        (lambda: grid(method=["random"], model="resnt"), "unknown model.*Nothing was started"),
        (lambda: grid("table3", recipe="digits", nonsense=1), "unknown field 'nonsense'"),
        (lambda: grid("quick", validation=0.0001), "1198 images holds out none.*Nothing was start"),
        (lambda: grid("tabel3"), "unknown grid 'tabel3'"),
        (lambda: results("nowhere"), "there is no folder nowhere"),
        (lambda: run(image_size=32), "the images of digits have 8×8 pixels and are not resized"),
        (lambda: grid(method="dense", image_size=32), "image_size 32: .* Nothing was started"),
        (lambda: grid(method=["random", "str"], epochs=1), "str has no constants"),
    ],
)
def test_mistakes_are_one_line(here, call, message):
    with pytest.raises(UserError, match=message):
        call()
    assert not (here / "runs").exists()


def test_the_package_has_what_it_names():
    assert launch.__all__ == ["Run", "grid", "results", "run"]
    assert launch.run is run
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = launch.nothing


# ---- scripts and notebooks


def python(folder, *arguments, text=None):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(code()), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        input=text,
    )


OWN = """
from dataclasses import dataclass

import torch
from torch import nn

from baselines.method import Method, Options
from baselines.registry import register
from launch import grid
from launch.models import MODELS


@dataclass(frozen=True)
class OwnOptions(Options):
    knob: int = 1


@register
class Own(Method[OwnOptions]):
    name, is_sparse = "own", False


MODELS["tiny"] = lambda classes, features: nn.Sequential(
    nn.Flatten(), nn.Linear(features, classes)
)


def data():
    x, y = torch.rand(64, 5), torch.arange(64) % 2
    return (x, y), (x, y)


print("executed")
where = dict(model="tiny", data="__main__:data", slots=1, threads=1, device="cpu")
frame = grid(method="own", knob=2, epochs=1, **where)
print(*frame["state"])
"""


@pytest.mark.parametrize("how", ["script.py", "-"])
def test_a_script_needs_no_guard_and_can_define_what_it_trains(tmp_path, how):
    (tmp_path / "script.py").write_text(OWN)
    done = python(tmp_path, how, text=OWN)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "executed\nfinished\n" and "Traceback" not in done.stderr


def test_runs_that_name_the_main_module_use_it():
    for choices, expected in (
        ({}, False),
        ({"model": "module:net"}, False),
        ({"model": "__main__:net"}, True),
        ({"data": "__main__:data"}, True),
    ):
        assert uses_main(Run.make("digits", "dense", **choices)) == expected


def test_progress_in_a_notebook_is_one_bar(monkeypatch, capsys):
    monkeypatch.setattr(launch.executors.progress, "in_notebook", lambda: True)
    runs = [Run.make("digits", "dense", epochs=2, seed=seed) for seed in (0, 1)]
    show = Display(runs, 2)
    show.message(0, runs[0], "epoch   1/2  loss 1.0")
    assert (show.bar.n, show.bar.total, show.slots) == (1, 4, [])
    show.end(runs[0], "text")
    show.close()
    assert "text" not in capsys.readouterr().err
    silent = Display(runs, 2, visible=False)
    silent.end(runs[0], "text")
    silent.close()
    assert capsys.readouterr().err == ""
