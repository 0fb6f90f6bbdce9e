"""A given mask, a given start, or both, from files: what transplants train from.

`--masks` and `--weights` name snapshots (`runs/<run>/snapshots/epoch-*.safetensors`: entries
"mask:<layer>", and the model's state dict), or a run's folder, which stands for its last snapshot.
Such files hold tensors only; nothing in them is executed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from baselines.density import keep_count
from baselines.errors import UserError
from baselines.method import Method, Options, Samples
from baselines.sparse_model import SparseModel


@dataclass(frozen=True)
class FixedOptions(Options):
    masks: str = ""
    """Snapshot or run folder to take masks from; none: dense."""
    weights: str = ""
    """Snapshot or run folder to take all parameters and buffers from; none: a fresh start."""


class Fixed(Method):
    """Masks and initial values from files."""

    name = "fixed"
    family = "from a file"
    paper = "-"
    options = FixedOptions
    variants = ()

    def prepare(self, net: SparseModel, samples: Samples) -> None:
        if self.opt.weights:
            load_weights(net, *read_snapshot(self.opt.weights))
        masks = read_masks(net, *read_snapshot(self.opt.masks)) if self.opt.masks else {}
        kept = sum(int(mask.sum()) for mask in masks.values()) if masks else net.numel
        if kept != keep_count(net.numel, self.plan.sparsity):
            raise UserError(
                f"fixed: the masks have sparsity {1 - kept / net.numel:.6g}, not "
                f"{self.plan.sparsity:g}: say so with --sparsity."
            )
        net.set_masks(masks)


def read_snapshot(path: str) -> tuple[Path, dict[str, Tensor]]:
    """The snapshot's file and its tensors.

    Raises:
        UserError: there is none, or it is not a safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = last_snapshot(Path(path)) if Path(path).is_dir() else Path(path)
    try:
        return file, load_file(file)
    except FileNotFoundError:
        raise UserError(f"there is no snapshot {path}.") from None
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} is not a snapshot: {error}.") from None


def last_snapshot(folder: Path) -> Path:
    """Of the largest epoch in a run's folder."""
    found = list(folder.glob("snapshots/epoch-*.safetensors"))
    if not found:
        raise UserError(f"{folder} holds no snapshots/epoch-*.safetensors.")
    return max(found, key=lambda file: int(file.stem.removeprefix("epoch-")))


def read_masks(net: SparseModel, file: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Masks of all prunable layers. Shapes are checked by whoever sets them."""
    prefix = "mask:"
    masks = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
    missing = [name for name in net.layers if name not in masks]
    if missing:
        raise UserError(f"{file} has no mask of {', '.join(missing)}.")
    return {name: masks[name].bool() for name in net.layers}


@torch.no_grad()
def load_weights(net: SparseModel, file: Path, tensors: dict[str, Tensor]) -> None:
    """All parameters and buffers of the model.

    Raises:
        UserError: one is missing or of another shape. Nothing is loaded then.
    """
    values = net.model.state_dict()
    for name, value in values.items():
        if name not in tensors:
            raise UserError(f"{file} has no {name}.")
        if tensors[name].shape != value.shape:
            shapes = f"{tuple(tensors[name].shape)}, not {tuple(value.shape)}"
            raise UserError(f"{file}: {name} has shape {shapes}.")
    for name, value in values.items():
        value.copy_(tensors[name])
