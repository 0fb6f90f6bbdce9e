"""How much the sparsity of a network may differ from the requested one."""

from __future__ import annotations

SLACK = 0.01  # fraction of the density that is no difference for a reader


def largest_difference(sparsity: float, tolerance: float, prunable: float) -> float:
    """Return by how much a network's sparsity may differ from the requested one.

    Args:
        sparsity: the requested one.
        tolerance: of the method (`baselines.method.Method.tolerance`).
        prunable: number of prunable weights; a number of zeros is a whole number.
    """
    return max(tolerance, SLACK * (1 - sparsity), 1 / prunable) + 1e-9
