"""Stopped runs with damaged files: they end with the same numbers, or say what they lack."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random

import torch
from attack.mutate import alter, alter_state, alter_table, damage, replace
from attack.runs import RIGL, difference, resume, train

from analysis.checked import BrokenFile, seal_json, unseal_json
from launch.runs.archives import load_archive, save_archive


def files_of(folder: Path) -> list[Path]:
    """Return the regular files in a folder, huge ones left out."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in paths if path.stat().st_size < 10**8)


def spoil(folder: Path, rng: Random, prefer: str = "*.pt") -> tuple[str, bool]:
    """Damage one or two files, preferably some. Return how, and whether numbers may differ."""
    done, free = [], False
    for _ in range(rng.choice((1, 1, 1, 2))):
        paths = files_of(folder)
        preferred = [path for path in paths if path.match(prefer)]
        path = rng.choice(preferred if preferred and rng.random() < 0.5 else paths)
        how, differs = _spoil(path, rng)
        done.append(f"{path.relative_to(folder)} {how}")
        free |= differs
    return ", ".join(done), free


def _spoil(path: Path, rng: Random) -> tuple[str, bool]:
    kind = rng.random()
    if kind < 0.15:
        return replace(path, rng), False
    try:
        if kind < 0.6 and path.suffix == ".pt":
            return _spoil_state(path, rng)
        if kind < 0.6 and path.suffix == ".json":
            return _spoil_json(path, rng)
        if kind < 0.6 and path.suffix == ".csv":
            path.write_text(alter_table(path.read_text(), rng))
            return "table altered", False
    except Exception:  # it was damaged before
        pass
    if kind < 0.65:
        other = rng.choice(files_of(path.parent))
        shutil.copyfile(other, path) if other != path else None
        return f"replaced by {other.name}", False
    return damage(path, rng), False


def _spoil_state(path: Path, rng: Random) -> tuple[str, bool]:
    state = load_archive(path)
    for _ in range(rng.choice((1, 1, 3))):
        alter_state(state, rng)
    sealed = rng.random() < 0.5
    (save_archive if sealed else torch.save)(state, path)
    return f"altered{' and sealed' if sealed else ''}", True


def _spoil_json(path: Path, rng: Random) -> tuple[str, bool]:
    value = alter(unseal_json(json.loads(path.read_text()), path), rng)
    sealed = rng.random() < 0.5 and isinstance(value, dict)
    path.write_text(json.dumps(seal_json(value) if sealed else value))
    return f"altered{' and sealed' if sealed else ''}", False


def says_what_is_lost(text: str) -> bool:
    """Return whether there is a warning, but that a run of version 0.1 resumes with other code."""
    warned = [line for line in text.splitlines() if "warning" in line]
    return any(" resumes with " not in line for line in warned)


def check(attack, folder: Path, outcome, undisturbed: Path, what: str, free: bool) -> None:
    problem = outcome.problem([folder.name[:80], *[p.name for p in files_of(folder)]])
    if not problem and outcome.code == 0 and not free:
        try:
            problem = difference(folder, undisturbed, may_lack=says_what_is_lost(outcome.err))
        except BrokenFile as error:
            problem = str(error)
    attack.note(problem, what)


def test_states(attack, world, tmp_path):
    (reference,) = world.finished.iterdir()
    for rng in attack.cases(few=5, share=0.22):
        root = tmp_path / "runs"
        shutil.copytree(world.stopped, root)
        (folder,) = root.iterdir()
        what, free = spoil(folder, rng)
        outcome = train(root, *RIGL)
        check(attack, folder, outcome, reference, what, free)
        shutil.rmtree(root)


def test_states_of_version_0_1(attack, world, tmp_path):
    for rng in attack.cases(few=1, share=0.04):
        folder = tmp_path / "runs" / world.old_run.name
        shutil.copytree(world.old / folder.name, folder)
        what, free = spoil(folder, rng)
        free |= "snapshots/" in what or "signs/" in what  # these files had no digest then
        outcome = resume(world.old_run, folder.parent)
        check(attack, folder, outcome, world.old_finished, what, free)
        shutil.rmtree(folder.parent)
