"""The search for STR's constants."""

from __future__ import annotations

import math

import pytest

import launch.executors.str_search
from analysis.folder import read_json
from baselines.errors import UserError
from launch.cli import main
from launch.config import str_constants
from launch.config.run import Run
from launch.executors.local import Outcome
from launch.executors.str_search import Search, bisect, calibrate, first_guess


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
    monkeypatch.setattr(str_constants, "_ADDED", {})


def counted(function):
    calls = []

    def measure(x):
        calls.append(x)
        return function(x)

    return measure, calls


def smooth(x):
    """Be 0.9 at x = 0.37."""
    return 1 / (1 + math.exp(-math.log(9) - 3 * math.log(x / 0.37)))


@pytest.mark.parametrize("start", [1e-3, 0.3, 0.37, 5.0])
def test_a_smooth_measure_is_met(start):
    measure, calls = counted(smooth)
    found = bisect(measure, 0.9, start, within=0.001, most=30)
    assert found == calls[-1] and abs(smooth(found) - 0.9) <= 0.001
    assert calls[0] == start and len(calls) == len(set(calls)) <= 20


def test_bisection_worked():
    """0.1 is too low, 0.2, 0.4 is too high, then geometric means to four digits."""
    measure, calls = counted(smooth)
    bisect(measure, 0.9, 0.1, within=0.003, most=30)
    assert calls == [0.1, 0.2, 0.4, 0.2828, 0.3363, 0.3668]


def test_a_jump_is_an_error_that_says_between_what():
    measure, calls = counted(lambda x: 0.5 if x < 0.37 else 0.99)
    message = r"sparsity 0.9: 0.369\d* gives 0.5000, 0.37\d* gives 0.9900. Try an --s-init nearer"
    with pytest.raises(UserError, match=message):
        bisect(measure, 0.9, 0.1, within=0.01, most=99)
    assert len(calls) < 25


def test_the_number_of_trials_is_limited():
    measure, calls = counted(lambda x: 0.1)
    with pytest.raises(UserError, match="was found for sparsity 0.9: .* more than 4 --trials"):
        bisect(measure, 0.9, 0.1, within=0.01, most=4)
    assert calls == [0.1, 0.2, 0.4, 0.8]


def test_the_first_guess_follows_the_learning_rates(machine):
    """From s = −8 on, E = 6; Σ lr/(1 − 0.9) of digits is 93.6 for 20 epochs of 18 steps."""
    run = Run.make("digits", "str")
    assert first_guess(run, -8.0, machine) == pytest.approx(6 / 93.6, rel=0.01)
    assert first_guess(run, -80.0, machine) == pytest.approx((6 + math.log(10)) / 93.6, rel=0.01)
    half = Run.make("digits", "str", lr=0.025)
    assert first_guess(half, -8.0, machine) == pytest.approx(12 / 93.6, rel=0.01)


def test_collapsed_runs_count_as_empty_and_other_failures_stop_the_search(machine, monkeypatch):
    error = "Collapsed: the output does not depend on the input"

    def run_all(runs, *_):
        decay = runs[0].options.threshold_decay
        good = {"sparsity": smooth(decay)}
        return [Outcome(r, None, error) if decay > 0.5 else Outcome(r, good) for r in runs[::-1]]

    monkeypatch.setattr(launch.executors.str_search, "run_all", run_all)
    lines = []
    run = Run.make("digits", "str", threshold_decay=2.0)
    path = calibrate(run, Search((3, 4), within=0.001), machine, report=lines.append)
    assert lines[0] == "threshold_decay 2: sparsity 1.0000 (1.0000, 1.0000)"
    assert read_json(path)["threshold_decay"] == pytest.approx(0.37, rel=0.01)
    error = "Diverged: loss is nan"
    with pytest.raises(UserError, match="calibrate: .* failed: Diverged: loss is nan"):
        calibrate(run, Search((3, 4)), machine, report=lines.append)


def test_seeds_that_tables_mark_are_named(machine, monkeypatch):
    """The mean is 0.9, and 0.016 is more than STR's tolerance of 0.015."""
    found = {5: 0.916, 0: 0.884, 2: 0.9}

    def run_all(runs, *_):
        return [Outcome(run, {"sparsity": found[run.seed]}) for run in runs]

    monkeypatch.setattr(launch.executors.str_search, "run_all", run_all)
    lines = []
    run = Run.make("digits", "str", threshold_decay=2.0)
    calibrate(run, Search((5, 0, 2)), machine, report=lines.append)
    assert len(lines) == 2 and lines[1].startswith("note: seeds 0, 5 are off by more than 0.015,")
    found |= {5: 0.915, 0: 0.885}
    calibrate(run, Search((5, 0, 2)), machine, report=lines.append)
    assert len(lines) == 3


def test_what_was_found_is_recorded_and_used(forked_workers, tmp_path, capsys, monkeypatch):
    """A search of two epochs, then a run that uses it; a second search trains nothing."""
    settings = ["--sparsity", "0.5", "--epochs", "2", "--threads", "1", "--runs", str(tmp_path)]
    args = ["calibrate", "str", *settings, "--seeds", "0,1", "--within", "0.04"]
    args += ["--s-init=-5", "--threshold-decay", "0.16"]
    assert main([*args, "--slots", "2"]) == 0
    first = capsys.readouterr().out
    assert main(["run", "--method", "str", *settings]) == 0
    assert "sparsity 0.4" in (out := capsys.readouterr().out) or "sparsity 0.5" in out
    (path,) = tmp_path.glob("calibrations/*/calibration.json")
    found = read_json(path)
    run = Run.make("digits", "str", sparsity=0.5, epochs=2)
    assert run.options.calibrated == (-5.0, found["threshold_decay"])
    assert found["conditions"] == path.parent.name == run.conditions
    assert found["requested"] == 0.5 and abs(found["sparsity"] - 0.5) <= 0.04
    assert found["seeds"] == [0, 1] and len(found["trials"][-1]["sparsities"]) == 2
    assert found["versions"]["torch"] and "git" in found
    assert not list(tmp_path.glob("calibrations/*/*/snapshots"))
    assert main(["table", "compare", "--runs", str(tmp_path)]) == 0
    assert "STR" in (table := capsys.readouterr().out) and "threshold_decay" not in table
    monkeypatch.setattr("launch.training.run.Training", None)
    assert main([*args, "--slots", "2"]) == 0
    assert capsys.readouterr().out == first
