"""Whether runs have the sparsity that was requested."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from baselines.target import largest_difference

if TYPE_CHECKING:
    import pandas as pd

UNRECORDED = 0.005  # tolerance for results of earlier versions: the largest of a method


def misses_target(done: pd.DataFrame) -> pd.Series[bool]:
    """Return which finished runs have another sparsity than the requested one.

    False for results without a sparsity.
    """
    import pandas as pd  # runs import this module, not pandas

    nothing = pd.Series(float("nan"), index=done.index)
    realised = done.get("result.sparsity", nothing)
    tolerance = done.get("result.tolerance", nothing).fillna(UNRECORDED)
    prunable = done.get("result.prunable", nothing).fillna(float("inf"))
    rows = zip(done["sparsity"], tolerance, prunable, strict=True)
    allowed = pd.Series([largest_difference(*row) for row in rows], index=done.index)
    return (realised - done["sparsity"]).abs() > allowed


def in_missing_rows(done: pd.DataFrame, by: Sequence[str]) -> pd.Series[bool]:
    """Return which finished runs are in a row with a run that misses the requested sparsity.

    Args:
        by: columns whose combinations are the rows.
    """
    groups = misses_target(done).groupby([done[name] for name in by], dropna=False)
    return groups.transform("any")
