"""The terminal: errors, warnings and durations as text, and readers that leave."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from baselines.errors import UserError, one_line
from launch.packages import PACKAGES


class Output:
    """A stream whose reader may leave, as in `signbench status | head`: the rest is dropped.

    Characters that the terminal cannot show are written as escapes.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except UnicodeEncodeError as error:
            shown = text.encode(error.encoding, "backslashreplace").decode(error.encoding)
            return self.write(shown)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        if not isinstance(error, BrokenPipeError):
            raise UserError(f"cannot write the output: {error.strerror}.") from None


def exit_code_of(command: Callable[[], int]) -> int:
    """Run a command, and write warnings and errors on one line each. Return its exit code."""
    try:
        with _console():
            return _exit_code_of(command)
    except UserError as error:  # the output cannot be written
        _show_error(error)
        return 2


def _exit_code_of(command: Callable[[], int]) -> int:
    try:
        return command()
    except UserError as error:
        _show_error(error)
    except OSError as error:  # a path that cannot be looked at, a full disk
        _show_error(f"{error.filename}: {error.strerror}." if error.filename else error)
    except MemoryError:
        _show_error("there is not enough memory.")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in PACKAGES:
            raise
        how = "install the whole suite: pip install -e '.[suite]'"
        _show_error(f"no module {error.name!r}; {how}")
    except KeyboardInterrupt:
        print("signbench: stopped; run the same command again to resume.", file=sys.stderr)
        return 130
    return 2


@contextmanager
def _console() -> Iterator[None]:
    streams, form = (sys.stdout, sys.stderr), warnings.formatwarning
    sys.stdout, sys.stderr = (s and Output(s) for s in streams)
    show_warnings_on_one_line()
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream:
                stream.flush()
        sys.stdout, sys.stderr = streams
        warnings.formatwarning = form


def show_warnings_on_one_line() -> None:
    """Show warnings without the code that they come from."""

    def form(message: Warning | str, *_where: Any, **_more: Any) -> str:
        return f"signbench: warning: {one_line(message)}\n"

    warnings.formatwarning = form


def duration(seconds: float) -> str:
    """Return a time in two units, such as "2 h 5 min", or in seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _show_error(error: object) -> None:
    print(one_line(f"signbench: error: {error}"), file=sys.stderr)
