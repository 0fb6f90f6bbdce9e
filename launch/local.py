"""Many runs on this machine: worker processes that live as long as the grid."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
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
    """Runs everything that is not finished; a run that fails does not stop the others.

    Args:
        slots: runs at a time; 0: one a CPU core, or one where there is a GPU.
    """
    slots = slots or _default_slots(machine)
    machine = replace(machine, threads=machine.threads or max(1, (os.cpu_count() or 1) // slots))
    context = multiprocessing.get_context("spawn")
    outcomes: list[Outcome] = []
    with (
        ProcessPoolExecutor(min(slots, len(runs)), context, initializer=_begin) as pool,
        tqdm(total=len(runs), unit="run", disable=not sys.stderr.isatty()) as bar,
    ):
        waiting: dict[Future[Row | str], Run] = {pool.submit(_work, r, machine): r for r in runs}
        try:
            while waiting:
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    outcome = _outcome(waiting.pop(future), future)
                    outcomes.append(outcome)
                    bar.update()
                    bar.write(f"[{len(outcomes)}/{len(runs)}] {_line(outcome)}", file=sys.stderr)
        except KeyboardInterrupt:
            for worker in multiprocessing.active_children():
                worker.terminate()  # a run can be stopped at any moment
            raise
    return outcomes


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


def _outcome(run: Run, future: Future[Row | str]) -> Outcome:
    try:
        value = future.result()
    except BrokenProcessPool:
        return Outcome(run, None, "its worker process died")
    return Outcome(run, None, value) if isinstance(value, str) else Outcome(run, value)


def _line(outcome: Outcome) -> str:
    if outcome.result is None:
        return f"{outcome.run.name}: FAILED, {outcome.error}"
    result = outcome.result
    return f"{outcome.run.name}: {result['accuracy']:.2%}, {result['seconds']:.1f} s"
