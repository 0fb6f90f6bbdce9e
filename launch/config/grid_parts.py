"""What the named grids are built from: lists of runs that differ in a few fields."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from baselines.registry import find_method
from launch.config.grid_file import run_of
from launch.config.run import Run

CIFAR = ("cifar10-resnet20", "cifar100-resnet18")
IMAGENET = ("imagenet-resnet50",)
SPARSITIES = (0.8, 0.9, 0.95)
OTHER_SEED = 1000  # added to the seed of runs that train another run's mask

Seeds = Sequence[int]
Entry = tuple[str, dict[str, Any]]  # a method and its options
Rule = dict[str, Any]
PLAIN: Rule = {"sign_in": False}
BOTH: Sequence[Rule] = (PLAIN, {"sign_in": True})
ALL: Sequence[Rule] = (*BOTH, {"ham": True})


def at_sparsity(choices: dict[str, Any]) -> dict[str, Any]:
    """Return the choices, with sparsity 0.9 unless another is chosen."""
    return {"sparsity": 0.9, **choices}


def pairs(
    recipes: Iterable[str],
    entries: Iterable[Entry],
    seeds: Seeds,
    rules: Sequence[Rule] = BOTH,
    **choices: Any,
) -> list[Run]:
    """Return runs with each of the rules; HAM only with methods that train plain weights."""
    return [
        run_of({"recipe": recipe, "method": name, **rule, "seed": seed, **own, **choices})
        for recipe, (name, own), rule, seed in itertools.product(recipes, entries, rules, seeds)
        if not (rule.get("ham") and find_method(name).factorised)
    ]


def at_sparsities(
    recipes: Iterable[str],
    entries: Iterable[Entry],
    seeds: Seeds,
    rules: Sequence[Rule] = BOTH,
    **choices: Any,
) -> list[Run]:
    """Return `pairs` at the chosen sparsity, or else at those of the paper."""
    wanted = [choices.pop("sparsity")] if "sparsity" in choices else SPARSITIES
    return [
        run
        for recipe, sparsity in itertools.product(recipes, wanted)
        for run in pairs([recipe], entries, seeds, rules, sparsity=sparsity, **choices)
    ]


def learner(recipe: str | None, method: str, seed: int, **choices: Any) -> Run:
    """Return a dense-to-sparse run, whose mask and signs others use."""
    at = {"recipe": recipe or IMAGENET[0], "method": method, "seed": seed}
    return run_of({**at, **at_sparsity(choices)})


def keeping_tenths(run: Run) -> Run:
    """Return the run with a snapshot every tenth of the epochs, at which sharpness is measured."""
    epochs = run.epochs
    tenths = {round(i * epochs / 10) for i in range(11)}
    return replace(run, keep_epochs=tuple(sorted({*run.keep_epochs, *tenths})))


def from_mask_of(base: Run, sign_in: bool = False, **options: Any) -> Run:
    """Return a run that trains the mask of another from a different initialisation."""
    run = Run.make(
        base.recipe,
        "fixed",
        mask=f"{base.name}@final",
        mask_within=find_method(base.method).tolerance,
        **options,
        sparsity=base.sparsity,
        sign_in=sign_in,
        seed=base.seed + OTHER_SEED,
        exclude=base.exclude,
        keep_epochs=base.keep_epochs,
    )
    return replace(run, settings=base.settings)
