"""Sign flips of a run by epoch and layer: the columns flips_* and compared_* of layers.csv.

For each layer, the signs after an epoch are compared with those at initialisation (`init`), at the
end of the warm-up (`warmup`, from there on) and after the epoch before (`previous`):

    flips_*, compared_*              over the weights that the mask keeps after this epoch
    final_flips_*, final_compared_*  over those that the mask keeps at the end of the run

A weight that is or was exactly zero has no sign: it is neither a flip nor compared. The columns
final_* are computed at the end of the run; until then the signs of each epoch are kept in the
folder, with two bits per weight.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from analysis.checked import BrokenFile
from analysis.contents import LayerRow
from baselines.engine.sparse_model import SparseModel
from launch.runs.folder import RunFolder
from signin.signs import Flips, count_flips, signs, total

Signs = dict[str, Tensor]
Columns = dict[str, dict[str, int]]  # by layer, by column


class FlipTracker:
    """Counts sign flips since initialisation, since the warm-up and since the previous epoch.

    Args:
        warmup: number of epochs of the warm-up.
        folder: run folder for the signs of each epoch; None on ranks that do not write.
    """

    def __init__(self, net: SparseModel, warmup: int, folder: RunFolder | None) -> None:
        self.net, self.warmup, self.folder = net, warmup, folder
        self.before: dict[str, Signs] = {}

    def begin(self) -> None:
        """Record the signs at initialisation, after the method has prepared masks and weights."""
        now = signs(self.net.weights)
        self.before = {"init": now, "previous": now}

    def count(self, done: int) -> Columns:
        """Return the columns after `done` epochs, and record the signs for later comparisons."""
        now = signs(self.net.weights)
        columns = _columns(self.before, now, self.net.masks)
        if self.folder is not None:
            self.folder.keep_signs(done, _pack(now))
        self._remember(self.before, done, now)
        return columns

    def add_final(self, rows: list[LayerRow]) -> None:
        """Add the columns over the final mask to the rows, at the end of the run.

        Columns that need signs which are lost stay empty, with a warning.
        """
        masks, init = self.net.masks, self.before["init"]
        before = {"init": init, "previous": init}
        by_epoch: dict[int, Columns] = {}
        lost: list[str] = []
        for done in range(1, 2 + max(row["epoch"] for row in rows)):
            try:
                now = self._kept(done)
            except BrokenFile as error:
                lost.append(str(error))
                before.pop("previous", None)
                if done == self.warmup:
                    before["warmup"] = self.before["warmup"]
                continue
            by_epoch[done] = _columns(before, now, masks, "final_")
            self._remember(before, done, now)
        for row in rows:
            columns = by_epoch.get(int(row["epoch"]) + 1, {})
            cast("dict[str, Any]", row).update(columns.get(row["layer"], {}))
        if lost:
            more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            warnings.warn(f"flips of some epochs stay empty: {lost[0]}{more}", stacklevel=2)

    def _kept(self, done: int) -> Signs:
        """Return the signs after so many epochs. Raises BrokenFile if they are lost."""
        assert self.folder is not None
        packed = self.folder.kept_signs(done)
        n = sum(weight.numel() for weight in self.net.weights.values())
        if packed.shape != (2, -(-n // 8)) or packed.dtype != np.uint8:
            raise BrokenFile(f"the signs after epoch {done} are those of another network.")
        return self._unpack(packed)

    def _remember(self, before: dict[str, Signs], done: int, now: Signs) -> None:
        before["previous"] = now
        if done == self.warmup:
            before["warmup"] = now

    def share(self, columns: Columns) -> float:
        """Return the fraction of flips since initialisation over all layers."""
        found = total(Flips(c["flips_init"], c["compared_init"]) for c in columns.values())
        return found.flips / max(1, found.compared)

    def state_dict(self) -> dict[str, Any]:
        return self.before

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state. Raises ValueError if it is that of another network."""
        weights = self.net.weights
        if not {"init", "previous"} <= state.keys() <= {"init", "previous", "warmup"}:
            raise ValueError(f"signs of {', '.join(map(str, state))}")
        for moment, kept in state.items():
            if {name: sign.shape for name, sign in kept.items()} != self.net.shapes:
                raise ValueError(f"the signs at {moment} have other shapes")
            if any(sign.dtype != torch.int8 for sign in kept.values()):
                raise ValueError(f"the signs at {moment} are not int8")
        self.before = {
            moment: {name: sign.to(weights[name].device) for name, sign in kept.items()}
            for moment, kept in state.items()
        }

    def _unpack(self, packed: np.ndarray) -> Signs:
        """Return the signs that `_pack` has packed."""
        weights = self.net.weights
        n = sum(weight.numel() for weight in weights.values())
        positive, negative = np.unpackbits(packed, axis=1, count=n).astype(np.int8)
        flat = torch.from_numpy(positive - negative).to(next(iter(weights.values())).device)
        parts = torch.split(flat, [weight.numel() for weight in weights.values()])
        return {
            name: part.view(weight.shape)
            for (name, weight), part in zip(weights.items(), parts, strict=True)
        }


def _columns(
    before: Mapping[str, Signs], now: Signs, masks: Mapping[str, Tensor], prefix: str = ""
) -> Columns:
    columns: Columns = {name: {} for name in masks}
    for moment, signs_then in before.items():
        for name, found in count_flips(signs_then, now, masks).items():
            columns[name][f"{prefix}flips_{moment}"] = found.flips
            columns[name][f"{prefix}compared_{moment}"] = found.compared
    return columns


def _pack(now: Signs) -> np.ndarray:
    """Return two rows of bits: where signs are positive, and where they are negative."""
    flat = torch.cat([sign.reshape(-1) for sign in now.values()]).cpu().numpy()
    return np.packbits(np.stack([flat > 0, flat < 0]), axis=1)
