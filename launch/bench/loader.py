"""The speed of loading images from a folder, compared with decoding alone by as many processes.

*workers* counts the images that the worker processes deliver, cropped and resized; *loader* counts
those on the device, normalised.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from operator import truediv
from pathlib import Path
from typing import Any

import torch

from baselines.errors import UserError, check_positive
from launch.config.run import Run
from launch.data import load_data
from launch.data.images import ImageFolder, find_folder, read_image, scan
from launch.data.order import mix
from launch.data.streamed import Streamed
from launch.ranks import Share, find_device


@dataclass(frozen=True)
class LoaderBench:
    """Compare the speed of loading an image folder with that of decoding alone."""

    data: str = "imagenet"
    """Folder with train/<class>/ and val/<class>/."""
    data_dir: Path = Path("data")
    """Folder that contains it."""
    recipe: str = "imagenet-resnet50"
    """Recipe whose image size and augmentation are used."""
    batch_size: int = 64
    """Images per batch."""
    images: int = 1000
    """Images per measurement."""
    rounds: int = 5
    """Measurements of each kind, taken in turn."""
    workers: int = 4
    """Processes that read images."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    def __post_init__(self) -> None:
        check_positive(batch_size=self.batch_size, rounds=self.rounds, workers=self.workers)
        if self.images < self.batch_size:
            raise UserError("images must be at least one batch.")


class _Decoded(torch.utils.data.Dataset[int]):
    """Reads and decodes an image, and returns only its height."""

    def __init__(self, files: ImageFolder) -> None:
        self.files = files

    def __getitem__(self, index: int) -> int:
        return len(read_image(self.files.paths[index]))


def bench_loader(options: LoaderBench) -> int:
    """Print the images per second of each kind, and their ratio to decoding alone."""
    choices = {"data": options.data, "batch_size": options.batch_size, "bad_images": "skip"}
    run = Run.make(options.recipe, "dense", **choices)
    device = find_device(options.device)
    train = load_data(run.settings, options.data_dir, device, 0, Share(), options.workers).train
    if not isinstance(train, Streamed):
        size = run.settings.image_size
        raise UserError(f"images of {size} pixels are held in memory: choose another recipe.")
    files = scan(find_folder(options.data, options.data_dir) / "train")
    rates: dict[str, list[float]] = {"loader": [], "workers": [], "decode only": []}
    for i in range(options.rounds):
        rates["loader"].append(_rate((len(y) for _, y in train.epoch(i)), options.images))
        rates["workers"].append(_rate((len(y) for _, y, _ in train.raw(i)), options.images))
        rates["decode only"].append(_rate(_decode(files, options, i), options.images))
    print("images per second: min, median, max, and the median ratio to decoding alone")
    for name, found in rates.items():
        low, middle, high = min(found), statistics.median(found), max(found)
        ratio = statistics.median(map(truediv, found, rates["decode only"]))
        print(f"{name:12} {low:8.1f} {middle:8.1f} {high:8.1f} {ratio:8.3f}")
    return 0


def _decode(files: ImageFolder, options: LoaderBench, epoch: int) -> Iterable[int]:
    order = torch.randperm(len(files.paths), generator=torch.Generator().manual_seed(mix(epoch)))
    loader: Any = torch.utils.data.DataLoader(
        _Decoded(files),
        options.batch_size,
        sampler=order.tolist(),
        num_workers=options.workers,
    )
    return map(len, loader)


def _rate(batches: Iterable[int], images: int) -> float:
    """Return the images per second after the first batch, which includes starting processes."""
    seen, began = 0, 0.0
    for size in batches:
        if not began:
            began = time.perf_counter()
            continue
        seen += size
        if seen >= images:
            break
    if not seen:
        raise UserError("the folder has too few images for one measurement.")
    return seen / (time.perf_counter() - began)
