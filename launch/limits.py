"""Limits for files from elsewhere, checked before anything is allocated."""

from __future__ import annotations

import os
from dataclasses import dataclass

from baselines.errors import UserError


@dataclass(frozen=True)
class Limit:
    """A limit that an environment variable changes, also for worker processes and Slurm jobs."""

    variable: str
    default: int
    unit: str

    @property
    def value(self) -> int:
        """The limit. Raises UserError if the variable is no whole number."""
        text = os.environ.get(self.variable, str(self.default))
        if not text.isdecimal():
            raise UserError(f"{self.variable} must be a whole number, not {text!r}.")
        return int(text)

    def check(self, amount: int, what: object) -> None:
        """Raise UserError if something has more than the limit."""
        if amount > self.value:
            raise UserError(
                f"{what} has {amount:,} {self.unit}, above the limit of {self.value:,}; "
                f"set {self.variable} to read it."
            )


CHECKPOINT = Limit("SIGNBENCH_MAX_CHECKPOINT_BYTES", 2**30, "bytes")
IMAGE = Limit("SIGNBENCH_MAX_IMAGE_PIXELS", 2**26, "pixels")
