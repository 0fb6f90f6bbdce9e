"""Which of the tensors of a checkpoint file are the network's, and under which names.

Wrappers put prefixes before names (`module.`, `student.module.backbone.`), a file can have several
networks (`model`, `model_ema`), and a model can be a part of another one. With the tensors of a
model the prefix is chosen with which most of them have a counterpart of the same name and shape;
without, the entry that trainers usually write.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from baselines.errors import UserError
from launch.runs.entries import Entry, all_of, renamed

Named = Mapping[str, Tensor]
_WRAPPERS = ("module.", "model.")  # of DDP, Lightning and others
# words in keys: entries that trainers usually write, averages of weights, and what is no network
_USUAL = ("state_dict", "model_state_dict", "model", "net", "network", "student", "module")
_AVERAGES = {"ema", "swa", "averaged", "average", "shadow", "teacher"}
_OTHERS = {"optimizer", "optim", "opt", "scheduler", "scaler", "criterion", "loss", "callbacks"}
_MOST_SHOWN = 3


def choose(
    entries: Sequence[Entry], path: object, key: str = "", like: Named | None = None
) -> tuple[Entry, str]:
    """Return the tensors of one network, and what was chosen, empty if there was no choice.

    Args:
        entries: of `find_entries`.
        key: the entry or prefix to take, such as `model_ema`.
        like: tensors of the network by name; the names are adapted to them.

    Raises:
        UserError: there are no tensors, or none under that key.
    """
    if not entries:
        raise UserError(f"{path} holds no state dict.")
    if key:
        entries = _under(entries, key, path)
    choice = (_fit(entries, like) if like else None) or _usual(entries)
    chosen = renamed(choice.entry, choice.prefix, choice.ours)
    if not choice.prefix and not choice.ours:
        return chosen, ""
    note = f"{path}: reads {choice.prefix}*" + (f" as {choice.ours}*" if choice.ours else "")
    note += ", the shortest key of equal ones" if choice.is_shortest else ""
    if choice.others:
        shown = [other.rstrip(".") or "the file itself" for other in choice.others[:_MOST_SHOWN]]
        note += f"; FILE@KEY chooses another one: {', '.join(shown)}"
    return chosen, note


class Taken(NamedTuple):
    """What is taken of a file.

    Attributes:
        entry: the tensors of all entries or of one, with the keys before the names.
        prefix: what the names of the network begin with.
        ours: what takes its place.
        others: prefixes of which the same could have been taken.
        is_shortest: others are as good, and have keys that are not shorter.
    """

    entry: Entry
    prefix: str
    ours: str
    others: list[str]
    is_shortest: bool


def _under(entries: Sequence[Entry], key: str, path: object) -> list[Entry]:
    """Return what has a key: as its first names, or else anywhere among them."""
    for anywhere in (False, True):
        found = [part for entry in entries for part in _parts(entry, key, anywhere)]
        if found:
            return found
    known = [e.key for e in sorted(entries, key=_rank) if e.key][:_MOST_SHOWN]
    there = f"there are {', '.join(known)}" if known else "it is one state dict"
    raise UserError(f"{path} has no entry {key!r}; {there}.")


def _parts(entry: Entry, key: str, anywhere: bool) -> list[Entry]:
    """Return the entry if it is within a key, else one for each prefix that ends in the key."""
    start = _dotted(entry.key)
    if _end(start, key, anywhere):
        return [entry]
    found: dict[str, dict[str, str]] = {}
    for own in (*entry.weights, *entry.masks):
        name = start + own
        if end := _end(name, key, anywhere):
            found.setdefault(name[:end], {})[own] = name[end:]
    return [_part(entry, prefix[:-1], names) for prefix, names in found.items()]


def _part(entry: Entry, key: str, names: Mapping[str, str]) -> Entry:
    """Return the tensors with some names, under those that they are mapped to."""

    def named(tensors: Named) -> dict[str, Tensor]:
        return {new: tensors[own] for own, new in names.items() if own in tensors}

    pruned = frozenset(new for own, new in names.items() if own in entry.pruned)
    return Entry(key, named(entry.weights), named(entry.masks), pruned)


def _end(name: str, key: str, anywhere: bool) -> int:
    """Return where a key and its dot end in a name; 0 if they are not in it."""
    at = f".{name}".find(f".{key}.")
    return at + len(key) + 1 if at == 0 or (at > 0 and anywhere) else 0


# ---- without a model


def _usual(entries: Sequence[Entry]) -> Taken:
    """Choose the entry that trainers usually write, without the prefixes of wrappers."""
    best = min(entries, key=_rank)
    prefix, names = "", [*best.weights, *best.masks]
    for wrapper in _WRAPPERS * 2:
        if all(name.startswith(prefix + wrapper) for name in names):
            prefix += wrapper
    shapes = _shapes(best)
    rest = [entry for entry in entries if entry is not best]
    equal = [entry.key for entry in rest if _rank(entry)[:-1] == _rank(best)[:-1]]
    alike = [entry.key for entry in rest if _shapes(entry) == shapes]
    others = list(dict.fromkeys(equal + alike))
    return Taken(all_of([best]), _dotted(best.key) + prefix, "", others, bool(equal))


def _dotted(key: str) -> str:
    return f"{key}." if key else ""


def _rank(entry: Entry) -> tuple[bool, bool, int, int, int]:
    """Return a key that sorts entries: weights before others, more matrices first, …"""
    matrices = sum(tensor.ndim >= 2 for tensor in (*entry.weights.values(), *entry.masks.values()))
    is_other, is_average, usual, length = _rank_of(entry.key)
    return is_other, is_average, -matrices, usual, length


def _rank_of(key: str) -> tuple[bool, bool, int, int]:
    words = set(re.split(r"[._\d]+", key.lower()))
    last = key.lower().rstrip(".").rpartition(".")[2]
    usual = _USUAL.index(last) if last in _USUAL else len(_USUAL)
    return bool(words & _OTHERS), bool(words & _AVERAGES), usual, len(key)


def _shapes(entry: Entry) -> list[tuple[int, ...]]:
    return sorted(tuple(tensor.shape) for tensor in entry.weights.values())


# ---- with a model


def _fit(entries: Sequence[Entry], like: Named) -> Taken | None:
    """Choose the prefixes with the most counterparts; None if there are none."""
    named = all_of(entries)
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for ours in _shared_prefixes(like):
        rest = {name.removeprefix(ours): tuple(tensor.shape) for name, tensor in like.items()}
        for prefix, counts in _counts(named, rest).items():
            found[prefix, ours] = counts
    if not found:
        return None
    best = max(found.values())
    equal = sorted((pair for pair, counts in found.items() if counts == best), key=_rank_of_pair)
    prefix, ours = equal[0]
    # ("a.net.", "net.") is ("a.", ""): the same tensors
    same = dict.fromkeys(theirs.removesuffix(own) for theirs, own in equal)
    del same[prefix.removesuffix(ours)]
    equals = [pair for pair in equal if pair[0].removesuffix(pair[1]) in same]
    is_shortest = any(_rank_of_pair(pair)[:-1] == _rank_of_pair(equal[0])[:-1] for pair in equals)
    return Taken(named, prefix, ours, list(same), is_shortest)


def _rank_of_pair(pair: tuple[str, str]) -> tuple[bool, bool, int, int, int]:
    is_other, is_average, usual, length = _rank_of(pair[0])
    return is_other, is_average, len(pair[1]), usual, length


def _shared_prefixes(names: Iterable[str]) -> list[str]:
    """Return the prefixes that all names share, none first."""
    names = list(names)
    found, parts = [""], names[0].split(".")[:-1]
    for part in parts:
        longer = f"{found[-1]}{part}."
        if not all(name.startswith(longer) for name in names):
            break
        found.append(longer)
    return found


def _counts(named: Entry, rest: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    """Count by prefix the names of the file that are names of the model, with the same shape and
    with any. Masks count where there is no weight."""
    depth = max(name.count(".") for name in rest) + 1
    found: dict[str, tuple[int, int]] = {}
    for name, tensor in {**named.masks, **named.weights}.items():
        end, shape = len(name), tuple(tensor.shape)
        for _ in range(depth):
            end = name.rfind(".", 0, end)
            own = name[end + 1 :]
            if own in rest:
                same, any_ = found.get(name[: end + 1], (0, 0))
                found[name[: end + 1]] = same + (rest[own] == shape), any_ + 1
            if end < 0:
                break
    return found
