"""Data: batches whose order and augmentation are functions of (seed, epoch) alone.

Small images are held as one uint8 tensor on the training device, with crops and flips done a
batch at a time there (`Resident`); larger ones stream from an image folder (`Streamed`). Both
give each rank its slice of one global order, so that the ranks' batches together are the batch
that a single process sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from random import Random
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from baselines.errors import UserError
from launch.config.run import Recipe
from launch.data.augment import CentreCrop, Normalise, RandomResizedCrop
from launch.data.images import ImageFolder, find_folder, read_image, read_once, scan, test_folder

Arrays = tuple[np.ndarray, np.ndarray]  # images (N, H, W, C) uint8, labels (N,)

RESIDENT_MAX_SIZE = 64
MOST_IN_A_ROW = 20  # unreadable images that are skipped; more are no accident
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Batches(Protocol):
    """One split. Batches are (normalised float images (B, C, H, W), labels (B,)) on the device.

    Attributes:
        skipped: images that could not be read so far, on this rank.
    """

    skipped: int

    def __len__(self) -> int:
        """Batches an epoch, on this rank."""
        ...

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]: ...

    def sample(self, per_class: int) -> Iterator[tuple[Tensor, Tensor]]:
        """So many images of each class (fewer where it has fewer), not augmented, on all ranks."""
        ...


@dataclass(frozen=True)
class Data:
    train: Batches
    test: Batches
    classes: int
    channels: int


@dataclass(frozen=True)
class Share:
    """Which part of every batch is this rank's."""

    rank: int = 0
    world: int = 1

    def of(self, batch: Tensor) -> Tensor:
        return batch.tensor_split(self.world)[self.rank]


def load_data(
    recipe: Recipe, root: Path, device: torch.device, seed: int, share: Share, workers: int
) -> Data:
    """Both splits of the recipe's data.

    Args:
        root: where data sets lie, or are downloaded to.
        workers: processes (streamed) or threads (resident, while loading) that decode images.

    Raises:
        UserError: missing or empty folders, classes without images, unreadable images, or a
            training set smaller than one batch.
    """
    if recipe.batch_size % share.world:
        raise UserError(f"batch_size {recipe.batch_size} does not divide over {share.world} ranks.")
    builtin = recipe.data in _BUILTIN
    if builtin or recipe.image_size <= RESIDENT_MAX_SIZE:
        return _resident(recipe, root, device, seed, share, workers)
    return _streamed(recipe, find_folder(recipe.data, root), device, seed, share, workers)


def _check_batch(recipe: Recipe, images: int) -> None:
    if images < recipe.batch_size:
        raise UserError(f"batch_size {recipe.batch_size} is above the {images} training images.")


# ---- sets that are held on the device


