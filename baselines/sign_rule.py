"""SignRule: how signs are made to flip around a method's steps."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch.optim import Optimizer

from baselines.engine.product import Product
from baselines.engine.sparse_model import SparseModel
from baselines.engine.storage import Plain, Storage
from baselines.errors import UserError
from baselines.method import Method, Options


class SignRule:
    """Something done around the optimizer's steps so that signs flip, whatever the method.

    `signin.SignIn` is one. Hooks are called by `Sparsifier` and do nothing by default. A subclass
    that keeps factors gives a `storage`; one that changes the step overrides `before_update` or
    `after_update`.
    """

    def storage(self) -> Storage:
        """Return what the optimizer steps in place of the weights."""
        return Plain()

    def weight_decays(self, weight_decay: float) -> tuple[float, float]:
        """Return the weight decay of the prunable weights, and of the other parameters.

        Args:
            weight_decay: the decay of a training without the rule.
        """
        return weight_decay, weight_decay

    def begin_epoch(self, net: SparseModel, epoch: int, epochs: int) -> None:
        """Called before the first step of an epoch.

        Args:
            epoch: its number in the learning rate's schedule, from 0.
            epochs: length of that schedule.
        """

    def after_mask_change(self, net: SparseModel, epoch: int, epochs: int) -> None:
        """Called after a method has changed masks, with the epoch in which it did."""

    def before_update(self, net: SparseModel, optimizer: Optimizer) -> Any:
        """Called before each update; `weight.grad` holds the dense gradients.

        Returns:
            Anything that `after_update` needs.
        """

    def after_update(self, net: SparseModel, optimizer: Optimizer, before: Any) -> None:
        """Called after each update, with what `before_update` returned and all gradients."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned."""


@dataclass(frozen=True)
class Factors(SignRule):
    """Trains θ = m ⊙ w, and never rescales (the paper's Table 11).

    The base of Sign-In, and the rule of methods that train factors by nature.
    """

    beta: float = 1.0
    """Inner scaling β = m² − w² that a split sets."""
    frobenius_decay: float = 1e-4
    """Decay λ of θ = m ⊙ w, in the convention of weight decay (λθ is added to the gradient)."""
    sign_in_weight_decay: float = 0.0
    """Weight decay that replaces the recipe's."""
    sign_in_decay_scope: Literal["all", "factors"] = "all"
    """Replace the decay of all parameters, or of the factors m and w only."""

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise UserError(f"beta must be positive, not {self.beta}.")
        for name in ("frobenius_decay", "sign_in_weight_decay"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} must not be negative, not {getattr(self, name)}.")

    def storage(self) -> Storage:
        return Product(self.beta, self.frobenius_decay)

    def weight_decays(self, weight_decay: float) -> tuple[float, float]:
        everything = self.sign_in_decay_scope == "all"
        own = self.sign_in_weight_decay
        return own, own if everything else weight_decay


def factors_of(method: Method[Options], settings: Factors | None = None) -> Factors:
    """Return the factors of a method that trains them by nature, with its own β if it has one."""
    given = Factors() if settings is None else settings
    beta = given.beta if method.inner_scaling is None else method.inner_scaling
    decays = given.frobenius_decay, given.sign_in_weight_decay, given.sign_in_decay_scope
    return Factors(beta, *decays)


def find_rule(sign_in: SignRule | bool | None, method: Method[Options]) -> SignRule | None:
    """Return the rule that is asked for, or the factors that the method trains by definition.

    Args:
        sign_in: a rule, True for Sign-In with its default settings, or None.

    Raises:
        UserError: something else.
    """
    if sign_in is True:  # Sign-In is built on this package, which must not depend on it
        chosen: SignRule = importlib.import_module("signin").SignIn()
        return chosen
    if isinstance(sign_in, SignRule):
        return sign_in
    if sign_in:
        raise UserError(
            f"sign_in must be None, True or a SignRule such as SignIn(), not {sign_in!r}."
        )
    return factors_of(method) if method.factorised else None


def check_rule(rule: SignRule | None, method: Method[Options]) -> None:
    """Raise UserError if the method trains factors and the rule is another than theirs."""
    if rule is not None and method.factorised and not isinstance(rule, Factors):
        raise UserError(
            f"{method.name} trains factors m ⊙ w by definition: combine it with Sign-In or nothing."
        )


def weight_decays(rule: SignRule, net: SparseModel, optimizer: Optimizer) -> list[float | None]:
    """Return the weight decay of each of an optimizer's groups as the rule wants it.

    Groups that do not decay and hold no prunable weight stay without decay. None leaves a group as
    it is.

    Raises:
        UserError: a group holds prunable weights and others, and their decays would differ.
    """
    prunable = {id(weight) for weight in net.weights.values()}
    found: list[float | None] = []
    for group in optimizer.param_groups:
        decay = group.get("weight_decay", 0.0)
        own, rest = rule.weight_decays(decay)
        held = [id(parameter) in prunable for parameter in group["params"]]
        if any(held) and not all(held) and own != rest:
            raise UserError(
                "the decay of the factors differs from that of the other parameters: put the "
                "prunable weights into parameter groups of their own."
            )
        changes = "weight_decay" in group and (any(held) or decay)
        found.append((own if any(held) else rest) if changes else None)
    return found


def set_weight_decays(optimizer: Optimizer, decays: list[float | None]) -> None:
    """Set the weight decay of each of an optimizer's groups; None leaves a group as it is."""
    for group, decay in zip(optimizer.param_groups, decays, strict=True):
        if decay is not None:
            group["weight_decay"] = decay
