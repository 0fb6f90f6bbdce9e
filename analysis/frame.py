"""All runs as one DataFrame: one row per run."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.checked import BrokenFile, FileError
from analysis.contents import Config
from analysis.decay import decays_of, is_factorised
from analysis.folder import CONFIG, RESULT, read_config, read_failure, read_result, read_rows
from analysis.names import HAM, PLAIN, SIGN_IN
from analysis.nested import flatten
from analysis.references import name_references
from baselines.errors import UserError, one_line, unknown

LEFT_OUT = "left_out"  # name of an attribute of the frame
# fields that earlier runs do not have, with the values that reproduce these runs
ADDED = {
    "ham": False,
    "settings.validation": 0.0,
    "settings.normalise": "data",
    "settings.sign_in.beta_last": 0.0,
    "settings.sign_in.rescale_masks_late": True,
}
# columns of what was chosen for a run, besides settings and options
_CHOICES = (
    "recipe",
    "method",
    "label",
    "sparsity",
    "sign_in",
    "ham",
    "seed",
    "exclude",
    "keep_epochs",
)
# prefixes of columns that may be left out
_PREFIXES = ("settings.", "settings.sign_in.", "settings.ham.", "options.", "result.")
KEPT_BYTES = 256 * 2**20  # of rows that are kept in a block of `rows_kept`
# within such a block, the rows by path, and the number of bytes that are left as the only item
_Kept = tuple[dict[Path, pd.DataFrame], list[int]]
_kept: ContextVar[_Kept | None] = ContextVar("kept", default=None)


def load_runs(folders: Iterable[Path], root: Path | None = None) -> pd.DataFrame:
    """Return configuration and result of every run, one column per field.

    Args:
        root: folder of further runs, which have no rows here, but which options of these runs may
            name.

    Columns are the fields of a run (`settings.lr`, `options.drop_fraction`), those of its result
    (`result.accuracy`), and

        folder
        state, reason: finished, failed or stopped; the reason of a failure
        rule: what makes signs flip: "", "Sign-In" or "HAM"
        factorised: whether factors m ⊙ w are trained: with Sign-In, and by some methods always
        label: the method as tables name it; "earlier" is among its options if defaults of the
            method have changed since, and runs with the new ones are in the folders, too
        mask.label, mask.epochs, mask.early: method, with its rule, total number of epochs, and
            early epochs of the run whose mask the run trains, for method "fixed"
        mask.at, signs.at, magnitudes.at: an epoch, "final" or "random", for method "fixed"

    Folders that cannot be read are left out, with one warning that names them. The attribute
    `attrs["left_out"]` has one line for each of them.
    """
    rows, broken = [], []
    for folder in folders:
        try:
            rows.append(_row(folder))
        except FileError as error:
            broken.append(one_line(f"{folder.name} ({error})"))
    _mark_earlier(rows)
    if broken:
        more = f" and {len(broken) - 5} more" if len(broken) > 5 else ""
        warnings.warn(f"left out: {'; '.join(broken[:5])}{more}", stacklevel=2)
    name_references(rows, lambda name: _source(root / name) if root else None)
    runs = pd.DataFrame(rows, columns=None if rows else ["recipe", "label", "state", "folder"])
    runs.attrs[LEFT_OUT] = broken
    return runs


@contextmanager
def rows_kept() -> Iterator[None]:
    """Read each CSV file once in the block, as long as the rows fit into `KEPT_BYTES`."""
    token = _kept.set(({}, [KEPT_BYTES]))
    try:
        yield
    finally:
        _kept.reset(token)


def load_rows(folder: Path, file: str) -> pd.DataFrame:
    """Return the rows of one of a run's CSV files; an empty DataFrame if there is no such file.

    Raises:
        FileError: the file cannot be read.
    """
    frames, room = _kept.get() or ({}, [0])
    path = folder / file
    if path in frames:
        return frames[path].copy(deep=False)
    rows = pd.DataFrame(read_rows(folder, file))
    size = int(rows.memory_usage(deep=True).sum())
    if size <= room[0]:
        room[0] -= size
        frames[path] = rows
    return rows.copy(deep=False)


def finished_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that have a result.

    Raises:
        UserError: there are none.
    """
    done = runs[runs["state"] == "finished"] if len(runs) else runs
    if not len(done):
        raise UserError("there are no finished runs.")
    return done


def ended_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that have a result or have failed.

    Raises:
        UserError: none has a result.
    """
    finished_runs(runs)
    return runs[runs["state"].isin(("finished", "failed"))]


def one_per_seed(runs: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Return one run per combination of `by` and seed: a finished one, if there is any.

    Args:
        runs: from `finished_runs` or `ended_runs`.
    """
    finished_first = runs.sort_values(["state", "folder"], ascending=[False, True])
    return finished_first.drop_duplicates([*by, "seed"])


