"""Compute gradients for scores at initialisation, without any change to the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from baselines.errors import UserError
from baselines.samples import Batch, Loss, Samples
from baselines.tools.masks import seeded

Scores = dict[str, Tensor]


@contextmanager
def scoring(model: nn.Module, train: bool = True) -> Iterator[None]:
    """Put the model in train or eval mode; restore modes and buffers afterwards.

    Attention uses the plain implementation, the only one that can be differentiated twice.
    """
    modes = {module: module.training for module in model.modules()}
    buffers = [buffer.clone() for buffer in model.buffers()]
    model.train(train)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for buffer, saved in zip(model.buffers(), buffers, strict=True):
                buffer.copy_(saved)


def shuffled_batches(samples: Samples, per_class: int, most: int) -> list[Batch]:
    """Return the sample in random order, in batches of equal size (±1) of up to `most` examples.

    So what is computed with batch statistics depends neither on the order and the batch size of the
    source nor on the number of ranks. Batches whose examples cannot be put together (other than
    tensors of equal shapes) are returned as they come.

    Raises:
        UserError: the sample is empty.
    """
    batches = list(samples(per_class))
    if not batches:
        raise UserError("samples: there are no examples to compute scores on.")
    parts = list(zip(*batches, strict=True))
    if not all(map(_can_be_joined, parts)):
        return batches
    x, y = map(torch.cat, parts)
    order = torch.randperm(len(y), generator=seeded("sample")).to(x.device)
    return [(x[at], y[at]) for at in order.tensor_split(math.ceil(len(y) / most))]


def _can_be_joined(parts: Sequence[Any]) -> bool:
    """Return whether all parts are tensors of examples of one shape."""
    tensors = [part for part in parts if isinstance(part, Tensor)]
    return len(tensors) == len(parts) and len({part.shape[1:] for part in tensors}) == 1


def mean_gradients(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    batches: Sequence[Batch],
    loss: Loss,
    temperature: float = 1.0,
    then: Callable[[list[Tensor], float], Tensor] | None = None,
) -> list[Tensor]:
    """Return ∂L/∂θ of the mean loss over a sample, one tensor per weight.

    Args:
        weights: weights θ by layer.
        batches: the sample, inputs and targets.
        loss: mean loss of outputs and targets.
        temperature: divisor of the logits.
        then: function of a batch's gradients, with their graph, and of the batch's fraction of the
            sample; if given, the gradients of its values are returned instead.
    """
    total = sum(len(y) for _, y in batches)
    sums = [torch.zeros_like(weight) for weight in weights.values()]
    for x, y in batches:
        share = len(y) / total
        output = model(x) if temperature == 1 else model(x) / temperature
        part = loss(output, y) * share
        grads = torch.autograd.grad(part, list(weights.values()), create_graph=then is not None)
        if then is not None:
            grads = torch.autograd.grad(then(list(grads), share), list(weights.values()))
        for held, grad in zip(sums, grads, strict=True):
            held += grad
    return sums
