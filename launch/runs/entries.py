"""The state dict in a checkpoint file: which entry it is, where there are several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from baselines.errors import UserError
from launch.runs.stubs import is_network, module_tensors

DEPTH = 3  # most levels of entries that are searched
# entries that usual trainers write, the most usual first
_USUAL = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights")
_AVERAGES = ("ema", "swa", "average", "shadow")  # parts of the names of averaged weights
_OTHERS = ("optim", "sched", "scaler", "amp", "rng", "loss", "criterion", "discriminator")


class Entry(NamedTuple):
    """A state dict in a file, and the names of the entries that lead to it."""

    key: str
    tensors: dict[str, Tensor]


def find_state_dict(found: Any, source: str, key: str = "") -> tuple[dict[str, Tensor], str]:
    """Return the named tensors in what a file holds, and what was chosen, empty if all is usual.

    Args:
        source: the file, for messages.
        key: name of the entry to take, such as `model_ema`, or `ema.model` of nested ones.

    Raises:
        UserError: there are no named tensors, or none under that key.
    """
    entries = list(_entries(found))
    if not entries:
        raise UserError(f"{source} holds no state dict.")
    names = ", ".join(entry.key or "the file itself" for entry in entries)
    if key:
        chosen = [e for e in entries if e.key == key] or [
            entry for entry in entries if entry.key.split(".")[0] == key
        ]
        if not chosen:
            raise UserError(f"{source} has no entry {key!r}; its state dicts: {names}.")
        return min(chosen, key=_rank).tensors, ""
    best = min(entries, key=_rank)
    others = [e.key for e in entries if e is not best and _is_alike(e, best)]
    if others:
        return best.tensors, f"{source}: {best.key} is taken, not {' or '.join(others)}; see --key"
    return best.tensors, ""


def _entries(found: Any, key: str = "", depth: int = 0) -> Iterator[Entry]:
    """Yield the state dicts among nested entries."""
    if is_network(found):
        yield Entry(key, dict(module_tensors(found)))
    elif isinstance(found, Mapping):
        tensors = {k: t for k, t in found.items() if isinstance(k, str) and isinstance(t, Tensor)}
        if tensors:
            yield Entry(key, tensors)
        if depth < DEPTH:
            for name, value in found.items():
                if isinstance(name, str) and not isinstance(value, Tensor):
                    yield from _entries(value, f"{key}.{name}".lstrip("."), depth + 1)


def _rank(entry: Entry) -> tuple[bool, bool, int, int, int]:
    """Return a key that sorts the entries: weights before others, more matrices first, …"""
    names = entry.key.lower()
    last = names.rpartition(".")[2]
    matrices = sum(tensor.ndim >= 2 for tensor in entry.tensors.values())
    usual = _USUAL.index(last) if last in _USUAL else len(_USUAL)
    other = any(part in names for part in _OTHERS)
    average = any(part in names for part in _AVERAGES)
    return other, average, -matrices, usual, len(entry.key)


def _is_alike(entry: Entry, best: Entry) -> bool:
    """Return whether an entry has tensors of the same shapes as the best one."""
    ours, theirs = (sorted(tuple(t.shape) for t in e.tensors.values()) for e in (entry, best))
    return ours == theirs
