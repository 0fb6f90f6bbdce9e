"""Networks on the line between two networks, and how much worse they are: the barrier.

The batch statistics of each network are computed again, since those of the two ends fit no network
between them (Jordan et al. 2023). Pruned weights are zero, so a network between two different masks
keeps the weights of both.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from launch.data.batches import Batches
from launch.measures.evaluation import evaluation_sums

Named = Mapping[str, Tensor]
MOST_BYTES = 2 * 2**30  # of the networks that are held at the same time


@dataclass(frozen=True)
class Point:
    """A network on the line.

    Attributes:
        position: 0 at the first network, 1 at the second.
        loss: mean cross entropy.
        error: fraction of wrong answers.
    """

    position: float
    loss: float
    error: float


def points_between(
    model: nn.Module,
    ends: tuple[Named, Named],
    positions: Sequence[float],
    train: Batches,
    test: Batches,
    device: torch.device,
) -> Iterator[Point]:
    """Yield the loss and the error on `test` of the networks on the line between two.

    Args:
        model: on the device, in any state.
        ends: the state dicts of the two networks.
        positions: where to measure, in [0, 1].
        train: gives the batch statistics; read once for as many networks as `MOST_BYTES` hold.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in ends[0].values())
    at_once = max(1, MOST_BYTES // size)
    for first in range(0, len(positions), at_once):
        part = positions[first : first + at_once]
        nets = [_network(model, ends, position) for position in part]
        update_bn(train.epoch(0), _Together(nets), device)
        for position in part:
            yield _point(position, nets.pop(0), test, device)  # none is left for the next part


def _point(position: float, net: nn.Module, test: Batches, device: torch.device) -> Point:
    net.eval()
    loss, correct, n = evaluation_sums(net, test, device).tolist()
    return Point(position, loss / n, 1 - correct / n)


class _Together(nn.ModuleList):
    """Networks that are called on the same batches, of which each is read once."""

    def forward(self, x: Tensor) -> None:
        for net in self:
            net(x)


def _network(model: nn.Module, ends: tuple[Named, Named], position: float) -> nn.Module:
    net = copy.deepcopy(model)
    net.load_state_dict(interpolate(*ends, position))
    return net


def interpolate(first: Named, second: Named, position: float) -> dict[str, Tensor]:
    """Return (1 − position)·first + position·second, with the integers of the first."""
    return {
        name: torch.lerp(tensor, second[name], position) if tensor.is_floating_point() else tensor
        for name, tensor in first.items()
    }


def barrier(positions: Sequence[float], values: Sequence[float]) -> float:
    """Return the largest height of a curve above the line between its ends.

    This is equation 1 of Entezari et al. (2022), for values such as losses or errors. It is never
    negative, since both ends lie on the line.

    Args:
        positions: in ascending order, from 0 to 1.
    """
    first, last = values[0], values[-1]
    pairs = zip(positions, values, strict=True)
    return max(value - ((1 - at) * first + at * last) for at, value in pairs)
