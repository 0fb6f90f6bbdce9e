"""A copy of the code at submission, which Slurm jobs import."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from launch import packages
from launch.config.machine import Machine
from launch.config.run import Run
from launch.runs.atomic import write_json
from launch.runs.provenance import REVISION, git_state

MOST_BYTES = 2**25  # of the data in a package


def copy_code(folder: Path, imports: Sequence[str] = ()) -> Path:
    """Copy the packages as they are now to a folder named by their contents, and return it.

    Modules in the current folder that this process has imported are copied, too.

    Args:
        imports: names of further modules of a user; those in the current folder are copied.
    """
    root = packages.root()
    files = {
        file.relative_to(root): file
        for package in packages.PACKAGES
        for ending in ("py", "json")  # code and the data that it reads
        for file in (root / package).rglob(f"*.{ending}")
    }
    files |= {file.relative_to(Path.cwd()): file for file in _own_files(imports)}
    revision = git_state()
    contents = b"".join(f"{n}\n".encode() + file.read_bytes() for n, file in sorted(files.items()))
    digest = hashlib.sha256(contents + json.dumps(revision).encode()).hexdigest()[:12]
    home = folder / "code" / digest
    if not home.exists():
        temporary = home.with_name(f"{digest}.{os.getpid()}.tmp")
        for name, file in files.items():
            target = temporary / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        write_json(temporary / REVISION, revision)
        try:
            temporary.rename(home)
        except OSError:
            if not home.exists():
                raise
            shutil.rmtree(temporary)  # another process has made the copy meanwhile
    return home


def own_modules(runs: Sequence[Run], machine: Machine) -> list[str]:
    """Return the modules of a user that jobs import: plug-ins, and those of package.module:name."""
    named = {name for run in runs for name in (run.method, run.settings.model, run.settings.data)}
    modules = {name.partition(":")[0] for name in named if ":" in name}
    return [*machine.imports, *sorted(name for name in modules if _is_module(name))]


def _is_module(name: str) -> bool:
    return all(part.isidentifier() for part in name.split(".")) and name != "hf"


def _of_package(folder: Path) -> Iterator[Path]:
    """Yield the modules of a package, and the data beside them unless these are large."""
    files = [f for f in folder.rglob("*") if f.is_file() and "__pycache__" not in f.parts]
    yield from (file for file in files if file.suffix == ".py")
    data = [file for file in files if file.suffix != ".py"]
    total = sum(file.stat().st_size for file in data)
    if total <= MOST_BYTES:
        yield from data
        return
    warnings.warn(
        f"the {len(data)} data files of {folder} ({total / 2**20:.0f} MB) are not copied: jobs "
        "must find them elsewhere.",
        stacklevel=2,
    )


def _own_files(imports: Sequence[str]) -> Iterator[Path]:
    """Yield the files of modules, and of whole packages, that are in the current folder."""
    here = Path.cwd()
    for top in {name.partition(".")[0] for name in imports}:
        spec = importlib.util.find_spec(top)
        if spec is None:
            continue
        if spec.origin == str(here / f"{top}.py"):
            yield here / f"{top}.py"
        elif str(here / top) in (spec.submodule_search_locations or ()):
            yield from _of_package(here / top)
    for module in list(sys.modules.values()):  # what the user's modules import
        file = Path(getattr(module, "__file__", None) or "-")
        if file.suffix == ".py" and file.is_relative_to(here) and "site-packages" not in file.parts:
            yield file
