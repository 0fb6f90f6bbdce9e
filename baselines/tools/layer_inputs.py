"""Inputs of layers on calibration data, and pruning of a layer by them.

A layer is a matrix for each of its groups: rows are outputs, columns are inputs (those of a
convolution at all positions of its kernel).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.engine.kinds import is_transposed_linear, slots
from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.forward import call
from baselines.samples import Batch
from baselines.tools.masks import top_k_mask, top_k_of_rows


def check_layers(net: SparseModel, what: str) -> None:
    """Raise UserError unless all prunable weights are those of Linear, Conv2d and Conv1D layers."""
    for name in net.slots:
        for module in modules_of(net, name):
            if not (isinstance(module, nn.Linear | nn.Conv2d) or is_transposed_linear(module)):
                raise UserError(
                    f"{what} supports Linear, Conv2d and Hugging Face's Conv1D: exclude {name!r} "
                    f"of a {type(module).__name__}."
                )


def modules_of(net: SparseModel, name: str) -> list[nn.Module]:
    """Return the modules that compute a linear map with a layer's weight."""
    own = net.slots[name]
    shared = [slot for slot in slots(net.model) if slot.is_known and slot.key == own.key]
    return list(dict.fromkeys(slot.module for slot in (own, *shared)))


def rows_first(module: nn.Module, weight: Tensor) -> Tensor:
    """Return a layer's weight with outputs first. The function is its own inverse."""
    return weight.t() if is_transposed_linear(module) else weight


def layer_inputs(net: SparseModel, name: str, batches: Iterable[Batch]) -> Iterator[Tensor]:
    """Yield the inputs of a layer, (groups, examples and positions, columns), call by call.

    Raises:
        UserError: none of the layer's modules is called.
    """
    found, held = 0, list[tuple[nn.Module, Tensor]]()
    handles = [
        module.register_forward_pre_hook(lambda called, inputs: held.append((called, inputs[0])))
        for module in modules_of(net, name)
    ]
    try:
        for x, _ in batches:
            call(net.model, x)
            found += len(held)
            while held:
                yield columns(*held.pop())
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise UserError(f"{name}: its layer is not called in the forward pass: exclude it.")


def columns(module: nn.Module, x: Tensor) -> Tensor:
    """Return a layer's input as (groups, examples and positions, columns)."""
    if not isinstance(module, nn.Conv2d):
        return x.reshape(1, -1, x.shape[-1])
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = F.pad(x, module._reversed_padding_repeated_twice, mode=mode)
    patches = F.unfold(padded, module.kernel_size, module.dilation, stride=module.stride)
    grouped = patches.view(len(x), module.groups, -1, patches.shape[-1])
    return grouped.permute(1, 0, 3, 2).flatten(1, 2)


def row_masks(scores: Tensor, count: int) -> Tensor:
    """Return a mask with `count` ones, as many in each row (one more in the first ones)."""
    least, more = divmod(count, len(scores))
    first = torch.arange(len(scores), device=scores.device) < more
    return top_k_of_rows(scores, least + first.long())


def reconstructed(
    weight: Tensor, hessian: Tensor, count: int, block: int = 128, damping: float = 0.01
) -> tuple[Tensor, Tensor]:
    """Return weights and mask of a matrix with `count` weights left, by SparseGPT.

    Frantar & Alistarh 2023, Algorithm 1: columns are pruned one by one, and those to the right
    compensate the error, by the inverse Hessian. Each block of columns loses its share of the
    weights, those with the smallest w²/[U]²; U is the upper Cholesky factor of the inverse.

    Args:
        weight: (rows, columns).
        hessian: XᵀX of the inputs, (columns, columns), up to a factor.
        block: number of columns that choose their weights together.
        damping: added to the diagonal, as a fraction of its mean.
    """
    w, h = weight.double(), hessian.double()
    dead = h.diagonal() == 0
    h = h + torch.diag(dead.double())
    h = h + damping * h.diagonal().mean() * torch.eye(len(h), device=h.device).to(h)
    w = w.masked_fill(dead, 0.0)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
    upper = torch.linalg.cholesky(inverse, upper=True)
    mask, size = torch.zeros_like(w, dtype=torch.bool), w.shape[1]
    for begin in range(0, size, block):
        end = min(begin + block, size)
        quota = round(count * end / size) - round(count * begin / size)
        cost = w[:, begin:end].square() / upper.diagonal()[begin:end].square()
        mask[:, begin:end] = top_k_mask(cost, quota)
        for q in range(begin, end):
            error = w[:, q].masked_fill(mask[:, q], 0.0) / upper[q, q]
            w[:, q:] -= error.unsqueeze(1) * upper[q, q:]
    return w.masked_fill(~mask, 0.0).to(weight.dtype), mask
