"""Numbers of images in data sets, and folders of generated images.

The generated images are smooth with some noise, like photographs.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from launch.data.sources import RESIDENT_MAX_SIZE

CLASSES = 10  # of the generated images
CIFAR, IMAGENET = (50_000, 10_000), (1_281_167, 50_000)  # numbers of training and test images


def data_set(image_size: int) -> tuple[int, int]:
    """Return the numbers of training and test images of the data set with images of that size."""
    return CIFAR if image_size <= RESIDENT_MAX_SIZE else IMAGENET


def write_pictures(folder: Path, train: int, test: int, width: int, height: int) -> None:
    """Write an image folder of JPEGs in train/ and test/, in ten classes."""
    for split, count in (("train", train), ("test", max(test, CLASSES))):
        for label in range(CLASSES):
            (folder / split / f"{label:02}").mkdir(parents=True)
        paths = [folder / split / f"{i % CLASSES:02}" / f"{i}.jpg" for i in range(count)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda path: _write(path, width, height), paths))


def _write(path: Path, width: int, height: int) -> None:
    rng = np.random.default_rng(int(path.stem))
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noise = rng.integers(-12, 13, (height, width, 1))
    pixels = (np.asarray(smooth, dtype=np.int16) + noise).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path, quality=90)
