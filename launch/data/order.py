"""Random choices of images, each a function of its seeds alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def choose(labels: Tensor, per_class: int, seed: int) -> Tensor:
    """Return indices of `per_class` images of each class, or all of a smaller class."""
    labels = labels.cpu()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(mix(seed, 0, 0)))
    shuffled = labels[order]
    chosen = [order[shuffled == label][:per_class] for label in range(int(labels.max()) + 1)]
    return torch.cat(chosen)


def mix(*numbers: int) -> int:
    """Return one seed made of several numbers, such as (seed, epoch, index)."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
