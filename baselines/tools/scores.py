"""Compute gradients for scores at initialisation, without any change to the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from baselines.errors import UserError
from baselines.forward import at_temperature, call, joined, mapped
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

    What is computed with batch statistics depends neither on the order and the batch size of the
    source nor on the number of ranks. Batches that cannot be joined, because their examples are not
    tensors of equal shapes, are returned as they come, and so are all if `most` is 0.

    Raises:
        UserError: the sample is empty.
    """
    batches = list(samples(per_class))
    if not batches:
        raise UserError("samples: there are no examples to compute scores on.")
    whole = joined(batches) if most else None
    if whole is None:
        return batches
    n = len(whole[1])
    order = torch.randperm(n, generator=seeded("sample"), device="cpu")
    return [mapped(partial(_rows, at), whole) for at in order.tensor_split(math.ceil(n / most))]


def _rows(at: Tensor, tensor: Tensor) -> Tensor:
    return tensor[at.to(tensor.device)]


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
        with nullcontext() if then is None else TwiceDifferentiable():
            output = call(model, x)
        if temperature != 1:
            output = at_temperature(output, temperature)
        grads = gradients(loss(output, y) * share, weights, create_graph=then is not None)
        if then is not None:
            grads = _second_gradients(then(grads, share), weights)
        for held, grad in zip(sums, grads, strict=True):
            held += grad
    return sums


def gradients(
    value: Tensor, weights: Mapping[str, Tensor], create_graph: bool = False
) -> list[Tensor]:
    """Return the gradients of a number, one tensor per weight.

    Raises:
        UserError: the number does not depend on a weight.
    """
    grads = torch.autograd.grad(
        value, list(weights.values()), create_graph=create_graph, allow_unused=True
    )
    unused = [name for name, grad in zip(weights, grads, strict=True) if grad is None]
    if unused:
        raise UserError(f"the output does not depend on {', '.join(unused)}: exclude these.")
    return list(grads)


def gradient_magnitudes(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return |∂L/∂θ| of the last backward pass by layer, of the weights that have a gradient."""
    return {name: w.grad.abs() for name, w in weights.items() if w.grad is not None}


def _second_gradients(value: Tensor, weights: Mapping[str, Tensor]) -> list[Tensor]:
    try:
        grads = torch.autograd.grad(value, list(weights.values()), materialize_grads=True)
    except RuntimeError as error:
        if "is not implemented" not in str(error):
            raise
        raise UserError(f"GraSP needs second derivatives, but the {error}: use snip.") from None
    return list(grads)


class TwiceDifferentiable(TorchFunctionMode):
    """Computes hardsigmoid, which has no second derivative in PyTorch, by operations that have."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.hardsigmoid:
            return F.relu6(args[0] + 3) / 6
        return func(*args, **(kwargs or {}))
