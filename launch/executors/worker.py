"""A worker process: takes runs from a pipe and sends back progress and results."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection

from analysis.contents import Result
from baselines.errors import UserError
from launch.config.machine import Machine
from launch.config.run import Run
from launch.console import show_warnings_on_one_line
from launch.executors.main_module import MainModule, import_main
from launch.plugins import import_plugins
from launch.runs.folder import Busy


def serve(pipe: Connection, machine: Machine, main: MainModule | None = None) -> None:
    """Train the runs that come through the pipe, until None comes or the pipe is closed.

    Args:
        main: the parent's main module, which may define what the runs need.
    """
    show_warnings_on_one_line()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import_main(main)
    while True:
        try:
            run = pipe.recv()
        except EOFError:
            return
        if run is None:
            return
        found = work(run, machine, pipe.send)
        pipe.send(found)
        if isinstance(found, GpuLost):
            return  # another worker takes the next run


class GpuLost(RuntimeError):
    """The error of a run after which this process may be unable to use its GPU."""


def work(run: Run, machine: Machine, report: Callable[[str], None]) -> Result | Exception:
    """Train a run. Return its result, or an exception that can be pickled."""
    from launch.training.run import run_training

    try:
        import_plugins(machine.imports)
        return run_training(run, machine, report=report, bar=False)
    except Busy as busy:
        return busy
    except Exception as error:
        kind = GpuLost if _loses_gpu(error) else RuntimeError
        return kind(f"{type(error).__name__}: {error}")


def _loses_gpu(error: Exception) -> bool:
    """Return whether an error may be one of the GPU, after which further runs on it would fail."""
    import torch

    from launch.training.constant_output import Collapsed
    from launch.training.loop import Diverged

    harmless = (UserError, Diverged, Collapsed, torch.OutOfMemoryError)
    uses_gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return uses_gpu and not isinstance(error, harmless)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
