"""Warnings of the check before the first run is trained. Refusals are tested with the commands."""

from __future__ import annotations

import warnings

import pytest

import launch
from launch.cli import main
from launch.config.cluster import Cluster
from launch.config.run import Run
from launch.training import check
from launch.training.check import check_runs


@pytest.mark.parametrize("supported", [False, True])
def test_bfloat16_on_a_cpu_without_it_is_slow(machine, monkeypatch, supported):
    monkeypatch.setattr(check, "_cpu_has_bfloat16", lambda: supported)
    runs = [Run.make("digits", "dense", precision=p, epochs=1) for p in ("float32", "bfloat16")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_runs(runs[:1], machine)
        check_runs(runs, machine, Cluster())
        if supported:
            check_runs(runs, machine)
            launch.run(runs[1], progress=False, runs=machine.runs, device="cpu")
    if not supported:
        with pytest.warns(UserWarning, match=r"no instructions for bfloat16, .* \(1 of 2 runs\)"):
            check_runs(runs, machine)
        flags = f"--precision bfloat16 --epochs 1 --device cpu --runs {machine.runs}".split()
        with pytest.warns(UserWarning, match="as in float32: set precision"):
            assert main(["run", *flags]) == 0
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert main(["run", *flags]) == 0  # it has finished
