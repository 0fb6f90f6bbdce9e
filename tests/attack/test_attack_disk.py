"""Power loss and full disks: a run resumes with the same numbers, or names what it fell back to."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
from pathlib import Path
from random import Random
from typing import Any

import pytest
from attack.child import call, signbench
from attack.events import on_file_events
from attack.runs import RIGL, difference

from analysis.checked import BrokenFile
from launch.cli import main

Event = tuple[str, str, str, bytes]  # kind, path, target, contents


def log_of(root: Path) -> list[Event]:
    """Train a run in a child, and return what it did to the files in its folder, in order."""
    log: list[Event] = []

    def note(event: str, args: Any) -> None:
        path = str(args[0])
        if not path.startswith(str(root)):
            return
        contents = b""
        if event == "fsync" and os.path.isfile(path):
            contents = Path(path).read_bytes()
        log.append((event, path, str(args[1]) if event == "os.rename" else "", contents))

    def train() -> int:
        on_file_events(note)
        code = main(["run", *RIGL, "--runs", str(root)])
        (root / "log").write_text(repr(log))
        return code

    assert call(train).code == 0
    found = ast.literal_eval((root / "log").read_text())
    (root / "log").unlink()
    return found


class Disk:
    """What is on disk if the power fails: files as of their last fsync, and renames and removals,
    of which those since the last fsync of their folder may be lost, whichever of them."""

    def __init__(self) -> None:
        self.synced: dict[str, bytes] = {}  # contents by path, as of the last fsync
        self.files: dict[str, bytes] = {}  # what the folders have on disk
        self.waiting: list[tuple[str, str, str, bytes]] = []  # changes of folders, not on disk yet

    def apply(self, event: Event) -> None:
        kind, path, target, contents = event
        if kind == "fsync" and contents:
            self.synced[path] = contents
        elif kind == "fsync":
            keep = []
            for change in self.waiting:
                if os.path.dirname(change[1]) == path:
                    self._change(self.files, change)
                else:
                    keep.append(change)
            self.waiting = keep
        elif kind == "os.rename":
            self.waiting.append((kind, path, target, self._contents(path)))
        elif kind in ("os.remove", "shutil.rmtree"):
            self.waiting.append((kind, path, "", b""))

    def _contents(self, path: str) -> bytes:
        """Return what a file has on disk when it is renamed: nothing, if it was never synced."""
        state = dict(self.files)
        for change in self.waiting:
            self._change(state, change)
        return self.synced.pop(path, state.get(path, b""))

    @staticmethod
    def _change(files: dict[str, bytes], change: tuple[str, str, str, bytes]) -> None:
        kind, path, target, contents = change
        if kind == "os.rename":
            files.pop(path, None)
            files[target] = contents
        else:
            for name in [n for n in files if n == path or n.startswith(path + "/")]:
                del files[name]

    def after_crash(self, rng: Random) -> dict[str, bytes]:
        """Return a state of the files that a crash could leave."""
        files = dict(self.files)
        how = rng.choice(("none", "all", "first", "any"))
        number = rng.randrange(len(self.waiting) + 1)
        for i, change in enumerate(self.waiting):
            lost = {"none": True, "all": False, "first": i >= number, "any": rng.random() < 0.5}
            if not lost[how]:
                self._change(files, change)
        return files


def test_power_loss(attack, world, tmp_path):
    root = tmp_path / "runs"
    log = log_of(root)
    assert sum(event[0] == "fsync" for event in log) > 20
    shutil.rmtree(root)
    (reference,) = world.finished.iterdir()
    for rng in attack.cases(few=2, share=0.05):
        point = rng.randrange(len(log) + 1)
        disk = Disk()
        for event in log[:point]:
            disk.apply(event)
        for path, contents in disk.after_crash(rng).items():
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_bytes(contents)
        outcome = signbench("run", *RIGL, "--runs", root)
        problem = outcome.problem() or ("" if outcome.code == 0 else outcome.err)
        if not problem:
            try:
                said = "warning" in outcome.err
                problem = difference(root / reference.name, reference, may_lack=said)
            except BrokenFile as error:
                problem = str(error)
        attack.note(problem, f"event {point} of {len(log)}")
        shutil.rmtree(root)


def mount(folder: Path, size: int) -> bool:
    """Mount a file system of so many bytes in memory. Return whether that is allowed here."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.fixture
def small_disk(tmp_path):
    """Return a function that mounts a small file system; it is gone after the test."""
    folder = tmp_path / "disk"
    if os.geteuid() or not mount(folder, 2**20):
        pytest.skip("only root may mount a file system")
    subprocess.run(["umount", str(folder)], check=True)
    yield lambda size: mount(folder, size) and folder
    subprocess.run(["umount", str(folder)], capture_output=True)


def test_full_disks(attack, world, tmp_path, small_disk):
    (reference,) = world.finished.iterdir()
    size = sum(p.stat().st_size for p in reference.rglob("*") if p.is_file())
    for rng in attack.cases(few=1, share=0.02):
        folder = small_disk(rng.randrange(2**12, 4 * size))
        args = ("run", *RIGL, "--runs", folder / "runs")
        outcome = signbench(*args)
        attack.note(outcome.problem(["disk/runs"]), "full disk")
        subprocess.run(["mount", "-o", "remount,size=1G", str(folder)], check=True)
        outcome = signbench(*args)
        problem = outcome.problem() or ("" if outcome.code == 0 else outcome.err)
        attack.note(problem or difference(folder / "runs" / reference.name, reference), "resumed")
        subprocess.run(["umount", str(folder)], check=True)
