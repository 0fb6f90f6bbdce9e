"""PHEW: paths with higher edge weights, found by random walks at initialisation.

Patil & Dovrolis 2021 (arXiv 2010.11354). Walks go from the input to the output and from the output
to the input in turn, starting from every unit in turn; the next weight is drawn with probability
proportional to its magnitude. The weights walked on are kept, as many as are asked for. Needs no
data.

Differs from the official code: walks follow the true graph of any convolutional network (theirs
guesses residual branches from the order of parameters), a branch is chosen evenly where there are
several, walks are made by the hundred, and the number of weights is exact: a walk that would
exceed it is left out, and single weights between units on walked paths, the largest first, make up
the rest. So they do where nine steps of ten tread known weights: above densities of 0.45 or so.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.method import Method, Samples
from baselines.tools.density import global_top_k_masks, keep_count, seeded
from baselines.tools.paths import Op, Paths, by_group, trace

WALKS = 256  # made at a time
LITTLE_NEW = 0.1  # walks end when fewer of their steps than this fraction are new


class Phew(Method):
    """Random walks over large weights."""

    name = "phew"
    family = "pruning at initialisation"
    paper = "Patil & Dovrolis 2021"

    def prepare(self, net: SparseModel, samples: Samples) -> None:
        x, _ = next(iter(samples(1)))
        paths = trace(net, x[:1])
        sizes = {layer.name: layer.weight.detach().abs().cpu() for layer in net}
        k = keep_count(net.numel, self.plan.sparsity)
        net.set_masks(walked_masks(paths, sizes, k, seeded(self.plan.seed, "phew")))


def walked_masks(
    paths: Paths, sizes: dict[str, Tensor], k: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Masks with k weights in all, each of them on a path from the input to the output.

    Args:
        sizes: |θ| by layer.
    """
    masks = {name: torch.zeros(size.shape, dtype=torch.bool) for name, size in sizes.items()}
    kept = 0
    for walks in _batches(Walker(paths, sizes, generator)):
        union = {name: mask.clone() for name, mask in masks.items()}
        for name, edges in walks.items():
            union[name].view(-1)[edges[edges >= 0]] = True
        now = _count(union)
        if now > k:
            _add_while_they_fit(masks, walks, k - kept)
            break
        steps = sum(int((edges >= 0).sum()) for edges in walks.values())
        little = now - kept < LITTLE_NEW * steps
        masks, kept = union, now
        if little:
            break
    return fill_live(paths, masks, sizes, k)


def fill_live(
    paths: Paths, masks: dict[str, Tensor], sizes: dict[str, Tensor], k: int
) -> dict[str, Tensor]:
    """Takes away what is on no path, and adds the largest weights that are, up to k in all.

    Raises:
        UserError: fewer than k weights can be on a path.
    """
    live = paths.live(masks)
    masks = {name: mask & live[name] for name, mask in masks.items()}
    while (missing := k - _count(masks)) > 0:
        live = paths.live(masks)
        open_ = {name: live[name] & ~mask for name, mask in masks.items()}
        if not _count(open_):
            raise UserError(f"only {_count(masks)} of {k} weights can be on a path.")
        scores = {name: sizes[name].masked_fill(~open_[name], -1.0) for name in masks}
        more = global_top_k_masks(scores, min(missing, _count(open_)))
        masks = {name: mask | more[name] for name, mask in masks.items()}
    return masks


