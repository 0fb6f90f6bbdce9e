"""The networks in what a checkpoint file holds: tensors under the names of nested entries."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from analysis.checked import BrokenFile
from launch.runs.stubs import MOST_LETTERS, Stub, contents

MASK = "mask:"  # begins the names of entries that are masks
MOST_ENTRIES = 100_000  # nested in those of one level
DEPTH = 4  # most levels of entries that are searched
# parts of names that torch.compile, FSDP and activation checkpointing insert
_INSERTED = re.compile(
    r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)


@dataclass(frozen=True)
class Entry:
    """Named tensors in a file.

    Attributes:
        key: the names of the entries that lead to them, joined by dots; empty for the file itself.
        weights, masks: tensors by name.
        pruned: names of weights that are to be multiplied by their masks: torch.nn.utils.prune
            stores them without.
    """

    key: str
    weights: dict[str, Tensor]
    masks: dict[str, Tensor]
    pruned: frozenset[str] = frozenset()


def find_entries(found: Any, path: object) -> list[Entry]:
    """Return all named tensors in what a file holds, the outer entries first.

    Names lose what wrappers insert.

    Raises:
        BrokenFile: there are too many entries.
    """
    entries = []
    for key, tensors in _named_tensors(found, path):
        short = {_INSERTED.sub("", name): tensor for name, tensor in tensors.items()}
        tensors = short if len(short) == len(tensors) else tensors
        masks = {k.removeprefix(MASK): t for k, t in tensors.items() if k.startswith(MASK)}
        weights = {k: t for k, t in tensors.items() if not k.startswith(MASK)}
        entries.append(_with_names_of_pruning(Entry(key, weights, masks)))
    return entries


def _named_tensors(found: Any, path: object) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the tensors of each entry with its key, each object once, breadth first."""
    pending, known, letters = [("", found)], set[int](), 0
    for _ in range(DEPTH):
        inner: list[tuple[str, Any]] = []
        for key, value in pending:
            items = None if id(value) in known else contents(value, path)
            known.add(id(value))
            if not items:
                continue
            texts = {name: item for name, item in items.items() if isinstance(name, str) and name}
            tensors = {k: t for k, t in texts.items() if isinstance(t, Tensor)}
            nested = {k: v for k, v in texts.items() if isinstance(v, Stub | Mapping)}
            letters += sum(len(key) + len(name) for part in (tensors, nested) for name in part)
            if len(inner) + len(nested) > MOST_ENTRIES or letters > MOST_LETTERS:
                raise BrokenFile(f"{path} has too many nested entries, or too long names.")
            if tensors:
                yield key, tensors
            inner += [(join(key, k), v) for k, v in nested.items()]
        pending = inner


def join(*parts: str) -> str:
    """Return parts of a name joined by dots, without the empty ones."""
    return ".".join(filter(None, parts))


def _with_names_of_pruning(entry: Entry) -> Entry:
    """Return an entry with x and its mask in place of x_orig and x_mask."""
    weights, masks, pruned = dict(entry.weights), dict(entry.masks), set[str]()
    for name in entry.weights:
        own = name.removesuffix("_orig")
        if own != name and f"{own}_mask" in entry.weights:
            masks[own] = weights.pop(f"{own}_mask")
            weights[own] = weights.pop(name)
            pruned.add(own)
    return Entry(entry.key, weights, masks, frozenset(pruned))


def all_of(entries: Sequence[Entry]) -> Entry:
    """Return all tensors of entries as one, with the keys before the names."""
    return Entry(
        "",
        {join(e.key, name): t for e in entries for name, t in e.weights.items()},
        {join(e.key, name): t for e in entries for name, t in e.masks.items()},
        frozenset(join(e.key, name) for e in entries for name in e.pruned),
    )


def renamed(entry: Entry, prefix: str, ours: str) -> Entry:
    """Return the tensors whose names begin with a prefix, with another one in its place."""

    def names(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            ours + name.removeprefix(prefix): tensor
            for name, tensor in found.items()
            if name.startswith(prefix)
        }

    pruned = (ours + n.removeprefix(prefix) for n in entry.pruned if n.startswith(prefix))
    return Entry(entry.key, names(entry.weights), names(entry.masks), frozenset(pruned))
