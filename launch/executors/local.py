"""Many runs on this machine: worker processes that live as long as the grid, one a slot.

A slot is a share of the CPU's cores, or of a GPU. A run that fails, or a worker that is killed,
stops no other; a killed worker is replaced and its run goes on from its last epoch. If this
process is killed its workers end with it. Nothing is run twice: who trains a run holds its
folder's lock, and a run that somebody else is training is waited for.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from tqdm import tqdm

from analysis.contents import Result
from launch.config.run import Machine, Run
from launch.runs.folder import Busy

DEATHS = 3  # of its worker, with no epoch in between, until a run is given up
LOOK_AGAIN = 2.0  # seconds, at a run that another process holds


@dataclass(frozen=True)
class Outcome:
    """How one run ended: a result, or why there is none."""

    run: Run
    result: Result | None
    error: str = ""


@dataclass
class Worker:
    """A process, and the run that it has."""

    process: BaseProcess
    pipe: Connection
    slot: int
    run: Run | None = None
    deaths: int = 0  # of workers that had the run before
    moved: bool = False  # an epoch has ended since it took the run


@dataclass
class Waiting:
    """A run that is yet to be done."""

    run: Run
    deaths: int = 0
    after: float = 0.0  # not before that time


def run_all(
    runs: Sequence[Run], machine: Machine, slots: int = 0, slots_per_gpu: int = 1
) -> list[Outcome]:
    """Runs everything that is not finished, each run after those that it needs.

    Args:
        slots: runs at a time; 0: one a CPU core, or `slots_per_gpu` on each GPU.
    """
    return _Queue(runs, slot_machines(machine, slots, slots_per_gpu)).work()


def slot_machines(machine: Machine, slots: int, slots_per_gpu: int) -> list[Machine]:
    """What each slot runs on: GPUs in turn, or a share of the cores."""
    import torch

    count = torch.cuda.device_count() if machine.device in ("auto", "cuda") else 0
    devices = [f"cuda:{i}" for i in range(count)] or [machine.device]
    on_gpu = devices[0].startswith("cuda")
    slots = slots or (len(devices) * slots_per_gpu if on_gpu else os.cpu_count() or 1)
    threads = machine.threads or max(1, (os.cpu_count() or 1) // slots)
    return [
        replace(machine, device=devices[i % len(devices)], threads=threads) for i in range(slots)
    ]


@dataclass
class _Queue:
    """What is to be done, by whom, and what has been."""

    runs: Sequence[Run]
    machines: list[Machine]
    waiting: list[Waiting] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    def work(self) -> list[Outcome]:
        self.waiting = [Waiting(run) for run in self.runs]
        self.show = _Display(len(self.runs), min(len(self.machines), len(self.runs)))
        try:
            while self.waiting or any(worker.run for worker in self.workers):
                self._hand_out()
                self._listen()
        finally:
            for worker in self.workers:
                self._dismiss(worker)
            for worker in self.workers:
                worker.process.join()
            self.show.close()
        return self.outcomes

    def _hand_out(self) -> None:
        """Gives runs that are ready to workers that are idle, starting workers as needed."""
        failed = {outcome.run.name for outcome in self.outcomes if outcome.result is None}
        coming = {e.run.name for e in self.waiting} | {w.run.name for w in self.workers if w.run}
        for entry in list(self.waiting):
            missing = next((name for name in entry.run.needs if name in failed), "")
            if missing:
                self._done(Outcome(entry.run, None, f"needs {missing}, which did not finish"))
                self.waiting.remove(entry)
        now = time.monotonic()
        ready = [e for e in self.waiting if now >= e.after and coming.isdisjoint(e.run.needs)]
        for entry in ready:
            worker = next((w for w in self.workers if w.run is None), None) or self._start()
            if worker is None:
                return
            self.waiting.remove(entry)
            worker.run, worker.deaths, worker.moved = entry.run, entry.deaths, False
            with contextlib.suppress(OSError):  # one that has just died is noticed below
                worker.pipe.send(entry.run)

    def _start(self) -> Worker | None:
        """A new worker in a free slot, if there is one."""
        free = set(range(len(self.machines))) - {worker.slot for worker in self.workers}
        if not free:
            return None
        slot = min(free)
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        # not a daemon: those may have no children, which read images
        process = context.Process(target=_serve, args=(theirs, self.machines[slot]))
        process.start()
        theirs.close()
        worker = Worker(process, ours, slot)
        self.workers.append(worker)
        return worker

    def _dismiss(self, worker: Worker) -> None:
        """Ends a worker; its run, if it has one, can be stopped at any moment."""
        if worker.run is not None:
            worker.process.terminate()
            return
        with contextlib.suppress(OSError):
            worker.pipe.send(None)

    def _listen(self) -> None:
        """Waits for news of the workers, and takes them in."""
        wait([worker.pipe for worker in self.workers], timeout=LOOK_AGAIN / 4)
        for worker in list(self.workers):
            try:
                while worker.pipe.poll():
                    self._hear(worker, worker.pipe.recv())
            except (EOFError, OSError):
                self._bury(worker)

    def _hear(self, worker: Worker, message: str | Result | Exception) -> None:
        run = worker.run
        assert run is not None
        if isinstance(message, str):
            worker.moved |= message.startswith("epoch ")
            self.show.progress(worker.slot, f"{run.name}  {message}")
            return
        worker.run = None
        self.show.progress(worker.slot, "")
        if isinstance(message, Busy):
            self.waiting.append(Waiting(run, after=time.monotonic() + LOOK_AGAIN))
        elif isinstance(message, Exception):
            self._done(Outcome(run, None, str(message)))
        else:
            self._done(Outcome(run, message))

    def _bury(self, worker: Worker) -> None:
        """A worker has died: its run is tried again, unless that goes nowhere."""
        self.workers.remove(worker)
        worker.process.join()
        if worker.run is None:
            return
        deaths = 1 if worker.moved else worker.deaths + 1
        if deaths < DEATHS:
            self.waiting.append(Waiting(worker.run, deaths))
        else:
            code = worker.process.exitcode
            reason = f"its process died {deaths} times (exit code {code}; out of memory?)"
            self._done(Outcome(worker.run, None, reason))

    def _done(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self.show.line(f"[{len(self.outcomes)}/{len(self.runs)}] {_line(outcome)}")


class _Display:
    """On a terminal a bar for the grid and a line a slot; elsewhere a line a finished run."""

    def __init__(self, total: int, slots: int) -> None:
        off = not sys.stderr.isatty()
        self.bar = tqdm(total=total, unit="run", disable=off)
        self.slots = [
            tqdm(bar_format="{desc}", position=i + 1, leave=False, disable=off)
            for i in range(slots)
        ]

    def line(self, text: str) -> None:
        self.bar.write(text, file=sys.stderr)
        self.bar.update()

    def progress(self, slot: int, text: str) -> None:
        if slot < len(self.slots):
            self.slots[slot].set_description_str(text)

    def close(self) -> None:
        for bar in (*self.slots, self.bar):
            bar.close()


# ---- in a worker


def _serve(pipe: Connection, machine: Machine) -> None:
    """Takes runs until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            run = pipe.recv()
        except EOFError:
            return
        if run is None:
            return
        pipe.send(_work(run, machine, pipe.send))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(run: Run, machine: Machine, report: Callable[[str], None]) -> Result | Exception:
    """A result, or an exception that survives pickling."""
    from launch.training.run import run_training

    try:
        return run_training(run, machine, report=report, bar=False)
    except Busy as busy:
        return busy
    except Exception as error:
        return RuntimeError(f"{type(error).__name__}: {error}")


def _line(outcome: Outcome) -> str:
    if outcome.result is None:
        return f"{outcome.run.name}: FAILED, {outcome.error}"
    result = outcome.result
    return f"{outcome.run.name}: {result['accuracy']:.2%}, {result['seconds']:.1f} s"
