"""Grids: named lists of runs, the paper's and one for a quick look, and a user's own from YAML.

Named grids take the paper's recipes unless another is asked for: `--recipe digits --epochs 5` runs
any of them in minutes. Runs that need the results of others name them (`Run.needs`).
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
from launch.config.run import Run

QUICK_SPARSITY = 0.9
CIFAR = ("cifar10-resnet20", "cifar100-resnet18")
IMAGENET = ("imagenet-resnet50",)
SPARSITIES = (0.8, 0.9, 0.95)
LEARNED = ("acdc", "rigl", "str")  # the paper's dense-to-sparse methods
OTHER_SEED = 1000  # added where a mask is trained from an initialisation of its own

Seeds = Sequence[int]
Entry = tuple[str, dict[str, Any]]  # a method and its options
Both = (False, True)


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
    """Sign alignment: learned masks with learned signs, or learned magnitudes, or neither."""
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
        runs += [base, *(_from_mask_of(base, sign_in=sign_in) for sign_in in Both)]
    return runs


def table11(recipe: str | None = None, seeds: Seeds = (0, 1, 2), **choices: Any) -> list[Run]:
    """What rescaling is worth: random masks plain, with Sign-In, and with m ⊙ w alone."""
    recipes = [recipe] if recipe else [*CIFAR, *IMAGENET]
    alone = _sparsities(recipes, [("mw", {})], seeds, sign_ins=(False,), **choices)
    return table3(recipe, seeds, **choices) + alone


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


_TABLES = (table1, table3, table4, table5, table9, table10, table11)
_FIGURES = (figure1, figure5, figure8, figure9)
GRIDS: dict[str, Callable[..., list[Run]]] = {
    grid.__name__: grid for grid in (quick, *_TABLES, *_FIGURES)
}


def find_grid(name: str, **choices: Any) -> list[Run]:
    """The runs of a named grid or of a YAML file, those that others need first.

    Args:
        choices: seeds, recipe, and fields that all its runs take over.

    Raises:
        UserError: an unknown grid, a file that is not one, or no seeds.
    """
    if "seeds" in choices and not choices["seeds"]:
        raise UserError("seeds: give at least one.")
    if name.endswith((".yaml", ".yml")):
        runs = read_grid(Path(name), **choices)
    elif name in GRIDS:
        if "methods" in choices and "methods" not in signature(GRIDS[name]).parameters:
            raise UserError(f"the methods of {name} are fixed; a YAML file can have others.")
        runs = GRIDS[name](**choices)
    else:
        raise unknown("grid", name, [*GRIDS, "FILE.yaml"])
    return in_order(dict.fromkeys(runs))  # a seed given twice is one run


def in_order(runs: Iterable[Run]) -> list[Run]:
    """The runs, each after those that it needs."""
    return [run for stage in stages(runs) for run in stage]


def stages(runs: Iterable[Run]) -> list[list[Run]]:
    """The runs, in groups such that each needs earlier groups only."""
    waiting, found = {run.name: run for run in runs}, list[list[Run]]()
    while waiting:
        ready = [r for r in waiting.values() if not any(n in waiting for n in r.needs)]
        if not ready:
            raise UserError(f"these runs need each other: {', '.join(waiting)}.")
        found.append(ready)
        for run in ready:
            del waiting[run.name]
    return found


def read_grid(path: Path, **choices: Any) -> list[Run]:
    """The runs of a YAML file: the product of its lists.

        recipe: digits
        method: [random, {name: rigl, drop_fraction: 0.2}]
        sparsity: [0.8, 0.9]
        sign_in: [false, true]
        seed: [0, 1, 2]
        epochs: 5
        leave_out: [{method: rigl, sign_in: true}]
        add: [{method: dense, seed: 0}]

    Keys are fields of runs, recipes, Sign-In and methods. `leave_out` drops the combinations that
    have all of the values of one of its entries; `add` has further products of the same form.

    Args:
        choices: from the command line, in place of the file's.

    Raises:
        UserError: no such file, not of this form, or an unknown key or value.
    """
    import yaml

    try:
        found = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a mapping of fields to values.")
    for several, one in (("seeds", "seed"), ("methods", "method")):
        if several in choices:
            choices[one] = list(choices.pop(several))
    rest = {k: v for k, v in found.items() if k not in ("leave_out", "add")}
    entries = [rest, *({**rest, **entry} for entry in _entries(found, "add", path))]
    without = _entries(found, "leave_out", path)
    combinations = [values for entry in entries for values in _product({**entry, **choices})]
    known = {key for values in combinations for key in values}
    for key in {key for out in without for key in out} - known:
        raise unknown("key of leave_out", str(key), known)
    return [
        _run(values)
        for values in combinations
        if not any(all(values.get(k) == v for k, v in out.items()) for out in without)
    ]


def _entries(found: dict[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    entries = found.get(key) or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{path}: {key} must be a list of mappings.")
    return entries


def _product(fields: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """All combinations. Methods with options are taken apart."""
    lists = {key: _choices(key, value) for key, value in fields.items()}
    for values in itertools.product(*lists.values()):
        chosen = dict(zip(lists, values, strict=True))
        method = chosen.get("method", "dense")
        if isinstance(method, dict):
            if "name" not in method:
                raise UserError(f"a method with options needs its name: {method}.")
            chosen |= {"method": method["name"]}
            chosen |= {key: value for key, value in method.items() if key != "name"}
        yield chosen


def _choices(key: str, value: Any) -> list[Any]:
    """The values of a field. Some fields are lists themselves: a list of lists are choices then."""
    if key in ("exclude", "keep_epochs"):
        nested = isinstance(value, list) and value and isinstance(value[0], list)
        return value if nested else [value]
    return value if isinstance(value, list) else [value]


def _run(values: dict[str, Any]) -> Run:
    chosen = dict(values)
    recipe, method = chosen.pop("recipe", "digits"), chosen.pop("method", "dense")
    if not find_method(method).is_sparse:
        chosen["sparsity"] = 0.0
    return Run.make(recipe, method, **chosen)


# ---- what the named grids are made of


def _at(choices: dict[str, Any]) -> dict[str, Any]:
    return {"sparsity": 0.9, **choices}


def _pairs(
    recipes: Iterable[str],
    entries: Iterable[Entry],
    seeds: Seeds,
    sign_ins: Sequence[bool] = Both,
    **choices: Any,
) -> list[Run]:
    return [
        _run({"recipe": recipe, "method": name, "sign_in": s, "seed": seed, **own, **choices})
        for recipe, (name, own), s, seed in itertools.product(recipes, entries, sign_ins, seeds)
    ]


def _sparsities(
    recipes: Iterable[str],
    entries: Iterable[Entry],
    seeds: Seeds,
    sign_ins: Sequence[bool] = Both,
    **choices: Any,
) -> list[Run]:
    wanted = [choices.pop("sparsity")] if "sparsity" in choices else SPARSITIES
    return [
        run
        for recipe, sparsity in itertools.product(recipes, wanted)
        for run in _pairs([recipe], entries, seeds, sign_ins, sparsity=sparsity, **choices)
    ]


def _learner(recipe: str | None, method: str, seed: int, **choices: Any) -> Run:
    """A dense-to-sparse run, for others to take its mask and signs."""
    at = {"recipe": recipe or IMAGENET[0], "method": method, "seed": seed}
    return _run({**at, **_at(choices)})


def _keeping_tenths(run: Run) -> Run:
    """With a snapshot every tenth of the epochs, to follow sharpness by."""
    epochs = run.epochs
    tenths = sorted({round(i * epochs / 10) for i in range(11)})
    return replace(run, keep_epochs=tuple(tenths))


def _from_mask_of(base: Run, sign_in: bool = False, **sources: str) -> Run:
    """The mask of a run, trained from another initialisation."""
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