class Walker:
    """Makes random walks, many at once.

    A walk is told by the weights that it uses: an offset a layer, −1 where it does not pass.
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
        # what is drawn from: a row an output unit, and a row an input unit
        self.backward = {n: w.flatten(2).flatten(0, 1).cumsum(1) for n, w in self.weights.items()}
        self.forward = {
            n: w.transpose(1, 2).flatten(2).flatten(0, 1).cumsum(1) for n, w in self.weights.items()
        }

    def from_input(self, starts: Tensor) -> dict[str, Tensor]:
        """Walks that start from the given units of the input."""
        here = self._nowhere(len(starts))
        here[0] = starts
        edges: dict[str, Tensor] = {}
        for i in range(len(self.paths.ops) - 1):
            for j, walks in self._choose(here[i], self.consumers[i]):
                op, units = self.paths.ops[j], here[i][walks]
                if op.kind == "layer":
                    units, used = self._step_forward(op, units)
                    self._record(edges, op, walks, used)
                here[j][walks] = self._into(op, op.sources.index(i), units)
        return self._arrived(edges, here[-1] >= 0)

    def from_output(self, starts: Tensor) -> dict[str, Tensor]:
        """Walks that start from the given units of the output."""
        here = self._nowhere(len(starts))
        here[-1] = starts
        edges: dict[str, Tensor] = {}
        for i in reversed(range(1, len(self.paths.ops))):
            op = self.paths.ops[i]
            for slot, walks, units in self._out_of(op, here[i]):
                if op.kind == "layer":
                    units, used = self._step_backward(op, units)
                    self._record(edges, op, walks, used)
                here[op.sources[slot]][walks] = units
        return self._arrived(edges, here[0] >= 0)

    def _step_forward(self, op: Op, units: Tensor) -> tuple[Tensor, Tensor]:
        """Output units, and offsets of the weights that lead there."""
        _, outs, ins, area = self.weights[op.layer].shape
        drawn = self._draw(self.forward[op.layer], units)
        group, local = units // ins, units % ins
        out, position = group * outs + drawn // area, drawn % area
        return out, (out * ins + local) * area + position

    def _step_backward(self, op: Op, units: Tensor) -> tuple[Tensor, Tensor]:
        """Input units, and offsets of the weights that lead from there."""
        _, outs, ins, area = self.weights[op.layer].shape
        drawn = self._draw(self.backward[op.layer], units)
        return units // outs * ins + drawn // area, units * ins * area + drawn

    def _draw(self, table: Tensor, rows: Tensor) -> Tensor:
        chances = table[rows]
        at = torch.rand(len(rows), 1, generator=self.generator) * chances[:, -1:]
        return torch.searchsorted(chances, at, right=True).squeeze(1).clamp_max(table.shape[1] - 1)

    def _choose(self, here: Tensor, among: list[int]) -> Iterator[tuple[int, Tensor]]:
        """Shares the walks out evenly over operations."""
        choice = self._random(len(here), max(1, len(among)))
        for slot, other in enumerate(among):
            yield other, ((here >= 0) & (choice == slot)).nonzero().squeeze(1)

    def _into(self, op: Op, slot: int, units: Tensor) -> Tensor:
        """The units of an operation that units of a source become."""
        if op.kind == "concat":
            return units + sum(self.paths.ops[source].units for source in op.sources[:slot])
        if op.kind == "layer":
            return units
        several = op.units // self.paths.ops[op.sources[slot]].units
        return units * several + self._random(len(units), several)

    def _out_of(self, op: Op, here: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """The reverse: slot, walks and units of the source."""
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
        return torch.randint(below, (n,), generator=self.generator)

    def _nowhere(self, n: int) -> list[Tensor]:
        return [torch.full((n,), -1) for _ in self.paths.ops]

    def _record(self, edges: dict[str, Tensor], op: Op, walks: Tensor, used: Tensor) -> None:
        if op.layer not in self.paths.fixed:
            edges.setdefault(op.layer, torch.full((WALKS,), -1))[walks] = used

    def _arrived(self, edges: dict[str, Tensor], arrived: Tensor) -> dict[str, Tensor]:
        return {name: used.masked_fill(~arrived, -1) for name, used in edges.items()}


def _batches(walker: Walker) -> Iterator[dict[str, Tensor]]:
    """Walks from either end in turn, starting from all units in turn."""
    first = 0
    while True:
        starts = torch.arange(first, first + WALKS)
        yield walker.from_input(starts % walker.paths.ops[0].units)
        yield walker.from_output(starts % walker.paths.ops[-1].units)
        first += WALKS


def _add_while_they_fit(masks: dict[str, Tensor], walks: dict[str, Tensor], room: int) -> None:
    for walk in range(WALKS):
        new = {
            name: int(edges[walk])
            for name, edges in walks.items()
            if edges[walk] >= 0 and not masks[name].view(-1)[edges[walk]]
        }
        if len(new) <= room:
            room -= len(new)
            for name, edge in new.items():
                masks[name].view(-1)[edge] = True


def _count(masks: dict[str, Tensor]) -> int:
    return sum(int(mask.sum()) for mask in masks.values())
