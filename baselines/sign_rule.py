"""SignRule: how signs are made to flip around a method's steps."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal, Self

from torch.optim import Optimizer

from baselines.engine.decoupled_decay import decouples_decay
from baselines.engine.product import Product
from baselines.engine.sparse_model import SparseModel
from baselines.engine.storage import Names, Plain, Storage
from baselines.errors import UserError, check_not_negative, check_positive
from baselines.fields import changed, check_types
from baselines.method import Method, Options


class SignRule:
    """Something done around the optimizer's steps so that signs flip, whatever the method.

    `signin.SignIn` is one. Hooks are called by `Sparsifier` and do nothing by default. A subclass
    that keeps factors gives a `storage`; one that changes the step overrides `before_update` or
    `after_update`.
    """

    def storage(self, names: Names = ()) -> Storage:
        """Return what the optimizer steps in place of the weights.

        Args:
            names: of the prunable weights, in the order of the network.
        """
        return Plain()

    def following(self, weight_decay: float, decoupled: bool) -> SignRule:
        """Return the rule with values for all settings that follow the training's weight decay.

        Args:
            weight_decay: of the prunable weights, in a training without the rule.
            decoupled: whether the optimizer subtracts it from the weights (AdamW), instead of
                adding it to the gradient.
        """
        return self

    def theta_decay(self, weight_decay: float, momentum: float = 0.0) -> float:
        """Return the weight decay at which SGD without the rule decays θ near zero as fast."""
        return weight_decay

    def weight_decays(self, weight_decay: float) -> tuple[float, float]:
        """Return the weight decay of the prunable weights, and of the other parameters.

        Args:
            weight_decay: the decay of a training without the rule.
        """
        return weight_decay, weight_decay

    def warn_if_short(self, epochs: int, keeps_masks: bool) -> None:
        """Warn if a training has too few epochs for the rule. Called by `sparsify`.

        Args:
            epochs: length of the training.
            keeps_masks: whether the method keeps its first masks.
        """

    def begin_epoch(self, net: SparseModel, epoch: int, epochs: int) -> None:
        """Called before the first step of an epoch.

        Args:
            epoch: its number in the learning rate's schedule, from 0.
            epochs: length of that schedule.
        """

    def after_mask_change(self, net: SparseModel, epoch: int, epochs: int) -> None:
        """Called after a method has changed masks, with the epoch in which it did."""

    def before_update(self, net: SparseModel, optimizer: Optimizer) -> Any:
        """Called before each update; `weight.grad` holds gradients, at active positions.

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
    """Trains θ = m ⊙ w, without rescaling (the paper's Table 11).

    The base of Sign-In, and the rule of methods that train factors by definition.
    """

    beta: float = 1.0
    """Inner scaling β = m² − w² of the initial factors, which a rescale restores."""
    beta_last: float = 0.0
    """β of the last prunable layer: layer l = 0, …, L − 1, in the order of the network, has
    β_l = beta·(beta_last/beta)^(l/(L − 1)). 0: beta in all layers, as in the paper."""
    sign_in_decays: Literal["auto", "product", "factors"] = "auto"
    """What the weight decay of the training acts on, where the next two give no values: the product
    θ (Frobenius decay), or the factors m and w. auto: the factors if the optimizer decouples the
    decay (AdamW), else the product."""
    frobenius_decay: float | None = changed(None, before=1e-4)
    """Decay λ of θ = m ⊙ w, in the convention of weight decay (λθ is added to the gradient). None:
    the weight decay of the training, or 0 if that acts on the factors."""
    sign_in_weight_decay: float | None = changed(None, before=0.0)
    """Weight decay that replaces that of the training. None: the same one if it acts on the
    factors, else 0."""
    sign_in_decay_scope: Literal["all", "factors"] = "all"
    """Replace the decay of all parameters, or of the factors m and w only."""

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(beta=self.beta)
        check_not_negative(
            beta_last=self.beta_last,
            frobenius_decay=self.frobenius_decay or 0,
            sign_in_weight_decay=self.sign_in_weight_decay or 0,
        )

    def following(self, weight_decay: float, decoupled: bool) -> Self:
        auto = "factors" if decoupled else "product"
        target = auto if self.sign_in_decays == "auto" else self.sign_in_decays
        product, factors = self.frobenius_decay, self.sign_in_weight_decay
        if product is None:
            product = weight_decay if target == "product" else 0.0
        if factors is None:
            factors = weight_decay if target == "factors" else 0.0
        return replace(
            self, sign_in_decays="auto", frobenius_decay=product, sign_in_weight_decay=factors
        )

    def storage(self, names: Names = ()) -> Storage:
        return Product(self.beta, self._decays[0], self.betas(names))

    def betas(self, names: Names) -> dict[str, float]:
        """Return β by layer, from `beta` to `beta_last`; empty if all layers have `beta`."""
        if not self.beta_last:
            return {}
        ratio, intervals = self.beta_last / self.beta, max(1, len(names) - 1)
        return {name: self.beta * ratio ** (i / intervals) for i, name in enumerate(names)}

    def theta_decay(self, weight_decay: float, momentum: float = 0.0) -> float:
        """Return βλ + 2μ, for the decays λ of θ = m ⊙ w and μ of the factors.

        At θ = 0 the step −λθ moves the product by m² + w² = β times as much. If layers have several
        β, it is their geometric mean.
        """
        beta = math.sqrt(self.beta * self.beta_last) if self.beta_last else self.beta
        product, factors = self._decays
        return beta * product + 2 * factors

    def weight_decays(self, weight_decay: float) -> tuple[float, float]:
        everything = self.sign_in_decay_scope == "all"
        own = self._decays[1]
        return own, own if everything else weight_decay

    def state_dict(self) -> dict[str, Any]:
        return {"decays": [float(decay) for decay in self._decays]}  # not numpy's numbers

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Warn if the training that is resumed had other decays: the optimizer's may be lost."""
        before = state.get("decays")
        if before is not None and before != list(self._decays):
            warnings.warn(
                f"the state is of a training with frobenius_decay {before[0]:g} and "
                f"sign_in_weight_decay {before[1]:g}, not {self._decays[0]:g} and "
                f"{self._decays[1]:g}: give the optimizer its weight decay before sparsify().",
                stacklevel=3,
            )

    @property
    def _decays(self) -> tuple[float, float]:
        """The decays of θ and of the factors. Raises UserError."""
        product, factors = self.frobenius_decay, self.sign_in_weight_decay
        if product is None or factors is None:
            raise UserError(
                "a decay follows the weight decay of the training, which is not known: use "
                "sparsify(), rule.following(…), or give frobenius_decay and sign_in_weight_decay."
            )
        return product, factors


