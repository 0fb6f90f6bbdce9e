"""Named grids: lists of runs for the paper's tables and figures, and one for a quick look.

They use the paper's recipes unless another is given: `--recipe digits --epochs 5` runs any of
them in minutes. Runs that need the results of others name them (`Run.needs`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

from baselines.errors import UserError, unknown
from baselines.registry import find_method
from baselines.registry import methods as all_methods
from launch.config.assignments import OPTIONS, check_options, parse_assignments
from launch.config.dependencies import in_order
from launch.config.grid_file import read_grid, run_of
from launch.config.recipe import RULES
from launch.config.recipes import find_recipe
from launch.config.run import Run
from launch.config.yaml_file import ENDINGS

QUICK_SPARSITY = 0.9
CIFAR = ("cifar10-resnet20", "cifar100-resnet18")
IMAGENET = ("imagenet-resnet50",)
SPARSITIES = (0.8, 0.9, 0.95)
LEARNED = ("acdc", "rigl", "str")  # the paper's dense-to-sparse methods
OTHER_SEED = 1000  # added to the seed of runs that train another run's mask

Seeds = Sequence[int]
Entry = tuple[str, dict[str, Any]]  # a method and its options
BOTH = (False, True)


def quick(
    recipe: str | None = None,
    seeds: Seeds = (0, 1, 2),
    methods: Sequence[str] | None = None,
    **choices: Any,
) -> list[Run]:
    """Every method, plain and with Sign-In, at one sparsity that is hard for the digits net."""
    choices = {"sparsity": QUICK_SPARSITY, **choices}
    runs = []
    for name in all_methods() if methods is None else methods:
        for variant in find_method(name).variants:
            runs += _pairs([recipe or "digits"], [(name, variant)], seeds, **choices)
    return runs


def table1(
    recipe: str | None = None,
    seeds: Seeds = (0,),
    methods: Sequence[str] = LEARNED,
    **choices: Any,
) -> list[Run]:
    """Sign alignment: learned masks with learned signs, learned magnitudes, or neither."""
    runs = []
    for seed, method in itertools.product(seeds, methods):
        base = _learner(recipe, method, seed, **choices)
        for signs, magnitudes in (
            *((f"{base.name}@{epoch}", "random") for epoch in base.early_epochs),
            (f"{base.name}@final", "random"),
            ("random", f"{base.name}@{base.early_epochs[0]}"),
            ("random", f"{base.name}@final"),
            ("random", "random"),
        ):
            runs.append(_from_mask_of(base, signs=signs, magnitudes=magnitudes))
        runs.append(base)
    return runs


def table3(recipe: str | None = None, seeds: Seeds = (0, 1, 2), **choices: Any) -> list[Run]:
    """Random masks, with and without Sign-In."""
    recipes = [recipe] if recipe else [*CIFAR, *IMAGENET]
    return _sparsities(recipes, [("random", {})], seeds, **choices)


def table4(recipe: str | None = None, seeds: Seeds = (0, 1, 2), **choices: Any) -> list[Run]:
    """DeiT Small, half sparse."""
    choices = {"sparsity": 0.5, **choices}
    return _pairs([recipe or "imagenet-deit-small"], [("random", {})], seeds, **choices)


def table5(recipe: str | None = None, seeds: Seeds = (0, 1, 2), **choices: Any) -> list[Run]:
    """AC/DC, with and without Sign-In."""
    return _sparsities([recipe] if recipe else IMAGENET, [("acdc", {})], seeds, **choices)


def table9(recipe: str | None = None, seeds: Seeds = (0, 1, 2), **choices: Any) -> list[Run]:
    """Pruning at initialisation, with and without Sign-In."""
    entries: list[Entry] = [(name, {}) for name in ("random", "snip", "synflow")]
    return _sparsities([recipe] if recipe else CIFAR, entries, seeds, **choices)


def table10(
    recipe: str | None = None,
    seeds: Seeds = (0, 1, 2),
    methods: Sequence[str] = LEARNED,
    **choices: Any,
) -> list[Run]:
    """Masks of all kinds trained from a random initialisation, with and without Sign-In."""
    choices = _at(choices)
    entries: list[Entry] = [(name, {}) for name in ("snip", "synflow", "random")]
    runs = _pairs([recipe or IMAGENET[0]], entries, seeds, **choices)
    for seed, method in itertools.product(seeds, methods):
        base = _learner(recipe, method, seed, **choices)
        runs += [base, *(_from_mask_of(base, sign_in=sign_in) for sign_in in BOTH)]
    return runs


def table11(recipe: str | None = None, seeds: Seeds = (0, 1, 2), **choices: Any) -> list[Run]:
    """Effect of rescaling: random masks plain, with Sign-In, and with m ⊙ w without rescaling."""
    recipes = [recipe] if recipe else [*CIFAR, *IMAGENET]
    alone = _sparsities(recipes, [("mw", {})], seeds, sign_ins=(False,), **choices)
    return table3(recipe, seeds, **choices) + alone


def decay(
    recipe: str | None = None,
    seeds: Seeds = (0, 1, 2),
    methods: Sequence[str] = ("random",),
    **choices: Any,
) -> list[Run]:
    """What Sign-In gains at equal weight decays: of θ, of all else, and at twice the decay."""
    recipe, choices = recipe or CIFAR[0], _at(choices)
    lam = choices.get("weight_decay", find_recipe(recipe).weight_decay)
    twice, none = {"weight_decay": 2 * lam}, {"decay_norm_and_bias": False}
    factors = {"sign_in_decay_scope": "factors"}  # the others keep the decay of plain runs
    halved = {"sign_in_decays": "factors", "sign_in_weight_decay": lam / 2}  # θ decays with both
    plain: list[dict[str, Any]] = [{}, twice, none]
    ours = [{}, twice, factors, {**factors, **none}, {**factors, **halved}]
    runs = []
    for sign_in, variants in ((False, plain), (True, ours)):
        for variant, name in itertools.product(variants, methods):
            runs += _pairs([recipe], [(name, {})], seeds, (sign_in,), **{**choices, **variant})
    return runs


def figure1(
    recipe: str | None = None,
    seeds: Seeds = (0,),
    methods: Sequence[str] = LEARNED,
    **choices: Any,
) -> list[Run]:
    """Sign flips by phase: dense-to-sparse methods, and their masks trained from scratch."""
    runs = _pairs([recipe or IMAGENET[0]], [("random", {})], seeds, (False,), **_at(choices))
    for seed, method in itertools.product(seeds, methods):
        base = _learner(recipe, method, seed, **choices)
        runs += [base, _from_mask_of(base)]
    return runs


def figure5(
    recipe: str | None = None,
    seeds: Seeds = (0,),
    methods: Sequence[str] = LEARNED,
    **choices: Any,
) -> list[Run]:
    """Sign flips and sharpness during training, with and without Sign-In."""
    runs = [_learner(recipe, method, seed, **choices) for seed in seeds for method in methods]
    both = [
        _keeping_tenths(run)
        for run in _pairs([recipe or IMAGENET[0]], [("random", {})], seeds, **_at(choices))
    ]
    return [*map(_keeping_tenths, runs), *both]


def figure8(recipe: str | None = None, seeds: Seeds = (0,), **choices: Any) -> list[Run]:
    """Layer-wise sign flips: AC/DC, AC/DC with Sign-In, and its mask trained from scratch."""
    runs = []
    for seed in seeds:
        base = _learner(recipe, "acdc", seed, **choices)
        runs += [base, _learner(recipe, "acdc", seed, sign_in=True, **choices)]
        runs.append(_from_mask_of(base))
    return runs


def figure9(
    recipe: str | None = None,
    seeds: Seeds = (0,),
    methods: Sequence[str] = LEARNED,
    **choices: Any,
) -> list[Run]:
    """Layer-wise sparsity of all masks."""
    entries: list[Entry] = [(name, {}) for name in ("snip", "synflow", "random")]
    runs = _pairs([recipe or IMAGENET[0]], entries, seeds, (False,), **_at(choices))
    return runs + [_learner(recipe, m, seed, **choices) for seed in seeds for m in methods]


# ---- what the grids are built from


def _at(choices: dict[str, Any]) -> dict[str, Any]:
    return {"sparsity": 0.9, **choices}


def _pairs(
    recipes: Iterable[str],
    entries: Iterable[Entry],
    seeds: Seeds,
    sign_ins: Sequence[bool] = BOTH,
    **choices: Any,
) -> list[Run]:
    return [
        run_of({"recipe": recipe, "method": name, "sign_in": s, "seed": seed, **own, **choices})
        for recipe, (name, own), s, seed in itertools.product(recipes, entries, sign_ins, seeds)
    ]


def _sparsities(
    recipes: Iterable[str],
    entries: Iterable[Entry],
    seeds: Seeds,
    sign_ins: Sequence[bool] = BOTH,
    **choices: Any,
) -> list[Run]:
    wanted = [choices.pop("sparsity")] if "sparsity" in choices else SPARSITIES
    return [
        run
        for recipe, sparsity in itertools.product(recipes, wanted)
        for run in _pairs([recipe], entries, seeds, sign_ins, sparsity=sparsity, **choices)
    ]


def _learner(recipe: str | None, method: str, seed: int, **choices: Any) -> Run:
    """Return a dense-to-sparse run, whose mask and signs others use."""
    at = {"recipe": recipe or IMAGENET[0], "method": method, "seed": seed}
    return run_of({**at, **_at(choices)})


def _keeping_tenths(run: Run) -> Run:
    """Return the run with a snapshot every tenth of the epochs, at which sharpness is measured."""
    epochs = run.epochs
    tenths = sorted({round(i * epochs / 10) for i in range(11)})
    return replace(run, keep_epochs=tuple(tenths))


def _from_mask_of(base: Run, sign_in: bool = False, **sources: str) -> Run:
    """Return a run that trains the mask of another from a different initialisation."""
    run = Run.make(
        base.recipe,
        "fixed",
        mask=f"{base.name}@final",
        **sources,
        sparsity=base.sparsity,
        sign_in=sign_in,
        seed=base.seed + OTHER_SEED,
        exclude=base.exclude,
    )
    return replace(run, settings=base.settings)


# ---- by name


_TABLES = (table1, table3, table4, table5, table9, table10, table11)
_FIGURES = (figure1, figure5, figure8, figure9)
GRIDS: dict[str, Callable[..., list[Run]]] = {
    grid.__name__: grid for grid in (quick, decay, *_TABLES, *_FIGURES)
}


def find_grid(name: str, assigned: Sequence[str] = (), **choices: Any) -> list[Run]:
    """Return the runs of a named grid or of a YAML file, each after those that it needs.

    Args:
        assigned: texts `FIELD=VALUE[,VALUE…]`, see `parse_assignments`; the grid is repeated for
            each combination of their values.
        choices: recipe, seeds, methods, and values of fields for all its runs.

    Raises:
        UserError: an unknown grid, a file of another form, no seeds, an unknown field, or methods
            for a grid whose methods are fixed.
    """
    runs: list[Run] = []
    for values in parse_assignments(assigned):
        if twice := values.keys() & choices.keys():
            raise UserError(f"{min(twice)} is given twice, once by --set.")
        runs += check_options(_one_grid(name, **choices, **values), values.get(OPTIONS, {}))
    return in_order({run.name: run for run in runs}.values())  # a seed given twice is one run


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
