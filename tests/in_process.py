"""Programs and commands that run in this process or a fork of it, which saves their imports."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

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


def forked(call: Callable[[], object], folder: Path) -> subprocess.CompletedProcess[str]:
    """Call a function in a fork of this process, in a folder, as a process of its own.

    The fork has the modules of this process, and one thread, since those of OpenMP do not survive
    it. Nothing that it changes is seen here.

    Args:
        call: returns an exit code or None, or raises.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:

        def work() -> None:
            for number, file in ((1, out), (2, err)):
                os.dup2(file.fileno(), number)
            sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))
            torch.set_num_threads(1)
            os.chdir(folder)
            sys.exit(call())

        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
        process.join()
        texts = [file.seek(0) or file.read() for file in (out, err)]
    return subprocess.CompletedProcess((), process.exitcode or 0, *texts)