def factors_of(method: Method[Options], settings: Factors | None = None) -> Factors:
    """Return the factors of a method that trains them by definition, with its β if it has one."""
    given = Factors() if settings is None else settings
    own = {spec.name: getattr(given, spec.name) for spec in fields(Factors)}
    if method.inner_scaling is not None:
        own |= {"beta": method.inner_scaling, "beta_last": 0.0}
    return Factors(**own)


def find_rule(
    sign_in: SignRule | bool | None, method: Method[Options], net: SparseModel, optimizer: Optimizer
) -> SignRule | None:
    """Return the rule that is asked for, or the factors that the method trains by definition.

    Args:
        sign_in: a rule, True for Sign-In with its default settings, or None.
        optimizer: decays that are not given follow its weight decay of prunable weights.

    Raises:
        UserError: `sign_in` is something else, or the prunable weights have different decays and
            one must be followed.
    """
    if sign_in is True:  # Sign-In is built on this package, which must not depend on it
        chosen: SignRule = importlib.import_module("signin").SignIn()
        return _following(chosen, net, optimizer)
    if isinstance(sign_in, SignRule):
        return _following(sign_in, net, optimizer)
    if sign_in:
        raise UserError(
            f"sign_in must be None, True or a SignRule such as SignIn(), not {sign_in!r}."
        )
    return _following(factors_of(method), net, optimizer) if method.factorised else None


def _following(rule: SignRule, net: SparseModel, optimizer: Optimizer) -> SignRule:
    prunable = {id(weight) for weight in net.weights.values()}
    decays = {
        float(group.get("weight_decay", 0.0))
        for group in optimizer.param_groups
        if any(id(parameter) in prunable for parameter in group["params"])
    }
    decoupled = decouples_decay(optimizer)
    found = [rule.following(decay, decoupled) for decay in sorted(decays)]
    if any(other != found[0] for other in found):
        raise UserError(
            f"the prunable weights have different weight decays ({', '.join(map(str, decays))}), "
            "which Sign-In cannot follow: give frobenius_decay and sign_in_weight_decay."
        )
    return found[0]


def check_rule(rule: SignRule | None, method: Method[Options]) -> None:
    """Raise UserError if the method trains factors and the rule is another than theirs."""
    if rule is not None and method.factorised and not isinstance(rule, Factors):
        raise UserError(
            f"{method.name} trains factors m ⊙ w by definition: combine it with Sign-In or nothing."
        )


def weight_decays(rule: SignRule, net: SparseModel, optimizer: Optimizer) -> list[float | None]:
    """Return the weight decay that the rule needs for each of an optimizer's groups.

    Groups that do not decay and hold no prunable weight stay without decay. None leaves a group as
    it is.

    Raises:
        UserError: a group holds prunable weights and others, and their decays would differ; or the
            optimizer has no weight decay, which the rule needs.
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
        if any(held) and own and "weight_decay" not in group:
            raise UserError(
                f"{type(optimizer).__name__} has no weight_decay, so that sign_in_weight_decay "
                f"{own:g} has no effect: set it to 0; frobenius_decay acts with any optimizer."
            )
        changes = "weight_decay" in group and (any(held) or decay)
        found.append((own if any(held) else rest) if changes else None)
    return found


def set_weight_decays(optimizer: Optimizer, decays: list[float | None]) -> Callable[[], Any]:
    """Set the weight decay of each of an optimizer's groups; None leaves a group as it is.

    Returns:
        A function that restores them. Groups that were added since do not change.
    """
    before: list[float | None] = []
    for group, decay in zip(optimizer.param_groups, decays, strict=False):
        before.append(None if decay is None else group["weight_decay"])
        if decay is not None:
            group["weight_decay"] = decay
    return partial(set_weight_decays, optimizer, before)
