"""The runs that are attacked, and the comparison with undisturbed ones."""

from __future__ import annotations

import importlib
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from attack.child import Outcome, call, signbench
from safetensors.torch import load_file

import launch.commands.run
import launch.training.loop
from analysis.folder import read_epochs, read_layers, read_result
from launch.cli import COMMANDS
from launch.config.machine import Machine
from launch.config.run import Run
from launch.console import exit_code_of
from launch.runs.reading import read_run
from launch.training.run import run_training

ARCHIVE = Path(__file__).parents[1] / "fixtures" / "runs-0.1.tar.xz"
EPOCHS = 3
MACHINE = ("--device", "cpu", "--threads", "1", "--workers", "0")
SHORT = ("--epochs", str(EPOCHS), "--batch-size", "512", *MACHINE)
RIGL = ("--method", "rigl", "--sign-in", *SHORT)


@dataclass(frozen=True)
class World:
    """Folders of runs, which cases copy before they damage them.

    Attributes:
        finished: the run to compare with.
        stopped: the same run, stopped after two of three epochs.
        old: the runs of version 0.1.
        old_run: the one of them that was stopped.
        old_finished: that run, undisturbed.
    """

    run: Run
    finished: Path
    stopped: Path
    old: Path
    old_run: Run
    old_finished: Path


def import_everything(home: Path) -> None:
    """Import what commands import, so that forked children need not."""
    for name in COMMANDS:
        importlib.import_module(f"launch.commands.{name}")
    torch.set_num_threads(1)  # OpenMP's threads do not live on in forked processes
    machine = Machine(runs=home, device="cpu", workers=0, threads=1)
    run = Run.make("digits", "rigl", sign_in=True, epochs=1, batch_size=1024)
    run_training(run, machine, report=lambda _: None, bar=False)


def make_world(home: Path) -> World:
    import_everything(home / "imports")
    finished, stopped = home / "finished", home / "stopped"
    assert train(finished, *RIGL).code == 0
    assert signbench("sharpness", "--runs", finished, "--per-class", 1, "--device", "cpu").code == 0
    assert train(stopped, *RIGL, stop_at=EPOCHS - 1).code == 130
    (folder,) = finished.iterdir()
    with tarfile.open(ARCHIVE) as archive:
        # Python 3.11.2, which Debian 12 has, knows no filters
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(home)
    old = home / "runs"
    (name,) = (p.name for p in old.iterdir() if (p / "last.pt").exists())
    old_run = read_run(old / name)
    shutil.copytree(old / name, home / "old" / name)
    assert resume(old_run, home / "old").code == 0
    return World(read_run(folder), finished, stopped, old, old_run, home / "old" / name)


def train(root: Path, *flags: str, stop_at: int | None = None) -> Outcome:
    """Train a run, until Ctrl-C at the start of an epoch if one is given."""
    before = None if stop_at is None else lambda: _interrupt_at(stop_at)
    return signbench("run", *flags, "--runs", root, before=before)


def resume(run: Run, root: Path) -> Outcome:
    """Resume a run whose flags are not known."""
    machine = Machine(runs=root, device="cpu", workers=0, threads=1)
    return call(lambda: exit_code_of(lambda: launch.commands.run.train(run, machine)))


def _interrupt_at(epoch: int) -> None:
    original = launch.training.loop.Loop.train_epoch

    def stopping(self: Any, now: int) -> tuple[float, float]:
        if now == epoch:
            raise KeyboardInterrupt
        return original(self, now)

    launch.training.loop.Loop.train_epoch = stopping  # type: ignore[method-assign]


def difference(folder: Path, other: Path, may_lack: bool = False) -> str:
    """Return how a run differs from an undisturbed one; empty if it does not.

    Args:
        may_lack: rows, cells and snapshots may be missing, if a warning has said so.
    """
    results = [_without_times(read_result(f)) for f in (folder, other)]
    costs = {"training_flops", "dense_epochs"} if may_lack else set()
    for name in results[1].keys() | results[0].keys():
        if results[0].get(name) != results[1].get(name):
            if name in costs and name not in results[0]:
                continue
            return f"result.{name} is {results[0].get(name)}, not {results[1].get(name)}"
    for read in (read_epochs, read_layers):
        one, two = ([_without_times(row) for row in read(f)] for f in (folder, other))
        if one != two and not (may_lack and _is_part(one, two)):
            return f"{read.__name__} differ"
    names = [{p.name for p in (f / "snapshots").iterdir()} for f in (folder, other)]
    if names[0] != names[1] and not may_lack:
        return f"snapshots {names[0]}"
    for name in names[1]:
        path = folder / "snapshots" / name
        if not path.is_file():
            if may_lack:
                continue
            return f"{name} is no file"
        try:
            tensors = load_file(path)
        except Exception as error:
            if may_lack:
                continue
            return f"{name}: {error}"
        expected = load_file(other / "snapshots" / name)
        same = tensors.keys() == expected.keys()
        same = same and all(torch.equal(t, expected[k]) for k, t in tensors.items())
        if not same and not may_lack:
            return f"{name} differs"
    return ""


def _is_part(rows: list[dict[str, Any]], whole: list[dict[str, Any]]) -> bool:
    by_key = {(row["epoch"], row.get("layer")): row for row in whole}
    found = (by_key.get((row["epoch"], row.get("layer"))) for row in rows)
    return all(
        expected is not None and row.items() <= expected.items()
        for row, expected in zip(rows, found, strict=True)
    )


def _without_times(row: Any) -> dict[str, Any]:
    own = ("device", "ranks", "all_ranks")  # which version 0.1 does not have
    return {k: v for k, v in (row or {}).items() if "seconds" not in k and k not in own}
