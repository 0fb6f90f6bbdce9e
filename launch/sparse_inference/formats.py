"""Formats of a sparse matrix, each a module that multiplies a table of columns.

A table has the shape (inputs, L) and the product the shape (outputs, L). All formats need torch
only. `Gather` is the fastest one wherever L is large: the product of a row with the table is a sum
of the table's rows, weighted by the row's nonzeros, which is what torch's embedding bag computes
with vector instructions. The measurements are in docs/performance.md.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.errors import UserError

BLOCKS = (32, 16, 8, 4)  # sides of the blocks that are looked for, in weights


@contextmanager
def no_beta_warnings() -> Iterator[None]:
    """Leave out torch's warnings that its sparse tensors are in beta or prototype state."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The PyTorch API of SparseSemiStructuredTensor is in")
        warnings.filterwarnings("ignore", "Sparse (BSR|CSR) tensor support is in beta state")
        yield


class Csr(nn.Module):
    """Compressed sparse rows with indices of 4 bytes, multiplied by MKL.

    Args:
        matrix: (outputs, inputs), with zeros where there is no weight.
    """

    weight: Tensor

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        with no_beta_warnings():
            csr = matrix.to_sparse_csr()
            parts = csr.crow_indices().int(), csr.col_indices().int(), csr.values()
            weight = torch.sparse_csr_tensor(*parts, matrix.shape, check_invariants=True)
        self.register_buffer("weight", weight)

    def forward(self, table: Tensor) -> Tensor:
        """Return the product with a table of shape (inputs, L)."""
        if table.shape[1] == 1:
            return torch.mv(self.weight, table[:, 0])[:, None]
        return self.weight @ table


class Gather(nn.Module):
    """Sums of gathered rows of the table, weighted by the nonzeros.

    With a constant fan-in (SRigL), the indices are a matrix of shape (outputs, fan-in). Otherwise
    they are a vector, with the place at which each output starts.

    Args:
        matrix: (outputs, inputs), with zeros where there is no weight.
    """

    columns: Tensor
    values: Tensor
    starts: Tensor | None

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        rows, columns = matrix.nonzero(as_tuple=True)
        counts = rows.bincount(minlength=len(matrix))
        self.has_constant_fan_in = bool(counts[0] > 0) and bool((counts == counts[0]).all())
        shape = (len(matrix), -1) if self.has_constant_fan_in else (-1,)
        starts = F.pad(counts.cumsum(0), (1, 0)).int()
        self.register_buffer("columns", columns.int().view(shape))
        self.register_buffer("values", matrix[rows, columns].view(shape))
        self.register_buffer("starts", None if self.has_constant_fan_in else starts)

    def forward(self, table: Tensor) -> Tensor:
        """Return the product with a table of shape (inputs, L)."""
        return gathered_sums(self.columns, self.values, self.starts, table)


def gathered_sums(columns: Tensor, values: Tensor, starts: Tensor | None, table: Tensor) -> Tensor:
    """Return for each output the sum of values times rows of the table.

    Args:
        columns: indices of rows of the table; a matrix, or with `starts` a vector.
        values: the weights, of the shape of `columns`.
        starts: where each output's indices start, and their number at the end; or None.
        table: (rows, L).
    """
    return F.embedding_bag(
        columns,
        table.contiguous(),
        starts,
        mode="sum",
        per_sample_weights=values,
        include_last_offset=starts is not None,
    )


class Block(nn.Module):
    """Compressed sparse rows of square blocks, multiplied by MKL.

    Args:
        matrix: (outputs, inputs), with zeros where there is no weight.

    Raises:
        UserError: the nonzeros are not in blocks.
    """

    weight: Tensor

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        side = block_side(matrix)
        if not side:
            raise UserError(f"the nonzeros are not in square blocks of {BLOCKS} weights.")
        with no_beta_warnings():
            self.register_buffer("weight", matrix.to_sparse_bsr((side, side)))

    def forward(self, table: Tensor) -> Tensor:
        """Return the product with a table of shape (inputs, L)."""
        return self.weight @ table


def block_side(matrix: Tensor) -> int:
    """Return the side of the largest square blocks that are full or empty; 0 if there are none.

    A block counts as full if at most a tenth of it is zero, over all blocks that are not empty.
    """
    nonzero = matrix != 0
    kept = int(nonzero.sum())
    for side in BLOCKS:
        if kept and not (matrix.shape[0] % side or matrix.shape[1] % side):
            tiles = nonzero.unfold(0, side, side).unfold(1, side, side)
            full = int(tiles.any(-1).any(-1).sum()) * side * side
            if 0.9 * full <= kept and full < matrix.numel():
                return side
    return 0


FORMATS: dict[str, Callable[[Tensor], nn.Module]] = {"csr": Csr, "gather": Gather, "block": Block}


def formats_of(matrix: Tensor) -> list[str]:
    """Return the formats that a matrix can have."""
    return [name for name in FORMATS if name != "block" or block_side(matrix)]


def held_bytes(module: nn.Module) -> int:
    """Return the bytes of all parameters and buffers; of sparse ones, their values and indices."""
    tensors = {id(t): t for t in (*module.parameters(), *module.buffers())}.values()
    return sum(_bytes(tensor) for tensor in tensors)


def _bytes(tensor: Tensor) -> int:
    parts = [tensor]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        parts = [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    return sum(part.numel() * int(part.element_size()) for part in parts)
