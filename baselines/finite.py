"""Whether tensors are finite."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def is_finite(tensor: Tensor) -> bool:
    """Return whether all entries are finite. Takes one pass and no memory."""
    return all_finite([tensor])


def all_finite(tensors: Iterable[Tensor | None]) -> bool:
    """Return whether all entries of all tensors are finite; waits once for their device."""
    values = [_real(x.detach()) for x in tensors if x is not None]
    ends = [torch.stack(x.aminmax()) for x in values if x.numel()]
    return not ends or bool(torch.cat([x.to(ends[0].device) for x in ends]).isfinite().all())


def _real(tensor: Tensor) -> Tensor:
    """Return the numbers of a tensor, which may be complex or sparse."""
    stored = tensor.coalesce().values() if tensor.is_sparse else tensor
    return torch.view_as_real(stored.resolve_conj()) if stored.is_complex() else stored
