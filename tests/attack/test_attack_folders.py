"""Folders of runs with damaged files: every command that reads them leaves out what is damaged."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

from attack.child import signbench
from attack.runs import RIGL
from attack.test_attack_states import files_of, spoil

# commands that show all runs, which name what they leave out; and commands on one run
SHOW = {
    "status": ("status",),
    "table": ("table", "compare", "--format", "csv"),
    "latex": ("table", "compare", "--format", "latex"),
    "table 9": ("table", "9"),
    "curves": ("figure", "curves", "--output", "curves.svg"),
    "flips": ("figure", "1", "--output", "flips.svg"),
    "layers": ("figure", "9", "--output", "layers.svg"),
    "report": ("report", "--output", "report.html"),
}
USE = {
    "export": ("export", "{run}", "--output", "exported"),
    "export early": ("export", "{run}", "--epoch", "1", "--output", "exported"),
    "sharpness": ("sharpness", "{run}", "--per-class", "2", "--epochs", "3", "--device", "cpu"),
    "transplant": ("transplant", "--mask={run}@final", "--signs={run}@init", "--output=out.pt"),
    "run": ("run", *RIGL),
    "fixed": ("run", "--method", "fixed", "--init", "{run}@final", *RIGL[3:]),
}
COSTLY = {"curves", "flips", "layers", "report"}


def test_folders(attack, world, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")  # no Slurm
    (finished,) = world.finished.iterdir()
    expected = _expected(world, tmp_path)
    for rng in attack.cases(few=3, share=0.2):
        name = _choose(rng)
        root = tmp_path / "runs"
        root.mkdir()
        folder = root / finished.name
        shutil.copytree(finished, folder)
        old = rng.random() < 0.4
        if old:
            folder = _copy_old(world, root, rng, name in COSTLY)
        kinds = ("*.json", "*.json", "*.csv") if name in SHOW else ("*.json", "*.safetensors")
        what, free = spoil(folder, rng, rng.choice(kinds))
        args = [a.format(run=folder.name) for a in {**SHOW, **USE}[name]]
        outcome = signbench(*args, "--runs", root)
        paths = [p.name for p in files_of(root)]
        problem = outcome.problem([] if name in SHOW else [folder.name[:60], *paths])
        silent = outcome.code == 0 and "warning" not in outcome.err and "broken" not in outcome.out
        if not problem and silent and not old and not free and name in expected:
            problem = "" if outcome.out == expected[name] else "other numbers"
        attack.note(problem, f"{name} of {'old ' if old else ''}{what}")
        shutil.rmtree(root)
        shutil.rmtree(tmp_path / "exported", ignore_errors=True)


def _choose(rng: Random) -> str:
    """Return the name of a command, seldom one that takes long."""
    name = rng.choice(list({**SHOW, **USE}))
    return name if name not in COSTLY or rng.random() < 0.3 else "table"


def _copy_old(world, root: Path, rng: Random, few: bool) -> Path:
    """Copy runs of version 0.1. Return the one to damage."""
    names = sorted(p.name for p in world.old.iterdir() if p.is_dir())
    for name in rng.sample(names, 3 if few else len(names)):
        if not (root / name).exists():
            shutil.copytree(world.old / name, root / name)
    copied = sorted(p for p in root.iterdir() if (world.old / p.name).exists())
    return rng.choice(copied)


def _expected(world, tmp_path: Path) -> dict[str, str]:
    """Return what some commands print if nothing is damaged."""
    root = tmp_path / "runs"
    shutil.copytree(world.finished, root)
    found = {name: signbench(*SHOW[name], "--runs", root).out for name in ("table", "latex")}
    shutil.rmtree(root)
    return found
