"""Dense training: every weight is active. The reference for all other methods."""

from __future__ import annotations

from baselines.method import Method, Options
from baselines.registry import register


@register
class Dense(Method[Options]):
    """Training without masks."""

    name = "dense"
    family = "dense"
    paper = "-"
    is_sparse = False