class Resident:
    """A split held as one uint8 tensor on the device.

    Args:
        images: (N, H, W, C) uint8.
        padding, flip: augmentation; 0 and False for a test set.
        shuffle: a training split: shuffled, incomplete last batch dropped.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        batch_size: int,
        mean: Tensor,
        std: Tensor,
        device: torch.device,
        seed: int = 0,
        share: Share | None = None,
        padding: int = 0,
        flip: bool = False,
        shuffle: bool = False,
    ) -> None:
        padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        self.skipped = 0  # all have been read
        self._pixels = torch.from_numpy(padded).to(device)
        self._labels = torch.from_numpy(labels).long().to(device)
        self._size = images.shape[1]
        self._batch_size, self._seed, self._share = batch_size, seed, share or Share()
        self._padding, self._flip, self._shuffle = padding, flip, shuffle
        self._normalise = Normalise(mean.to(device), std.to(device), self._size)

    def __len__(self) -> int:
        full, rest = divmod(len(self._labels), self._batch_size)
        return full if self._shuffle else full + (rest > 0)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        n, device = len(self._labels), self._labels.device
        generator = torch.Generator().manual_seed(mix(self._seed, epoch))
        order = torch.randperm(n, generator=generator) if self._shuffle else torch.arange(n)
        corner = torch.randint(2 * self._padding + 1, (n, 2), generator=generator)
        mirror = torch.randint(2, (n,), generator=generator, dtype=torch.bool) & self._flip
        order, corner, mirror = order.to(device), corner.to(device), mirror.to(device)
        for start in range(0, len(self) * self._batch_size, self._batch_size):
            at = self._share.of(torch.arange(start, min(start + self._batch_size, n)))
            part = slice(int(at[0]), int(at[-1]) + 1) if len(at) else slice(0, 0)
            yield self._batch(order[part], corner[part], mirror[part])

    def sample(self, per_class: int) -> Iterator[tuple[Tensor, Tensor]]:
        chosen = choose(self._labels, per_class, self._seed).to(self._labels.device)
        for index in torch.split(chosen, self._batch_size):
            centre = torch.full((len(index), 2), self._padding, device=index.device)
            yield self._batch(index, centre, torch.zeros_like(index, dtype=torch.bool))

    def _batch(self, index: Tensor, corner: Tensor, mirror: Tensor) -> tuple[Tensor, Tensor]:
        pixels = self._pixels
        if self._padding or self._flip:
            _, height, width, channels = pixels.shape
            along = torch.arange(self._size, device=index.device)
            rows = corner[:, :1] + along
            columns = corner[:, 1:] + torch.where(mirror[:, None], self._size - 1 - along, along)
            at = (index[:, None, None] * height + rows[:, :, None]) * width + columns[:, None, :]
            images = pixels.view(-1, channels).index_select(0, at.flatten())
            images = images.view(*at.shape, channels)
        else:
            images = pixels.index_select(0, index)
        return self._normalise(images), self._labels.index_select(0, index)


def _resident(
    recipe: Recipe, root: Path, device: torch.device, seed: int, share: Share, workers: int
) -> Data:
    train, test, classes = _load_arrays(recipe.data, root, recipe.image_size, workers)
    _check_batch(recipe, len(train[1]))
    pixels = torch.from_numpy(train[0]).flatten(0, 2)
    std, mean = torch.std_mean(pixels[:: max(1, len(pixels) // 10_000_000)].double() / 255, 0)
    make = partial(
        Resident,
        mean=mean.float(),
        std=std.float().clamp_min(1e-6),
        device=device,
        batch_size=recipe.batch_size,
        share=share,
    )
    return Data(
        make(*train, seed=seed, padding=recipe.crop_padding, flip=recipe.flip, shuffle=True),
        make(*test),
        classes,
        train[0].shape[3],
    )


@lru_cache(maxsize=2)  # runs that follow each other in one process share what was read
def _load_arrays(
    data: str, root: Path, image_size: int, workers: int
) -> tuple[Arrays, Arrays, int]:
    if data in _BUILTIN:
        return _BUILTIN[data](root)
    folder = find_folder(data, root)
    train = scan(folder / "train")
    test = scan(test_folder(folder), classes=train.classes)
    read = partial(read_once, cache=root / "decoded", size=image_size, workers=workers)
    return (
        (read(train.paths), np.array(train.labels)),
        (read(test.paths), np.array(test.labels)),
        len(train.classes),
    )


def _digits(root: Path) -> tuple[Arrays, Arrays, int]:
    """scikit-learn's 1,797 handwritten digits of 8×8 pixels; a third of each class is the test."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) * (255 / 16)).round().astype(np.uint8)
    x, x_test, y, y_test = train_test_split(
        images, labels, test_size=1 / 3, stratify=labels, random_state=0
    )
    return (x, y), (x_test, y_test), 10


def _cifar(root: Path, name: str) -> tuple[Arrays, Arrays, int]:
    """torchvision's CIFAR10 or CIFAR100, which it downloads and checks."""
    from torchvision import datasets

    parts = []
    for train in (True, False):
        try:
            part = getattr(datasets, name)(root, train=train, download=True)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"cannot get {name} in {root}: {error}. Put its archive there, or use --data DIR "
                "with a folder of images."
            ) from error
        parts.append((part.data, np.array(part.targets)))
    return parts[0], parts[1], len(part.classes)


_BUILTIN: dict[str, Callable[[Path], tuple[Arrays, Arrays, int]]] = {
    "digits": _digits,
    "cifar10": partial(_cifar, name="CIFAR10"),
    "cifar100": partial(_cifar, name="CIFAR100"),
}


# ---- sets that stream


