"""Schedules as pure functions of the step."""

from __future__ import annotations


def triangular(step: int, total: int, warmup: float = 0.2, start: float = 0.2) -> float:
    """Factor on the peak learning rate: linear from `start` up to 1, then linear down to 0.

    The paper's "triangular" (Table 6), as its group's code has it: through (0, start),
    (⌊warmup·total⌋, 1) and (total, 0), evaluated at every step.

    Args:
        step: from 0; the last one of a training is total − 1.
        warmup: fraction of the steps that rise.
    """
    peak = int(warmup * total)
    if step < peak:
        return start + (1 - start) * step / peak
    return (total - step) / (total - peak)
