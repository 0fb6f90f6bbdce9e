"""Runs that end with a constant network."""

from __future__ import annotations

import warnings

from analysis.contents import Result
from baselines.target import largest_difference
from baselines.tools.collapse import depends_on_input, empty_layers
from launch.training.loop import Loop


class Collapsed(RuntimeError):
    """The network has another sparsity than requested, and its output is constant."""


def check_collapse(loop: Loop, result: Result, sparsity: float) -> None:
    """Check that the network works or has the requested sparsity.

    A method without a target, such as published STR, can prune all weights of a layer. Its accuracy
    says nothing about the requested sparsity. At the requested sparsity, the accuracy of a network
    that does not work is the method's result; a warning names its empty layers.

    Raises:
        Collapsed: it has neither; the message has sparsity, accuracy and empty layers.
    """
    allowed = largest_difference(sparsity, result["tolerance"], result["prunable"])
    reached = abs(result["sparsity"] - sparsity) <= allowed
    net = loop.sparsifier.net
    if reached and not empty_layers(net):
        return
    x, _ = next(loop.data.train.sample(1))
    if depends_on_input(net.model, x):
        return
    empty = empty_layers(net, x)
    layers = f", with no weight left in {', '.join(empty)}" if empty else ""
    requested = "" if reached else f" instead of {sparsity:g}"
    message = (
        f"the output does not depend on the input: sparsity {result['sparsity']:.4f}{requested}"
        f"{layers}; accuracy {result['accuracy']:.2%}"
    )
    if not reached:
        raise Collapsed(message)
    if loop.ranks.is_first:
        warnings.warn(message, stacklevel=2)
