"""Random walks over the weights of a network, many at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from baselines.tools.masks import count_ones
from baselines.tools.paths import Op, Paths, by_group, fill_live

WALKS = 256  # walks made at a time
LITTLE_NEW = 0.1  # walks end when a smaller fraction of their steps is new


def walked_masks(
    paths: Paths, sizes: dict[str, Tensor], k: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return masks with k weights in total, each on a path from the input to the output.

    Args:
        paths: paths of the network.
        sizes: |θ| by layer; the probability of a step is proportional to it.
        k: number of weights to keep.
        generator: source of randomness, on the CPU.

    Raises:
        UserError: fewer than k weights can be on a path.
    """
    masks = {name: size.new_zeros(size.shape, dtype=torch.bool) for name, size in sizes.items()}
    kept = 0
    for walks in _batches(Walker(paths, sizes, generator)):
        union = {name: mask.clone() for name, mask in masks.items()}
        for i, edges in walks.items():
            union[paths.ops[i].layer].view(-1)[edges[edges >= 0]] = True
        now = count_ones(union)
        if now > k:
            _add_while_they_fit(paths, masks, walks, k - kept)
            break
        steps = sum(int((edges >= 0).sum()) for edges in walks.values())
        little = now - kept < LITTLE_NEW * steps
        masks, kept = union, now
        if little:
            break
    return fill_live(paths, masks, sizes, k)


