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
from launch.cli import main


@contextlib.contextmanager
def modules_of(folder: Path, work: Path) -> Iterator[None]:
    """Work in a folder, with modules of another; forget these, and recipes, afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        patch.setattr(sys, "path", [str(folder), *sys.path])
        for name in ("RECIPES", "_FILES"):
            patch.setattr(launch.config.recipes, name, dict(getattr(launch.config.recipes, name)))
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
