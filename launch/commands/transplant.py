"""Transplants between checkpoints: a mask, signs and magnitudes from three sources, as one file.

The file that comes out is a state dict of the plain model, pruned weights as zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.tools.masks import seeded
from launch.runs.record import write_file
from launch.runs.sources import read_source
from signin.fixed import MASK, RANDOM, entries_of, layer_means, masks_of, weights_of
from signin.signs import agreement, transplant

Named = dict[str, Tensor]


@dataclass(frozen=True)
class Transplant:
    """Write a checkpoint with the mask, the signs and the magnitudes of three sources.

    A source is RUN@EPOCH (or @init, @final), a checkpoint file (.safetensors, .pt, .pth, .ckpt),
    or `random`: a fresh initialisation of --model."""

    mask: str
    """Source of the mask: its own, or else its nonzero weights."""
    output: Path
    """The checkpoint to write: .safetensors, .pt or .pth."""
    signs: str = ""
    """Source of the signs; the mask's if not given."""
    magnitudes: str = ""
    """Source of the magnitudes; the mask's if not given."""
    others: str = ""
    """Source of biases, normalisation and whatever else is not pruned; the mask's if not given."""
    magnitude_kind: Literal["each", "layer"] = "each"
    """Each weight's own magnitude, or their mean over the layer's kept weights for all of them."""
    flip_signs: float = 0.0
    """Fraction of the signs to reverse at random."""
    model: str = ""
    """One of the suite's models or of timm's. Needed for `random`; says what is prunable, which
    else are the layers that the mask's source has masks of, or all its matrices and kernels that
    are named weight."""
    classes: int = 1000
    """Of --model."""
    channels: int = 3
    """Of --model."""
    image_size: int = 224
    """Of --model."""
    seed: int = 0
    """Of `random`, of flips, and of signs that the source does not have."""
    runs: Path = Path("runs")
    """Folder of the run folders."""

    def __post_init__(self) -> None:
        if not 0 <= self.flip_signs <= 1:
            raise UserError(f"flip_signs must be in [0, 1], not {self.flip_signs}.")
        if self.output.suffix not in (".safetensors", ".pt", ".pth"):
            raise UserError(f"--output must end in .safetensors, .pt or .pth, not {self.output}.")

    def source(self, of: str) -> str:
        return getattr(self, of) or self.mask


def transplant_files(given: Transplant, report: Callable[[str], None] = print) -> None:
    """Does what is described, and reports on every layer.

    Raises:
        UserError: a source cannot be read or does not fit the others. Nothing is written then.
    """
    fresh = _fresh(given) if given.model else None
    texts = {given.source(of) for of in ("mask", "signs", "magnitudes", "others")}
    if given.mask == RANDOM or (RANDOM in texts and fresh is None):
        raise UserError("a mask cannot be random here, and other random sources need --model.")
    read = {text: read_source(text, given.runs) for text in texts - {RANDOM}}
    if fresh is not None:
        read[RANDOM] = fresh.model.state_dict()
    sources = {of: read[given.source(of)] for of in ("mask", "signs", "magnitudes", "others")}

    like = _prunable(sources["mask"]) if fresh is None else dict(fresh.weights)
    masks = masks_of(sources["mask"], like)
    signs, sizes = (weights_of(sources[of], like) for of in ("signs", "magnitudes"))
    if given.magnitude_kind == "layer":
        sizes = layer_means(sizes, masks)
    weights, drawn = transplant(
        masks, signs, sizes, seeded(given.seed, "transplant"), given.flip_signs
    )
    template = read[RANDOM] if fresh is not None else _plain(sources["mask"])
    rest = {name: tensor for name, tensor in template.items() if name not in like}
    state = {**entries_of(sources["others"], rest), **weights}
    whole = {name: state[name].detach().to(tensor.dtype) for name, tensor in template.items()}
    _save(whole, given.output)
    for line in _summary(masks, signs, sizes, weights, drawn):
        report(line)
    report(f"biases, normalisation and the like: from {given.source('others')}")
    report(f"written: {given.output}")


def _fresh(given: Transplant) -> SparseModel:
    from launch.models import build_model

    torch.manual_seed(given.seed)
    return SparseModel(build_model(given.model, given.classes, given.channels, given.image_size))


def _plain(source: Mapping[str, Tensor]) -> Named:
    return {name: tensor for name, tensor in source.items() if not name.startswith(MASK)}


def _prunable(source: Mapping[str, Tensor]) -> Named:
    """The layers that have masks; in their absence all matrices and kernels named weight."""
    masked = [name for name in source if MASK + name in source]
    found = masked or [
        name
        for name, tensor in source.items()
        if tensor.ndim >= 2 and tensor.is_floating_point() and name.split(".")[-1] == "weight"
    ]
    if not found:
        raise UserError("the mask's source has no weights that can be pruned.")
    return {name: source[name] for name in found}


def _save(state: Named, path: Path) -> None:
    from safetensors.torch import save_file

    whole = {name: tensor.cpu().contiguous().clone() for name, tensor in state.items()}
    save: Callable[[Any, Any], Any] = save_file if path.suffix == ".safetensors" else torch.save
    write_file(path, lambda temporary: save(whole, temporary))


def _summary(
    masks: Named, signs: Named, sizes: Named, weights: Named, drawn: Mapping[str, int]
) -> list[str]:
    """A line a layer: weights, kept ones, sign agreement with the signs' source of what gave the
    magnitudes and of what came out."""
    before, after = agreement(sizes, signs, masks), agreement(weights, signs, masks)
    width = max(map(len, masks))
    lines = [f"{'layer':{width}}    weights       kept sparsity agreement before   after"]
    for name, mask in masks.items():
        n, kept = mask.numel(), _ones(mask)
        lines.append(
            f"{name:{width}} {n:10,} {kept:10,} {1 - kept / n:8.4f} "
            f"{before[name]:16.1%} {after[name]:7.1%}"
        )
    n, kept = (sum(map(count, masks.values())) for count in (Tensor.numel, _ones))
    lines.append(f"{'all':{width}} {n:10,} {kept:10,} {1 - kept / n:8.4f}")
    if any(drawn.values()):
        lines.append(f"{sum(drawn.values()):,} signs drawn at random: their source has zeros there")
    lost = sum(_ones(mask & (weights[name] == 0)) for name, mask in masks.items())
    if lost:
        lines.append(
            f"{lost:,} kept weights are zero: the source of the magnitudes has zeros there"
        )
    return lines


def _ones(mask: Tensor) -> int:
    return int(mask.count_nonzero())
