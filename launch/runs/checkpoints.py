"""Checkpoint files: the suite's own, and those of others. Nothing that is read is executed.

A file of the suite is a safetensors file of the plain model's state dict, with the mask of each
weight under "mask:<name>".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines.checkpoint import Checkpoint
from baselines.errors import UserError
from launch.limits import CHECKPOINT
from launch.runs.archives import load_archive, save_archive
from launch.runs.files import write_file
from launch.runs.tensors import load_tensors, save_tensors

MASK = "mask:"  # begins the names of entries that are masks
_PREFIXES = ("module.", "_orig_mod.", "model.")  # of DDP, torch.compile, Lightning and others
_TYPES = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
}
_NESTED = ("state_dict", "model", "model_state_dict", "state_dict_ema")


def write_checkpoint(path: Path, checkpoint: Checkpoint, label: str = "") -> None:
    """Write a checkpoint atomically: .safetensors, or else a file of torch.save.

    Args:
        label: what the checkpoint is, on one line.

    Raises:
        UserError: the file cannot be written.
    """
    masks = {MASK + name: mask for name, mask in checkpoint.masks.items()}
    # clones: safetensors refuses other memory layouts, and tensors that share memory
    tensors = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in {**checkpoint.weights, **masks}.items()
    }
    if path.suffix == ".safetensors":
        write_file(path, lambda temporary: save_tensors(tensors, temporary, label))
    else:
        write_file(path, lambda temporary: save_archive(tensors, temporary, label))


def read_checkpoint(path: Path, label: str | None = None) -> Checkpoint:
    """Read a .safetensors file, or a file of torch.save (.pt, .pth, .ckpt).

    Finds the state dict among the entries that usual trainers write, removes the prefixes of
    wrappers, and joins what torch.nn.utils.prune splits.

    Args:
        label: that of the file, if it is known.

    Raises:
        UserError: there is no such file, or it cannot be read, or it holds no named tensors.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}.")
    CHECKPOINT.check(path.stat().st_size, path)
    load = load_tensors if path.suffix == ".safetensors" else load_archive
    found = load(path, label)
    return _checkpoint(found, path)


def _checkpoint(found: Any, path: Path) -> Checkpoint:
    tensors = _without_prefixes(_state_dict(found))
    if not tensors:
        raise UserError(f"{path} holds no state dict.")
    size = 0
    for name, tensor in tensors.items():
        _check_plain(tensor, name, path)
        size += tensor.numel() * tensor.element_size()  # more than is stored, if it is expanded
    CHECKPOINT.check(size, path)
    masks = {k.removeprefix(MASK): t for k, t in tensors.items() if k.startswith(MASK)}
    weights = {k: t for k, t in tensors.items() if not k.startswith(MASK)}
    return _without_prune_hooks(weights, masks, path)


def _check_plain(tensor: Tensor, name: str, path: Path) -> None:
    """Raise UserError if a tensor is not a dense one of real numbers."""
    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.layout != torch.strided:
        kind = "sparse"
    elif tensor.is_meta:
        kind = "meta"
    elif tensor.dtype in _TYPES:
        return
    raise UserError(f"{path}: {name} is a tensor of type {kind}, which is not supported.")


def _state_dict(found: Any) -> dict[str, Tensor]:
    """Return the named tensors in what was loaded."""
    for key in _NESTED:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict):
        return {}
    return {k: t for k, t in found.items() if isinstance(k, str) and isinstance(t, Tensor)}


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes of wrappers, of which there may be several."""
    for prefix in _PREFIXES * 2:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): t for name, t in tensors.items()}
    return tensors


def _without_prune_hooks(
    weights: dict[str, Tensor], masks: dict[str, Tensor], path: Path
) -> Checkpoint:
    """Join x_orig and x_mask, into which torch.nn.utils.prune splits x."""
    joined, found = dict(weights), dict(masks)
    for name in weights:
        own = name.removesuffix("_orig")
        if own != name and f"{own}_mask" in weights:
            mask = joined.pop(f"{own}_mask")
            if mask.shape != weights[name].shape:
                raise UserError(f"{path}: {own}_mask and {name} have different shapes.")
            joined[own] = joined.pop(name) * mask
            found[own] = mask.bool()
    return Checkpoint(joined, found, str(path))
