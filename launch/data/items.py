"""Splits of a torch Dataset of pairs (tensor, label), read while training.

Whatever the dataset draws at random (augmentation) is a function of (seed, epoch, index): torch,
numpy and random are seeded for each item.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from baselines.errors import UserError
from launch.data.order import Order, choose, mix
from launch.data.streamed import batches_of, ignore_stop
from launch.inputs import Inputs, float_inputs

Key = tuple[int, int]  # epoch and index


class Items:
    """A split of a dataset, read by worker processes of its own that live as long as the run.

    Args:
        dataset: of pairs of a tensor, all of one shape, and a label.
        plain: the same without augmentation, for samples.
        labels: of all items.
        order: this rank's part of every batch.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        plain: Dataset[Any],
        labels: Tensor,
        order: Order,
        device: torch.device,
        workers: int,
    ) -> None:
        self.skipped = 0
        self._plain, self.labels, self._order = plain, labels, order
        self._device, self._workers = device, workers
        self._loader = self._load(dataset, batch_sampler=order, persistent_workers=workers > 0)

    def __len__(self) -> int:
        return len(self._order)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        self._order.epoch = epoch
        return self._ready(self._loader)

    def sample(self, per_class: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = self._order
        chosen = choose(self.labels, per_class, order.seed).tolist()
        size = order.batch_size // order.share.world
        keys = [(0, index) for index in chosen]
        return self._ready(self._load(self._plain, sampler=keys, batch_size=size))

    def _load(self, dataset: Dataset[Any], **how: Any) -> DataLoader[tuple[Tensor, Tensor]]:
        return DataLoader(
            _Seeded(dataset, self._order.seed),  # type: ignore[arg-type]  # batches have tensors
            num_workers=self._workers,
            pin_memory=self._device.type == "cuda",
            generator=torch.Generator(),  # by default each epoch draws from the global one
            worker_init_fn=ignore_stop,
            **how,
        )

    def _ready(self, loader: DataLoader[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in batches_of(loader):
            yield x.to(self._device, non_blocking=True), y.to(self._device, non_blocking=True)


class _Seeded(Dataset[tuple[Tensor, int]]):
    """Items of a dataset by (epoch, index), each with generators of its own."""

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, key: Key) -> tuple[Tensor, int]:
        with _generators(mix(self.seed, *key)):
            return _item(self.dataset, key[1])


@contextmanager
def _generators(seed: int) -> Iterator[None]:
    """Seed the global generators, and restore them afterwards."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def describe_items(train: Dataset[Any], test: Dataset[Any], source: str) -> tuple[int, Inputs]:
    """Return the number of classes, and what the inputs are.

    The classes are those of the attributes `classes` or `num_classes` of the training split, or
    else counted in the labels.

    Raises:
        UserError: the items are no pairs of a tensor and a label, of different shapes, or have
            other labels than an attribute of their split.
    """
    firsts = []
    for split in (train, test):
        if not _length(split):
            raise UserError(f"{source}: a split has no items.")
        with _generators(0):
            firsts.append(_item(split, 0)[0])
        check_targets(split, source)
    if firsts[0].shape != firsts[1].shape:
        shapes = " and ".join(str(tuple(x.shape)) for x in firsts)
        raise UserError(f"{source}: items of the splits have shapes {shapes}.")
    classes = _classes(train) or int(max(read_labels(s).max() for s in (train, test))) + 1
    if firsts[0].is_floating_point():
        return classes, float_inputs(firsts[0].shape, source)
    vocabulary = getattr(train, "vocabulary", None)
    if not isinstance(vocabulary, int):
        raise UserError(
            f"{source}: items are integers. Give float tensors, or for tokens an attribute "
            "vocabulary with their number."
        )
    return classes, Inputs(tuple(firsts[0].shape), "int64", vocabulary)


def read_labels(dataset: Dataset[Any]) -> Tensor:
    """Return the labels of all items: its attribute targets or labels, or else read one by one."""
    if (named := _named_labels(dataset)) is not None:
        return named
    with _generators(0):
        return torch.tensor([_item(dataset, i)[1] for i in range(_length(dataset))])


def _named_labels(dataset: Dataset[Any]) -> Tensor | None:
    """Return the labels in an attribute of a dataset; None if there is none."""
    if isinstance(dataset, Subset):
        labels = _named_labels(dataset.dataset)
        return None if labels is None else labels[torch.as_tensor(dataset.indices)]
    tensors: Sequence[Any] = getattr(dataset, "tensors", ())
    named = (getattr(dataset, name, None) for name in ("targets", "labels"))
    for found in (*named, *tensors[1:2]):
        if found is not None and len(found) == _length(dataset):
            return integer_labels(found, type(dataset).__name__)
    return None


def integer_labels(labels: Any, source: str) -> Tensor:
    """Return labels as integers. Raises UserError if they are something else."""
    try:
        found = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):
        found = None
    if found is None or not torch.equal(found, found.long()):
        raise UserError(f"{source}: labels must be classes 0, 1, …, not {labels[0]!r}.")
    return found.long()


def check_labels(labels: Tensor, classes: int, source: str) -> None:
    """Raise UserError if a label is none of the classes."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise UserError(f"{source}: labels are {low} to {high}, not 0 to {classes - 1}.")


def check_targets(dataset: Dataset[Any], source: str) -> None:
    """Raise UserError if the labels in an attribute of a dataset differ from those of its items.

    Compares the items with the smallest and the largest label.
    """
    labels = _named_labels(dataset)
    if labels is None:
        return
    for at in {int(labels.argmin()), int(labels.argmax())}:
        with _generators(0):
            label = _item(dataset, at)[1]
        if label != labels[at]:
            raise UserError(
                f"{source}: item {at} has label {label}, but {int(labels[at])} in the attribute "
                "with all labels (targets or labels): make them equal."
            )


def _classes(dataset: Dataset[Any]) -> int:
    """Return the number of classes that a dataset names; 0 if it names none."""
    named = (getattr(dataset, name, None) for name in ("classes", "num_classes"))
    for found in named:
        count = int(found) if isinstance(found, Integral) else len(() if found is None else found)
        if count:
            return count
    return 0


def without_augmentation(dataset: Dataset[Any]) -> Dataset[Any]:
    """Return the dataset's attribute `plain`, the same items without augmentation, or itself."""
    if isinstance(dataset, Subset):
        return Subset(without_augmentation(dataset.dataset), dataset.indices)
    return getattr(dataset, "plain", dataset)


def _item(dataset: Dataset[Any], index: int) -> tuple[Tensor, int]:
    """Return an item as a tensor (float32, or int64 for tokens) and a label."""
    found = dataset[index]
    if isinstance(found, (tuple, list)) and len(found) == 2:
        x, label = found
        if isinstance(x, (np.ndarray, np.generic)):
            x = torch.from_numpy(np.asarray(x))
        if isinstance(x, Tensor):
            (y,) = integer_labels([label], type(dataset).__name__).tolist()
            return (x.float() if x.is_floating_point() else x.long()), y
    raise UserError(
        f"items of a Dataset must be pairs of a tensor and a label, not {_kinds(found)}: "
        "give the Dataset a transform."
    )


def _kinds(found: Any) -> str:
    if isinstance(found, (tuple, list)):
        return f"({', '.join(type(part).__name__ for part in found)})"
    return type(found).__name__


def _length(dataset: Dataset[Any]) -> int:
    return len(dataset)  # type: ignore[arg-type]
