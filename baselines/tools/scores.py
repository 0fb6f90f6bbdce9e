"""Compute gradients for scores at initialisation, without any change to the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from baselines.samples import Samples

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


def mean_gradients(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    samples: Samples,
    per_class: int,
    temperature: float = 1.0,
    then: Callable[[list[Tensor], float], Tensor] | None = None,
) -> list[Tensor]:
    """Return ∂L/∂θ of the mean loss over a sample, one tensor per weight.

    Args:
        weights: weights θ by layer.
        samples: see `Method.prepare`.
        per_class: number of images of each class.
        temperature: divisor of the logits.
        then: function of a batch's gradients, with their graph, and of the batch's fraction of the
            sample; if given, the gradients of its values are returned instead.
    """
    batches = list(samples(per_class))
    total = sum(len(y) for _, y in batches)
    sums = [torch.zeros_like(weight) for weight in weights.values()]
    for x, y in batches:
        share = len(y) / total
        output = model(x) if temperature == 1 else model(x) / temperature
        loss = samples.loss(output, y) * share
        grads = torch.autograd.grad(loss, list(weights.values()), create_graph=then is not None)
        if then is not None:
            grads = torch.autograd.grad(then(list(grads), share), list(weights.values()))
        for held, grad in zip(sums, grads, strict=True):
            held += grad
    return sums
