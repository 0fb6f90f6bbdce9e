"""The user's main module in worker processes.

Workers need a method, model or data set that a script defines and its runs use. For such runs they
execute the script, up to its first call of `run` or `grid`. By default, Python imports the whole
script in every worker, so that such calls need a guard `if __name__ == "__main__"`.
"""

from __future__ import annotations

import io
import sys
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from baselines.registry import find_method
from launch.config.run import Run
from launch.data.sources import SOURCES
from launch.models import MODELS

NAME = "__mp_main__"  # as of a main module that multiprocessing imports; a guard is not passed

_executing = False


class _Stop(BaseException):
    """The main module begins to train."""


@dataclass(frozen=True)
class MainModule:
    """Where a main module is, and its package."""

    path: str
    package: str | None


def find_main() -> MainModule | None:
    """Return this process's main module; None if it is no file (in a notebook or a shell)."""
    main = sys.modules["__main__"]
    path = getattr(main, "__file__", None)
    if path is None or not Path(path).is_file():
        return None
    return MainModule(str(Path(path).resolve()), getattr(main, "__package__", None))


@contextmanager
def hidden_main() -> Iterator[None]:
    """Keep multiprocessing from importing the main module in a process that is started."""
    hidden = types.ModuleType("__main__")
    main, sys.modules["__main__"] = sys.modules["__main__"], hidden
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def import_main(main: MainModule | None) -> None:
    """Execute a main module up to the call that trains, as the main module of this process."""
    global _executing
    if main is None:
        return
    module = types.ModuleType(NAME)
    module.__file__, module.__package__ = main.path, main.package
    sys.modules["__main__"] = sys.modules[NAME] = module
    _executing = True
    try:
        with redirect_stdout(io.StringIO()):  # what it prints, it has printed in the parent
            exec(compile(Path(main.path).read_bytes(), main.path, "exec"), module.__dict__)
    except _Stop:
        pass
    except (Exception, SystemExit) as error:
        warnings.warn(f"a worker cannot execute {main.path}: {error!r}", stacklevel=2)
    finally:
        _executing = False


def stop_in_worker() -> None:
    """End the execution of the main module in a worker. Does nothing elsewhere."""
    if _executing:
        raise _Stop


def uses_main(run: Run) -> bool:
    """Return whether a run's method, model or data are defined in the main module."""
    model, data = run.settings.model, run.settings.data
    if any(name.startswith("__main__:") for name in (model, data)):
        return True
    made = (find_method(run.method), MODELS.get(model), SOURCES.get(data))
    return any(getattr(getattr(m, "func", m), "__module__", "") == "__main__" for m in made)
