"""Shared fixtures. `torch_settings` sets how torch computes in the tests."""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slurm_cluster
import torch
import torch_settings
from hypothesis import settings
from PIL import Image
from torch_settings import THREADS
from tqdm import tqdm

import launch.executors.local
import launch.runs.provenance
from launch.config.machine import Machine
from launch.config.run import Run
from launch.executors.slots import slot_machines
from launch.training.run import run_training

settings.register_profile("default", deadline=None)  # slow machines do not fail
settings.load_profile("default")
# tqdm's own lock is shared with forks: one that is killed while it has it would stop all others
tqdm.set_lock(threading.RLock())
tqdm.monitor_interval = 0  # no thread that could have the lock at the moment of a fork
torch_settings.apply()  # for what is trained before the first test, by fixtures of the session


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--attack", type=int, default=0, help="number of cases of tests/attack")
    parser.addoption("--attack-seed", type=int, default=0, help="seed of these cases")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return one process per core, and one more where tests wait for the jobs of Slurm."""
    return (os.cpu_count() or 1) + slurm_cluster.is_installed()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Spare the garbage collector the million objects of the imported libraries."""
    gc.disable()
    yield
    gc.enable()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # else libraries tell at the end of the process that they leak


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show how many cases each part of tests/attack had, as its tests have recorded."""
    reports = (r for kind in ("", "error") for r in terminalreporter.getreports(kind))
    found = (dict(getattr(report, "user_properties", ())) for report in reports)
    for counts in (counts for counts in found if "attack" in counts):
        terminalreporter.write_line("attack: {attack}: {cases}, {seconds:.0f} s".format(**counts))


@pytest.fixture(autouse=True, scope="session")
def _no_wait_for_disks() -> Iterator[None]:
    """Let fsync return at once in this process: no test cuts the power but by a log of events."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def _ask_git_once() -> Iterator[None]:
    """Ask git once per process for the state of the checkout, not in each of a thousand runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch.runs.provenance, "_git", cache(launch.runs.provenance._git))
        yield


@pytest.fixture(autouse=True)
def _alike():
    """Start each test with equal settings of torch and equal states of the global generators."""
    torch_settings.apply()
    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)  # manual_seed also formats a stack per kind of device


@pytest.fixture(scope="session")
def _imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import everything that a run imports."""
    machine = Machine(runs=tmp_path_factory.mktemp("runs"), device="cpu", workers=0, threads=1)
    run_training(Run.make("digits", "dense", epochs=1), machine, report=lambda _: None, bar=False)


@pytest.fixture
def forked_workers(_imported: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start workers of the queue as forks of this process, which saves their imports.

    They have one thread, since OpenMP's threads do not survive a fork, and no GPU.
    """
    context = multiprocessing.get_context("fork")
    monkeypatch.setattr(launch.executors.local.multiprocessing, "get_context", lambda _: context)

    def slots(*args: Any, **options: Any) -> list[Machine]:
        return [replace(m, threads=1, device="cpu") for m in slot_machines(*args, **options)]

    monkeypatch.setattr(launch.executors.local, "slot_machines", slots)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(
        runs=tmp_path / "runs", data_dir=tmp_path / "data", device="cpu", workers=0, threads=THREADS
    )


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Write an image folder: 3 classes of different colours, 8 training and 3 test images each."""
    folder = tmp_path / "images"
    rng = np.random.default_rng(0)
    for split, n in (("train", 8), ("test", 3)):
        for label, name in enumerate(("ant", "bee", "cat")):
            (folder / split / name).mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 80, (20 + i, 24, 3), dtype=np.uint8)
                pixels[..., label] += 150
                Image.fromarray(pixels).save(folder / split / name / f"{i}.jpg")
    return folder


@pytest.fixture(scope="session")
def references(tmp_path_factory):
    """Return a folder for files that several tests share."""
    return tmp_path_factory.mktemp("references")
