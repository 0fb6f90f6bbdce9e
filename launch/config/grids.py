"""Named grids: lists of runs for the paper's tables and figures, and one for a quick look.

They use the paper's recipes unless another is given: `--recipe digits --epochs 10` runs any of
them in minutes. Runs that need the results of others name them (`Run.needs`).
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

from analysis.names import LEARNERS, PAI
from analysis.protocol import OPTIONS, Protocol, check_protocol
from baselines.errors import UserError, unknown
from baselines.registry import find_method
from baselines.registry import methods as all_methods
from launch.config.assignments import OPTIONS_KEY, apply_options, combinations
from launch.config.dependencies import in_order, with_constants
from launch.config.grid_file import check_number, read_grid
from launch.config.grid_parts import (
    ALL,
    BOTH,
    CIFAR,
    IMAGENET,
    PLAIN,
    Entry,
    Seeds,
    at_sparsities,
    at_sparsity,
    from_mask_of,
    keeping_tenths,
    learner,
    pairs,
)
from launch.config.grids_sign_in import beta, decay, denser, rescaling
from launch.config.recipe import RULES
from launch.config.run import Run
from launch.config.yaml_file import ENDINGS

QUICK_SPARSITY, QUICK_EPOCHS = 0.9, 12  # of the digits
REVERSED = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5)  # shares of reversed signs; at a half they are random


def quick(
    recipe: str | None = None,
    seeds: Seeds = (0, 1, 2),
    methods: Sequence[str] | None = None,
    **choices: Any,
) -> list[Run]:
    """Every method, plain, with Sign-In and with HAM, at a sparsity that is hard for digits.

    Methods that need a trained network or a mask are omitted. STR is omitted with a warning if its
    constants are not known, unless it is among `methods`.
    """
    choices = {"sparsity": QUICK_SPARSITY, **choices}
    if recipe is None:
        choices.setdefault("epochs", QUICK_EPOCHS)
    runs = []
    for name in all_methods() if methods is None else methods:
        for variant in find_method(name).variants:
            runs += pairs([recipe or "digits"], [(name, variant)], seeds, ALL, **choices)
    return with_constants(runs) if methods is None else runs


def fashion(
    recipe: str | None = None,
    seeds: Seeds = (0, 1, 2, 3, 4),
    methods: Sequence[str] = ("dense", "acdc", "rigl", "str-target", "lrr", "random"),
    **choices: Any,
) -> list[Run]:
    """Dense, dense-to-sparse and random masks on Fashion-MNIST, plain and with Sign-In."""
    choices = {"sparsity": 0.95, **choices}
    entries = [(name, next(iter(find_method(name).variants), {})) for name in methods]
    return pairs([recipe or "fashion"], entries, seeds, **choices)


def table1(
    recipe: str | None = None,
    seeds: Seeds = (0,),
    methods: Sequence[str] = LEARNERS,
    **choices: Any,
) -> list[Run]:
    """Sign alignment: learned masks with learned signs, learned magnitudes, or neither."""
    runs = []
    for seed, method in itertools.product(seeds, methods):
        base = learner(recipe, method, seed, **choices)
        for signs, magnitudes in (
            *((f"{base.name}@{epoch}", "random") for epoch in base.early_epochs),
            (f"{base.name}@final", "random"),
            ("random", f"{base.name}@{base.early_epochs[0]}"),
            ("random", f"{base.name}@final"),
            ("random", "random"),
        ):
            runs.append(from_mask_of(base, signs=signs, magnitudes=magnitudes))
        runs.append(base)
    return runs


def table3(recipe: str | None = None, seeds: Seeds = (0, 1, 2), **choices: Any) -> list[Run]:
    """Random masks, with and without Sign-In."""
    recipes = [recipe] if recipe else [*CIFAR, *IMAGENET]
    return at_sparsities(recipes, [("random", {})], seeds, **choices)


def table4(recipe: str | None = None, seeds: Seeds = (0, 1, 2), **choices: Any) -> list[Run]:
    """DeiT Small at 50 % sparsity."""
    choices = {"sparsity": 0.5, **choices}
    return pairs([recipe or "imagenet-deit-small"], [("random", {})], seeds, **choices)


def table5(recipe: str | None = None, seeds: Seeds = (0, 1, 2), **choices: Any) -> list[Run]:
    """AC/DC, with and without Sign-In."""
    return at_sparsities([recipe] if recipe else IMAGENET, [("acdc", {})], seeds, **choices)


def table9(recipe: str | None = None, seeds: Seeds = (0, 1, 2), **choices: Any) -> list[Run]:
    """Pruning at initialisation, with and without Sign-In."""
    entries: list[Entry] = [(name, {}) for name in PAI]
    return at_sparsities([recipe] if recipe else CIFAR, entries, seeds, **choices)


def table10(
    recipe: str | None = None,
    seeds: Seeds = (0, 1, 2),
    methods: Sequence[str] = LEARNERS,
    **choices: Any,
) -> list[Run]:
    """Masks of all kinds trained from a random initialisation, with and without Sign-In."""
    choices = at_sparsity(choices)
    entries: list[Entry] = [(name, {}) for name in ("snip", "synflow", "random")]
    runs = pairs([recipe or IMAGENET[0]], entries, seeds, **choices)
    for seed, method in itertools.product(seeds, methods):
        base = learner(recipe, method, seed, **choices)
        runs += [base, *(from_mask_of(base, **rule) for rule in BOTH)]
    return runs


def table11(recipe: str | None = None, seeds: Seeds = (0, 1, 2), **choices: Any) -> list[Run]:
    """Effect of rescaling: random masks plain, with Sign-In, and with m ⊙ w without rescaling."""
    recipes = [recipe] if recipe else [*CIFAR, *IMAGENET]
    alone = at_sparsities(recipes, [("mw", {})], seeds, rules=(PLAIN,), **choices)
    return table3(recipe, seeds, **choices) + alone


def ham(recipe: str | None = None, seeds: Seeds = (0, 1, 2), **choices: Any) -> list[Run]:
    """Random masks, AC/DC and RigL: plain, with Sign-In, and with HAM."""
    entries: list[Entry] = [(name, {}) for name in ("random", "acdc", "rigl")]
    return at_sparsities([recipe] if recipe else IMAGENET, entries, seeds, ALL, **choices)


def signs(
    recipe: str | None = None,
    seeds: Seeds = (0, 1, 2),
    methods: Sequence[str] = LEARNERS,
    **choices: Any,
) -> list[Run]:
    """How many correct signs are needed: learned masks with learned signs, some reversed."""
    runs = []
    for seed, method in itertools.product(seeds, methods):
        base = learner(recipe, method, seed, **choices)
        runs.append(base)
        for fraction, rule in itertools.product(REVERSED, BOTH):
            own: dict[str, Any] = {"magnitudes": "random", "flip_signs": fraction, **rule}
            runs.append(from_mask_of(base, signs=f"{base.name}@final", **own))
    return runs


def figure1(
    recipe: str | None = None,
    seeds: Seeds = (0,),
    methods: Sequence[str] = LEARNERS,
    **choices: Any,
) -> list[Run]:
    """Sign flips by phase: dense-to-sparse methods, and their masks trained from scratch."""
    runs = pairs([recipe or IMAGENET[0]], [("random", {})], seeds, (PLAIN,), **at_sparsity(choices))
    for seed, method in itertools.product(seeds, methods):
        base = learner(recipe, method, seed, **choices)
        runs += [base, from_mask_of(base)]
    return runs


def figure5(
    recipe: str | None = None,
    seeds: Seeds = (0,),
    methods: Sequence[str] = LEARNERS,
    **choices: Any,
) -> list[Run]:
    """Sign flips and sharpness during training, with and without Sign-In."""
    runs = [learner(recipe, method, seed, **choices) for seed in seeds for method in methods]
    both = [
        keeping_tenths(run)
        for run in pairs([recipe or IMAGENET[0]], [("random", {})], seeds, **at_sparsity(choices))
    ]
    return [*map(keeping_tenths, runs), *both]


def figure8(recipe: str | None = None, seeds: Seeds = (0,), **choices: Any) -> list[Run]:
    """Layer-wise sign flips: AC/DC, AC/DC with Sign-In, and its mask trained from scratch."""
    runs = []
    for seed in seeds:
        base = learner(recipe, "acdc", seed, **choices)
        runs += [base, learner(recipe, "acdc", seed, sign_in=True, **choices)]
        runs.append(from_mask_of(base))
    return runs


def figure9(
    recipe: str | None = None,
    seeds: Seeds = (0,),
    methods: Sequence[str] = LEARNERS,
    **choices: Any,
) -> list[Run]:
    """Layer-wise sparsity of all masks."""
    entries: list[Entry] = [(name, {}) for name in ("snip", "synflow", "random")]
    runs = pairs([recipe or IMAGENET[0]], entries, seeds, (PLAIN,), **at_sparsity(choices))
    return runs + [learner(recipe, m, seed, **choices) for seed in seeds for m in methods]


# ---- by name


_TABLES = (table1, table3, table4, table5, table9, table10, table11)
_FIGURES = (figure1, figure5, figure8, figure9)
_SIGN_IN = (decay, rescaling, beta, denser)
GRIDS: dict[str, Callable[..., list[Run]]] = {
    grid.__name__: grid for grid in (quick, fashion, ham, *_SIGN_IN, signs, *_TABLES, *_FIGURES)
}


def find_grid(
    name: str,
    alternatives: Mapping[str, Sequence[Any]] | None = None,
    protocol: Protocol = "suite",
    **choices: Any,
) -> list[Run]:
    """Return the runs of a named grid or of a YAML file, each after those that it needs.

    Args:
        alternatives: values by field; the grid is repeated for each of their `combinations`.
        protocol: "paper" for one-shot SynFlow and balanced densities as in code of the paper's
            group.
        choices: recipe, seeds, methods, and values of fields for all its runs.

    Raises:
        UserError: an unknown grid, a file of another form, no seeds, an unknown field, methods for
            a grid whose methods are fixed, or a protocol for a grid that is the same in all.
    """
    runs: list[Run] = []
    for values in combinations(alternatives or {}):
        if twice := values.keys() & choices.keys():
            raise UserError(f"{min(twice)} is given twice, once by --set.")
        given = {**choices, **values}
        found = apply_options(_one_grid(name, **given), given.get(OPTIONS_KEY, {}))
        if (options := given.pop(OPTIONS_KEY, None)) and name in GRIDS:
            _warn_of_fewer(name, found, options, given)
        runs += found
        check_number(len(runs))
    if protocol == "paper":
        runs = _as_in_the_papers_code(name, runs)
    return in_order({run.name: run for run in runs}.values())  # a seed given twice is one run


def _warn_of_fewer(
    name: str, runs: Sequence[Run], options: dict[str, Any], choices: dict[str, Any]
) -> None:
    """Warn if a named grid has fewer runs since options replace values that it varies."""
    names, usual = {run.name for run in runs}, set[str]()
    with suppress(UserError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        usual = {run.name for run in _one_grid(name, **choices)}
    if len(names) < len(usual):
        given = ", ".join(options)
        text = f"with {given}, {name} has {len(names)} runs rather than {len(usual)}."
        warnings.warn(text, stacklevel=3)


def _one_grid(name: str, **choices: Any) -> list[Run]:
    if "seeds" in choices and not choices["seeds"]:
        raise UserError("seeds: give at least one.")
    if name.endswith(ENDINGS):
        return read_grid(Path(name), **choices)
    if name not in GRIDS:
        raise unknown("grid", name, [*GRIDS, "FILE.yaml"])
    if "methods" in choices and "methods" not in signature(GRIDS[name]).parameters:
        raise UserError(f"the methods of {name} are fixed; a YAML file can have others.")
    if rules := choices.keys() & set(RULES):
        raise UserError(f"{name} decides {min(rules)} itself; a YAML file can have one value.")
    return GRIDS[name](**choices)


def _as_in_the_papers_code(name: str, runs: list[Run]) -> list[Run]:
    check_protocol("paper", name.removeprefix("table"))
    changes = {method: OPTIONS.get(method, {}) for method in {run.method for run in runs}}
    return [replace(run, options=replace(run.options, **changes[run.method])) for run in runs]
