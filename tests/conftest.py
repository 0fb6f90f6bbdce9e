"""What several test files need."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

from launch.config.machine import Machine

settings.register_profile("default", deadline=None)  # a busy machine is no failure
settings.load_profile("default")


@pytest.fixture(autouse=True)
def _one_thread():
    """Small nets are fastest, and alike on every machine, with one thread."""
    torch.set_num_threads(1)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(
        runs=tmp_path / "runs", data_dir=tmp_path / "data", device="cpu", workers=0, threads=1
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
