"""Many runs on this machine: one worker process per slot, which lives as long as the grid.

A slot is a share of the CPU cores, or of a GPU. A run that fails or a worker that is killed stops
no other run. A killed worker is replaced, and its run resumes from its last epoch. If this process
is killed, its workers end with it. Nothing is run twice: the process that trains a run holds the
lock of its folder, and a run that another process is training is waited for.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from analysis.contents import Result
from launch.config.machine import Machine
from launch.config.run import Run
from launch.executors.main_module import (
    MainModule,
    find_main,
    hidden_main,
    stop_in_worker,
    uses_main,
)
from launch.executors.progress import Display
from launch.executors.slots import slot_machines
from launch.executors.worker import GpuLost, serve, work
from launch.runs.folder import Busy

MOST_DEATHS = 3  # of workers without an epoch in between, before their run is given up
RETRY_AFTER = 2.0  # seconds until a run that another process holds is tried again


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its result, or the reason that there is none."""

    run: Run
    result: Result | None
    error: str = ""


@dataclass
class Worker:
    """A worker process, and the run that it trains."""

    process: BaseProcess
    pipe: Connection
    slot: int
    run: Run | None = None
    deaths: int = 0  # of earlier workers with this run
    moved: bool = False  # whether an epoch has ended since it took the run
    leaving: bool = False  # whether it ends and takes no further run


@dataclass
class Waiting:
    """A run that no worker has yet."""

    run: Run
    deaths: int = 0
    after: float = 0.0  # earliest time to start it


def run_all(
    runs: Sequence[Run],
    machine: Machine,
    slots: int = 0,
    slots_per_gpu: int = 1,
    progress: bool = True,
) -> list[Outcome]:
    """Train all runs that are not finished, each after those that it needs.

    Runs of methods, models or data that are defined in a notebook are trained in this process, one
    after the other: other processes cannot import them.

    Args:
        slots: runs at the same time; 0: one per CPU core, or `slots_per_gpu` on each GPU.
        progress: whether to show progress.

    Returns:
        One outcome per run, in the order in which they ended.
    """
    import torch

    stop_in_worker()
    main = find_main() if any(map(uses_main, runs)) else None
    if main is None and any(map(uses_main, runs)):
        return _run_here(runs, machine, progress)
    machines = slot_machines(machine, slots, slots_per_gpu, torch.cuda.device_count())
    return _Queue(runs, machines, main, progress).work()


def _run_here(runs: Sequence[Run], machine: Machine, progress: bool) -> list[Outcome]:
    """Train runs in this process."""
    show, outcomes = Display(runs, 1, progress), list[Outcome]()
    for run in runs:
        found = work(run, machine, partial(show.message, 0, run))
        if isinstance(found, Exception):
            outcomes.append(Outcome(run, None, str(found)))
        else:
            outcomes.append(Outcome(run, found))
        show.end(run, _line(outcomes[-1]))
    show.close()
    return outcomes


@dataclass
class _Queue:
    """The runs that wait, the workers, and the outcomes so far."""

    runs: Sequence[Run]
    machines: list[Machine]
    main: MainModule | None = None
    progress: bool = True
    waiting: list[Waiting] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    def work(self) -> list[Outcome]:
        self.waiting = [Waiting(run) for run in self.runs]
        self.show = Display(self.runs, min(len(self.machines), len(self.runs)), self.progress)
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
        """Give runs that are ready to idle workers, and start workers as needed."""
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
            idle = (w for w in self.workers if w.run is None and not w.leaving)
            worker = next(idle, None) or self._start()
            if worker is None:
                return
            self.waiting.remove(entry)
            worker.run, worker.deaths, worker.moved = entry.run, entry.deaths, False
            with contextlib.suppress(OSError):  # `_listen` notices a worker that has just died
                worker.pipe.send(entry.run)

    def _start(self) -> Worker | None:
        """Start a worker in a free slot, if there is one."""
        free = set(range(len(self.machines))) - {worker.slot for worker in self.workers}
        if not free:
            return None
        slot = min(free)
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        # not a daemon: a daemon may not have children, and image readers are children
        arguments = (theirs, self.machines[slot], self.main)
        process = context.Process(target=serve, args=arguments)
        with hidden_main():
            process.start()
        theirs.close()
        worker = Worker(process, ours, slot)
        self.workers.append(worker)
        return worker

    def _dismiss(self, worker: Worker) -> None:
        """End a worker. A run can be stopped at any moment."""
        if worker.run is not None:
            worker.process.terminate()
            return
        with contextlib.suppress(OSError):
            worker.pipe.send(None)

    def _listen(self) -> None:
        """Wait for messages of the workers, and handle them."""
        wait([worker.pipe for worker in self.workers], timeout=RETRY_AFTER / 4)
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
            self.show.message(worker.slot, run, message)
            return
        worker.run, worker.leaving = None, isinstance(message, GpuLost)
        self.show.idle(worker.slot)
        if isinstance(message, Busy):
            self.waiting.append(Waiting(run, after=time.monotonic() + RETRY_AFTER))
        elif isinstance(message, Exception):
            self._done(Outcome(run, None, str(message)))
        else:
            self._done(Outcome(run, message))

    def _bury(self, worker: Worker) -> None:
        """Remove a worker that has died, and retry its run, unless it keeps dying."""
        self.workers.remove(worker)
        worker.process.join()
        if worker.run is None:
            return
        deaths = 1 if worker.moved else worker.deaths + 1
        if deaths < MOST_DEATHS:
            self.waiting.append(Waiting(worker.run, deaths))
        else:
            code = worker.process.exitcode
            reason = f"its process died {deaths} times (exit code {code}; out of memory?)"
            self._done(Outcome(worker.run, None, reason))

    def _done(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self.show.end(outcome.run, _line(outcome))


def _line(outcome: Outcome) -> str:
    if outcome.result is None:
        return f"{outcome.run.title}: FAILED, {outcome.error}"
    result = outcome.result
    return f"{outcome.run.title}: {result['accuracy']:.2%}, {result['seconds']:.1f} s"