def find_column(runs: pd.DataFrame, field: str) -> str:
    """Return the column of a field, given with or without its prefix.

    `method` is the label, which includes the options that are not at their defaults.

    Raises:
        UserError: there is no such field.
    """
    name = {"method": "label"}.get(field, field)
    for prefix in ("", *_PREFIXES):
        if prefix + name in runs.columns:
            return prefix + name
    raise _unknown_field(field, runs)


def _unknown_field(field: str, runs: pd.DataFrame) -> UserError:
    """Return the error for an unknown field, with the nearest and those in which runs differ."""
    known = {column: _short(column) for column in map(str, runs.columns)}
    near = str(unknown("field", field, known.values())).partition(" Known: ")[0]
    choices = [c for c in known if c in _CHOICES or c.startswith(("settings.", "options."))]
    differing = dict.fromkeys(known[c] for c in choices if runs[c].astype(str).nunique() > 1)
    found = f" The runs differ in: {', '.join(sorted(differing))}." if differing else ""
    return UserError(f"{near}{found} {CONFIG} and {RESULT} in their folders have all.")


def _short(column: str) -> str:
    """Return the name of a column's field as conditions name it."""
    prefix = max((p for p in _PREFIXES if column.startswith(p)), key=len, default="")
    return {"label": "method"}.get(column, column.removeprefix(prefix))


def _row(folder: Path) -> dict[str, Any]:
    config = read_config(folder)
    if config is None:
        raise BrokenFile("it has no configuration")
    if not _is_plain([config["run"]["options"], config["run"]["settings"]]):
        raise BrokenFile("its options or settings are not plain values")
    result, failure = read_result(folder), read_failure(folder)
    row = {**ADDED, **_flatten(config["run"]), "label": config["label"], "folder": folder}
    row["rule"] = SIGN_IN if row["sign_in"] else HAM if row["ham"] else PLAIN
    row["factorised"] = is_factorised(config)
    row["new_defaults"] = config.get("new_defaults", {})
    row["early_epochs"] = _early_epochs(config)
    row |= _flatten({"decays": decays_of(config)})
    row |= {key: config.get(key) for key in ("git", "git_dirty", "host", "data_digest")}
    row |= _flatten({"versions": config.get("versions", {}), "result": result or {}})
    row["state"] = "finished" if result else "failed" if failure else "stopped"
    row["reason"] = failure["reason"] if failure and not result else ""
    return _rename_method(row)


def _source(folder: Path) -> dict[str, Any] | None:
    """Return the row of a run that others name, if it can be read."""
    try:
        return _row(folder)
    except FileError:
        return None


def _early_epochs(config: Config) -> tuple[int, ...]:
    """Return the epochs after a tenth and three tenths of a run, as recorded."""
    if "early_epochs" in config:
        return tuple(config["early_epochs"])
    epochs = config.get("epochs") or config["run"]["settings"].get("epochs", 0)  # an earlier run
    return tuple(max(1, round(part * epochs)) for part in (0.1, 0.3))


def _rename_method(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with the method's present name: in version 0.1, `str-target` was `str`."""
    if row["method"] == "str" and row.get("options.mode") == "target":
        label = "str-target" + row["label"].removeprefix("str")
        return {**row, "method": "str-target", "label": label, "new_defaults": {}}
    return row


def _is_plain(value: Any, depth: int = 4) -> bool:
    """Return whether a value consists of numbers, texts, and lists and dictionaries of them."""
    if isinstance(value, list | dict):
        parts = value.values() if isinstance(value, dict) else value
        return depth > 0 and all(_is_plain(part, depth - 1) for part in parts)
    return not isinstance(value, int) or abs(value) < 2**63


def _mark_earlier(rows: list[dict[str, Any]]) -> None:
    """Mark runs of which an option has a default that was changed later: their labels hide it."""
    changed: dict[str, dict[str, Any]] = {}
    for row in rows:
        changed.setdefault(row["method"], {}).update(row["new_defaults"])
    for row in rows:
        own, new = row.pop("new_defaults"), changed[row["method"]]
        if any(row.get(f"options.{o}") != new[o] for o in new.keys() - own.keys()):
            method, _, options = row["label"].partition(" (")
            row["label"] = f"{method} (earlier, {options}" if options else f"{method} (earlier)"


def _flatten(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of nested dictionaries by dotted names; lists become texts."""
    flat = flatten(value)
    return {key: str(entry) if isinstance(entry, list) else entry for key, entry in flat.items()}
