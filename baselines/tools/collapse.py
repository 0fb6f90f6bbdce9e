"""Find out whether masks leave a network that can be trained, and warn if they do not."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from baselines.engine.broadcast import has_ranks
from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.forward import call, logits_of, mapped
from baselines.samples import Samples
from baselines.tools.graph import longest_path
from baselines.tools.masks import seeded
from baselines.tools.scores import Scores, scoring

EXAMPLES = 32  # inputs that the output should depend on
MOST_NAMED = 3


def set_initial_masks(
    method: str,
    net: SparseModel,
    masks: Mapping[str, Tensor],
    samples: Samples,
    scores: Scores | None = None,
) -> None:
    """Set the masks that a training starts with. Warn if the network is dead or partly arbitrary.

    One warning says which layers have no weights left, apart from shortcuts that are parallel to
    other layers; whether the output has become independent of the input; how many weights were
    kept by their position; and, if the initialisation explains it, why.

    Args:
        method: name of the method, for the warning.
        samples: source of an input; without one, shortcuts and the output are not checked.
        scores: what the masks were chosen by, the larger the better.
    """
    net.set_masks(masks)
    if has_ranks() and dist.get_rank():
        return  # the first rank warns
    complaints = [*_layers_and_output(net, masks, samples), *_positions(masks, scores)]
    if complaints:
        causes = zero_scales(net.model)
        warnings.warn(f"{method}: {' '.join([*complaints, *causes])}", stacklevel=3)


def empty_layers(net: SparseModel, inputs: Any = None) -> list[str]:
    """Return the layers without a weight, except shortcuts that are parallel to more layers.

    Args:
        inputs: of a batch, to find the shortcuts with; without them, all empty layers are returned.
    """
    empty = [layer.name for layer in net if layer.nnz == 0]
    if not empty or inputs is None:
        return empty
    with scoring(net.model, train=False):
        try:
            output, _ = _trace(net.model, inputs)
        except UserError:  # an output without logits
            return empty
        needed = longest_path(output, net.weights)
    return [name for name in empty if name in needed]


def depends_on_input(model: nn.Module, inputs: Any) -> bool:
    """Return whether any gradient of the output with respect to the inputs is not zero.

    True if this is not known, because no input is a floating-point tensor.
    """
    with scoring(model, train=False):
        output, leaves = _trace(model, inputs)
        if not leaves or not output.requires_grad:
            return True
        direction = torch.rand(output.shape, generator=seeded("collapse"), device="cpu")
        value = (output * direction.to(output)).sum()
        grads = torch.autograd.grad(value, leaves, allow_unused=True)
    return any(grad is None or bool(grad.any()) for grad in grads)


def _trace(model: nn.Module, inputs: Any) -> tuple[Tensor, list[Tensor]]:
    """Return the model's output and the floating-point inputs that it was computed from."""
    leaves: list[Tensor] = []
    dtype = next(model.parameters()).dtype

    def trace(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        leaves.append(tensor.detach().to(dtype, copy=True).requires_grad_())
        return leaves[-1].clone()  # the first operation may be in place

    return logits_of(call(model, mapped(trace, inputs))), leaves


def zero_scales(model: nn.Module) -> list[str]:
    """Return a list with a sentence about scales that start at zero; empty if there are none."""
    names = [
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim == 1 and name.endswith("weight") and not parameter.any()
    ]
    if not names:
        return []
    return [
        f"Scales of normalisation start at 0 ({_listed(names)}), which makes the scores of the "
        "layers before them 0: start them at 1 (timm: zero_init_last=False)."
    ]


def _layers_and_output(
    net: SparseModel, masks: Mapping[str, Tensor], samples: Samples
) -> Iterable[str]:
    inputs = samples.example(EXAMPLES)
    if empty := empty_layers(net, inputs):
        yield f"{len(empty)} of {len(masks)} layers have no weights left ({_listed(empty)})."
    with contextlib.suppress(UserError):  # an output without logits
        if inputs is not None and not depends_on_input(net.model, inputs):
            yield "The output of the network does not depend on its input."


def _positions(masks: Mapping[str, Tensor], scores: Scores | None) -> Iterable[str]:
    if scores is None:
        return
    kept, pruned = (torch.cat([scores[k][m == on] for k, m in masks.items()]) for on in (1, 0))
    if len(kept) and float(kept.min()) == 0 and bool((pruned == 0).any()):
        tied = int((kept == 0).sum())
        yield f"{tied} of {len(kept)} kept weights have a score of 0: their position chose them."


def _listed(names: Collection[str]) -> str:
    more = len(names) - MOST_NAMED
    shown = ", ".join(list(names)[:MOST_NAMED])
    return f"{shown} and {more} more" if more > 0 else shown
