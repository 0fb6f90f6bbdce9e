"""Grids: named lists of runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from baselines.errors import UserError, unknown
from baselines.method import methods
from launch.config import Run

QUICK_SPARSITY = 0.9


def quick(recipe: str = "digits", seeds: Sequence[int] = (0, 1, 2), **choices: Any) -> list[Run]:
    """Every method, plain and with Sign-In, at one sparsity that is hard for the digits net."""
    choices = {"sparsity": QUICK_SPARSITY, **choices}
    runs = []
    for name, method in methods().items():
        own = choices if method.is_sparse else {**choices, "sparsity": 0.0}
        for variant in method.variants:
            for sign_in in (False, True):
                for seed in seeds:
                    runs.append(
                        Run.make(recipe, name, sign_in=sign_in, seed=seed, **{**variant, **own})
                    )
    return runs


GRIDS: dict[str, Callable[..., list[Run]]] = {"quick": quick}


def find_grid(name: str, **choices: Any) -> list[Run]:
    """The runs of a named grid.

    Args:
        choices: seeds, recipe, and fields that all its runs take over.

    Raises:
        UserError: an unknown grid, or no seeds.
    """
    if name not in GRIDS:
        raise unknown("grid", name, GRIDS)
    if not choices.get("seeds", (0,)):
        raise UserError("seeds: give at least one.")
    return list(dict.fromkeys(GRIDS[name](**choices)))  # a seed given twice is one run