@dataclass(frozen=True)
class _Files(torch.utils.data.Dataset[tuple[Tensor, int, int]]):
    """Transformed uint8 images (H, W, C), labels, and how many files could not be read for each.

    Keys are (epoch, index): augmentation depends on both. Where `skip` is set, the next image that
    can be read stands in for one that cannot.
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
        """Pixels, their index, and the number of unreadable ones before it."""
        for skipped in range(len(self.files.paths)):
            at = (index + skipped) % len(self.files.paths)
            try:
                return read_image(self.files.paths[at]), at, skipped
            except UserError:
                if not self.skip or skipped == MOST_IN_A_ROW:
                    raise
        raise AssertionError("an epoch has images")


class _Order(torch.utils.data.Sampler[list[tuple[int, int]]]):
    """This rank's slices of an epoch's global batches, as lists of (epoch, index)."""

    def __init__(self, n: int, batch_size: int, shuffle: bool, seed: int, share: Share) -> None:
        self.n, self.batch_size, self.shuffle = n, batch_size, shuffle
        self.seed, self.share = seed, share
        self.epoch = 0

    def __len__(self) -> int:
        full, rest = divmod(self.n, self.batch_size)
        return full if self.shuffle else full + (rest > self.share.rank)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = torch.Generator().manual_seed(mix(self.seed, self.epoch))
        order = torch.randperm(self.n, generator=generator)
        order = order if self.shuffle else torch.arange(self.n)
        for batch in torch.split(order, self.batch_size)[: len(self)]:
            yield [(self.epoch, index) for index in self.share.of(batch).tolist()]


class Streamed:
    """A split read from files by worker processes that live as long as the run."""

    def __init__(
        self,
        files: _Files,
        plain: _Files,
        order: _Order,
        size: int,
        device: torch.device,
        workers: int,
    ) -> None:
        self._plain, self._order, self._device, self._workers = plain, order, device, workers
        self.skipped = 0
        self._loader = torch.utils.data.DataLoader(
            files,
            batch_sampler=order,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # else each epoch draws from the global one
        )
        mean, std = torch.tensor(_IMAGENET_MEAN), torch.tensor(_IMAGENET_STD)
        self._normalise = Normalise(mean.to(device), std.to(device), size)

    def __len__(self) -> int:
        return len(self._order)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        return map(self._ready, self.raw(epoch))

    def raw(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """As the workers hand over: uint8 (B, H, W, C), labels, how many could not be read."""
        self._order.epoch = epoch
        try:
            yield from self._loader
        except UserError as error:  # from a worker it comes with the worker's traceback
            raise UserError(str(error).rpartition("UserError: ")[2].strip()) from None

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
        )
        yield from map(self._ready, loader)

    def _ready(self, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        images, labels, skipped = batch
        self.skipped += int(skipped.sum())
        if not self._order.shuffle and self.skipped:  # in a test no image counts for another
            images, labels = images[skipped == 0], labels[skipped == 0]
        x = self._normalise(images.to(self._device, non_blocking=True))
        return x, labels.to(self._device, non_blocking=True)


def _streamed(
    recipe: Recipe, folder: Path, device: torch.device, seed: int, share: Share, workers: int
) -> Data:
    size, skip = recipe.image_size, recipe.bad_images == "skip"
    augment, centre = RandomResizedCrop(size, recipe.flip), CentreCrop(size)
    train = scan(folder / "train")
    test = scan(test_folder(folder), classes=train.classes)
    _check_batch(recipe, len(train.paths))

    def split(
        files: ImageFolder, transform: RandomResizedCrop | CentreCrop, shuffle: bool
    ) -> Streamed:
        order = _Order(len(files.paths), recipe.batch_size, shuffle, seed, share)
        plain, augmented = (_Files(files, t, seed, skip) for t in (centre, transform))
        return Streamed(augmented, plain, order, size, device, workers)

    return Data(split(train, augment, True), split(test, centre, False), len(train.classes), 3)


def choose(labels: Tensor, per_class: int, seed: int) -> Tensor:
    """Indices of so many images of each class, drawn with the seed."""
    labels = labels.cpu()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(mix(seed, 0, 0)))
    shuffled = labels[order]
    chosen = [order[shuffled == label][:per_class] for label in range(int(labels.max()) + 1)]
    return torch.cat(chosen)


def mix(*numbers: int) -> int:
    """A seed from several numbers, such as (seed, epoch, index)."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
