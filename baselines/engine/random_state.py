"""Random numbers that leave the generators unchanged."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch


def kept_random_state(device: torch.device) -> AbstractContextManager[None]:
    """Return a context that leaves the generators of the CPU and of a device as they were."""
    if device.type in ("cpu", "meta"):
        return torch.random.fork_rng([])
    return torch.random.fork_rng([device], device_type=device.type)
