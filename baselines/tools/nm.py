"""N:M sparsity: of M consecutive weights, N are kept.

Groups run over the inputs of an output first, then over the kernel (out, *kernel, in), which is how
a convolution on channels_last tensors reads its weights. If M does not divide the size of a layer,
its last group is smaller and keeps its share, rounded.
"""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.errors import UserError
from baselines.tools.masks import top_k_of_rows

LEAST, MOST = 4, 128  # of M, where it is chosen


def nm_pattern(sparsity: float, m: int = 0) -> tuple[int, int]:
    """Return N and M for a sparsity of 1 − N/M.

    Args:
        sparsity: fraction of zeros, in [0, 1).
        m: M; 0 for the smallest one from 4 on.

    Raises:
        UserError: N would not be a whole number.
    """
    for size in (m,) if m else range(LEAST, MOST + 1):
        n = round((1 - sparsity) * size)
        if n >= 1 and abs((1 - sparsity) * size - n) < 1e-9:
            return n, size
    groups = f"M = {m}" if m else f"M from {LEAST} to {MOST}"
    raise UserError(
        f"sparsity {sparsity:g} is not 1 - N/M for {groups}: 0.5 is 2:4, 0.75 is 1:4, 0.9 is 1:10."
    )


def nm_mask(scores: Tensor, n: int, m: int) -> Tensor:
    """Return a mask of the n largest scores of each group of m; the first of equal ones wins.

    Args:
        scores: (outputs, inputs, *kernel).
    """
    flat = scores.movedim(1, -1).flatten()
    rest = flat.numel() % m
    parts = [top_k_of_rows(flat[: flat.numel() - rest].view(-1, m), n)]
    if rest:
        last = flat[flat.numel() - rest :].view(1, -1)
        parts.append(top_k_of_rows(last, int(n * rest / m + 0.5)))
    mask = torch.cat([part.flatten() for part in parts])
    return mask.view(scores.movedim(1, -1).shape).movedim(-1, 1)


def has_nm(weight: Tensor, n: int, m: int) -> bool:
    """Return whether at most n entries of each group of m, as of `nm_mask`, are not zero.

    Args:
        weight: (outputs, inputs, *kernel).
    """
    kept = (weight != 0).movedim(1, -1).flatten()
    rest = kept.new_zeros(-kept.numel() % m)
    return bool((torch.cat([kept, rest]).view(-1, m).sum(1) <= n).all())
