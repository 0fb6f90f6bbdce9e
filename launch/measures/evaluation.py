"""Loss and accuracy of a network on a split."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from launch.data.batches import Batches

Context = Callable[[], AbstractContextManager[object]]


@torch.no_grad()
def evaluation_sums(
    model: Callable[[Tensor], Tensor],
    batches: Batches,
    device: torch.device,
    context: Context = nullcontext,
) -> Tensor:
    """Return the sum of the cross entropies, the number of correct answers, and that of images.

    Args:
        model: a network in evaluation mode, or a function that calls one.
        context: makes the context of each forward pass, such as autocast.

    Returns:
        A tensor of shape (3,) in float64 on the device, which nothing has waited for.
    """
    totals = torch.zeros(3, dtype=torch.float64, device=device)
    for x, y in batches.epoch(0):
        if not len(y):
            continue
        with context():
            output = model(x)
        loss = F.cross_entropy(output.float(), y, reduction="sum")
        correct = (output.argmax(1) == y).sum()
        totals += torch.stack([loss, correct, torch.full_like(correct, len(y))])
    return totals
