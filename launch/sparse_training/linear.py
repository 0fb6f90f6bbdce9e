"""A linear layer with a masked weight: outputs and gradients by sparse products, on a CPU.

Outputs and gradients of the inputs are gathered sums. The gradient of the weight is computed at the
active positions and is zero elsewhere. The weight is a dense tensor, whose values are read in each
pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from launch.sparse_inference.formats import gathered_sums, no_beta_warnings
from launch.sparse_inference.layers import row_pieces

Product = Callable[[Tensor, Tensor], Tensor]  # of inputs and a weight


class Pattern:
    """The active positions of a weight, by rows and by columns.

    Args:
        index: offsets of the active positions in row-major order; at least one.
        weight: contiguous, of shape (outputs, inputs).
    """

    def __init__(self, index: Tensor, weight: Tensor) -> None:
        self.index = index
        outputs, inputs = weight.shape
        rows, columns = index // inputs, index % inputs
        self.by_columns = order = (columns * outputs + rows).argsort()
        self.columns, self.row_starts = columns.int(), _starts(rows, outputs)
        self.rows, self.column_starts = rows[order].int(), _starts(columns, inputs)
        with no_beta_warnings():
            zeros = torch.zeros_like(index, dtype=weight.dtype)
            parts = self.row_starts, self.columns, zeros
            self.zeros = torch.sparse_csr_tensor(*parts, (outputs, inputs), check_invariants=True)


def _starts(lines: Tensor, number: int) -> Tensor:
    return F.pad(lines.bincount(minlength=number).cumsum(0), (1, 0)).int()


def sparse_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, pattern: Pattern
) -> Tensor:
    """Return what `F.linear` does, for a weight that is zero outside of a pattern.

    The gradient of the weight is zero there, too.
    """
    found: Tensor = _SparseLinear.apply(x, weight, bias, pattern)
    return found


class _SparseLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, pattern: Pattern
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        out = rows.new_empty(len(rows), len(weight))
        values, tables = weight.view(-1).take(pattern.index), []
        for piece, target in zip(row_pieces(rows), row_pieces(out), strict=True):
            tables.append(piece.T.contiguous())
            sums = gathered_sums(pattern.columns, values, pattern.row_starts, tables[-1])
            target.copy_((sums if bias is None else sums.add_(bias[:, None])).T)
        ctx.pattern, ctx.shape = pattern, x.shape
        ctx.save_for_backward(values, *tables)
        return out.view(*x.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, *tables = ctx.saved_tensors
        pattern, (of_x, of_weight, of_bias, _) = ctx.pattern, ctx.needs_input_grad
        rows = gradient.reshape(-1, gradient.shape[-1])
        to_x = rows.new_empty(len(rows), ctx.shape[-1]) if of_x else None
        values, active = values[pattern.by_columns], pattern.zeros
        for i, piece in enumerate(row_pieces(rows)):
            columns = piece.T.contiguous()
            if to_x is not None:
                sums = gathered_sums(pattern.rows, values, pattern.column_starts, columns)
                row_pieces(to_x)[i].copy_(sums.T)
            if of_weight:
                active = torch.sparse.sampled_addmm(active, columns, tables[i].T)
        return (
            None if to_x is None else to_x.view(ctx.shape),
            _to_dense(active, pattern.index) if of_weight else None,
            rows.sum(0) if of_bias else None,
            None,
        )


def _to_dense(sparse: Tensor, index: Tensor) -> Tensor:
    """Return a CSR matrix as a dense one; faster than `to_dense`."""
    dense = sparse.values().new_zeros(sparse.shape)
    dense.view(-1).index_copy_(0, index, sparse.values())
    return dense


def both_passes(product: Product, x: Tensor, weight: Tensor, gradient: Tensor) -> list[Tensor]:
    """Return the outputs of a product and the gradients of those arguments that require one."""
    with torch.enable_grad():
        out = product(x, weight)
        wanted = [tensor for tensor in (x, weight) if tensor.requires_grad]
        return [out.detach(), *torch.autograd.grad(out, wanted, gradient)]
