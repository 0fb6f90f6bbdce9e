"""Which axes of a network's tensors run over the same units (channels).

Units that share axes can only be permuted together: the outputs of a layer, its bias and
normalisation, and the inputs of the layers that follow; and all layers that a shortcut joins.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from baselines.tools.paths import Op, Paths


@dataclass(frozen=True)
class Axis:
    """An axis of a tensor that runs over units.

    Attributes:
        name: of the tensor in the state dict.
        dim: its dimension.
        block: consecutive entries of each unit, as behind a flatten.
    """

    name: str
    dim: int
    block: int = 1


def permutable_units(paths: Paths, tensors: Mapping[str, Tensor]) -> list[tuple[Axis, ...]]:
    """Return the groups of axes whose units can be permuted without changing the outputs.

    Inputs and outputs of the network stay as they are, and so do units that are concatenated, or
    grouped by a convolution that is not depthwise.

    Args:
        tensors: the state dict of the network, for the shapes.
    """
    units = _Units()
    carried: list[tuple[int, int]] = []  # by operation: its group, and the block of each unit
    for op in paths.ops:
        carried.append(_follow(op, [carried[i] for i in op.sources], units, tensors, paths.ops))
    units.fix(carried[-1][0])
    return units.groups()


class _Units:
    """Groups of axes, which can be joined or fixed."""

    def __init__(self) -> None:
        self.parent: list[int] = []
        self.fixed: set[int] = set()
        self.axes: list[tuple[int, Axis]] = []

    def new(self) -> int:
        self.parent.append(len(self.parent))
        return len(self.parent) - 1

    def root(self, group: int) -> int:
        while self.parent[group] != group:
            group = self.parent[group]
        return group

    def join(self, one: int, other: int) -> None:
        self.parent[self.root(other)] = self.root(one)

    def fix(self, group: int) -> None:
        self.fixed.add(group)

    def add(self, group: int, axis: Axis) -> None:
        self.axes.append((group, axis))

    def groups(self) -> list[tuple[Axis, ...]]:
        fixed = {self.root(group) for group in self.fixed}
        found = defaultdict[int, list[Axis]](list)
        for group, axis in self.axes:
            if self.root(group) not in fixed and axis not in found[self.root(group)]:
                found[self.root(group)].append(axis)
        return [tuple(axes) for axes in found.values()]


def _follow(
    op: Op,
    sources: list[tuple[int, int]],
    units: _Units,
    tensors: Mapping[str, Tensor],
    ops: tuple[Op, ...],
) -> tuple[int, int]:
    """Record the axes of one operation. Return its group, and the block of each unit."""
    if op.kind == "layer":
        return _follow_layer(op, sources[0], units, tensors, ops[op.sources[0]].units)
    if op.kind == "pass":
        group, block = sources[0]
        block *= op.units // ops[op.sources[0]].units
    elif op.kind == "join" and len({(ops[i].units, b) for i, (_, b) in _both(op, sources)}) == 1:
        group, block = sources[0]
        for other, _ in sources[1:]:
            units.join(group, other)
    else:  # an input, a concatenation, or a join of different sizes
        for other, _ in sources:
            units.fix(other)
        group, block = units.new(), 1
        units.fix(group)
    _record(op.entries, op.units, (group, block), units, tensors)
    return group, block


def _both(op: Op, sources: list[tuple[int, int]]) -> zip[tuple[int, tuple[int, int]]]:
    return zip(op.sources, sources, strict=True)


def _follow_layer(
    op: Op, source: tuple[int, int], units: _Units, tensors: Mapping[str, Tensor], inputs: int
) -> tuple[int, int]:
    weight, *rest = op.entries
    group, block = units.new(), 1
    if op.groups == 1:
        units.add(source[0], Axis(weight, 1, source[1]))
    elif op.groups == inputs:  # depthwise
        group, block = source[0], source[1] * (op.units // inputs)
    else:
        units.fix(source[0])
        units.fix(group)
    units.add(group, Axis(weight, 0, block))
    _record(tuple(rest), op.units, (group, block), units, tensors)
    return group, block


def _record(
    entries: tuple[str, ...],
    size: int,
    carried: tuple[int, int],
    units: _Units,
    tensors: Mapping[str, Tensor],
) -> None:
    """Record the axes of parameters and buffers that have one number per unit."""
    group, block = carried
    for name in entries:
        shape = tensors[name].shape
        if tensors[name].numel() == size:
            units.add(group, Axis(name, shape.index(size), block))
        elif tensors[name].numel() > 1:
            units.fix(group)
