"""Many runs on this machine: worker processes that live as long as the grid."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace

from tqdm import tqdm

from launch.config import Machine, Run
from launch.record import Row


@dataclass(frozen=True)
class Outcome:
    """How one run ended: a result, or why there is none."""

    run: Run
    result: Row | None
    error: str = ""


def run_all(runs: Sequence[Run], machine: Machine, slots: int = 0) -> list[Outcome]:
    """Runs everything that is not finished; a run that fails does not stop the others, nor does a
    worker that dies.

    Args:
        slots: runs at a time; 0: one a CPU core, or one where there is a GPU.
    """
    slots = slots or _default_slots(machine)
    machine = replace(machine, threads=machine.threads or max(1, (os.cpu_count() or 1) // slots))
    outcomes: list[Outcome] = []
    with tqdm(total=len(runs), unit="run", disable=not sys.stderr.isatty()) as bar:

        def done(outcome: Outcome) -> None:
            outcomes.append(outcome)
            bar.update()
            bar.write(f"[{len(outcomes)}/{len(runs)}] {_line(outcome)}", file=sys.stderr)

        waiting, idle = list(runs), 0
        while waiting and idle <= len(waiting) // slots + 1:  # each has had its turn in between
            before = len(outcomes)
            left = _run_pool(waiting, machine, slots, done)
            waiting = left[slots:] + left[:slots]  # those that were running come last
            idle = idle + 1 if len(outcomes) == before else 0
        for run in waiting:
            done(Outcome(run, None, "its worker process dies each time (out of memory?)"))
    return outcomes


def _run_pool(
    runs: list[Run], machine: Machine, slots: int, done: Callable[[Outcome], None]
) -> list[Run]:
    """Runs in one pool. Returns what is left when a worker dies, which ends the whole pool."""
    context = multiprocessing.get_context("spawn")
    left: set[Run] = set()
    with ProcessPoolExecutor(min(slots, len(runs)), context, initializer=_begin) as pool:
        futures: dict[Future[Row | str], Run] = {pool.submit(_work, r, machine): r for r in runs}
        try:
            for future in as_completed(futures):
                try:
                    value = future.result()
                except BrokenProcessPool:
                    left.add(futures[future])
                else:
                    error = value if isinstance(value, str) else ""
                    result = None if isinstance(value, str) else value
                    done(Outcome(futures[future], result, error))
        except KeyboardInterrupt:
            for worker in multiprocessing.active_children():
                worker.terminate()  # a run can be stopped at any moment
            raise
    return [run for run in runs if run in left]


def _default_slots(machine: Machine) -> int:
    import torch

    on_gpu = machine.device.startswith("cuda") or (
        machine.device == "auto" and torch.cuda.is_available()
    )
    return 1 if on_gpu else os.cpu_count() or 1


def _begin() -> None:
    """In a new worker: Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _work(run: Run, machine: Machine) -> Row | str:
    """In a worker. Errors come back as text: some exceptions do not survive pickling."""
    from launch.train import run_training

    try:
        return run_training(run, machine, report=lambda _: None, bar=False)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _line(outcome: Outcome) -> str:
    if outcome.result is None:
        return f"{outcome.run.name}: FAILED, {outcome.error}"
    result = outcome.result
    return f"{outcome.run.name}: {result['accuracy']:.2%}, {result['seconds']:.1f} s"
