"""Sign-In: its settings, its factors, and when it rescales them.

"Sign-In to the Lottery" (arXiv 2504.12801), Algorithm 1. Training steps two factors of every weight
that the mask keeps, θ = m ⊙ w. A rescale splits θ again with m² − w² = β: it does not change the
network, and makes signs easy to flip again (see `baselines.engine.product`).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from baselines.engine.sparse_model import SparseModel
from baselines.errors import check_in_unit, check_not_negative
from baselines.fields import changed
from baselines.sign_rule import Factors


@dataclass(frozen=True)
class SignIn(Factors):
    """Sign-In, with the settings of the paper's Table 7 for CIFAR. Combines with every method.

    With AdamW the decay acts on the factors, as in the table for ImageNet; T₂ is that of CIFAR,
    half of the epochs.
    """

    rescale_period: int = 1
    """Rescale every p epochs; 0: never, which is plain m ⊙ w. The paper does not state its p."""
    rescale_until: float = 0.5
    """T₂ as a fraction of the epochs: no rescale from then on."""
    rescale_after_masks: bool = True
    """Also rescale after each change of masks before T₂ (unless rescale_period is 0)."""
    rescale_masks_late: bool = changed(False, before=True)
    """Rescale after changes of masks from T₂ on, too, which Algorithm 1 does not do."""
    rescale_resets_state: bool = False
    """Clear the factors' momentum at a rescale. The paper's listing keeps it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(rescale_period=self.rescale_period)
        check_in_unit(rescale_until=self.rescale_until)

    def rescale_epochs(self, epochs: int) -> range:
        """Return the epochs, counted from 0, before which Algorithm 1 rescales.

        They are the paper's i − 1, for multiples i of p below T₂.

        Args:
            epochs: length of the training.
        """
        period = self.rescale_period
        return range(period - 1, self._until(epochs) - 1, period) if period else range(0)

    def rescales_later(self, epochs: int, keeps_masks: bool) -> bool:
        """Return whether a rescale can follow the first epoch. An earlier one has no effect.

        Args:
            epochs: length of the training.
            keeps_masks: whether the method keeps its first masks.
        """
        after_masks = self.rescale_after_masks and not keeps_masks and self.rescale_period > 0
        last = epochs if self.rescale_masks_late else self._until(epochs) - 1
        return any(self.rescale_epochs(epochs)[-1:]) or (after_masks and last > 1)

    def shortage(self, epochs: int, keeps_masks: bool, more: str = "more epochs") -> str:
        """Return why no rescale follows the first epoch; empty if one does, or none is wanted.

        Args:
            more: what gives a training more epochs.
        """
        if not self.rescale_period or self.rescales_later(epochs, keeps_masks):
            return ""
        return (
            f"Sign-In does not rescale after the first epoch: too few epochs ({epochs}) for "
            f"rescale_period {self.rescale_period} and rescale_until {self.rescale_until:g}. "
            f"Give {more}, a larger rescale_until, or rescale_period=0 for plain m ⊙ w."
        )

    def warn_if_short(self, epochs: int, keeps_masks: bool) -> None:
        if reason := self.shortage(epochs, keeps_masks, "a smaller steps_per_epoch"):
            warnings.warn(reason, stacklevel=3)

    def begin_epoch(self, net: SparseModel, epoch: int, epochs: int) -> None:
        """Rescale before the epochs of Algorithm 1."""
        if epoch in self.rescale_epochs(epochs):
            net.rescale(self.rescale_resets_state)

    def after_mask_change(self, net: SparseModel, epoch: int, epochs: int) -> None:
        """Rescale under a changed mask, before T₂ unless asked for later, too."""
        wanted = self.rescale_after_masks and self.rescale_period > 0
        if wanted and (self.rescale_masks_late or epoch + 1 < self._until(epochs)):
            net.rescale(self.rescale_resets_state)

    def _until(self, epochs: int) -> int:
        """Return T₂ in epochs."""
        return round(self.rescale_until * epochs)
