"""Seeded mutations of files, JSON values, tables and tensors."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

ODD = [
    *(None, True, False, 0, -1, 1.5, 10**30, -(2**63), 1e308, float("nan"), float("inf")),
    *("", "x", "-1", "nan", "θ", "../..", "a\nb", "\0", "1e400", "9" * 5000, "x" * 10_000),
    *([], {}, [[]], [None], {"": None}, {"a": {"b": {"c": [1, 2]}}}),
]


def odd(rng: Random) -> Any:
    """Return an odd value."""
    return rng.choice(ODD)


# ---- bytes


def damage(path: Path, rng: Random) -> str:
    """Damage a file. Return how."""
    data = path.read_bytes()
    how = rng.choice(list(DAMAGES))
    changed = DAMAGES[how](bytearray(data), rng)
    path.write_bytes(bytes(changed))
    return how if bytes(changed) != data else "unchanged"


def _flip(data: bytearray, rng: Random) -> bytearray:
    for _ in range(rng.choice((1, 1, 2, 8, 40)) if data else 0):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _overwrite(data: bytearray, rng: Random) -> bytearray:
    at, n = rng.randrange(len(data) + 1), rng.choice((1, 4, 64, 4096))
    filler = rng.choice((bytes(n), b"\xff" * n, rng.randbytes(n)))
    return data[:at] + bytearray(filler[: len(data) - at]) + data[at + n :]


def _cut_out(data: bytearray, rng: Random) -> bytearray:
    at, n = rng.randrange(len(data) + 1), rng.choice((1, 16, 512))
    return data[:at] + data[at + n :]


def _repeat(data: bytearray, rng: Random) -> bytearray:
    at, n = rng.randrange(len(data) + 1), rng.choice((1, 16, 512))
    return data[:at] + data[at : at + n] + data[at:]


DAMAGES = {
    "flipped": _flip,
    "overwritten": _overwrite,
    "cut out": _cut_out,
    "repeated": _repeat,
    "truncated": lambda data, rng: data[: rng.randrange(len(data) + 1)],
    "short of its end": lambda data, rng: data[: -rng.randrange(1, 100)],
    "extended": lambda data, rng: data + rng.randbytes(rng.choice((1, 73, 1000))),
    "empty": lambda data, rng: bytearray(),
    "zeros": lambda data, rng: bytearray(len(data)),
    "garbage": lambda data, rng: bytearray(rng.randbytes(rng.choice((1, 100, 5000)))),
}


def replace(path: Path, rng: Random) -> str:
    """Replace a file or folder by something else. Return by what."""
    how = rng.choice(("nothing", "folder", "pipe", "loop", "dangling link", "huge", "device"))
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    if how == "folder":
        path.mkdir()
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "loop":
        path.symlink_to(path.name)
    elif how == "dangling link":
        path.symlink_to("nowhere")
    elif how == "device":
        path.symlink_to("/dev/zero")
    elif how == "huge":
        path.touch()
        os.truncate(path, 6 * 10**9)  # of zeros, which take no space
    return how


# ---- values


def alter(value: Any, rng: Random) -> Any:
    """Return a copy of a JSON value with one part altered, removed or added."""
    copy = json.loads(json.dumps(value))
    home = copy
    while True:
        keys = list(home) if isinstance(home, dict) else list(range(len(home)))
        if not keys:
            return odd(rng)
        key = rng.choice(keys)
        if isinstance(home[key], dict | list) and home[key] and rng.random() < 0.8:
            home = home[key]
            continue
        kind = rng.random()
        if kind < 0.2:
            del home[key]
        elif kind < 0.3 and isinstance(home, dict):
            home[rng.choice(("", "x", "θ", "format", "sha256"))] = odd(rng)
        else:
            home[key] = odd(rng)
        return copy


def alter_table(text: str, rng: Random) -> str:
    """Return a CSV text with cells, rows or the header altered."""
    lines = [line.split(",") for line in text.splitlines()] or [[""]]
    kind = rng.randrange(7)
    row = rng.choice(lines)
    if kind == 0:
        row[rng.randrange(len(row))] = str(odd(rng))
    elif kind == 1:
        lines.remove(row)
    elif kind == 2:
        lines.append(list(row))
    elif kind == 3:
        row.append("1")
    elif kind == 4:
        row.pop()
    elif kind == 5:
        lines[0][rng.randrange(len(lines[0]))] = rng.choice(("", "epoch", "layer", "x"))
    else:
        rng.shuffle(lines)
    return "\n".join(",".join(line) for line in lines) + "\n"


def alter_state(value: Any, rng: Random) -> None:
    """Alter one part of nested dictionaries of tensors, in place."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = rng.choice(keys)
        part = value[key]
        if isinstance(part, dict | list) and part and rng.random() < 0.9:
            value = part
            continue
        if isinstance(value, tuple):
            return
        if rng.random() < 0.2:
            del value[key]
        else:
            value[key] = odd_tensor(part, rng) if isinstance(part, Tensor) else odd(rng)
        return


def odd_tensor(tensor: Tensor, rng: Random) -> Any:
    """Return something in place of a tensor."""
    makers = (
        lambda: tensor[:0] if tensor.ndim else tensor,
        lambda: tensor.reshape(-1),
        lambda: tensor.unsqueeze(0),
        lambda: torch.zeros(3, 5),
        lambda: torch.tensor(1.0),
        lambda: torch.full_like(tensor.float(), float("nan")),
        lambda: tensor.to(torch.complex64),
        lambda: tensor.bool(),
        lambda: tensor.long(),
        lambda: tensor.double(),
        lambda: tensor.to(torch.float8_e4m3fn),
        lambda: tensor.float().to_sparse(),
        lambda: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8),
        lambda: torch.empty(tensor.shape, device="meta"),
        lambda: torch.zeros(1).expand(20_000_000_000),
        lambda: torch.zeros(1).expand(200_000, 200_000),
        lambda: tensor.t() if tensor.ndim == 2 else tensor,
        lambda: None,
        lambda: "x",
        lambda: [tensor],
    )
    make = rng.choice(makers)
    if tensor.numel() > 10**7:  # expanded before
        return None
    try:
        return make()
    except (RuntimeError, NotImplementedError):  # altered before, to a type that cannot be that
        return None
