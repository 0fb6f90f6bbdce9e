"""Constants of STR: those that are shipped, and that are looked up for a run's conditions."""

from __future__ import annotations

import dataclasses

import pytest
from test_launch_train import train

from analysis.folder import read_json
from baselines.errors import UserError
from launch.cli import main
from launch.commands.run import parse_run
from launch.config import str_constants
from launch.config.dependencies import require_constants
from launch.config.run import Run
from launch.config.shell import run_command
from launch.config.str_constants import SHIPPED, add_calibrations, find_constants
from launch.runs.atomic import write_json

SETTINGS = [
    *({"sparsity": s, "sign_in": on} for s in (0.8, 0.9, 0.95) for on in (False, True)),
    *({"sparsity": 0.9, "epochs": 12, **rule} for rule in ({}, {"sign_in": True}, {"ham": True})),
]  # of digits; the latter are those of the quick grid

MACHINE = ["--runs", "exp", "--data-dir", "sets", "--device", "cpu", "--import", "json"]


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
    """Forget calibrations that a test adds."""
    monkeypatch.setattr(str_constants, "_ADDED", {})


def write(runs, conditions, **content):
    folder = runs / "calibrations" / conditions
    folder.mkdir(parents=True)
    write_json(folder / "calibration.json", content)


def shipped():
    """Return the shipped calibrations by conditions."""
    return {path.stem: read_json(path) for path in SHIPPED.iterdir()}


@pytest.mark.parametrize("sparsity, sign_in", [(0.8, False), (0.95, True)])
def test_the_shipped_constants_reach_the_sparsity(machine, sparsity, sign_in):
    """If a change of the recipe breaks this, calibrate again: its conditions are others."""
    run = Run.make("digits", "str", sparsity=sparsity, sign_in=sign_in, seed=1)
    require_constants([run])
    assert run.label == "str"
    trial = shipped()[run.conditions]["trials"][-1]
    assert train(run, machine)["sparsity"] == pytest.approx(trial["sparsities"][1], abs=0.005)


def test_what_is_shipped_was_found():
    """The last trial has the constants, and a mean that is the requested sparsity."""
    runs = [Run.make("digits", "str", **settings) for settings in SETTINGS]
    assert shipped().keys() == {run.conditions for run in runs}
    for run in runs:
        found = shipped()[run.conditions]
        *_, last = found["trials"]
        assert found["conditions"] == run.conditions and found["requested"] == run.sparsity
        assert run.options.calibrated == (found["s_init"], last["threshold_decay"])
        mean = sum(last["sparsities"]) / len(last["sparsities"])
        assert mean == pytest.approx(run.sparsity, abs=0.0031)
        assert len(last["sparsities"]) == len(found["seeds"]) == 3


def test_conditions_are_all_but_the_seed_and_what_is_kept():
    base = Run.make("digits", "str")
    same = [{"seed": 3}, {"keep_epochs": (2,)}, {"begin": 0.2}]
    others = [
        *({"epochs": 5}, {"lr": 0.1}, {"weight_decay": 0.1}, {"sparsity": 0.8}),
        *({"sign_in": True}, {"ham": True}, {"exclude": ("0.weight",)}),
    ]
    assert {Run.make("digits", "str", **change).conditions for change in same} == {base.conditions}
    found = {Run.make("digits", "str", **change).conditions for change in others}
    assert len(found | {base.conditions}) == len(others) + 1
    assert base.options.calibrated
    for change in others[:3]:
        assert not Run.make("digits", "str", **change).options.calibrated


def test_calibrations_in_the_folder_of_the_runs_are_used(tmp_path):
    before = Run.make("digits", "str", epochs=5)
    assert before.options.constants is None
    with pytest.raises(UserError, match="str has no constants for these settings of digits"):
        require_constants([before])
    write(tmp_path, before.conditions, s_init=-9.0, threshold_decay=0.3)
    add_calibrations(tmp_path)
    run = Run.make("digits", "str", epochs=5, seed=2)
    assert run.options.constants == find_constants(before.conditions) == (-9.0, 0.3)
    assert run.label == "str" and run.name != before.name
    require_constants([run])
    given = parse_run(["--method", "str", "--epochs", "5", "--runs", str(tmp_path)])
    assert given.run == dataclasses.replace(run, seed=0)


def test_a_run_has_the_constants_of_its_own_sparsity():
    """Not those of the recipe's default, though flags have defaults before they are parsed."""
    run = parse_run(["--method", "str", "--sparsity", "0.8"]).run
    assert run == Run.make("digits", "str", sparsity=0.8)
    assert run.options.calibrated != Run.make("digits", "str").options.calibrated


def test_a_command_line_gives_the_same_run():
    for choices in (
        {"sparsity": 0.8},
        {"sign_in": True},
        {"s_init": -8.0, "threshold_decay": 0.1},
        {"mode": "target", "begin": 0.2},
    ):
        run = Run.make("digits", "str", **choices)
        words = run_command(run).split()
        assert words[:2] == ["signbench", "run"] and parse_run(words[2:]).run == run


def test_a_damaged_calibration_is_named(tmp_path, capsys):
    write(tmp_path, "digits-str-s0.9-00000000", s_init="low")
    assert main(["run", "--runs", str(tmp_path)]) == 2
    assert "calibration.json is not a calibration; calibrate again" in capsys.readouterr().err


@pytest.mark.parametrize(
    "args, message",
    [
        (
            ["run", "--method", "str", "--recipe", "cifar10-resnet20", "--sign-in"],
            "`signbench calibrate str --recipe cifar10-resnet20 --sign-in --sparsity 0.9`, or give "
            "--s-init and --threshold-decay, or use str-target.",
        ),
        (["run", "--method", "str", "--s-init", "-5"], "give both --s-init and --threshold-decay"),
        (["grid", "table1"], "signbench calibrate str --recipe imagenet-resnet50 --sparsity 0.9"),
        (["grid", "quick", "--methods", "str", "--epochs", "3"], "--epochs 3 --sparsity 0.9`"),
        (
            ["grid", "quick", "--methods", "str", "--epochs", "3", *MACHINE],
            f"str --recipe digits --epochs 3 --sparsity 0.9 {' '.join(MACHINE)}`",
        ),
        (["run", "--method", "str", "--epochs", "3", *MACHINE], f"0.9 {' '.join(MACHINE)}`"),
        (["calibrate", "rigl"], "only str has constants to find, not rigl"),
        (["calibrate", "str", "--method", "rigl"], "only str has constants to find, not rigl"),
    ],
)
def test_refusals_are_one_line(args, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(args) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
