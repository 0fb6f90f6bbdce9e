"""config.json: the fields of a run, and its provenance (versions, git revision, host)."""

from __future__ import annotations

import dataclasses
import json
import platform
import subprocess
import warnings
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from analysis.checked import none_if_broken
from analysis.folder import CONFIG, NAME, RESUMED, read_json
from analysis.nested import flatten
from baselines.errors import UserError
from baselines.fields import new_defaults
from launch.config.recipe import RULES
from launch.config.run import Run
from launch.runs.atomic import write_json

REVISION = "revision.json"  # in a copy of the code, next to the packages
RECORDED = ("torch", "torchvision", "timm", "numpy", "signbench")


def write_config(folder: Path, run: Run) -> None:
    """Write config.json into a run's folder, if there is none that can be read.

    Raises:
        UserError: the folder holds another run, or cannot be written.
    """
    fields = json.loads(json.dumps(dataclasses.asdict(run.decayed)))
    there = none_if_broken(read_json, folder / CONFIG)
    if there is None:
        about: dict[str, Any] = {NAME: run.name, "run": fields, "label": run.label}
        about |= {"epochs": run.epochs, "early_epochs": run.early_epochs}
        about |= {"factorised": run.factorised, "decays": run.decays}
        if changes := new_defaults(run.options):
            about["new_defaults"] = changes
        write_json(folder / CONFIG, about)
        return
    for name in set(RULES) - set(run.used_rules):  # their settings are no part of its name either
        del fields["settings"][name]
    if not _agree(fields, there.get("run", {})):
        raise UserError(f"{folder} holds a run with other settings; see its {CONFIG}.")
    known = there | ({NAME: run.name} if NAME in there else {})  # it follows from the settings
    if known != there:
        write_json(folder / CONFIG, known)


def note_start(folder: Path, epoch: int, machine: Mapping[str, Any]) -> None:
    """Record in config.json the environment of a run's start, or what differs when it resumes.

    Warn if torch or the code has changed since the start.

    Args:
        epoch: number of epochs that were trained before.
        machine: entries about device and data.

    Raises:
        UserError: it cannot be written.
    """
    there = none_if_broken(read_json, folder / CONFIG) or {}
    now = {**find_provenance(), **machine}
    if not epoch or "versions" not in there:
        there.pop(RESUMED, None)
        write_json(folder / CONFIG, {**there, **now})
        return
    then = flatten(there)
    changes = {key: value for key, value in flatten(now).items() if then.get(key, value) != value}
    earlier = there.get(RESUMED)
    starts = [*(earlier if isinstance(earlier, list) else []), {"epoch": epoch, **changes}]
    write_json(folder / CONFIG, {**there, RESUMED: starts})
    for key, name in (("versions.torch", "torch"), ("git", "revision")):
        if changes.get(key) and then[key]:
            warnings.warn(
                f"{folder.name} resumes with {name} {changes[key]:.12}; it began with "
                f"{then[key]!s:.12}.",
                stacklevel=2,
            )


def find_provenance() -> dict[str, Any]:
    """Return versions, git revision and host, as config.json has them."""
    return {
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in RECORDED}},
        **git_state(),
        "host": platform.node(),
    }


def git_state() -> dict[str, Any]:
    """Return the revision of the running code, and whether it has uncommitted changes.

    A copy of the code has a file with it; otherwise git is called. None means unknown. A virtual
    environment in the checkout of another project is not part of that project.
    """
    noted = none_if_broken(read_json, Path(__file__).parents[2] / REVISION)
    if noted is not None:
        return noted
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return {"git": None, "git_dirty": None}
    return {"git": _git("rev-parse", "HEAD"), "git_dirty": bool(_git("status", "--porcelain"))}


def _agree(new: Any, old: Any) -> bool:
    """Return whether all fields that both have are equal: later versions may add fields."""
    if isinstance(new, dict) and isinstance(old, dict):
        return all(_agree(new[key], old[key]) for key in new.keys() & old.keys())
    return bool(new == old)


@cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except ModuleNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """Return what git prints about the checkout that this file is in; None if it fails."""
    try:
        return subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
