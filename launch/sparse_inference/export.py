"""A network with sparse layers as a file of torch.export, which loads with torch alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from baselines.errors import UserError, one_line
from launch.measures.timing import Measure, measure
from launch.sparse_inference.format_choice import (
    LayerFormat,
    check_outputs,
    choose_formats,
    with_formats,
)

ROUNDS = 30


@dataclass(frozen=True)
class SparseNetwork:
    """A network with sparse layers that torch.export has recorded.

    Attributes:
        program: the record, for inputs of the shape of x.
        choices: the format of each layer.
        time: divided by that of the dense network.
    """

    dense: nn.Module
    x: Tensor
    program: torch.export.ExportedProgram
    choices: Sequence[LayerFormat]
    time: float

    @property
    def count(self) -> str:
        """How many layers are sparse, in words."""
        return f"{sum(c.is_sparse for c in self.choices)} of {len(self.choices)} layers are sparse"

    def write(self, path: Path) -> None:
        """Write the file, and compare what is read from it with the dense network.

        Raises:
            UserError: outputs differ.
        """
        with path.open("wb") as stream:
            torch.export.save(self.program, stream)
        with path.open("rb") as stream:
            check_outputs(self.dense, torch.export.load(stream).module(), self.x)


def sparse_network(model: nn.Module, x: Tensor, timer: Measure = measure) -> SparseNetwork:
    """Choose the formats of a network's layers for inputs like x, and record the result.

    Args:
        model: in eval mode, on the CPU.
        timer: measures the layers and the network.

    Raises:
        UserError: no layer is faster in a sparse format, or the network is not faster with those
            that are, or it cannot be recorded.
    """
    choices = choose_formats(model, x, ROUNDS, exported=True, timer=timer)
    if not any(choice.is_sparse for choice in choices):
        raise UserError(
            f"dense wins: none of {len(choices)} layers is faster in a sparse format at batch size "
            f"{len(x)} on this machine; export without --sparse, or with another --batch."
        )
    swapped = with_formats(model, choices, exported=True)
    check_outputs(model, swapped, x)
    with torch.no_grad():
        works = {"dense": lambda: model(x), "sparse": lambda: swapped(x)}
        time = timer(works, ROUNDS, x.device)["sparse"].ratio
    if time >= 1:
        raise UserError(
            f"dense wins: with the layers that are faster in a sparse format the network takes "
            f"{time:.2f} of the dense time at batch size {len(x)} on this machine; export without "
            "--sparse, or with another --batch."
        )
    try:
        with torch.no_grad():
            program = torch.export.export(swapped, (x,))
    except Exception as error:  # torch.export raises exceptions of many types
        raise UserError(f"torch.export cannot record the network: {one_line(error)}") from error
    return SparseNetwork(model, x, program, choices, time)
