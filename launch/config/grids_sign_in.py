"""Named grids of Sign-In beyond its paper: decays, when it rescales, β by layer, denser masks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from launch.config.grid_file import run_of
from launch.config.grid_parts import BOTH, CIFAR, PLAIN, Entry, Rule, Seeds, at_sparsity, pairs
from launch.config.run import Run

PERIODS, UNTIL = (1, 2, 5), (0.25, 0.5, 1.0)  # p in epochs, and T₂ as a fraction of them
EQUAL = (0.25, 1.0, 4.0)  # β of all layers
GRADED = ((0.5, 2.0), (0.25, 4.0))  # β of the first and the last layer, of geometric mean 1
TIMES_DENSER = (2, 4)


def decay(
    recipe: str | None = None,
    seeds: Seeds = (0, 1, 2),
    methods: Sequence[str] = ("random",),
    **choices: Any,
) -> list[Run]:
    """What Sign-In gains at equal weight decays: of θ, of all else, and at twice the decay."""
    recipe, choices = recipe or CIFAR[0], at_sparsity(choices)
    settings = run_of({"recipe": recipe, "method": "random", "sign_in": True, **choices}).settings
    lam, sign_in = settings.weight_decay, settings.sign_in_decayed
    twice, none = {"weight_decay": 2 * lam}, {"decay_norm_and_bias": False}
    # the others keep the decay of plain runs
    factors: dict[str, Any] = {"sign_in_decay_scope": "factors"}
    halved = {"sign_in_decays": "factors", "sign_in_weight_decay": lam / 2}  # θ decays with both
    plain: list[dict[str, Any]] = [{}, twice, none]
    equal = {} if sign_in.sign_in_weight_decay == lam else factors  # under both scopes
    ours = [{}, twice, equal, {**equal, **none}, {**factors, **halved}]
    runs = []
    for rule, variants in zip(BOTH, (plain, ours), strict=True):
        for variant, name in itertools.product(variants, methods):
            runs += pairs([recipe], [(name, {})], seeds, (rule,), **{**choices, **variant})
    return runs


def rescaling(
    recipe: str | None = None,
    seeds: Seeds = (0, 1, 2),
    methods: Sequence[str] = ("random",),
    **choices: Any,
) -> list[Run]:
    """Plain runs, Sign-In without rescaling, and Sign-In by period p and end T₂ of rescaling.

    Settings that never rescale after the first step are left out: they train the same network.
    """
    settings = [{"rescale_period": p, "rescale_until": t} for p in PERIODS for t in UNTIL]
    runs = _with_settings([{"rescale_period": 0}, *settings], recipe, seeds, methods, choices)
    return [run for run in runs if not run.shortage]


def beta(
    recipe: str | None = None,
    seeds: Seeds = (0, 1, 2),
    methods: Sequence[str] = ("random",),
    **choices: Any,
) -> list[Run]:
    """Plain runs, and Sign-In with the same β in all layers, rising, or falling by layer."""
    graded = [(a, b) for low, high in GRADED for a, b in ((low, high), (high, low))]
    settings = [{"beta": value} for value in EQUAL]
    settings += [{"beta": first, "beta_last": last} for first, last in graded]
    return _with_settings(settings, recipe, seeds, methods, choices)


def denser(recipe: str | None = None, seeds: Seeds = (0, 1, 2), **choices: Any) -> list[Run]:
    """Random masks of the requested density, and denser ones that are pruned to it, with Sign-In.

    They have two and four times as many weights at the start, or all, and the same sparsity in all
    layers, before and after. Random masks have that, too, or are balanced as in the paper.
    """
    choices = at_sparsity(choices)
    density = 1 - choices["sparsity"]
    firsts = [round(1 - times * density, 6) for times in TIMES_DENSER if times * density < 1]
    entries: list[Entry] = [("random", {}), ("random", {"density": "uniform"})]
    entries += [("gmp", {"initial_sparsity": first}) for first in (*firsts, 0.0)]
    return pairs([recipe or CIFAR[0]], entries, seeds, BOTH, **choices)


def _with_settings(
    settings: Sequence[dict[str, Any]],
    recipe: str | None,
    seeds: Seeds,
    methods: Sequence[str],
    choices: dict[str, Any],
) -> list[Run]:
    """Return plain runs, and runs with Sign-In at each of the settings."""
    rules: list[Rule] = [PLAIN, *({"sign_in": True, **setting} for setting in settings)]
    entries: list[Entry] = [(name, {}) for name in methods]
    return pairs([recipe or CIFAR[0]], entries, seeds, rules, **at_sparsity(choices))
