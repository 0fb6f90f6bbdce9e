"""The kind of device that tensors are on.

Decisions that depend on it ask `device.on_cpu`, so that tests can take the other branch as well.
"""

from __future__ import annotations

from torch import Tensor


def on_cpu(tensor: Tensor) -> bool:
    """Return whether a tensor is on the CPU, where operations are done when they return."""
    return tensor.device.type == "cpu"
