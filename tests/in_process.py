"""Programs and commands that run in this process, which saves the imports of another one."""

from __future__ import annotations

import contextlib
import io
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import launch.config.recipes
import launch.data.sources
from baselines import registry
from launch.cli import main

TABLES = [  # what own modules add to
    (registry, "_REGISTERED"),
    (launch.config.recipes, "RECIPES"),
    (launch.config.recipes, "_FILES"),
    (launch.data.sources, "SOURCES"),
]


@contextlib.contextmanager
def modules_of(folder: Path, work: Path) -> Iterator[None]:
    """Work in a folder, with modules of another; forget these, and what they add, afterwards."""
    registry.methods()  # the suite's own stay
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        patch.setattr(sys, "path", [str(folder), *sys.path])
        for module, name in TABLES:
            patch.setattr(module, name, dict(getattr(module, name)))
        before = set(sys.modules)
        try:
            yield
        finally:
            own = {path.stem for path in folder.glob("*.py")}
            for name in own & set(sys.modules) - before:
                del sys.modules[name]


def execute(path: Path, work: Path) -> str:
    """Execute a program in a folder. Return what it prints."""
    printed = io.StringIO()
    with modules_of(path.parent, work), contextlib.redirect_stdout(printed):
        runpy.run_path(str(path), run_name="__main__")
    return printed.getvalue()


def command(line: list[str], folder: Path, work: Path) -> int:
    """Run `signbench` with modules of a folder. Return the exit code."""
    with modules_of(folder, work):
        return main(line)
