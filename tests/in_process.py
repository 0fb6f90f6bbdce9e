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
from free_ports import free_ports

import launch.config.recipes
import launch.data.sources
import launch.models
from baselines import registry
from launch.cli import main

TABLES = [  # what own modules add to
    (registry, "_REGISTERED"),
    (launch.config.recipes, "RECIPES"),
    (launch.config.recipes, "_FILES"),
    (launch.data.sources, "SOURCES"),
    (launch.models, "MODELS"),
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


class Fork:
    """A function's call in a fork of this process, in a folder, as a process of its own.

    It has the modules of this process, and one thread, since those of OpenMP do not survive a fork.
    """

    def __init__(self, call: Callable[[], object], folder: Path, **environment: object) -> None:
        self._call, self._folder, self._environment = call, folder, environment
        self._files = [tempfile.TemporaryFile("w+") for _ in ("stdout", "stderr")]  # noqa: SIM115
        self._process = multiprocessing.get_context("fork").Process(target=self._work)
        self._process.start()

    def _work(self) -> None:
        for number, file in enumerate(self._files, start=1):
            os.dup2(file.fileno(), number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        torch.set_num_threads(1)
        os.chdir(self._folder)
        os.environ.update({name: str(value) for name, value in self._environment.items()})
        sys.exit(self._call())  # type: ignore[arg-type]

    def wait(self) -> subprocess.CompletedProcess[str]:
        self._process.join()
        texts = []
        for file in self._files:
            with file:
                file.seek(0)
                texts.append(file.read())
        return subprocess.CompletedProcess((), self._process.exitcode or 0, *texts)


def forked(call: Callable[[], object], folder: Path) -> subprocess.CompletedProcess[str]:
    """Call a function, which returns an exit code or None, in a fork. Wait for its end."""
    return Fork(call, folder).wait()


def fork_two_ranks(call: Callable[[], object], folder: Path) -> None:
    """Call a function in two forks with the environment of torchrun's ranks. Both must succeed."""
    (port,) = free_ports(1)
    common = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    common |= {"LOCAL_WORLD_SIZE": 2, "TORCHELASTIC_RUN_ID": "tests", "OMP_NUM_THREADS": 1}
    forks = [Fork(call, folder, RANK=rank, LOCAL_RANK=rank, **common) for rank in range(2)]
    for done in [fork.wait() for fork in forks]:
        assert done.returncode == 0, done.stderr
