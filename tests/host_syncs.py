"""Detection of operations that make the host wait for a GPU, with CPU tensors.

GPU operations are queued. The host waits for the queue if Python needs the value of a result, or if
the size of a result depends on values. On a CPU the same operations are visible when dispatched.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

SYNCS = {
    aten._local_scalar_dense,  # item(), float(t), int(t), bool(t), `if t`
    aten.is_nonzero,
    aten.equal,  # torch.equal returns a bool
    aten.allclose,
    aten.nonzero,  # sizes that depend on values
    aten.masked_select,
    aten._unique2,
    aten.unique_dim,
    aten.unique_consecutive,
    aten.repeat_interleave,
    aten.bincount,
}
INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
COPIES = {Tensor.tolist, Tensor.cpu, Tensor.numpy, Tensor.__array__}  # no operation on a CPU


class HostSyncs:
    """Context manager that records such operations.

    Attributes:
        found: names of operations, in order.
    """

    def __init__(self) -> None:
        self.found: list[str] = []
        self._modes = (_Operations(self.found), _Functions(self.found))

    def __enter__(self) -> HostSyncs:
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)


class _Operations(TorchDispatchMode):
    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        packet = function.overloadpacket
        if packet in SYNCS or (packet in INDEXED and _has_mask(args[1])):
            self.found.append(str(function))
        return function(*args, **(kwargs or {}))


def _has_mask(indices: list[Tensor | None]) -> bool:
    return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices)


class _Functions(TorchFunctionMode):
    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if function in COPIES:
            self.found.append(function.__name__)
        return function(*args, **(kwargs or {}))
