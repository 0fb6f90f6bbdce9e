"""Runs, grids and pairs of ranks that are killed again and again end as if undisturbed."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from functools import partial
from pathlib import Path
from random import Random

import pytest
from attack.child import end_group, signbench, start
from attack.events import kill_at
from attack.runs import MACHINE, SHORT, difference
from free_ports import free_ports

from baselines.registry import methods
from launch.cli import main

CONSTANTS = {"str": {"s_init": -3.0, "threshold_decay": 0.05}}  # none are shipped for 3 epochs
VARIANTS = [
    (name, [f"--{key.replace('_', '-')}={value}" for key, value in options.items()], sign_in)
    for name, method in methods().items()
    if method.variants
    for options in [method.variants[0] | CONSTANTS.get(name, {})]
    for sign_in in ([], ["--sign-in"])
]


def killed_often(attack, args, root: Path, rng: Random, kills: int) -> None:
    """Call a command, which is killed at a random file event or time. Then let it end."""
    for _ in range(kills):
        if rng.random() < 0.7:
            before = kill_at(rng.randrange(1, 60), root)
        else:
            seconds = rng.uniform(0.001, 0.5)
            before = partial(signal.setitimer, signal.ITIMER_PROF, seconds)
        outcome = signbench(*args, before=before)
        if outcome.code in (-signal.SIGKILL, -signal.SIGPROF):
            attack.counts["kills"] += 1
        else:
            attack.note(outcome.problem(), args)
    outcome = signbench(*args)
    attack.note(outcome.problem() or ("" if outcome.code == 0 else outcome.err), args)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """Return a function that trains with some flags once, and returns the run's folder."""
    home, known = tmp_path_factory.mktemp("undisturbed"), {}

    def train(*args) -> Path:
        if args not in known:
            root = home / str(len(known))
            assert signbench("run", *args, "--runs", root).code == 0, args
            (known[args],) = root.iterdir()
        return known[args]

    return train


def test_kills(attack, world, tmp_path, undisturbed):
    for i, rng in enumerate(attack.cases(few=1, share=0.02)):
        name, own, sign_in = VARIANTS[i % len(VARIANTS)] if attack.total else rng.choice(VARIANTS)
        flags = ("--method", name, *own, *sign_in, *SHORT)
        root = tmp_path / "runs"
        killed_often(attack, ("run", *flags, "--runs", root), root, rng, kills=5)
        (folder,) = root.iterdir()
        attack.note(difference(folder, undisturbed(*flags)), flags)
        shutil.rmtree(root)


# ---- grids

GRID = "method: [random, rigl]\nseed: [0, 1]\nepochs: 3\nbatch_size: 512\n"


def grid(root: Path) -> tuple[str, ...]:
    return ("grid", "grid.yaml", "--runs", str(root), "--slots", "2", *MACHINE)


def of_grid(undisturbed) -> dict[str, Path]:
    """Return the undisturbed runs of the grid by name."""
    flags = ("--epochs", "3", "--batch-size", "512", *MACHINE)
    pairs = [(m, str(s)) for m in ("random", "rigl") for s in range(2)]
    runs = [undisturbed("--method", m, "--seed", s, *flags) for m, s in pairs]
    return {run.name: run for run in runs}


def check_grid(attack, root: Path, expected: dict[str, Path]) -> None:
    for name, other in expected.items():
        attack.note(difference(root / name, other), name)


@pytest.mark.long_attack
def test_grids(attack, world, tmp_path, undisturbed, forked_workers):
    Path("grid.yaml").write_text(GRID)
    expected = of_grid(undisturbed)
    for rng in attack.cases(few=0, share=0.004):
        root = tmp_path / "runs"
        for _ in range(3):
            seconds = rng.uniform(0.2, 2.5)
            timer = partial(signal.setitimer, signal.ITIMER_REAL, seconds)
            outcome = signbench(*grid(root), before=timer)
            attack.counts["kills"] += outcome.code == -signal.SIGALRM
        outcome = signbench(*grid(root))
        attack.note(outcome.problem() or ("" if outcome.code == 0 else outcome.err), "grid")
        check_grid(attack, root, expected)
        shutil.rmtree(root)


@pytest.mark.long_attack
def test_two_parents(attack, world, tmp_path, undisturbed, forked_workers):
    """Two processes with the same grid, or the same run, at the same time."""
    Path("grid.yaml").write_text(GRID)
    expected = of_grid(undisturbed)
    for rng in attack.cases(few=0, share=0.004):
        root = tmp_path / "runs"
        files = [[tmp_path / f"{kind}{i}" for kind in ("out", "err")] for i in range(2)]
        processes = [start(partial(main, list(grid(root))), pair) for pair in files]
        if rng.random() < 0.5:
            signal_to(processes[0], rng.uniform(0.1, 2))
        codes = [os.waitstatus_to_exitcode(os.waitpid(p, 0)[1]) for p in processes]
        attack.counts["kills"] += codes[0] == -signal.SIGKILL
        for process in processes:
            end_group(process)
        if codes[1] != 0:
            attack.note(files[1][1].read_text(), f"codes {codes}")
        check_grid(attack, root, expected)
        shutil.rmtree(root)


def signal_to(process: int, seconds: float) -> None:
    """Kill a process after some seconds."""
    threading.Timer(seconds, os.kill, (process, signal.SIGKILL)).start()


# ---- two ranks


@pytest.mark.long_attack
def test_two_ranks(attack, world, tmp_path):
    flags = ("--method", "rigl", "--sign-in", *SHORT)
    pair(("run", *flags, "--runs", tmp_path / "undisturbed"), None, 0)
    (other,) = (tmp_path / "undisturbed").iterdir()
    for rng in attack.cases(few=0, share=0.004):
        root = tmp_path / "runs"
        for _ in range(2):
            codes = pair(("run", *flags, "--runs", root), root, rng.randrange(1, 60))
            attack.counts["kills"] += -signal.SIGKILL in codes
        codes = pair(("run", *flags, "--runs", root), None, 0)
        attack.note("" if codes == [0, 0] else f"codes {codes}", "two ranks")
        attack.note(difference(root / other.name, other), "two ranks")
        shutil.rmtree(root)


def pair(args, root: Path | None, number: int) -> list[int]:
    """Call a command as two ranks, of which the first is killed at a file event in a folder."""
    (port,) = free_ports(1)

    def rank(i: int) -> int:
        os.environ |= {"RANK": str(i), "LOCAL_RANK": str(i), "WORLD_SIZE": "2"}
        os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        if root is not None and i == 0:
            kill_at(number, root)()
        return main(list(map(str, args)))

    processes = []
    for i in range(2):
        files = [Path(f"rank{i}.{kind}") for kind in ("out", "err")]
        processes.append(start(partial(rank, i), files))
    codes = []
    for process in processes:
        codes.append(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
    return codes
