"""Names of a checkpoint of any origin, matched to those of a model by names and shapes.

Wrappers put a prefix before all names (`module.`, `student.module.backbone.`), and a model can be a
part of what was saved, or have the saved one as a part. The prefixes are chosen with which the most
tensors have a counterpart of the same name and shape.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from baselines.checkpoint import Checkpoint
from baselines.errors import UserError

Named = Mapping[str, Tensor]
DEPTH = 4  # most components of a prefix of the model's names


def match_names(source: Checkpoint, like: Named) -> tuple[Checkpoint, str]:
    """Return a checkpoint with the names of a model, and what was done, empty if nothing.

    Args:
        like: tensors of the model by name; those of other names in the source are kept as they are.

    Raises:
        UserError: a tensor has no counterpart; the message has the nearest ones.
    """
    theirs, ours = _best_prefixes(source.weights, like)
    missing = [name for name in like if not _fits(source.weights, theirs, ours, name, like[name])]
    if missing:
        raise _no_counterpart(source, missing[0], like, theirs, ours)
    if theirs == ours:
        return source, ""

    def renamed(named: Named) -> dict[str, Tensor]:
        return {
            ours + name.removeprefix(theirs) if name.startswith(theirs) else name: tensor
            for name, tensor in named.items()
        }

    done = replace(source, weights=renamed(source.weights), masks=renamed(source.masks))
    names = f"{theirs or 'no prefix'}… are {ours or 'no prefix'}… here"
    return done, f"{source.origin}: names that begin with {names}"


def _best_prefixes(weights: Named, like: Named) -> tuple[str, str]:
    """Return the prefixes of the source's and of the model's names with the most counterparts."""
    shapes = {(name, tuple(tensor.shape)) for name, tensor in weights.items()}
    best: tuple[int, int, str, str] = (-1, 0, "", "")
    for ours in _prefixes(like):
        rest = {n.removeprefix(ours): tuple(t.shape) for n, t in like.items() if n.startswith(ours)}
        for theirs, _ in _candidates(weights, rest).most_common(8):
            found = sum((theirs + name, shape) in shapes for name, shape in rest.items())
            short = -len(theirs) - len(ours)
            best = max(best, (found, short, theirs, ours))
    return best[2], best[3]


def _prefixes(like: Named) -> list[str]:
    """Return the prefixes that all names of a model share, none first."""
    found = [""]
    first = next(iter(like)).split(".")
    for depth in range(1, min(DEPTH, len(first) - 1) + 1):
        prefix = ".".join(first[:depth]) + "."
        if not all(name.startswith(prefix) for name in like):
            break
        found.append(prefix)
    return found


def _candidates(weights: Named, rest: Mapping[str, tuple[int, ...]]) -> Counter[str]:
    """Count the prefixes with which names of the source end in names of the model."""
    found: Counter[str] = Counter({"": 0})
    ends = set(rest)
    for name in weights:
        parts = name.split(".")
        for i in range(len(parts)):
            if ".".join(parts[i:]) in ends:
                found[".".join(parts[:i]) + "." if i else ""] += 1
    return found


def _fits(weights: Named, theirs: str, ours: str, name: str, tensor: Tensor) -> bool:
    found = weights.get(theirs + name.removeprefix(ours))
    return found is not None and found.shape == tensor.shape


def _no_counterpart(
    source: Checkpoint, name: str, like: Named, theirs: str, ours: str
) -> UserError:
    """Return the error for a tensor that the source does not have."""
    wanted, shape = theirs + name.removeprefix(ours), tuple(like[name].shape)
    there = source.weights.get(wanted)
    if there is not None:
        return UserError(
            f"{source.origin}: {wanted} has shape {tuple(there.shape)}, not {shape} as {name} here."
        )
    near = difflib.get_close_matches(wanted, list(source.weights), n=2, cutoff=0.5)
    near += [n for n, t in source.weights.items() if tuple(t.shape) == shape and n not in near][:1]
    shown = ", ".join(f"{n} {tuple(source.weights[n].shape)}" for n in near) or "none"
    return UserError(
        f"{source.origin} has no {wanted} of shape {shape}; the nearest of its "
        f"{len(source.weights)} tensors: {shown}."
    )
