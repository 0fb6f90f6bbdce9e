"""File events of a process: kills at the n-th, and a log from which a disk can be rebuilt."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

WATCHED = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")
WRITES = os.O_WRONLY | os.O_RDWR


def on_file_events(act: Callable[[str, Any], None]) -> None:
    """Call a function before each change of a file or folder, and after each fsync.

    It stays in place until the process ends.
    """

    def hook(event: str, args: Any) -> None:
        if event in WATCHED and not (event == "open" and _only_reads(args)):
            act(event, args)

    original = os.fsync

    def fsync(descriptor: int) -> None:
        original(descriptor)
        act("fsync", (os.readlink(f"/proc/self/fd/{descriptor}"),))

    os.fsync = fsync
    sys.addaudithook(hook)


def _only_reads(args: Any) -> bool:
    path, _, flags = args
    return not isinstance(path, str | bytes | os.PathLike) or not (flags or 0) & WRITES


def kill_at(number: int, within: Path) -> Callable[[], None]:
    """Return a function that makes its process kill itself at the n-th file event in a folder."""

    def arm() -> None:
        left = number

        def count(event: str, args: Any) -> None:
            nonlocal left
            if within.name not in str(args[0]):
                return
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

        on_file_events(count)

    return arm
