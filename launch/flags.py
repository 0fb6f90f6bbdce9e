"""Flags of the command line, made from dataclasses."""

from __future__ import annotations

import contextlib
import io
import re
from typing import TypeVar

T = TypeVar("T")

# flags that take several values, with commas or spaces between them
LISTS = (
    "--at-once",
    "--columns",
    "--epochs",
    "--exclude",
    "--keep-epochs",
    "--methods",
    "--models",
    "--ranks",
    "--rows",
    "--seeds",
    "--sizes",
    "--where",
)


def parse(kind: type[T], args: list[str], prog: str, default: T | None = None) -> T:
    """Flags for every field of a dataclass (nested ones too), typed by it.

    Args:
        default: gives the flags' defaults, in place of the dataclass's own.

    Raises:
        UserError: flags or values that do not fit, in one line.
    """
    import tyro

    from baselines.errors import UserError

    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                kind,
                default=tyro.MISSING_NONPROP if default is None else default,
                args=_split_commas(["--output" if arg == "-o" else arg for arg in args]),
                prog=prog,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(f"{_one_line(errors.getvalue())} See {prog} --help.") from None


def _one_line(box: str) -> str:
    """tyro's message, and its guess at what was meant, without the box around them."""
    parts: list[list[str]] = []
    rule = True
    for line in box.splitlines()[1:]:  # the first one is the title
        text = re.sub(r"^\s*[│|]|[│|]\s*$", "", line).strip()
        if not set(text) <= set("─╰╯├┤-+"):
            parts = [*parts, []] if rule else parts
            parts[-1].append(text)
        rule = set(text) <= set("─╰╯├┤-+")
    parts = parts or [[" ".join(box.split())]]
    message = " ".join(parts[0]).removeprefix("Error parsing run: ").rstrip(".") + "."
    guess = parts[1] if len(parts) > 1 else []
    if guess and guess[0].startswith("Perhaps you meant"):
        message += f" {guess[0]} {guess[1]}."
    return message


def _split_commas(args: list[str]) -> list[str]:
    """`--seeds 0,1,2` as `--seeds 0 1 2`."""
    out: list[str] = []
    listed = False
    for arg in args:
        flag, equals, value = arg.partition("=")
        if arg.startswith("--"):
            listed = flag in LISTS
            out += [flag, *value.split(",")] if listed and equals else [arg]
        else:
            out += arg.split(",") if listed else [arg]
    return out


def split_name(args: list[str], default: str = "") -> tuple[str, list[str]]:
    """What is named before the flags, and the rest."""
    if args and not args[0].startswith("-"):
        return args[0], args[1:]
    return default, args


def value(args: list[str], name: str, default: str) -> str:
    """The value of one flag, before the others can be known."""
    for i, arg in enumerate(args):
        if arg == f"--{name}" and i + 1 < len(args):
            return args[i + 1]
        if arg.startswith(f"--{name}="):
            return arg.partition("=")[2]
    return default
