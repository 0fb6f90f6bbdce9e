"""Flags of the command line, made from dataclasses."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from collections.abc import Mapping
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")

# patterns in tyro's messages, and what replaces them
_REPLACEMENTS = (
    (r"^Error parsing [\w.]+: ", ""),
    (r"^Error parsing (--\S+): invalid literal for int.*: ", r"\1 takes a whole number, not "),
    (r"^Error parsing (--\S+): could not convert string to float: ", r"\1 takes a number, not "),
    (
        r"^Error parsing (--\S+): no type matching .*INT.* from \[(.*)\]",
        r"\1 takes whole numbers, not \2",
    ),
    (
        r"^Error parsing (--\S+): no type matching .*FLOAT.* from \[(.*)\]",
        r"\1 takes numbers, not \2",
    ),
    (r"^Error parsing (--\S+): no type matching .* from \[(.*)\]", r"\1 does not take \2"),
)


def parse(kind: type[T], args: list[str], prog: str, default: T | None = None) -> T:
    """Return a dataclass from flags, one for each of its fields and of nested dataclasses.

    Args:
        prog: the command as the help text shows it.
        default: replaces the dataclass's own defaults.

    Raises:
        UserError: an unknown flag or a value of the wrong type, in one line.
    """
    import tyro

    from baselines.errors import UserError

    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                kind,
                default=tyro.MISSING_NONPROP if default is None else default,
                args=_join_lists(args, list_flags(kind, default)),
                prog=prog,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        shown = re.sub(r"( [A-Z…]+)+$", "", prog)  # without the names that come before options
        raise UserError(f"{_one_line(errors.getvalue())} See {shown} --help.") from None


def _one_line(box: str) -> str:
    """Return tyro's message and its suggestion, without the box around them."""
    parts: list[list[str]] = []
    rule = True
    for line in box.splitlines()[1:]:  # the first one is the title
        text = re.sub(r"^\s*[│|]|[│|]\s*$", "", line).strip()
        if not set(text) <= set("─╰╯├┤-+"):
            parts = [*parts, []] if rule else parts
            parts[-1].append(text)
        rule = set(text) <= set("─╰╯├┤-+")
    parts = parts or [[" ".join(box.split())]]
    message = _plain(" ".join(parts[0])).rstrip(".") + "."
    guess = parts[1] if len(parts) > 1 else []
    if guess and guess[0].startswith("Perhaps you meant"):
        message += f" {guess[0]} {guess[1]}."
    return message


def _plain(message: str) -> str:
    """Return a message of tyro without names of classes and functions."""
    if message.startswith("Missing from "):
        flags = re.findall(r"(--[\w-]+) [A-Z{\[]", message)
        return f"{' and '.join(flags)} must be given"
    for pattern, text in _REPLACEMENTS:
        message = re.sub(pattern, text, message)
    return message


def list_flags(kind: type, default: Any = None) -> dict[str, bool]:
    """Return the flags that take several values, and whether their values are split at commas.

    They are those of fields that are tuples. Values of fields with the metadata `KEEP_COMMAS` may
    contain commas.

    Args:
        kind: a dataclass; nested ones are searched, too.
        default: an instance, whose fields say which subclasses are nested.
    """
    hints = get_type_hints(kind)
    found = dict[str, bool]()
    for spec in dataclasses.fields(kind):
        value, hint = getattr(default, spec.name, None), hints[spec.name]
        nested = type(value) if dataclasses.is_dataclass(value) else hint
        if isinstance(nested, type) and dataclasses.is_dataclass(nested):
            found |= list_flags(nested, value)
        elif _is_tuple(hint):
            found["--" + spec.name.replace("_", "-")] = not spec.metadata.get("keep_commas")
    return found


def _is_tuple(hint: Any) -> bool:
    return get_origin(hint) is tuple or any(get_origin(part) is tuple for part in get_args(hint))


def _join_lists(args: list[str], lists: Mapping[str, bool]) -> list[str]:
    """Return the arguments with `--seeds 0,1 --seeds 2` as `--seeds 0 1 2`, and `-o` as `--output`.

    Args:
        lists: from `list_flags`.
    """
    groups: list[list[str]] = [[""]]  # each a flag and its values
    for arg in ("--output" if arg == "-o" else arg for arg in args):
        flag, equals, value = arg.partition("=")
        given = [arg]
        if arg.startswith("--"):
            groups.append([flag if flag in lists else arg])
            given = [value] if flag in lists and equals else []
        for text in given:
            groups[-1] += text.split(",") if lists.get(groups[-1][0]) else [text]
    joined: dict[str | int, list[str]] = {}
    for i, (flag, *given) in enumerate(groups):
        joined.setdefault(flag if flag in lists else i, [flag]).extend(given)
    return [arg for group in joined.values() for arg in group][1:]


def split_name(args: list[str], default: str = "") -> tuple[str, list[str]]:
    """Return the name before the flags, and the flags."""
    if args and not args[0].startswith("-"):
        return args[0], args[1:]
    return default, args


def leading_names(args: list[str]) -> tuple[list[str], list[str]]:
    """Return the names before the first flag, and the flags."""
    first = next((i for i, arg in enumerate(args) if arg.startswith("-")), len(args))
    return args[:first], args[first:]


def values(args: list[str], name: str) -> list[str]:
    """Return all values of one flag, before the other flags are known."""
    flag = f"--{name}"
    return [
        args[i + 1] if arg == flag else arg.removeprefix(f"{flag}=")
        for i, arg in enumerate(args)
        if arg.startswith(f"{flag}=") or (arg == flag and i + 1 < len(args))
    ]
