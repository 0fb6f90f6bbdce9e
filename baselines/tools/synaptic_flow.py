"""Synaptic flow: scores of weights by what flows through them, and pruning by these scores."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor

from baselines.engine.sparse_model import SparseModel
from baselines.forward import call, logits_of, mapped
from baselines.tools.masks import top_k_mask
from baselines.tools.scores import Scores, gradients


class Flow:
    """A copy of a network with non-negative parameters in float64, which is pruned by its flow.

    Weights and scores are stored one after the other, so that each step is one pass over them.
    """

    def __init__(self, net: SparseModel, ones: Any) -> None:
        self.model = copy.deepcopy(net.model).double()
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.abs_()
        self.ones = mapped(Tensor.double, ones)
        self.weights = {name: self.model.get_parameter(name) for name in net.layers}
        self._shapes = net.shapes
        self._theta = torch.cat([weight.detach().flatten() for weight in self.weights.values()])
        for name, part in self._by_layer(self._theta).items():
            self.weights[name].data = part
        self._scores = torch.empty_like(self._theta)
        self._active = torch.ones_like(self._theta, dtype=torch.bool)
        self._left = net.numel

    @property
    def masks(self) -> dict[str, Tensor]:
        return self._by_layer(self._active)

    @property
    def scores(self) -> Scores:
        """The scores that the last pruning was decided by."""
        return self._by_layer(self._scores)

    def prune(self, k: int) -> None:
        """Keep the k weights with the largest scores."""
        self._write_scores()
        gone = self._active ^ top_k_mask(self._scores, k)
        if int(gone.count_nonzero()) != self._left - k:  # scores of 0: active weights come first
            scores = self._scores.masked_fill(~self._active, -1.0)
            gone = self._active ^ top_k_mask(scores, k)
        self._theta.masked_fill_(gone, 0.0)
        self._active ^= gone
        self._left = k

    def _write_scores(self) -> None:
        """Write |θ · ∂R/∂θ|, where R is the sum of the outputs."""
        out = self.scores
        grads = gradients(logits_of(call(self.model, self.ones)).sum(), self.weights)
        for (name, weight), grad in zip(self.weights.items(), grads, strict=True):
            torch.mul(weight.detach(), grad, out=out[name]).abs_()

    def _by_layer(self, flat: Tensor) -> dict[str, Tensor]:
        parts = torch.split(flat, [math.prod(shape) for shape in self._shapes.values()])
        return {
            name: part.view(shape)
            for part, (name, shape) in zip(parts, self._shapes.items(), strict=True)
        }