class Walker:
    """Makes random walks, many at once.

    A walk is described by the weights that it uses: by the index of an operation of kind "layer",
    the offset of the weight, or −1 if the walk does not pass through it.

    Args:
        paths: paths of the network.
        sizes: |θ| by layer.
        generator: source of randomness, on the CPU.
    """

    def __init__(self, paths: Paths, sizes: dict[str, Tensor], generator: torch.Generator) -> None:
        self.paths, self.generator = paths, generator
        self.consumers: list[list[int]] = [[] for _ in paths.ops]
        self.weights = {}
        for i, op in enumerate(paths.ops):
            for source in op.sources:
                self.consumers[source].append(i)
            if op.kind == "layer":
                size = sizes.get(op.layer, paths.fixed.get(op.layer))
                assert size is not None
                self.weights[op.layer] = by_group(size, op.groups)
        # cumulative weights to draw from: one row per output unit, and one row per input unit
        self.backward = {n: w.flatten(2).flatten(0, 1).cumsum(1) for n, w in self.weights.items()}
        self.forward = {
            n: w.transpose(1, 2).flatten(2).flatten(0, 1).cumsum(1) for n, w in self.weights.items()
        }

    def from_input(self, starts: Tensor) -> dict[int, Tensor]:
        """Return walks that start from the given units of the input."""
        here = self._nowhere(len(starts))
        here[0] = starts
        edges: dict[int, Tensor] = {}
        for i in range(len(self.paths.ops) - 1):
            for j, walks in self._choose(here[i], self.consumers[i]):
                op, units = self.paths.ops[j], here[i][walks]
                if op.kind == "layer":
                    units, used = self._step_forward(op, units)
                    self._record(edges, j, walks, used)
                here[j][walks] = self._into(op, op.sources.index(i), units)
        return self._arrived(edges, here[-1] >= 0)

    def from_output(self, starts: Tensor) -> dict[int, Tensor]:
        """Return walks that start from the given units of the output."""
        here = self._nowhere(len(starts))
        here[-1] = starts
        edges: dict[int, Tensor] = {}
        for i in reversed(range(1, len(self.paths.ops))):
            op = self.paths.ops[i]
            for slot, walks, units in self._out_of(op, here[i]):
                if op.kind == "layer":
                    units, used = self._step_backward(op, units)
                    self._record(edges, i, walks, used)
                here[op.sources[slot]][walks] = units
        return self._arrived(edges, here[0] >= 0)

    def _step_forward(self, op: Op, units: Tensor) -> tuple[Tensor, Tensor]:
        """Return output units, and offsets of the weights that lead there."""
        _, outs, ins, area = self.weights[op.layer].shape
        drawn = self._draw(self.forward[op.layer], units)
        group, local = units // ins, units % ins
        out, position = group * outs + drawn // area, drawn % area
        return out, (out * ins + local) * area + position

    def _step_backward(self, op: Op, units: Tensor) -> tuple[Tensor, Tensor]:
        """Return input units, and offsets of the weights that lead from there."""
        _, outs, ins, area = self.weights[op.layer].shape
        drawn = self._draw(self.backward[op.layer], units)
        return units // outs * ins + drawn // area, units * ins * area + drawn

    def _draw(self, table: Tensor, rows: Tensor) -> Tensor:
        chances = table[rows]
        at = torch.rand(len(rows), 1, generator=self.generator, device="cpu") * chances[:, -1:]
        return torch.searchsorted(chances, at, right=True).squeeze(1).clamp_max(table.shape[1] - 1)

    def _choose(self, here: Tensor, among: list[int]) -> Iterator[tuple[int, Tensor]]:
        """Distribute the walks evenly over operations."""
        choice = self._random(len(here), max(1, len(among)))
        for slot, other in enumerate(among):
            yield other, ((here >= 0) & (choice == slot)).nonzero().squeeze(1)

    def _into(self, op: Op, slot: int, units: Tensor) -> Tensor:
        """Return the units of an operation that units of its source become."""
        if op.kind == "concat":
            return units + sum(self.paths.ops[source].units for source in op.sources[:slot])
        if op.kind == "layer":
            return units
        several = op.units // self.paths.ops[op.sources[slot]].units
        return units * several + self._random(len(units), several)

    def _out_of(self, op: Op, here: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield slot, walks and units of each source of an operation; the inverse of `_into`."""
        if op.kind == "concat":
            first = 0
            for slot, source in enumerate(op.sources):
                units = self.paths.ops[source].units
                walks = ((here >= first) & (here < first + units)).nonzero().squeeze(1)
                yield slot, walks, here[walks] - first
                first += units
            return
        for slot, walks in self._choose(here, list(range(len(op.sources)))):
            several = op.units // self.paths.ops[op.sources[slot]].units
            yield slot, walks, here[walks] if op.kind == "layer" else here[walks] // several

    def _random(self, n: int, below: int) -> Tensor:
        return torch.randint(below, (n,), generator=self.generator, device="cpu")

    def _nowhere(self, n: int) -> list[Tensor]:
        return [torch.full((n,), -1, device="cpu") for _ in self.paths.ops]

    def _record(self, edges: dict[int, Tensor], i: int, walks: Tensor, used: Tensor) -> None:
        if self.paths.ops[i].layer not in self.paths.fixed:
            edges.setdefault(i, torch.full((WALKS,), -1, device="cpu"))[walks] = used

    def _arrived(self, edges: dict[int, Tensor], arrived: Tensor) -> dict[int, Tensor]:
        return {i: used.masked_fill(~arrived, -1) for i, used in edges.items()}


def _batches(walker: Walker) -> Iterator[dict[int, Tensor]]:
    """Yield walks from both ends in turn, starting from all units in turn."""
    first = 0
    while True:
        starts = torch.arange(first, first + WALKS, device="cpu")
        yield walker.from_input(starts % walker.paths.ops[0].units)
        yield walker.from_output(starts % walker.paths.ops[-1].units)
        first += WALKS


def _add_while_they_fit(
    paths: Paths, masks: dict[str, Tensor], walks: dict[int, Tensor], room: int
) -> None:
    """Add walk by walk to the masks, leaving out those with more than `room` new weights."""
    for walk in range(WALKS):
        steps = ((paths.ops[i].layer, int(edges[walk])) for i, edges in walks.items())
        new = {(name, at) for name, at in steps if at >= 0 and not masks[name].view(-1)[at]}
        if len(new) <= room:
            room -= len(new)
            for name, edge in new:
                masks[name].view(-1)[edge] = True
