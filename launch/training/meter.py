"""Loss and accuracy of one epoch, gathered on the device without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor

import baselines.engine.device
from launch.ranks import Ranks

CHECK_EVERY = 50  # steps between looks at the loss on a GPU: each look waits for the device


class Meter:
    """Sums up the steps of one epoch on one rank.

    Args:
        steps: of the epoch.
        device: of the losses, which decides how often they are checked.
    """

    def __init__(self, steps: int, device: torch.device) -> None:
        self.losses = torch.zeros(steps, device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)
        self.seen = self.steps = 0
        self.check_every = 1 if baselines.engine.device.on_cpu(self.losses) else CHECK_EVERY

    def add(self, loss: Tensor, output: Tensor, y: Tensor) -> None:
        """Add one step.

        Args:
            loss: mean over the batch, a scalar.
            output: logits of shape (B, classes).
            y: labels of shape (B,).
        """
        self.losses[self.steps] = loss.detach()
        self.correct += (output.detach().argmax(1) == y).sum()
        self.seen += len(y)
        self.steps += 1

    @property
    def is_due(self) -> bool:
        """Whether the losses should be checked after this step."""
        return (self.steps - 1) % self.check_every == 0

    def first_bad(self) -> int | None:
        """Return the first step whose loss is not finite; waits for the device."""
        finite = self.losses[: self.steps].isfinite()
        return None if bool(finite.all()) else int((~finite).nonzero()[0])

    def totals(self, ranks: Ranks) -> tuple[float, float]:
        """Return mean loss and accuracy over all ranks."""
        sums = ranks.sum(torch.stack([self.losses.double().mean(), self.correct.double()]))
        loss, correct = sums.tolist()
        return loss / ranks.world, correct / (self.seen * ranks.world)
