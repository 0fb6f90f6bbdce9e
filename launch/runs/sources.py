"""Named tensors from runs and files: what transplants are made of. Nothing read is executed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines.errors import UserError
from signin.fixed import MASK

_PREFIXES = ("module.", "_orig_mod.", "model.")  # of DDP, torch.compile, Lightning and others
_NESTED = ("state_dict", "model", "model_state_dict", "state_dict_ema")


def read_source(text: str, runs: Path) -> dict[str, Tensor]:
    """Tensors by name, from `RUN@EPOCH`, `RUN@init`, `RUN@final`, or a checkpoint file.

    Args:
        runs: folder of the run folders; RUN may also be a path to one.

    Raises:
        UserError: there is no such run, epoch or file, or it holds no named tensors.
    """
    run, at, epoch = text.rpartition("@")
    if at and not Path(text).exists():
        return _read_file(_snapshot(Path(run) if "/" in run else runs / run, epoch))
    path = Path(text).expanduser()
    return _read_file(_snapshot(path, "final") if path.is_dir() else path)


def snapshots(folder: Path) -> dict[int, Path]:
    """A run's snapshots by their epochs."""
    files = folder.glob("snapshots/epoch-*.safetensors")
    return {int(file.stem.split("-")[1]): file for file in files}


def _snapshot(folder: Path, epoch: str) -> Path:
    found = snapshots(folder)
    if not found:
        raise UserError(f"there is no run {folder} with snapshots.")
    if epoch == "final" and not (folder / "result.json").exists():
        raise UserError(f"{folder} has not finished: there is no final snapshot yet.")
    chosen = {"init": 0, "final": max(found)}.get(epoch, int(epoch) if epoch.isdigit() else -1)
    if chosen not in found:
        known = ", ".join(map(str, sorted(found)))
        raise UserError(f"{folder} has no snapshot {epoch!r}; there are {known}, init and final.")
    return found[chosen]


def _read_file(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(f"there is no file {path}.")
    try:
        if path.suffix == ".safetensors":
            return _named_tensors(load_file(path), path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from None
    except Exception as error:  # whatever garbage makes torch.load raise, code in it included
        reason = str(error).strip().split("\n", 1)[0]
        raise UserError(f"{path} cannot be read as plain tensors: {reason}") from None
    return _named_tensors(found, path)


def _named_tensors(found: Any, path: Path) -> dict[str, Tensor]:
    """The state dict in what was loaded, with the prefixes of wrappers taken off."""
    for key in _NESTED:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    tensors = (
        {k: v for k, v in found.items() if isinstance(v, Tensor)} if isinstance(found, dict) else {}
    )
    if not tensors:
        raise UserError(f"{path} holds no state dict.")
    for prefix in _PREFIXES * 2:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): t for name, t in tensors.items()}
    return _without_prune_hooks(tensors)


def _without_prune_hooks(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What torch.nn.utils.prune splits in two, x_orig and x_mask, as x and mask:x."""
    found = dict(tensors)
    for name in tensors:
        own = name.removesuffix("_orig")
        if own != name and f"{own}_mask" in tensors:
            mask = found.pop(f"{own}_mask")
            found |= {own: found.pop(name) * mask, MASK + own: mask.bool()}
    return found
