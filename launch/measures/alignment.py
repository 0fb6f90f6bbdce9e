"""Alignment of one network's checkpoint with another network, up to permutations of units."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from baselines.checkpoint import Checkpoint, entries_of
from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.tools.paths import trace
from baselines.tools.scores import scoring
from launch.measures.matching import Group, Named, match_units, permute_units
from launch.measures.units import permutable_units


@dataclass(frozen=True)
class Alignment:
    """Permutations of units that bring one network close to another.

    Attributes:
        groups: the axes of each permutation.
        found: the permutations, as `match_units` returns them.
        before, after: cosine of the two networks' parameters.
    """

    groups: list[Group]
    found: list[Tensor]
    before: float
    after: float

    def apply(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return a checkpoint with permuted weights and masks."""
        weights, masks = (
            permute_units(tensors, self.groups, self.found)
            for tensors in (checkpoint.weights, checkpoint.masks)
        )
        return replace(checkpoint, weights=weights, masks=masks)


def align(source: Checkpoint, target: Checkpoint, net: SparseModel, x: Tensor) -> Alignment:
    """Find the permutations that match the source's units to the target's.

    Args:
        net: a network of that kind; it gets the source's weights.
        x: one input of the network, of shape (1, C, H, W).

    Raises:
        UserError: the checkpoints are not of that network, no units can be permuted, or permuting
            them changes what the network computes.
    """
    template = net.model.state_dict()
    one, other = (entries_of(checkpoint, template) for checkpoint in (source, target))
    groups = permutable_units(trace(net, x), template)
    if not groups:
        raise UserError("no units of this model can be permuted.")
    parameters = [name for name, _ in net.model.named_parameters()]
    found = match_units(one, other, groups, parameters)
    aligned = permute_units(one, groups, found)
    _check_same_function(net, one, aligned, x)
    before, after = (_cosine(state, other, parameters) for state in (one, aligned))
    return Alignment(groups, found, before, after)


def _check_same_function(net: SparseModel, one: Named, other: Named, x: Tensor) -> None:
    """Raise UserError if two states of a network compute different outputs."""
    inputs = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    outputs = []
    with scoring(net.model, train=False), torch.no_grad():
        for state in (one, other):
            net.model.load_state_dict(state)
            outputs.append(net.model(inputs).double())
    difference = (outputs[0] - outputs[1]).abs().max()
    if not bool(difference <= 1e-3 * outputs[0].abs().max()):
        raise UserError("units of this model cannot be permuted: that changes what it computes.")


def _cosine(one: Named, other: Named, parameters: list[str]) -> float:
    a, b = (
        torch.cat([state[name].double().flatten() for name in parameters]) for state in (one, other)
    )
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))
