"""Whether tensors are finite."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def is_finite(tensor: Tensor) -> bool:
    """Return whether all entries are finite. It is one pass, which stores nothing."""
    return not tensor.numel() or all(bool(end.isfinite()) for end in tensor.detach().aminmax())


def all_finite(tensors: Iterable[Tensor | None]) -> bool:
    """Return whether all entries of all tensors are finite; waits once for the device."""
    ends = [torch.stack(x.detach().aminmax()) for x in tensors if x is not None and x.numel()]
    return not ends or bool(torch.cat(ends).isfinite().all())
