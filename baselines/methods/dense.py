"""Dense training: every weight is active. The reference that the others are held against."""

from __future__ import annotations

from baselines.method import Method


class Dense(Method):
    """No mask at all."""

    name = "dense"
    family = "dense"
    paper = "-"
    is_sparse = False
