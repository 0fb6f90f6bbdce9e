"""Wanda and SparseGPT: one-shot pruning of a trained network with calibration data.

The network is that of a checkpoint, or the model as it is. Training then fine-tunes what is left.

`wanda`: Sun et al. 2024 (arXiv 2306.11695). Each output keeps the weights with the largest
|θ_ij|·‖X_j‖₂, where X_j are the values of input j on calibration data.

`sparsegpt`: Frantar & Alistarh 2023 (arXiv 2301.00774). Weights are pruned column by column, and
those to the right compensate the error of the layer's output, by the inverse of XᵀX.

Differs from the official codes: layers are pruned one by one in the model's order, each on inputs
from the pruned ones before it (theirs: block of a transformer by block); convolutions are pruned
as the linear maps of their patches; all layers have the same sparsity, and the network exactly the
requested one (theirs differ by up to one weight per output or block).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.engine.sparse_model import SparseModel
from baselines.methods.oneshot import Pretrained, PretrainedOptions
from baselines.methods.snip import SampleOptions
from baselines.registry import register
from baselines.samples import Batch, Samples
from baselines.tools.density import layer_counts
from baselines.tools.layer_inputs import (
    check_layers,
    layer_inputs,
    reconstructed,
    row_masks,
    rows_first,
)
from baselines.tools.scores import scoring


@dataclass(frozen=True)
class CalibratedOptions(PretrainedOptions, SampleOptions):
    """Options of methods that prune with calibration data."""

    def __post_init__(self) -> None:
        PretrainedOptions.__post_init__(self)
        SampleOptions.__post_init__(self)


class Calibrated(Pretrained[CalibratedOptions]):
    """Base of methods that prune layer by layer, with the inputs of each."""

    @torch.no_grad()
    def prune(self, net: SparseModel, samples: Samples) -> None:
        check_layers(net, self.name)
        batches = self.options.batches(samples)
        counts = layer_counts("uniform", net.shapes, self.plan.sparsity)
        with scoring(net.model, train=False):
            for name, count in counts.items():
                module, moments = net.slots[name].module, self.moments(net, name, batches)
                weight = rows_first(module, net.weights[name].detach())
                values, mask = self._pruned_layer(weight, moments, count)
                net.set_masks({name: rows_first(module, mask)})
                net.set_weights({name: rows_first(module, values)})

    def _pruned_layer(self, weight: Tensor, moments: Tensor, count: int) -> list[Tensor]:
        """Return weights and mask of a layer; its groups share the `count` weights.

        Args:
            weight: (outputs, inputs of a group, *kernel).
            moments: of its inputs, with groups first.
            count: number of weights to keep.
        """
        groups = weight.reshape(len(moments), -1, moments.shape[-1])
        ends = [round(count * i / len(groups)) for i in range(len(groups) + 1)]
        parts = [
            self.pruned(matrix, moment, end - begin)
            for matrix, moment, begin, end in zip(groups, moments, ends[:-1], ends[1:], strict=True)
        ]
        return [torch.stack(part).view_as(weight) for part in zip(*parts, strict=True)]

    @abstractmethod
    def moments(self, net: SparseModel, name: str, batches: Sequence[Batch]) -> Tensor:
        """Return sums over a layer's inputs, with groups first and columns last."""

    @abstractmethod
    def pruned(self, weight: Tensor, moment: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return weights and mask of a matrix with `count` weights left."""


@register
class Wanda(Calibrated):
    """One-shot pruning by weights and activations."""

    name = "wanda"
    paper = "Sun et al. 2024"

    def moments(self, net: SparseModel, name: str, batches: Sequence[Batch]) -> Tensor:
        """Return Σ x² of each input, (groups, columns)."""
        found = [x.square().sum(1) for x in layer_inputs(net, name, batches)]
        return torch.stack(found).sum(0)

    def pruned(self, weight: Tensor, moment: Tensor, count: int) -> tuple[Tensor, Tensor]:
        mask = row_masks(weight.abs() * moment.sqrt(), count)
        return weight * mask, mask


@register
class SparseGpt(Calibrated):
    """One-shot pruning with reconstruction of each layer's output."""

    name = "sparsegpt"
    paper = "Frantar & Alistarh 2023"

    def moments(self, net: SparseModel, name: str, batches: Sequence[Batch]) -> Tensor:
        """Return Σ xxᵀ over the inputs, (groups, columns, columns)."""
        total: Tensor | None = None
        for x in layer_inputs(net, name, batches):
            product = x.transpose(1, 2) @ x
            total = product if total is None else total + product
        assert total is not None
        return total

    def pruned(self, weight: Tensor, moment: Tensor, count: int) -> tuple[Tensor, Tensor]:
        return reconstructed(weight, moment, count)
