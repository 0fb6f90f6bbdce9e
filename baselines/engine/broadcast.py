"""Broadcasts from rank 0 of the process group to all others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from baselines.engine.sparse_model import SparseModel


def has_ranks() -> bool:
    """Return whether there is a process group."""
    return dist.is_available() and dist.is_initialized()


@contextmanager
def equal_on_ranks(net: SparseModel, share: bool) -> Iterator[None]:
    """Give all ranks the model of rank 0 before the block, and its model and masks after it.

    DDP may wrap the model later, and what is made of gradients on GPUs, or of each rank's data, can
    differ by rank.

    Args:
        share: whether there are ranks.
    """
    if share:
        broadcast_model(net.model)
    yield
    if share:
        broadcast_masks(net)
        broadcast_model(net.model)


def broadcast_model(model: nn.Module) -> None:
    """Broadcast the parameters and buffers of rank 0, except those that DDP ignores."""
    ignored = set(getattr(model, "_ddp_params_and_buffers_to_ignore", ()))
    named = [*model.named_parameters(), *model.named_buffers()]
    _broadcast(tensor for name, tensor in named if name not in ignored)


def broadcast_masks(net: SparseModel) -> None:
    """Broadcast the masks of rank 0."""
    masks = net.masks
    _broadcast(masks.values())
    net.set_masks(masks)


@torch.no_grad()
def _broadcast(tensors: Iterable[Tensor]) -> None:
    """Broadcast the values of rank 0. Tensors of any type and memory format are sent as bytes."""
    for tensor in tensors:
        if tensor.numel():
            sent = tensor.detach().clone(memory_format=torch.contiguous_format)
            dist.broadcast(sent.view(-1).view(torch.uint8), 0)
            if not torch.equal(tensor, sent):
                tensor.copy_(sent)
