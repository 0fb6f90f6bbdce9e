"""Calls of the command line in a forked child, within limits of time and memory."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from launch.cli import main

CPU_SECONDS, SECONDS = 30, 150  # of the clock much more, for the machine may be busy
MOST_MEMORY = 2 * 10**9
LONGEST = 300  # characters of an error


@dataclass(frozen=True)
class Outcome:
    """How a call ended.

    Attributes:
        code: the exit code; negative, the signal that ended it.
        peak: the largest resident memory, in bytes.
    """

    code: int
    out: str
    err: str
    peak: int
    seconds: float

    def problem(self, names: Sequence[str] = ()) -> str:
        """Return what is wrong with it; empty if nothing is.

        Args:
            names: an error must name one of these.
        """
        lines = self.err.splitlines()
        errors = [line for line in lines if not line.startswith("signbench: warning: ")]
        if "Traceback" in self.err + self.out:
            text = " / ".join(line for line in lines or self.out.splitlines() if line)
            return f"traceback: {text[-300:]}"
        if self.code < 0:
            return f"signal {signal.Signals(-self.code).name} after {self.seconds:.0f} s"
        if self.peak > MOST_MEMORY:
            return f"{self.peak / 1e9:.1f} GB"
        if self.code == 0:  # others are lines of progress
            found = next((line for line in errors if line.startswith("signbench: error: ")), "")
            return f"exit code 0 with errors: {found}" if found else ""
        if self.code not in (1, 2):
            return f"exit code {self.code}"
        if len(errors) != 1:
            return f"{len(errors)} lines of errors: {errors[:2]}"
        if len(errors[0]) > LONGEST:
            return f"an error of {len(errors[0])} characters"
        if self.code == 2 and names and not any(name in errors[0] for name in names):
            return f"names none of {names}: {errors[0]}"
        return ""


def signbench(*args: object, before: Callable[[], None] | None = None) -> Outcome:
    """Call the command line in the current folder.

    Args:
        before: called first in the child.
    """
    return call(lambda: main(list(map(str, args))), before)


def call(command: Callable[[], int], before: Callable[[], None] | None = None) -> Outcome:
    """Call a function that returns an exit code, in a forked child."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("out", "err")]
        began = time.monotonic()
        process = start(command, files, before)
        _, status, usage = os.wait4(process, 0)
        seconds = time.monotonic() - began
        end_group(process)
        out, err = (file.read_bytes().decode(errors="replace") for file in files)
    return Outcome(os.waitstatus_to_exitcode(status), out, err, usage.ru_maxrss * 1024, seconds)


def start(
    command: Callable[[], int], files: Sequence[Path], before: Callable[[], None] | None = None
) -> int:
    """Start a child that writes its output to two files. Return its process id."""
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        os.setsid()
        for descriptor, file in zip((1, 2), files, strict=True):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        sys.stdin = open(os.devnull)  # noqa: SIM115
        out, err = (open(d, "w", buffering=1, closefd=False) for d in (1, 2))  # noqa: SIM115
        sys.stdout, sys.stderr = out, err
        sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGPROF):
            signal.signal(number, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        resource.setrlimit(resource.RLIMIT_DATA, (8 * MOST_MEMORY, 8 * MOST_MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        torch.set_num_threads(1)
        _show_warnings()
        if before is not None:
            before()
        code = command()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1 if stop.code else 0
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _show_warnings() -> None:
    """Write warnings to stderr again, which pytest records."""

    def show(found: warnings.WarningMessage) -> None:
        where = found.filename, found.lineno
        sys.stderr.write(warnings.formatwarning(found.message, found.category, *where))

    warnings.resetwarnings()
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings._showwarnmsg_impl = show  # type: ignore[attr-defined]


def end_group(process: int) -> None:
    """End what a child has left running."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
