"""The results of a grid as a DataFrame, with those of its runs that failed."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.folder import CONFIG
from analysis.frame import load_runs
from launch.executors.local import Outcome
from launch.runs.provenance import write_config

if TYPE_CHECKING:
    import pandas as pd


def load_outcomes(outcomes: Sequence[Outcome], root: Path) -> pd.DataFrame:
    """Return one row per run, also of those that failed before they had a folder or wrote why.

    Args:
        root: the folder of the run folders.
    """
    failed = {one.run.name: one for one in outcomes if one.result is None}
    homes = {one.run.name: root / one.run.name for one in outcomes}
    with tempfile.TemporaryDirectory() as temporary:
        for name, one in failed.items():
            if not (homes[name] / CONFIG).exists():
                homes[name] = home = Path(temporary) / name
                home.mkdir()
                write_config(home, one.run)
        frame = load_runs((home for home in homes.values() if (home / CONFIG).exists()), root)
    frame["folder"] = [root / home.name for home in frame["folder"]]
    for name, one in failed.items():
        row = (frame["folder"] == root / name) & (frame["state"] == "stopped")
        frame.loc[row, ["state", "reason"]] = ["failed", one.error]
    return frame
