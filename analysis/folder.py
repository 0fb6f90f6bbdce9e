"""The run folder: the names of its files, and their readers.

    config.json          the run, with versions and git revision
    epochs.csv           one row per epoch
    layers.csv           one row per layer and epoch
    snapshots/epoch-*.safetensors   effective weights and masks of kept epochs
    signs/epoch-*.npy    signs after each epoch, until the run has finished
    last.pt previous.pt  the states to resume from: plain tensors and numbers
    failure.json         why the run stopped with an error
    result.json          written last: a run that has one has finished
    sharpness.csv        one row per snapshot, written by `signbench sharpness`
    sharpness.lock       locked by the process that writes a row
    slurm.json           the last Slurm job of the run
    tracker.json         the run in a tracker, and the epochs that it has
    lock                 locked by the process that trains the run

A reader returns None or an empty list if there is no file. It raises `BrokenFile` for a file whose
contents differ from the types in `analysis.contents`. Files of earlier versions may lack columns.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from analysis.checked import (
    FORMAT,
    MOST_ROWS,
    BrokenFile,
    FileError,
    digest_of,
    none_if_broken,
    read_text,
    unseal_json,
)
from analysis.contents import (
    Config,
    EpochRow,
    Failure,
    JobRecord,
    LayerRow,
    Result,
    RunFields,
    SharpnessRow,
    wrong_entry,
)
from baselines.errors import UserError

CONFIG, RESULT, FAILURE, JOB = "config.json", "result.json", "failure.json", "slurm.json"
EPOCHS, LAYERS, SHARPNESS = "epochs.csv", "layers.csv", "sharpness.csv"
LAST_STATE, PREVIOUS_STATE = "last.pt", "previous.pt"
LOCK, SHARPNESS_LOCK = "lock", "sharpness.lock"
TRACKER = "tracker.json"
NAME = "name"  # entry of config.json and result.json: the run's
DIGESTS = "digests"  # entry of result.json: those of the CSV files that are complete by then
RESUMED = "resumed"  # entry of config.json: what differed when the run was resumed
SIGNS, SNAPSHOTS = "signs", "snapshots"  # folders

_ROWS = {EPOCHS: EpochRow, LAYERS: LayerRow, SHARPNESS: SharpnessRow}
_SNAPSHOT = re.compile(r"epoch-(\d{1,9})\.safetensors")
_INTEGER = re.compile(r"-?\d+")


# ---- finding runs and their files


def list_runs(root: Path, files: Sequence[str] = (CONFIG,)) -> list[Path]:
    """Return the run folders in a folder, sorted by name.

    Args:
        files: a run folder has one of them.

    Raises:
        UserError: there is no such folder, or it cannot be read.
    """
    if not root.is_dir():
        raise UserError(f"there is no folder {root}: name the folder of the runs with --runs.")
    try:
        return sorted(path for path in root.iterdir() if _may_have(path, files))
    except OSError as error:
        raise UserError(f"cannot read {root}: {error.strerror}.") from None


def _may_have(folder: Path, files: Sequence[str]) -> bool:
    """Return whether a folder has one of some files; True also if the folder cannot be read."""
    try:
        return any((folder / file).exists() for file in files)
    except OSError:
        return True


def find_run(text: str, root: Path) -> Path:
    """Return the folder of a run, given its name in `root` or its path.

    Raises:
        UserError: there is none.
    """
    for folder in (root / text, Path(text)):
        if (folder / CONFIG).is_file():
            return folder
    raise UserError(f"there is no run {text} in {root}.")


def is_finished(folder: Path) -> bool:
    """Return whether a run has a result. A damaged one does not count.

    Raises:
        UnreadableFile: the system fails to read it.
    """
    return none_if_broken(read_result, folder) is not None


def snapshot_path(folder: Path, epoch: int) -> Path:
    """Return the path of the snapshot after a number of epochs."""
    return folder / SNAPSHOTS / f"epoch-{epoch}.safetensors"


def signs_path(folder: Path, epoch: int) -> Path:
    """Return the path of the signs after a number of epochs."""
    return folder / SIGNS / f"epoch-{epoch}.npy"


def find_snapshots(folder: Path) -> dict[int, Path]:
    """Return the snapshots of a run by epoch."""
    files = (folder / SNAPSHOTS).glob("epoch-*.safetensors")
    found = ((snapshot_epoch(file), file) for file in files)
    return {epoch: file for epoch, file in found if epoch is not None}


def snapshot_epoch(path: Path) -> int | None:
    """Return the number of epochs of a snapshot; None for any other path."""
    match = _SNAPSHOT.fullmatch(path.name)
    return int(match[1]) if match and path.parent.name == SNAPSHOTS else None


# ---- readers


def read_config(folder: Path) -> Config | None:
    """Return config.json. Raises FileError."""
    config = _read_typed(folder / CONFIG, Config, ("run", "label"))
    if config is not None:
        needed = ("recipe", "method", "sparsity", "sign_in", "seed", "options", "settings")
        _check(config["run"], RunFields, needed, folder / CONFIG)
    return cast("Config | None", config)


def read_name(folder: Path) -> str | None:
    """Return the name of a run from config.json; None if there is none. Raises FileError."""
    name = (read_json(folder / CONFIG) or {}).get(NAME)
    return name if isinstance(name, str) else None


def read_result(folder: Path) -> Result | None:
    """Return result.json, without name and digests of files.

    Raises:
        FileError: it cannot be read, or is that of another run.
    """
    result = read_json(folder / RESULT, must_be_sealed=has_digests(folder))
    if result is not None:
        _check(result, Result, ("accuracy",), folder / RESULT)
        result.pop(DIGESTS, None)
        name, own = result.pop(NAME, None), read_name(folder)
        if name and own and name != own:
            raise BrokenFile(f"{folder / RESULT} is that of another run, {name}.")
    return cast("Result | None", result)


def read_failure(folder: Path) -> Failure | None:
    """Return failure.json. Raises FileError."""
    return cast("Failure | None", _read_typed(folder / FAILURE, Failure, ("reason",)))


def read_job(folder: Path) -> JobRecord | None:
    """Return slurm.json. Raises FileError."""
    return cast("JobRecord | None", _read_typed(folder / JOB, JobRecord, ("job", "log")))


def read_epochs(folder: Path) -> list[EpochRow]:
    """Return the rows of epochs.csv. Raises FileError."""
    return cast("list[EpochRow]", read_rows(folder, EPOCHS))


def read_layers(folder: Path) -> list[LayerRow]:
    """Return the rows of layers.csv. Raises FileError."""
    return cast("list[LayerRow]", read_rows(folder, LAYERS))


def read_sharpness(folder: Path) -> list[SharpnessRow]:
    """Return the rows of sharpness.csv. Raises FileError."""
    return cast("list[SharpnessRow]", read_rows(folder, SHARPNESS))


def read_rows(folder: Path, file: str) -> list[dict[str, Any]]:
    """Return the rows of a CSV file, numbers as numbers, without the empty cells.

    Raises:
        FileError: the file cannot be read, or has changed since the run has finished.
    """
    path = folder / file
    try:
        text = read_text(path, MOST_ROWS)
    except (FileNotFoundError, NotADirectoryError):
        text = ""
    digest = digest_of(text.encode())
    if _digests(folder).get(file, digest) != digest:
        raise BrokenFile(f"{path} is damaged or lost: its digest is not that in {RESULT}.")
    return parse_rows(text, path)


def parse_rows(text: str, path: Path) -> list[dict[str, Any]]:
    """Return the rows of the text of a CSV file, as `read_rows` does.

    Args:
        path: where the text is from; its name determines which rows are expected.

    Raises:
        BrokenFile: it does not hold such rows.
    """
    try:
        return [_parse_row(row, path) for row in csv.DictReader(io.StringIO(text, newline=""))]
    except csv.Error as error:
        raise BrokenFile(f"{path} cannot be read: {error}.") from None


def _digests(folder: Path) -> dict[str, str]:
    """Return the digests of CSV files that result.json has. Raises FileError."""
    digests = (read_json(folder / RESULT) or {}).get(DIGESTS)
    return digests if isinstance(digests, dict) else {}


def has_digests(folder: Path) -> bool:
    """Return whether the version that began a run stores digests."""
    try:
        return FORMAT in json.loads(read_text(folder / CONFIG))
    except (OSError, ValueError, RecursionError, TypeError):
        return False


def read_json(path: Path, must_be_sealed: bool = False) -> dict[str, Any] | None:
    """Return the object in a JSON file; None if there is no file.

    Args:
        must_be_sealed: refuse a file without a digest.

    Raises:
        FileError: the file cannot be read, is damaged, or holds no object.
    """
    try:
        value = json.loads(read_text(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except FileError:
        raise
    except (ValueError, RecursionError) as error:
        raise BrokenFile(f"{path} cannot be read: {error}.") from None
    if not isinstance(value, dict):
        raise BrokenFile(f"{path} holds no JSON object.")
    return unseal_json(value, path, must_be_sealed)


def _read_typed(path: Path, kind: Any, needed: Sequence[str]) -> dict[str, Any] | None:
    """Return an object with entries of a TypedDict's types; the `needed` ones must be there."""
    value = read_json(path)
    if value is not None:
        _check(value, kind, needed, path)
    return value


def _check(value: Mapping[str, Any], kind: Any, needed: Sequence[str], path: Path) -> None:
    """Raise BrokenFile if an entry is missing or of another type."""
    wrong = next((name for name in needed if name not in value), None) or wrong_entry(value, kind)
    if wrong is not None:
        raise BrokenFile(f"{path} has no valid entry {wrong!r}.")


def _parse_row(row: dict[str | Any, Any], path: Path) -> dict[str, Any]:
    if None in row or None in row.values():
        raise BrokenFile(f"{path} has a row with another number of cells than its header.")
    try:
        parsed = {k: text if k == "layer" else _number(text) for k, text in row.items() if text}
    except ValueError:
        raise BrokenFile(f"{path} has a cell that is no number.") from None
    _check(parsed, _ROWS[path.name], ("epoch",), path)
    return parsed


def _number(text: str) -> int | float:
    """Return a text as a number, such that writing the number gives the same text."""
    return int(text) if _INTEGER.fullmatch(text) else float(text)
