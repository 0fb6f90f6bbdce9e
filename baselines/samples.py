"""Samples: training data for methods that score weights before training."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from baselines.errors import UserError, require
from baselines.forward import first_examples, mapped, mean_loss

Batch = tuple[Any, Any]  # inputs and targets, on the model's device
Loss = Callable[[Any, Any], Tensor]  # mean loss of outputs and targets
Source = DataLoader[Any] | Callable[[int], Iterable[Batch]]


class Samples:
    """Gives batches to score on, and the loss to score by.

    Args:
        source: a DataLoader of (inputs, class labels) or of mappings with "labels", or a function
            that takes a number n and returns batches (inputs, targets) with n examples of each
            class; the same on all ranks. Inputs that are a mapping are the model's keyword
            arguments, a tuple or list its positional ones.
        loss: mean loss of the model's outputs and the targets. By default the `loss` that the
            model returns, else the cross-entropy of its logits.
        device: where batches of a DataLoader are moved to; `sparsify` replaces None by the model's.

    Raises:
        UserError: the source is neither a DataLoader nor a function.
    """

    def __init__(
        self, source: Source, loss: Loss = mean_loss, device: torch.device | None = None
    ) -> None:
        require(
            isinstance(source, DataLoader) or callable(source),
            "samples must be a DataLoader of torch, or a function that takes a number and returns "
            f"batches (inputs, targets), not {type(source).__name__}.",
        )
        self.source, self.loss, self.device = source, loss, device

    def __call__(self, per_class: int) -> Iterable[Batch]:
        """Return batches with `per_class` examples of each class (fewer if there are fewer).

        Raises:
            UserError: the DataLoader's batches are not pairs of inputs and integer labels.
        """
        if isinstance(self.source, DataLoader):
            return balanced_batches(self.source, per_class, self.device)
        return self.source(per_class)

    def one_example(self) -> Any:
        """Return the inputs of one example, as a batch of size 1.

        Raises:
            UserError: there is no data.
        """
        inputs, _ = next(iter(self(1)))
        return first_examples(inputs, 1)

    def example(self, most: int) -> Any:
        """Return the inputs of up to `most` examples; None if there is no data.

        Does not use torch's global generator.
        """
        with torch.random.fork_rng(devices=[]):
            try:
                inputs, _ = next(iter(self(1)))
            except (UserError, StopIteration):
                return None
        return first_examples(inputs, most)


def as_samples(source: Source | Samples | None, model: nn.Module) -> Samples:
    """Return samples on the model's device; for None, samples that raise an error when called.

    Samples with a device of their own are returned as they are.

    Raises:
        UserError: the source is of another kind.
    """
    device = next(model.parameters()).device
    if not isinstance(source, Samples):
        return Samples(no_samples if source is None else source, device=device)
    if source.device is not None:
        return source
    placed = copy.copy(source)
    placed.device = device
    return placed


def no_samples(_per_class: int) -> Iterable[Batch]:
    """Raise UserError: there are no samples."""
    raise UserError("the method scores training data: give samples=DataLoader(...) to sparsify.")


def balanced_batches(
    loader: DataLoader[Any], per_class: int, device: torch.device | None
) -> Iterator[Batch]:
    """Yield the first `per_class` examples of each class, batch by batch.

    Reads all data on every rank, also if the loader has a DistributedSampler.
    """
    taken: Counter[int] = Counter()
    for batch in _of_all_ranks(loader):
        x, y = _pair(batch)
        chosen = []
        for i, label in enumerate(y.tolist()):
            taken[label] += 1
            if taken[label] <= per_class:
                chosen.append(i)
        if chosen:
            yield mapped(partial(_rows, chosen, device), (x, y))


def _of_all_ranks(loader: DataLoader[Any]) -> DataLoader[Any]:
    """Return a loader of all that the ranks together load, in an order that is equal on all."""
    if not isinstance(loader.sampler, DistributedSampler):
        return loader
    one, data = loader.sampler, loader.dataset
    sampler: Any = DistributedSampler(data, 1, 0, one.shuffle, one.seed)
    size, workers, collate = loader.batch_size, loader.num_workers, loader.collate_fn
    return DataLoader(data, size, sampler=sampler, num_workers=workers, collate_fn=collate)


def _rows(chosen: list[int], device: torch.device | None, tensor: Tensor) -> Tensor:
    return tensor[chosen].to(device)


def _pair(batch: Any) -> tuple[Any, Tensor]:
    x: Any = None
    y: Any = None
    if isinstance(batch, Mapping):
        x, y = batch, batch.get("labels")
    elif isinstance(batch, (tuple, list)) and len(batch) == 2:
        x, y = batch
    if isinstance(y, Tensor) and _are_labels(y):
        return x, y
    raise UserError(
        "samples: batches must be pairs (inputs, integer labels of shape (N,)) or mappings with "
        'such "labels"; give a function that returns batches for other data.'
    )


def _are_labels(y: Tensor) -> bool:
    return y.ndim == 1 and not y.is_floating_point()
