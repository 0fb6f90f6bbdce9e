"""Progress of many runs on this machine: epochs trained, and the time that the others take."""

from __future__ import annotations

import re
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from tqdm import tqdm

from launch.config.run import Run
from launch.console import duration

_EPOCH = re.compile(r"epoch +(\d+)/")


class Progress:
    """Counts the epochs of runs and estimates the time to their end.

    Args:
        clock: returns seconds.
    """

    def __init__(self, runs: Sequence[Run], clock: Callable[[], float] = time.monotonic) -> None:
        self.left = {run.name: run.epochs for run in runs}
        self.trained = 0
        self._clock, self._began = clock, clock()

    def report(self, run: Run, message: str) -> int:
        """Count an epoch that a run reports, and return 1; 0 for any other message."""
        found = _EPOCH.match(message)
        if not found:
            return 0
        self.left[run.name] = run.epochs - int(found[1])  # a resumed run does not begin at 1
        self.trained += 1
        return 1

    def end(self, run: Run) -> None:
        """Stop counting epochs of a run."""
        self.left[run.name] = 0

    @property
    def total(self) -> int:
        """Epochs trained and to train."""
        return self.trained + sum(self.left.values())

    @property
    def seconds_left(self) -> float | None:
        """Time to the end at the speed so far; None before the first epoch."""
        if not self.trained:
            return None
        return (self._clock() - self._began) / self.trained * sum(self.left.values())


class Display:
    """A progress bar and one line per slot on a terminal, a bar in a notebook; elsewhere one line
    per ended run.

    Args:
        visible: whether to show anything.
    """

    def __init__(self, runs: Sequence[Run], slots: int, visible: bool = True) -> None:
        self.progress, self.runs, self.ended = Progress(runs), len(runs), 0
        self.visible, self.notebook = visible, in_notebook()
        terminal = visible and sys.stderr.isatty() and not self.notebook
        bar = _notebook_bar() if self.notebook else tqdm
        shown = visible and (terminal or self.notebook)
        self.bar = bar(total=self.progress.total, unit="epoch", disable=not shown)
        self.slots = [
            tqdm(bar_format="{desc}", position=i + 1, leave=False)
            for i in range(slots if terminal else 0)
        ]

    def message(self, slot: int, run: Run, text: str) -> None:
        """Show what a run reports."""
        self._show(slot, f"{run.title}  {text}")
        self._advance(self.progress.report(run, text))

    def end(self, run: Run, text: str) -> None:
        """Write a line about a run that has ended."""
        self.ended += 1
        self.progress.end(run)
        left = self.progress.seconds_left
        after = f"; {duration(left)} left" if left else ""
        if self.visible and not self.notebook:
            self.bar.write(f"[{self.ended}/{self.runs}] {text}{after}", file=sys.stderr)
        self._advance(0)

    def idle(self, slot: int) -> None:
        """Show nothing for a slot."""
        self._show(slot, "")

    def close(self) -> None:
        """Remove the bars."""
        for bar in (*self.slots, self.bar):
            bar.close()

    def _show(self, slot: int, text: str) -> None:
        if slot < len(self.slots):
            self.slots[slot].set_description_str(text)

    def _advance(self, epochs: int) -> None:
        self.bar.total = self.progress.total
        self.bar.set_description_str(f"{self.ended}/{self.runs} runs", refresh=False)
        self.bar.update(epochs)


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    shell = sys.modules.get("IPython")
    kernel = shell.get_ipython() if shell else None
    return type(kernel).__name__ == "ZMQInteractiveShell"


def _notebook_bar() -> Any:
    """Return the class of progress bars in notebooks: a widget, or text without ipywidgets."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm as bar
    return bar
