"""Groups of layers that are processed together, as flat lists."""

from __future__ import annotations

from torch import Tensor

from baselines.engine import device
from baselines.engine.cpu_step import PIECE
from baselines.engine.layer import Layer


def blocks(layers: list[Layer]) -> list[list[Layer]]:
    """Return groups of layers that are processed together.

    On a GPU, all layers are one group, for few kernel launches. On a CPU, groups are so small that
    temporary tensors stay in the cache and reuse memory.
    """
    if not layers:
        return []
    if not device.on_cpu(layers[0].weight):
        return [layers]
    found: list[list[Layer]] = []
    room = 0
    for layer in layers:
        room -= layer.nnz
        if room < 0 or not found:
            found.append([])
            room = PIECE - layer.nnz
        found[-1].append(layer)
    return found


def columns(layers: list[Layer]) -> tuple[list[Tensor], ...]:
    """Return one list per latent, with one entry per layer."""
    return tuple(map(list, zip(*(layer.latents.values() for layer in layers), strict=True)))
