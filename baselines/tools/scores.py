"""What pruning at initialisation shares: gradients at initialisation that leave no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from baselines.engine.sparse_model import SparseModel
from baselines.method import Samples
from baselines.tools.density import global_top_k_masks, keep_count

Scores = dict[str, Tensor]


@contextmanager
def scoring(model: nn.Module, train: bool = True) -> Iterator[None]:
    """The model in train or eval mode, in float32; mode and buffers are as before afterwards.

    Attention takes the plain implementation, the only one that can be differentiated twice.
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
    """∂L/∂θ of the mean loss over the sample, or of what `then` makes of each batch's gradient.

    Args:
        per_class: images a class.
        temperature: divides the logits.
        then: takes a batch's gradients, with their graph, and its fraction of the sample.
    """
    batches = list(samples(per_class))
    total = sum(len(y) for _, y in batches)
    sums = [torch.zeros_like(weight) for weight in weights.values()]
    for x, y in batches:
        share = len(y) / total
        loss = nn.functional.cross_entropy(model(x) / temperature, y) * share
        grads = torch.autograd.grad(loss, list(weights.values()), create_graph=then is not None)
        if then is not None:
            grads = torch.autograd.grad(then(list(grads), share), list(weights.values()))
        for held, grad in zip(sums, grads, strict=True):
            held += grad
    return sums


def keep_best(net: SparseModel, scores: Scores, sparsity: float) -> None:
    """Keeps the weights with the largest scores over all layers together."""
    net.set_masks(global_top_k_masks(scores, keep_count(net.numel, sparsity)))
