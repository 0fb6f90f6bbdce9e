"""How dense tensors lie in memory."""

from __future__ import annotations

from torch import Tensor


def in_memory_order(tensor: Tensor) -> Tensor:
    """A dense tensor of any layout (channels_last, say) as the vector that lies in memory."""
    return tensor.as_strided((tensor.numel(),), (1,))


def lie_alike(a: Tensor, b: Tensor) -> bool:
    """Whether dense tensors of one shape have their entries in memory in the same order.

    Strides of dimensions of size 1 say nothing of it, and differ (those of 1 x 1 convolutions).
    """
    pairs = zip(a.shape, a.stride(), b.stride(), strict=True)
    return all(size == 1 or one == other for size, one, other in pairs)
