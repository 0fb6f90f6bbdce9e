"""Named grids: lists of runs for the paper's tables and figures, and one for a quick look.

They use the paper's recipes unless another is given: `--recipe digits --epochs 5` runs any of
them in minutes. Runs that need the results of others name them (`Run.needs`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from baselines.registry import find_method
from baselines.registry import methods as all_methods
from launch.config.grid_file import run_of
from launch.config.recipes import find_recipe
from launch.config.run import Run

QUICK_SPARSITY = 0.9
CIFAR = ("cifar10-resnet20", "cifar100-resnet18")
IMAGENET = ("imagenet-resnet50",)
SPARSITIES = (0.8, 0.9, 0.95)
LEARNED = ("acdc", "rigl", "str")  # the paper's dense-to-sparse methods
OTHER_SEED = 1000  # added to the seed of runs that train another run's mask

Seeds = Sequence[int]
Entry = tuple[str, dict[str, Any]]  # a method and its options
Rule = dict[str, Any]
PLAIN: Rule = {"sign_in": False}
BOTH: Sequence[Rule] = (PLAIN, {"sign_in": True})
ALL: Sequence[Rule] = (*BOTH, {"ham": True})


def quick(
    recipe: str | None = None,
    seeds: Seeds = (0, 1, 2),
    methods: Sequence[str] | None = None,
    **choices: Any,
) -> list[Run]:
    """Every method, plain, with Sign-In and with HAM, at a sparsity that is hard for digits."""
    choices = {"sparsity": QUICK_SPARSITY, **choices}
    runs = []
    for name in all_methods() if methods is None else methods:
        for variant in find_method(name).variants:
            runs += _pairs([recipe or "digits"], [(name, variant)], seeds, ALL, **choices)
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
        runs += [base, *(_from_mask_of(base, **rule) for rule in BOTH)]
    return runs


def table11(recipe: str | None = None, seeds: Seeds = (0, 1, 2), **choices: Any) -> list[Run]:
    """Effect of rescaling: random masks plain, with Sign-In, and with m ⊙ w without rescaling."""
    recipes = [recipe] if recipe else [*CIFAR, *IMAGENET]
    alone = _sparsities(recipes, [("mw", {})], seeds, rules=(PLAIN,), **choices)
    return table3(recipe, seeds, **choices) + alone


def ham(recipe: str | None = None, seeds: Seeds = (0, 1, 2), **choices: Any) -> list[Run]:
    """Random masks, AC/DC and RigL: plain, with Sign-In, and with HAM."""
    entries: list[Entry] = [(name, {}) for name in ("random", "acdc", "rigl")]
    return _sparsities([recipe] if recipe else IMAGENET, entries, seeds, ALL, **choices)


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
    for rule, variants in zip(BOTH, (plain, ours), strict=True):
        for variant, name in itertools.product(variants, methods):
            runs += _pairs([recipe], [(name, {})], seeds, (rule,), **{**choices, **variant})
    return runs


def figure1(
    recipe: str | None = None,
    seeds: Seeds = (0,),
    methods: Sequence[str] = LEARNED,
    **choices: Any,
) -> list[Run]:
    """Sign flips by phase: dense-to-sparse methods, and their masks trained from scratch."""
    runs = _pairs([recipe or IMAGENET[0]], [("random", {})], seeds, (PLAIN,), **_at(choices))
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
    runs = _pairs([recipe or IMAGENET[0]], entries, seeds, (PLAIN,), **_at(choices))
    return runs + [_learner(recipe, m, seed, **choices) for seed in seeds for m in methods]


# ---- what the grids are built from


def _at(choices: dict[str, Any]) -> dict[str, Any]:
    return {"sparsity": 0.9, **choices}


def _pairs(
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


def _sparsities(
    recipes: Iterable[str],
    entries: Iterable[Entry],
    seeds: Seeds,
    rules: Sequence[Rule] = BOTH,
    **choices: Any,
) -> list[Run]:
    wanted = [choices.pop("sparsity")] if "sparsity" in choices else SPARSITIES
    return [
        run
        for recipe, sparsity in itertools.product(recipes, wanted)
        for run in _pairs([recipe], entries, seeds, rules, sparsity=sparsity, **choices)
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
    grid.__name__: grid for grid in (quick, ham, decay, *_TABLES, *_FIGURES)
}
