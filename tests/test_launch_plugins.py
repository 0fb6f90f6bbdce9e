"""A user's modules are imported in every process that trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from in_process import forked

from launch.cli import main
from launch.packages import root

METHOD = '''
from dataclasses import dataclass, replace

from baselines.method import Method, Options
from baselines.registry import register
from launch.config.recipes import RECIPES

RECIPES["short"] = replace(RECIPES["digits"], epochs=1)


@dataclass(frozen=True)
class OwnOptions(Options):
    knob: int = 1


@register
class Own(Method[OwnOptions]):
    """Dense training under another name."""

    name, family, paper = "own", "none", "-"
    is_sparse = False
'''

OTHER = '''
from baselines.method import Method


class Other(Method):
    """Dense training under another name; it is not registered."""

    name, family, paper = "other", "none", "-"
    is_sparse = False
'''


def signbench(folder, *args):
    """Run the command line in a new process, which starts workers that are new processes."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "launch", *args],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(root())},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(METHOD)
    return tmp_path


def in_fork(folder, *args):
    """Run the command line in a fork of this process."""
    return forked(lambda: main(list(args)), folder)


def test_a_run_uses_a_method_and_a_recipe_of_ones_own(folder, _imported):
    flags = ["--import=mine", "--recipe=short", "--method=own", "--knob=2", "--threads=1"]
    done = in_fork(folder, "run", *flags)
    assert done.returncode == 0, done.stderr
    (config,) = folder.glob("runs/short-own-*/config.json")
    assert json.loads(config.read_text())["run"]["options"] == {"knob": 2}
    listed = in_fork(folder, "methods", "--import", "mine")
    assert "\nown " in listed.stdout
    exported = in_fork(folder, "export", config.parent.name, "-o", "out", "--import=mine")
    assert exported.returncode == 0, exported.stderr


def test_workers_of_a_grid_import_what_is_given_and_what_methods_are_named_by(folder):
    (folder / "other.py").write_text(OTHER)
    (folder / "grid.yaml").write_text('recipe: short\nmethod: [own, "other:Other"]\nseed: 0')
    flags = ["--import", "mine", "--slots", "1", "--device", "cpu", "--threads", "1"]
    done = signbench(folder, "grid", "grid.yaml", *flags)
    assert done.returncode == 0, done.stderr
    for name in ("own", "other"):
        assert len(list(folder.glob(f"runs/short-{name}-*/result.json"))) == 1


@pytest.mark.parametrize(
    "name, message",
    [
        ("no_such_module", "cannot import no_such_module: ModuleNotFoundError: No module named"),
        ("broken_module", "cannot import broken_module: ZeroDivisionError"),
        ("broken_module.py", "give the module's name, without .py"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(capsys, tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "broken_module.py").write_text("1 / 0")
    assert main(["methods", "--import", name]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
