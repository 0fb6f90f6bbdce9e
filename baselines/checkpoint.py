"""Checkpoint: the named tensors of a network, and its masks."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor

from baselines.errors import UserError
from baselines.finite import is_finite

FILE_ENDINGS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".tar")
_MOST_COMPARED = 2000  # names; comparing texts is slow


@dataclass(frozen=True)
class Checkpoint:
    """The state of a network.

    Attributes:
        weights: the state dict of the plain model: prunable weights with zeros at the positions
            that are pruned, all other parameters, and buffers.
        masks: by weight name, True (or 1) at the positions that are kept. Empty if there are no
            masks.
        origin: where it comes from, for messages.
    """

    weights: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]
    origin: str = "the source"


class ReadSource(Protocol):
    """A function that reads a source: a snapshot of a run, or a file."""

    def __call__(
        self, source: str, /, key: str = "", like: Mapping[str, Tensor] | None = None
    ) -> Checkpoint:
        """Return the source's checkpoint.

        Args:
            key: which network of a file that has several, such as "model_ema".
            like: tensors of the network by name. The source's names are adapted to them.
        """


def run_of(source: str) -> str:
    """Return the name of the run that a source names (`RUN` or `RUN@EPOCH`); empty for a path."""
    head, at, tail = source.rpartition("@")
    name = head if at else tail
    return "" if "/" in name or name.endswith(FILE_ENDINGS) else name


def with_epoch(source: str) -> str:
    """Return a source with the last epoch, `RUN@final`, if it is only the name of a run.

    A source with a file ending or a folder in its name is a file: the names of runs must not depend
    on which files exist.
    """
    return f"{source}@final" if source and source == run_of(source) else source


def entries_of(source: Checkpoint, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the source's tensors of the given names and shapes.

    A missing `num_batches_tracked` of batch normalisation becomes 0, as in `load_state_dict`.

    Raises:
        UserError: one is missing, of another shape, or not finite.
    """
    return {name: _entry(source, name, tensor) for name, tensor in like.items()}


def _entry(source: Checkpoint, name: str, like: Tensor) -> Tensor:
    if name not in source.weights:
        if name.rpartition(".")[2] == "num_batches_tracked":
            return torch.zeros_like(like)
        raise UserError(f"{source.origin} has no {name}{_nearest(source, name, like)}")
    value = source.weights[name]
    check_shape(source, name, like)
    if like.is_floating_point() and not value.is_floating_point():
        raise UserError(f"{source.origin}: {name} has type {value.dtype}, not floating point.")
    if value.is_floating_point() and not is_finite(value):
        raise UserError(f"{source.origin}: {name} has values that are not finite.")
    return value


def check_shape(source: Checkpoint, name: str, like: Tensor, hint: str = "") -> None:
    """Check the shape of a tensor of the source.

    Args:
        hint: ends the message.

    Raises:
        UserError: the shapes differ.
    """
    shape = source.weights[name].shape
    if shape != like.shape:
        shapes = f"shape {tuple(shape)}, not {tuple(like.shape)}"
        raise UserError(f"{source.origin}: {name} has {shapes}{hint}.")


def _nearest(source: Checkpoint, name: str, like: Tensor) -> str:
    """Return the end of a message: the shape of a missing tensor, and the nearest names."""
    names = list(islice(source.weights, _MOST_COMPARED))
    end, shape = name.rpartition(".")[2], like.shape
    same = [n for n in names if source.weights[n].shape == shape and n.rpartition(".")[2] == end]
    near = difflib.get_close_matches(name, same, n=2, cutoff=0)
    near = near or difflib.get_close_matches(name, names, n=2)
    shown = ", ".join(_with_shape(n, source.weights[n]) for n in near)
    return f" of shape {tuple(like.shape)}; nearest: {shown}." if near else "."


def _with_shape(name: str, tensor: Tensor) -> str:
    return f"{name if len(name) <= 60 else '…' + name[-59:]} {tuple(tensor.shape)}"
