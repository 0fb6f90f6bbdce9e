"""Linear layers and convolutions with a sparse weight.

They take and return what the dense ones do; outputs are contiguous. Large inputs are computed in
pieces that stay in the cache.

A convolution is a product with a table that has a row for each input of an output (`Im2colConv`:
each input channel and tap of the kernel), or a row of pixels for each channel, column of the kernel
and row of the image (`RowsConv`). The second table is smaller by the height of the kernel. Groups
and 1×1 convolutions need no form of their own.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from launch.sparse_inference.formats import gathered_sums

ROWS = 128  # of the inputs of a linear layer in one piece
TABLE = 400_000  # numbers in the table of one piece, if it has more than one image

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d


class SparseLinear(nn.Module):
    """A linear layer with a weight in a sparse format.

    Args:
        layer: the dense layer.
        product: its weight in a format of `launch.sparse_inference.formats`.
    """

    bias: Tensor | None

    def __init__(self, layer: nn.Linear, product: nn.Module) -> None:
        super().__init__()
        self.product = product
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach()[:, None])

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, of shape (…, outputs), for inputs of shape (…, inputs)."""
        rows = x.reshape(-1, self.in_features)
        out = rows.new_empty(len(rows), self.out_features)
        for piece, target in zip(row_pieces(rows), row_pieces(out), strict=True):
            target.copy_(_plus(self.product(piece.T.contiguous()), self.bias).T)
        return out.view(*x.shape[:-1], self.out_features)


def row_pieces(table: Tensor) -> tuple[Tensor, ...]:
    """Return views of at most `ROWS` rows each; tables of equal length have equal pieces."""
    return table.tensor_split(max(1, -(-len(table) // ROWS)))


class _SparseConv(nn.Module):
    """What both convolutions share: padding, pieces of the batch, bias."""

    bias: Tensor | None

    def __init__(self, layer: Conv) -> None:
        super().__init__()
        self.channels, self.out_channels = layer.in_channels, layer.out_channels
        self.kernel, self.stride, self.dilation = (
            tuple(map(int, value)) for value in (layer.kernel_size, layer.stride, layer.dilation)
        )
        self.padding = tuple(layer._reversed_padding_repeated_twice)
        self.mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach()[:, None])

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, (N, outputs, …) for inputs (N, channels, …), or both without N."""
        is_one = x.ndim == len(self.kernel) + 1
        batch = x[None] if is_one else x
        if any(self.padding):
            batch = F.pad(batch, self.padding, self.mode)
        size = [
            (side - d * (k - 1) - 1) // s + 1
            for side, k, s, d in zip(
                batch.shape[2:], self.kernel, self.stride, self.dilation, strict=True
            )
        ]
        out = batch.new_empty(len(batch), self.out_channels, *size)
        at_once = max(1, TABLE // max(1, self.table_size(batch, size)))
        pieces = max(1, -(-len(batch) // at_once))
        for piece, target in zip(batch.tensor_split(pieces), out.tensor_split(pieces), strict=True):
            if len(piece):
                self.fill(piece, target)
        return out[0] if is_one else out

    def windows(self, x: Tensor, dim: int) -> Tensor:
        """Return a view with the taps of a spatial dimension as a new last dimension."""
        dilation = self.dilation[dim]
        reach = dilation * (self.kernel[dim] - 1) + 1
        return x.unfold(2 + dim, reach, self.stride[dim])[..., ::dilation]

    def table_size(self, x: Tensor, size: list[int]) -> int:
        """Return the size of the table of one padded image with an output of that size."""
        raise NotImplementedError

    def fill(self, x: Tensor, out: Tensor) -> None:
        """Compute the outputs of padded images."""
        raise NotImplementedError


class Im2colConv(_SparseConv):
    """A convolution by a table with a row for each input channel and tap of the kernel.

    Args:
        layer: the dense layer.
        product: `conv_matrix(layer)` in a format of `launch.sparse_inference.formats`.
    """

    def __init__(self, layer: Conv, product: nn.Module) -> None:
        super().__init__(layer)
        self.product = product

    def table_size(self, x: Tensor, size: list[int]) -> int:
        return self.channels * math.prod(self.kernel) * math.prod(size)

    def fill(self, x: Tensor, out: Tensor) -> None:
        n, size, dims = len(x), out.shape[2:], len(self.kernel)
        windows = x
        for dim in range(dims):
            windows = self.windows(windows, dim)  # (N, channels, *size, *kernel) at the end
        order = (1, *range(2 + dims, 2 + 2 * dims), 0, *range(2, 2 + dims))
        table = windows.permute(order).reshape(-1, n * math.prod(size))
        found = _plus(self.product(table), self.bias)
        out.copy_(found.view(self.out_channels, n, *size).transpose(0, 1))


class RowsConv(_SparseConv):
    """A convolution of images by a table of their rows, at each column of the kernel.

    The indices of the first row of the outputs are held; those of the other rows follow from them
    in each forward pass.

    Args:
        layer: the dense layer.
    """

    tap_columns: Tensor
    tap_rows: Tensor
    values: Tensor
    starts: Tensor

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__(layer)
        matrix = conv_matrix(layer)
        outputs, inputs = matrix.nonzero(as_tuple=True)
        height, width = self.kernel
        channel, tap = inputs // (height * width), inputs % (height * width)
        # the table's rows are (channel, column of the kernel, row of the padded image)
        self.register_buffer("tap_columns", (channel * width + tap % width).int())
        self.register_buffer("tap_rows", (tap // width * self.dilation[0]).int())
        self.register_buffer("values", matrix[outputs, inputs])
        counts = outputs.bincount(minlength=len(matrix))
        self.register_buffer("starts", (counts.cumsum(0) - counts).int())

    def table_size(self, x: Tensor, size: list[int]) -> int:
        return self.channels * self.kernel[1] * x.shape[2] * size[1]

    def fill(self, x: Tensor, out: Tensor) -> None:
        n, padded, (height, width) = len(x), x.shape[2], out.shape[2:]
        # (N, channels, row, output column, column of the kernel)
        table = self.windows(x, 1).permute(1, 4, 2, 0, 3).reshape(-1, n * width)
        first = self.tap_columns * padded + self.tap_rows
        downward = torch.arange(height, dtype=torch.int32, device=x.device)[:, None]
        count = len(self.values)
        found = gathered_sums(
            (first + downward * self.stride[0]).flatten(),
            self.values.expand(height, count).reshape(-1),
            F.pad((self.starts + downward * count).flatten(), (0, 1), value=height * count),
            table,
        )
        found = found.view(height, self.out_channels, n, width).permute(2, 1, 0, 3)
        out.copy_(found if self.bias is None else found + self.bias[..., None])


def conv_matrix(layer: Conv) -> Tensor:
    """Return the weight of a convolution as a matrix over all input channels.

    Its shape is (outputs, channels · taps of the kernel). With groups, an output has zeros at the
    channels of other groups.
    """
    weight = layer.weight.detach()
    groups, outputs = layer.groups, len(weight)
    parts = weight.reshape(groups, outputs // groups, -1)
    matrix = weight.new_zeros(groups, outputs // groups, groups, parts.shape[-1])
    each = torch.arange(groups)
    matrix[each, :, each] = parts
    return matrix.view(outputs, -1)


def _plus(found: Tensor, bias: Tensor | None) -> Tensor:
    return found if bias is None else found.add_(bias)
