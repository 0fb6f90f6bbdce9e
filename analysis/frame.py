"""Run folders as one table: a row a run."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from baselines.errors import UserError, unknown

PARTS = ("mask", "signs", "magnitudes")  # of a run that begins with those of another
_REFERENCE = re.compile(r"([^/@(), ]+)@(\w+)")  # RUN@EPOCH


def find_runs(root: Path) -> list[Path]:
    """The folders in a folder that can be runs.

    Raises:
        UserError: there is no such folder.
    """
    if not root.is_dir():
        raise UserError(f"there is no folder {root}: name the runs' with --runs.")
    return sorted(path for path in root.iterdir() if (path / "config.json").exists())


def load_runs(folders: Iterable[Path]) -> pd.DataFrame:
    """Configuration and result of every run, a column a field (`settings.lr`, `result.accuracy`).

    Further columns: `folder`; `state` (finished, failed or stopped) and `reason`; `label`, the
    method as tables name it; and for runs that begin with parts of others `mask.label`, the
    method that the mask is from, and `mask.at`, `signs.at`, `magnitudes.at`: an epoch, "final",
    or "random".

    Folders that cannot be read are left out, and named in one warning.
    """
    rows, bad = [], []
    for folder in folders:
        try:
            rows.append(_row(folder))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            bad.append(f"{folder.name} ({type(error).__name__}: {error})")
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        warnings.warn(f"left out: {'; '.join(bad[:5])}{more}", stacklevel=2)
    labels = {row["folder"].name: row["label"] for row in rows}
    for row in rows:
        _name_references(row, labels)
    return pd.DataFrame(rows, columns=None if rows else ["recipe", "label", "state", "folder"])


def finished(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that have a result. Raises UserError where there are none."""
    done = runs[runs["state"] == "finished"] if len(runs) else runs
    if not len(done):
        raise UserError("there are no finished runs.")
    return done


def find_field(runs: pd.DataFrame, name: str) -> str:
    """The column of a field, whose prefix may be left out; `method` is the label of tables.

    Raises:
        UserError: there is none.
    """
    name = {"method": "label"}.get(name, name)
    prefixes = ("", "settings.", "settings.sign_in.", "options.", "result.")
    for prefix in prefixes:
        if prefix + name in runs.columns:
            return prefix + name
    raise unknown("field", name, [column.rpartition(".")[2] for column in runs.columns])


def choose(runs: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    """The runs that meet all conditions, such as `epochs=20` or `method=rigl`.

    Raises:
        UserError: not of this form, or no such field.
    """
    for condition in conditions:
        name, equals, value = condition.partition("=")
        if not equals:
            raise UserError(f"--where takes FIELD=VALUE, not {condition!r}.")
        column = runs[find_field(runs, name)]
        runs = runs[column.map(lambda found, value=value: _is(found, value)).astype(bool)]
    return runs


def read_rows(folder: Path, file: str) -> pd.DataFrame:
    """A run's epochs.csv or layers.csv; empty where there is none."""
    path = folder / file
    return pd.read_csv(path) if path.exists() else pd.DataFrame()


def _is(found: Any, value: str) -> bool:
    try:
        return float(found) == float(value)
    except (TypeError, ValueError):
        return str(found).lower() == value.lower()


def _row(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "config.json").read_text())
    run = config["run"]
    row = {**_flatten(run), "label": config["label"], "folder": folder}
    row |= {key: config.get(key) for key in ("git", "git_dirty", "host")}
    row |= {f"versions.{key}": value for key, value in config.get("versions", {}).items()}
    result, failure = _peek(folder / "result.json"), _peek(folder / "failure.json")
    if result is not None:
        row |= {f"result.{key}": value for key, value in result.items()}
        float(row["result.accuracy"])  # a result has one
    row["state"] = "finished" if result is not None else "failed" if failure else "stopped"
    row["reason"] = failure["reason"] if failure and result is None else ""
    row["method"], row["seed"], row["sparsity"] = run["method"], run["seed"], run["sparsity"]
    return row


def _peek(path: Path) -> dict[str, Any] | None:
    try:
        value: dict[str, Any] = json.loads(path.read_text())
        return value
    except FileNotFoundError:
        return None


def _flatten(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        if isinstance(entry, dict):
            flat |= _flatten(entry, f"{prefix}{key}.")
        else:
            flat[prefix + key] = str(entry) if isinstance(entry, list) else entry
    return flat


def _name_references(row: dict[str, Any], labels: dict[str, str]) -> None:
    """Runs that others refer to by the methods that they are of, so that seeds can be compared."""

    def label(found: re.Match[str]) -> str:
        return f"{labels.get(found[1], found[1])}@{found[2]}"

    if row["method"] != "fixed":
        return
    row["label"] = _REFERENCE.sub(label, row["label"])
    for part in PARTS:
        source = row.get(f"options.{part}") or row.get("options.init") or "random"
        run, _, at = source.rpartition("@")
        row[f"{part}.at"], row[f"{part}.run"] = at, run
        row[f"{part}.label"] = labels.get(run, "")
