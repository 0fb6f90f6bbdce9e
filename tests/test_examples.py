"""The programs in examples/ run as their headers say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from launch.cli import main

ROOT = Path(__file__).parent.parent
EXAMPLES = {
    "own_loop": r"sparsity 0\.900\naccuracy 0\.[89]",
    "own_method": r"Sign-In False: 0\.\d+ at sparsity 0\.8000\nSign-In True: 0\.\d+ at sparsity 0\.8",
    "transplant_two_checkpoints": r"A, dense: 0\.[89].*\n.*A's signs \(100% equal\).*\n.*B's signs",
    "grid_from_python": r"8 runs, failed: \[\]\n(.*\n)+",
}


def test_every_example_is_tested():
    assert {path.stem for path in ROOT.glob("examples/*.py")} == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs(tmp_path, name):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{name}.py")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(EXAMPLES[name], done.stdout.strip()) or re.match(
        EXAMPLES[name], done.stdout
    ), done.stdout


def test_the_method_runs_by_the_command_line(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    flags = "--pruning-events 5 --epochs 2 --threads 1 --sparsity 0.8"
    assert main(["run", "--method", "own_method:RandomGradual", *flags.split()]) == 0
    assert len(list(tmp_path.glob("runs/*/result.json"))) == 1
