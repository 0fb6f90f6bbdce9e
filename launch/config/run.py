"""One run: its choices, and the name of its folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import launch.plugins  # noqa: F401  # registers signin's methods
from analysis.folder import is_finished
from baselines.errors import UserError, check_fraction, check_not_negative, unknown
from baselines.fields import differences, first_default_of, typed
from baselines.method import Method, Options, Plan
from baselines.methods.str_ import StrOptions
from baselines.registry import find_method
from baselines.sign_rule import Factors, SignRule, factors_of
from launch.config.recipe import (
    RULES,
    Recipe,
    field_names,
    replace_fields,
    replace_settings,
    setting_names,
)
from launch.config.recipes import find_recipe, known_recipe, recipe_name
from launch.config.str_constants import find_constants


@dataclass(frozen=True)
class Run:
    """One run. Equal runs share a folder; runs that differ in any field have different folders."""

    recipe: str
    """A name of `signbench recipes`, or a YAML file."""
    method: str
    """A name of `signbench methods`, or package.module:Class. --method NAME --help lists the
    options of a method: those of fixed take masks and initial weights from runs and files."""
    options: Options
    settings: Recipe
    sparsity: float = 0.9
    """Fraction of the prunable weights that end at zero, in [0, 1)."""
    sign_in: bool = False
    """Train with the re-parameterisation θ = m ⊙ w."""
    ham: bool = False
    """Take HAM's multiplicative step after each step of the optimizer."""
    seed: int = 0
    """Seed of initialisation, masks, data order and augmentation."""
    exclude: tuple[str, ...] = ()
    """Keep parameters dense whose names match one of these glob patterns."""
    keep_epochs: tuple[int, ...] = ()
    """Keep snapshots after these epochs, besides 0, a tenth, three tenths and the last."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "recipe", recipe_name(self.recipe))  # a file's is not its path
        check_fraction(sparsity=self.sparsity)
        if self.sparsity and not find_method(self.method).is_sparse:
            raise UserError(f"{self.method} keeps every weight: sparsity must be 0.")
        if self.ham and self.factorised:
            raise UserError("ham combines with methods that train plain weights, without sign_in.")
        check_not_negative(seed=self.seed)
        beyond = [e for e in self.keep_epochs if not 0 <= e <= self.epochs]
        if beyond:
            raise UserError(f"keep_epochs: {beyond[0]} is not in 0 to {self.epochs}.")

    @classmethod
    def make(cls, recipe: str, method: str, **choices: Any) -> Run:
        """Return a run from names and any fields of Run, Recipe, SignIn, HAM and the options.

        Raises:
            UserError: an unknown name or field, or a value that is not allowed.
        """
        return cls._of(recipe, method, **choices).calibrated()

    @classmethod
    def defaults(cls, recipe: str, method: str) -> Run:
        """Return the run with default values, of which choices replace fields. Raises UserError.

        It has no calibrated constants, which depend on the other choices.
        """
        return cls._of(recipe, method)

    @classmethod
    def _of(cls, recipe: str, method: str, **choices: Any) -> Run:
        settings, options = find_recipe(recipe), find_method(method).options_class()
        if not find_method(method).is_sparse:
            choices.setdefault("sparsity", 0.0)
        own = field_names(cls) - {"options", "settings"}
        for name in sorted(field_names(options) & (own | setting_names(settings))):
            raise UserError(f"{method}: rename its option {name}, which is a field of every run.")
        options = replace_fields(options, choices)
        settings = replace_settings(settings, choices)
        for key in choices.keys() - own:
            raise unknown("field", key, own | field_names(options) | setting_names(settings))
        return cls(recipe, method, options, settings, **typed(cls, choices))

    def calibrated(self) -> Run:
        """Return the run with the constants of STR that reach its sparsity, if they are known."""
        options = self.options
        if not isinstance(options, StrOptions) or options.s_init or options.threshold_decay:
            return self
        found = None if options.calibrated else find_constants(self.conditions)
        if found is None:
            return self
        options = dataclasses.replace(options, calibrated=tuple(found))
        return dataclasses.replace(self, options=options)

    def differences(self) -> dict[str, Any]:
        """Return the fields that differ from the first version's defaults, by dotted name.

        A field that is added to the classes later does not change the names of earlier runs, if
        its default does what they did. If it does not, or if a default changes, declare the field
        with `baselines.fields.changed`.
        """
        unlike_first = partial(differences, default=first_default_of)
        found = unlike_first(self, leave_out=("options", "settings"))
        found |= unlike_first(self.options, "options.")
        found |= unlike_first(self.settings, "settings.", leave_out=RULES)
        late = self.sign_in and not find_method(self.method).keeps_masks()
        unused = () if late else ("rescale_masks_late",)
        settings = self.decayed.settings
        for name in self.used_rules:
            found |= unlike_first(getattr(settings, name), f"settings.{name}.", unused)
        return found

    @property
    def decayed(self) -> Run:
        """The run with values for the decays of Sign-In that follow the recipe's weight decay."""
        settings = dataclasses.replace(self.settings, sign_in=self.settings.sign_in_decayed)
        return dataclasses.replace(self, settings=settings)

    @property
    def sign_rule(self) -> SignRule | None:
        """The rule that is asked for, or the factors that the method trains by nature."""
        recipe = self.settings
        if self.sign_in or self.ham:
            return recipe.sign_in_decayed if self.sign_in else recipe.ham
        if not self.factorised:
            return None
        return factors_of(self._method(steps_per_epoch=1), recipe.sign_in_decayed)

    @property
    def decays(self) -> dict[str, float]:
        """Weight decay of θ near zero, and of normalisation and biases: "theta" and "others"."""
        recipe, rule = self.settings, self.sign_rule or SignRule()
        _, others = rule.weight_decays(recipe.weight_decay)
        theta = rule.theta_decay(recipe.weight_decay, recipe.inertia)
        return {"theta": theta, "others": others if recipe.decay_norm_and_bias else 0.0}

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the runs that must have finished before."""
        return self.options.needs

    @property
    def epochs(self) -> int:
        """Epochs of the whole run; more than the recipe's where a method trains repeatedly."""
        return self._method(steps_per_epoch=1).epochs

    @cached_property
    def early_epochs(self) -> tuple[int, int]:
        """A tenth and three tenths of the epochs, whose snapshots are always kept.

        They are the paper's epochs 10, which it calls the end of warm-up, and 30 of 100. With
        AC/DC, the last epochs up to these that end dense: masked weights have no sign.
        """
        method = self._method(steps_per_epoch=1000)  # phases can change within an epoch
        first, second = (max(1, round(part * self.epochs)) for part in (0.1, 0.3))
        return method.early_epoch(first), method.early_epoch(second)

    @property
    def shortage(self) -> str:
        """Why Sign-In does not rescale after the first epoch; empty if it does, or need not."""
        if not self.sign_in:
            return ""
        method = self._method(steps_per_epoch=1)
        return self.settings.sign_in.shortage(method.epoch_of(0)[1], method.keeps_masks())

    def _method(self, steps_per_epoch: int) -> Method[Options]:
        """Return the method of a training with this number of steps per epoch."""
        recipe = self.settings
        plan = Plan(self.sparsity, recipe.epochs * steps_per_epoch, steps_per_epoch, self.seed)
        return find_method(self.method)(plan, self.options)

    @property
    def kept_epochs(self) -> set[int]:
        """The epochs after which snapshots are kept."""
        return {0, *self.early_epochs, self.epochs, *self.keep_epochs}

    @property
    def factorised(self) -> bool:
        """Whether factors m ⊙ w are trained: with Sign-In, and by some methods always."""
        return self.sign_in or find_method(self.method).factorised

    @property
    def used_rules(self) -> tuple[str, ...]:
        """Fields of the settings with a sign rule that the run uses."""
        used = {"sign_in": self.factorised, "ham": self.ham}
        return tuple(name for name in RULES if used[name])

    @property
    def unused_settings(self) -> dict[str, str]:
        """Settings of sign rules that have no effect on the run, and the field that they need."""
        used = field_names(self.settings.sign_in) if self.sign_in else set[str]()
        if self.factorised and not self.sign_in:  # methods that train factors do not rescale
            method = self._method(steps_per_epoch=1)
            used = field_names(Factors) - ({"beta", "beta_last"} if method.inner_scaling else set())
        used |= field_names(self.settings.ham) if self.ham else set()
        rules = {name: field_names(getattr(self.settings, name)) - used for name in RULES}
        return {name: rule for rule, names in rules.items() for name in sorted(names)}

    @property
    def label(self) -> str:
        """The method as tables name it: with the options that are not at their defaults."""
        own = differences(self.options, leave_out=self.options.unlabelled)
        values = ", ".join(v if isinstance(v, str) else f"{k}={v}" for k, v in own.items())
        method = find_method(self.method).name
        return f"{method} ({values})" if own else method

    @property
    def title(self) -> str:
        """The name, and in brackets what the name does not contain.

        That is: the method's options, the settings that differ from the recipe's, and `exclude`.
        """
        recipe = known_recipe(self.recipe) or self.settings
        told = differences(self.options) | _changes(self.settings, recipe)
        told = {key: value for key, value in told.items() if key not in RULES}
        for rule in self.used_rules:
            told |= _changes(getattr(self.settings, rule), getattr(recipe, rule))
        if self.exclude:
            told["exclude"] = " ".join(self.exclude)
        texts = [f"{key}={value}" for key, value in told.items()]
        return f"{self.name} ({', '.join(texts)})" if texts else self.name

    @cached_property  # a large grid asks often
    def name(self) -> str:
        """The folder's name: readable, and unique by a hash of `differences`."""
        return f"{self._prefix}-seed{self.seed}-{_digest(self.differences())}"

    @property
    def conditions(self) -> str:
        """A name of everything except seed, options and kept epochs: what constants depend on."""
        shared = {
            name: value
            for name, value in self.differences().items()
            if name not in ("seed", "keep_epochs") and not name.startswith("options.")
        }
        return f"{self._prefix}-{_digest(shared)}"

    @property
    def _prefix(self) -> str:
        rule = "-signin" if self.sign_in else "-ham" if self.ham else ""
        sparsity = f"-s{self.sparsity:g}" if self.sparsity else ""
        method = find_method(self.method).name  # self.method can be "package.module:Class"
        return f"{self.recipe}-{method}{rule}{sparsity}"


def warn_of_short(runs: Sequence[Run], root: Path) -> None:
    """Warn of unfinished runs that are too short for Sign-In, once for each reason.

    Args:
        root: the folder of the run folders.
    """
    short: dict[str, list[str]] = {}
    for run in runs:
        if (reason := run.shortage) and not is_finished(root / run.name):  # which reads a file
            short.setdefault(reason, []).append(run.method)
    for reason, methods in short.items():
        which = f"{len(methods)} of {len(runs)} runs: {', '.join(dict.fromkeys(methods))}"
        share = f" ({which})" if len(runs) > 1 else ""
        warnings.warn(f"{reason}{share}", stacklevel=3)


def _digest(fields: dict[str, Any]) -> str:
    text = json.dumps(fields, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _changes(value: Any, base: Any) -> dict[str, Any]:
    """Return the fields of a dataclass instance that differ from those of another."""
    return differences(value, default=lambda spec: getattr(base, spec.name))
