"""What several test files need. `torch_settings` says how torch computes in them."""

from __future__ import annotations

import multiprocessing
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_settings
from hypothesis import settings
from PIL import Image
from torch_settings import THREADS

import launch.executors.local
from launch.config.machine import Machine
from launch.config.run import Run
from launch.executors.slots import slot_machines
from launch.training.run import run_training

settings.register_profile("default", deadline=None)  # a busy machine is no failure
settings.load_profile("default")


@pytest.fixture(autouse=True)
def _alike():
    """Each test starts alike, whichever ran before: settings of torch, and the global generators.

    Small nets are fastest with one thread.
    """
    torch_settings.apply()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def _imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """All that a run imports has been imported."""
    machine = Machine(runs=tmp_path_factory.mktemp("runs"), device="cpu", workers=0, threads=1)
    run_training(Run.make("digits", "dense", epochs=1), machine, report=lambda _: None, bar=False)


@pytest.fixture
def forked_workers(_imported: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of the queue start as copies of this process: they import nothing anew.

    They have one thread, for OpenMP's threads do not live on in a copy, and no GPU.
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
    """A small image folder: 3 classes, 8 training and 3 test images each, of colour and size."""
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
    """A folder for what several tests share."""
    return tmp_path_factory.mktemp("references")
