"""Files of named tensors (.safetensors), with the digest of all tensors in their metadata."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from analysis.checked import DIGEST, BrokenFile, open_regular


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write contiguous tensors of the CPU that share no memory."""
    from safetensors.torch import save_file

    save_file(dict(tensors), path, metadata={DIGEST: digest_of_tensors(tensors)})


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a file of `save_tensors`, or of others, which have no digest.

    Raises:
        BrokenFile: the file cannot be read, or is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        open_regular(path).close()
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise BrokenFile(f"{path} cannot be read: {error}") from None
    digest = metadata.get(DIGEST)
    sealed = any(len(value) == 64 for value in metadata.values())  # also where the key is damaged
    if sealed and digest != digest_of_tensors(tensors):
        raise BrokenFile(f"{path} is damaged: its digest is not that of its contents.")
    return tensors


def digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return one digest of names, types, shapes and contents."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
