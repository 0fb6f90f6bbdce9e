"""Memory layout of dense tensors."""

from __future__ import annotations

from torch import Tensor


def in_memory_order(tensor: Tensor) -> Tensor:
    """Return a dense tensor of any layout, such as channels_last, as a vector in memory order."""
    return tensor.as_strided((tensor.numel(),), (1,))


def lie_alike(a: Tensor, b: Tensor) -> bool:
    """Return whether dense tensors of equal shape have their entries in the same memory order.

    Strides of dimensions of size 1 are ignored: they differ between equal layouts, as for 1 × 1
    convolutions.
    """
    pairs = zip(a.shape, a.stride(), b.stride(), strict=True)
    return all(size == 1 or one == other for size, one, other in pairs)
