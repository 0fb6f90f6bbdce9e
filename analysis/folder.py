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
from pathlib import Path
from typing import Any, cast

from analysis.checked import FORMAT, BrokenFile, digest_of, read_text, unseal_json
from analysis.contents import Config, EpochRow, Failure, JobRecord, LayerRow, Result, SharpnessRow
from baselines.errors import UserError

CONFIG, RESULT, FAILURE, JOB = "config.json", "result.json", "failure.json", "slurm.json"
EPOCHS, LAYERS, SHARPNESS = "epochs.csv", "layers.csv", "sharpness.csv"
LAST_STATE, PREVIOUS_STATE = "last.pt", "previous.pt"
LOCK = "lock"
TRACKER = "tracker.json"
DIGESTS = "digests"  # entry of result.json: those of the CSV files that are complete by then
SIGNS, SNAPSHOTS = "signs", "snapshots"  # folders

_INTEGER = re.compile(r"-?\d+")


# ---- finding runs and their files


def list_runs(root: Path) -> list[Path]:
    """Return the run folders in a folder, sorted by name.

    Raises:
        UserError: there is no such folder.
    """
    if not root.is_dir():
        raise UserError(f"there is no folder {root}: name the folder of the runs with --runs.")
    return sorted(path for path in root.iterdir() if (path / CONFIG).exists())


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
    """Return whether a run has a result."""
    return (folder / RESULT).exists()


def snapshot_path(folder: Path, epoch: int) -> Path:
    """Return the path of the snapshot after a number of epochs."""
    return folder / SNAPSHOTS / f"epoch-{epoch}.safetensors"


def signs_path(folder: Path, epoch: int) -> Path:
    """Return the path of the signs after a number of epochs."""
    return folder / SIGNS / f"epoch-{epoch}.npy"


def find_snapshots(folder: Path) -> dict[int, Path]:
    """Return the snapshots of a run by epoch."""
    files = (folder / SNAPSHOTS).glob("epoch-*.safetensors")
    return {int(file.stem.split("-")[1]): file for file in files}


# ---- readers


def read_config(folder: Path) -> Config | None:
    """Return config.json. Raises BrokenFile."""
    config = read_json(folder / CONFIG)
    if config is not None:
        run = _entry(config, "run", dict, folder / CONFIG)
        _entry(config, "label", str, folder / CONFIG)
        for name in ("recipe", "method"):
            _entry(run, name, str, folder / CONFIG)
        for name in ("sparsity", "sign_in", "seed"):
            _entry(run, name, (int, float), folder / CONFIG)
        for name in ("options", "settings"):
            _entry(run, name, dict, folder / CONFIG)
    return cast("Config | None", config)


def read_result(folder: Path) -> Result | None:
    """Return result.json, without the digests of other files. Raises BrokenFile."""
    result = read_json(folder / RESULT)
    if result is not None:
        _entry(result, "accuracy", (int, float), folder / RESULT)
        result.pop(DIGESTS, None)
    return cast("Result | None", result)


def read_failure(folder: Path) -> Failure | None:
    """Return failure.json. Raises BrokenFile."""
    failure = read_json(folder / FAILURE)
    if failure is not None:
        _entry(failure, "reason", str, folder / FAILURE)
    return cast("Failure | None", failure)


def read_job(folder: Path) -> JobRecord | None:
    """Return slurm.json. Raises BrokenFile."""
    job = read_json(folder / JOB)
    if job is not None:
        _entry(job, "job", str, folder / JOB)
        _entry(job, "log", str, folder / JOB)
    return cast("JobRecord | None", job)


def read_epochs(folder: Path) -> list[EpochRow]:
    """Return the rows of epochs.csv. Raises BrokenFile."""
    return cast("list[EpochRow]", read_rows(folder, EPOCHS))


def read_layers(folder: Path) -> list[LayerRow]:
    """Return the rows of layers.csv. Raises BrokenFile."""
    return cast("list[LayerRow]", read_rows(folder, LAYERS))


def read_sharpness(folder: Path) -> list[SharpnessRow]:
    """Return the rows of sharpness.csv. Raises BrokenFile."""
    return cast("list[SharpnessRow]", read_rows(folder, SHARPNESS))


def read_rows(folder: Path, file: str) -> list[dict[str, Any]]:
    """Return the rows of a CSV file, numbers as numbers, without the empty cells.

    Raises:
        BrokenFile: the file cannot be read, or has changed since the run has finished.
    """
    path = folder / file
    try:
        text = read_text(path)
    except (FileNotFoundError, NotADirectoryError):
        text = ""
    digest = digest_of(text.encode())
    if _digests(folder).get(file, digest) != digest:
        raise BrokenFile(f"{path} is damaged or lost: its digest is not that in {RESULT}.")
    try:
        return [_parsed(row, path) for row in csv.DictReader(io.StringIO(text, newline=""))]
    except csv.Error as error:
        raise BrokenFile(f"{path} cannot be read: {error}.") from None


def _digests(folder: Path) -> dict[str, str]:
    """Return the digests of CSV files that result.json has. Raises BrokenFile."""
    result = read_json(folder / RESULT) or {}
    return _entry(result, DIGESTS, dict, folder / RESULT) if DIGESTS in result else {}


def has_digests(folder: Path) -> bool:
    """Return whether the version that began a run stores digests."""
    try:
        return FORMAT in json.loads(read_text(folder / CONFIG))
    except (OSError, ValueError, RecursionError, TypeError):
        return False


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file; None if there is no file.

    Raises:
        BrokenFile: the file cannot be read, is damaged, or holds no object.
    """
    try:
        value = json.loads(read_text(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except BrokenFile:
        raise
    except (ValueError, RecursionError) as error:
        raise BrokenFile(f"{path} cannot be read: {error}.") from None
    if not isinstance(value, dict):
        raise BrokenFile(f"{path} holds no JSON object.")
    return unseal_json(value, path)


def _entry(
    value: dict[str, Any], name: str, kind: type | tuple[type, ...], path: Path
) -> dict[str, Any]:
    """Return an entry. Raises BrokenFile if it is missing or of another type."""
    if not isinstance(value.get(name), kind):
        raise BrokenFile(f"{path} has no valid entry {name!r}.")
    return value[name]  # type: ignore[no-any-return]


def _parsed(row: dict[str | Any, Any], path: Path) -> dict[str, Any]:
    if None in row or None in row.values():
        raise BrokenFile(f"{path} has a row with another number of cells than its header.")
    parsed = {k: text if k == "layer" else _number(text) for k, text in row.items() if text}
    if not isinstance(parsed.get("epoch"), int):
        raise BrokenFile(f"{path} has a row without an epoch.")
    return parsed


def _number(text: str) -> int | float | str:
    """Return a text as a number if it is one and writing the number gives the same text."""
    try:
        return int(text) if _INTEGER.fullmatch(text) else float(text)
    except ValueError:
        return text
