"""Checkpoint files: the suite's own, and those of others. Nothing that is read is executed.

A file of the suite is a safetensors file of the plain model's state dict, with the mask of each
weight under "mask:<name>".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from baselines.checkpoint import Checkpoint
from baselines.errors import UserError
from launch.limits import CHECKPOINT
from launch.runs.archives import copied_tensors, load_objects, save_archive
from launch.runs.atomic import write_file
from launch.runs.entries import MASK, Entry, find_entries
from launch.runs.network_entries import choose
from launch.runs.tensors import load_tensors, save_tensors

_TYPES = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
}


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


def read_checkpoint(
    path: Path,
    label: str | None = None,
    key: str = "",
    like: Mapping[str, Tensor] | None = None,
    say: Callable[[str], None] | None = None,
) -> Checkpoint:
    """Read a .safetensors file, or a file of torch.save (.pt, .pth, .ckpt).

    Finds the network among nested entries and wrappers, and joins what torch.nn.utils.prune splits.
    `launch.runs.network_entries` has the rules.

    Args:
        label: that of the file, if it is known. Then it is one of the suite and read as it is,
            without the limits of files of others.
        key: the entry or prefix to take, such as `model_ema`.
        like: tensors of the network by name; the names are adapted to them.
        say: called with what was chosen, if there was a choice.

    Raises:
        UserError: there is no such file, or it cannot be read, or it holds no named tensors.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}.")
    if label is None:
        CHECKPOINT.check(path.stat().st_size, path)
    load = load_tensors if path.suffix == ".safetensors" else load_objects
    entries = find_entries(load(path, label), path)
    if label is None or len(entries) != 1:
        chosen, note = choose(entries, path, key, like)
    else:
        chosen, note = entries[0], ""
    if note and say is not None:
        say(note)
    used = {*chosen.weights, *chosen.masks} if like is None else set(like)
    if label is None:
        _check_tensors(chosen, path, used)
    return _checkpoint(chosen, path, used)


def _check_tensors(entry: Entry, path: Path, used: set[str]) -> None:
    """Raise UserError if tensors that are used are of other types, or too large together."""
    size = 0
    for name, tensor in (*entry.weights.items(), *entry.masks.items()):
        if name in used:
            _check_plain(tensor, name, path)
            size += tensor.numel() * tensor.element_size()  # more than is stored, if it is expanded
    CHECKPOINT.check(size, path)


def _checkpoint(entry: Entry, path: Path, used: set[str]) -> Checkpoint:
    """Return a checkpoint with copies of the tensors that are used."""
    weights, masks = dict(entry.weights), dict(entry.masks)
    if path.suffix != ".safetensors":
        weights, masks = copied_tensors((weights, masks), used, path)
    for name in entry.pruned & used:
        if masks[name].shape != weights[name].shape:
            raise UserError(f"{path}: {name}_mask and {name}_orig have different shapes.")
        weights[name] = weights[name] * masks[name]
        masks[name] = masks[name].bool()
    return Checkpoint(weights, masks, str(path))


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
