"""Splits of large images, read from their files while training."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from baselines.errors import UserError
from launch.config.recipe import Recipe
from launch.data.augment import CentreCrop, Normalise, RandomResizedCrop
from launch.data.batches import Data, check_batch_size
from launch.data.images import ImageFolder, digest_of_files, read_image, scan, test_folder
from launch.data.normalisation import Constants, chosen_constants
from launch.data.order import Order, choose, hold_out
from launch.inputs import Inputs
from launch.ranks import Share

MOST_SKIPPED = 20  # unreadable files in a row; more are an error even with `skip`
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class _Files(torch.utils.data.Dataset[tuple[Tensor, int, int]]):
    """Transformed uint8 images (H, W, C), labels, and how many files each had to skip.

    Keys are (epoch, index), for augmentation depends on both. With `skip`, an image that cannot be
    read is replaced by the next one that can.
    """

    files: ImageFolder
    transform: Callable[[Tensor, Random], Tensor]
    seed: int
    skip: bool

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int, int]:
        epoch, index = key
        pixels, index, skipped = self._read(index)
        image = self.transform(pixels, Random(f"{self.seed} {epoch} {index}"))
        return image, self.files.labels[index], skipped

    def _read(self, index: int) -> tuple[Tensor, int, int]:
        """Return pixels, their index, and how many unreadable files were skipped to get there."""
        for skipped in range(len(self.files.paths)):
            at = (index + skipped) % len(self.files.paths)
            try:
                return read_image(self.files.paths[at]), at, skipped
            except UserError:
                if not self.skip or skipped == MOST_SKIPPED:
                    raise
        raise AssertionError("an epoch has images")


class Streamed:
    """A split read from files, by worker processes of its own that live as long as the run."""

    def __init__(
        self,
        files: _Files,
        plain: _Files,
        order: Order,
        size: int,
        device: torch.device,
        workers: int,
        constants: Constants | None = None,
    ) -> None:
        self._plain, self._order, self._device, self._workers = plain, order, device, workers
        self.skipped = 0
        self._loader = torch.utils.data.DataLoader(
            files,
            batch_sampler=order,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # by default each epoch draws from the global one
            worker_init_fn=ignore_stop,
        )
        mean, std = constants or (torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD))
        self.normalise = Normalise(mean.to(device), std.to(device), size)

    def __len__(self) -> int:
        return len(self._order)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.raw(epoch):
            self.skipped += int((batch[2] > 0).sum())
            yield self._ready(batch)

    def raw(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield batches as the workers make them: uint8 (B, H, W, C), labels, files skipped."""
        self._order.epoch = epoch
        return batches_of(self._loader)

    def sample(self, per_class: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = self._order
        chosen = choose(torch.tensor(self._plain.files.labels), per_class, order.seed).tolist()
        keys = [(0, index) for index in chosen]
        loader = torch.utils.data.DataLoader(
            self._plain,
            batch_size=order.batch_size // order.share.world,
            sampler=keys,
            num_workers=self._workers,
            generator=torch.Generator(),
            worker_init_fn=ignore_stop,
        )
        yield from map(self._ready, batches_of(loader))

    def _ready(self, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        images, labels, skipped = batch
        if not self._order.shuffle and skipped.any():  # no test image counts twice
            images, labels = images[skipped == 0], labels[skipped == 0]
        x = self.normalise(images.to(self._device, non_blocking=True))
        return x, labels.to(self._device, non_blocking=True)


def ignore_stop(_: int) -> None:
    """Ignore Slurm's signal before the end of a job in this process, which only reads data.

    It is a fork of the training process, whose handler would requeue the job once more.
    """
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def batches_of(loader: Iterable[Any]) -> Iterator[Any]:
    """Yield a loader's batches. A UserError in its workers is raised without their traceback."""
    try:
        yield from loader
    except UserError as error:  # from a worker, its traceback is in the message
        raise UserError(str(error).rpartition("UserError: ")[2].strip()) from None


def load_streamed(
    recipe: Recipe,
    folder: Path,
    device: torch.device,
    seed: int,
    share: Share,
    workers: int,
) -> Data:
    """Return the splits of an image folder. Arguments as of `load_data`."""
    size, skip = recipe.image_size, recipe.bad_images == "skip"
    constants = chosen_constants(recipe)
    augment, centre = RandomResizedCrop(size, recipe.flip), CentreCrop(size)
    train = scan(folder / "train")
    test = scan(test_folder(folder), classes=train.classes)
    digest = digest_of_files(folder, train, test)
    held_out = None
    if recipe.validation:
        train, held_out = map(train.part, hold_out(train.labels, recipe.validation))
    check_batch_size(recipe.batch_size, len(train.paths))

    def split(
        files: ImageFolder, transform: RandomResizedCrop | CentreCrop, shuffle: bool
    ) -> Streamed:
        order = Order(len(files.paths), recipe.batch_size, shuffle, seed, share)
        plain, augmented = (_Files(files, t, seed, skip) for t in (centre, transform))
        return Streamed(augmented, plain, order, size, device, workers, constants)

    validation = split(held_out, centre, False) if held_out else None
    first, second = split(train, augment, True), split(test, centre, False)
    inputs, normalise = Inputs.image(3, size), second.normalise
    classes, resize = len(train.classes), str(centre)
    return Data(first, second, classes, inputs, validation, digest, normalise, resize)
