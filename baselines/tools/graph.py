"""The order of a network's layers in autograd's graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

Node = Any  # a node of autograd's graph


def longest_path(output: Tensor, weights: Mapping[str, Tensor]) -> set[str]:
    """Return the layers on a path with the most layers from the input to the output.

    The layers that are left out can be removed without making the network less deep: such as
    convolutions of shortcuts, which are parallel to more layers.

    Args:
        output: of the network, for an input that requires a gradient.
        weights: by layer.
    """
    if output.grad_fn is None:
        return set()
    names = {id(weight): name for name, weight in weights.items()}
    order = _inputs_first(output.grad_fn)
    origin: dict[Node, str | None] = {}  # the weight that a node only passes on
    own: dict[Node, list[str]] = {}  # weights that a node combines with other inputs
    below: dict[Node, int] = {}  # most layers from the input up to a node
    for node in order:
        children = _children(node)
        passed = [name for child in children if (name := origin[child])]
        variable = getattr(node, "variable", None)
        if not children:
            origin[node], own[node] = names.get(id(variable)), []
        else:
            origin[node] = passed[0] if passed and len(children) == 1 else None
            own[node] = [] if origin[node] else passed
        data = [below[child] for child in children if not origin[child]]
        below[node] = max(data, default=0) + bool(own[node])
    above = dict.fromkeys(order, -len(order))  # most layers from a node on to the output
    above[output.grad_fn] = 0
    for node in reversed(order):
        for child in _children(node):
            above[child] = max(above[child], above[node] + bool(own[node]))
    deepest = below[output.grad_fn]
    return {name for node in order if below[node] + above[node] == deepest for name in own[node]}


def _children(node: Node) -> list[Node]:
    return [child for child, _ in node.next_functions if child is not None]


def _inputs_first(root: Node) -> list[Node]:
    """Return all nodes, each after its inputs."""
    order, seen, stack = list[Node](), set[Node](), [(root, False)]
    while stack:
        node, is_left = stack.pop()
        if is_left:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(child, False) for child in _children(node)]
    return order
