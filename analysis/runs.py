"""Run folders as one table: a row a finished run."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd


def load_runs(folders: Iterable[Path]) -> pd.DataFrame:
    """Configuration and result of every finished run, a column a field (`settings.lr`, …).

    Folders that are no run, or not finished, are left out; those that cannot be read are named
    in a warning.
    """
    rows = []
    for folder in folders:
        if not (folder / "result.json").is_file():
            continue
        try:
            rows.append(_row(folder))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            warnings.warn(f"{folder} is left out: {error}", stacklevel=2)
    return pd.DataFrame(rows)


def _row(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "config.json").read_text())
    result = json.loads((folder / "result.json").read_text())
    run = config["run"]
    flat = {**_flatten(run), "label": config["label"], "folder": str(folder)}
    return {**flat, **{f"result.{key}": value for key, value in result.items()}}


def _flatten(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        if isinstance(entry, dict):
            flat |= _flatten(entry, f"{prefix}{key}.")
        else:
            flat[prefix + key] = entry
    return flat
