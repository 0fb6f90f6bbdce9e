"""Files of named tensors (.safetensors), with the digest of all tensors in their metadata."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from analysis.checked import DIGEST, BrokenFile, cannot_read, check_label, open_regular

_SEAL = re.compile(r"[0-9a-f]{64} ")


def save_tensors(tensors: Mapping[str, Tensor], path: Path, label: str = "") -> None:
    """Write contiguous tensors of the CPU that share no memory, with their digest and a label."""
    from safetensors.torch import save_file

    # a single entry, for the order of several is not fixed
    seal = f"{digest_of_tensors(tensors, label)} {label}"
    save_file(dict(tensors), path, metadata={DIGEST: seal})


def load_tensors(path: Path, label: str | None = None) -> dict[str, Tensor]:
    """Read a file of `save_tensors`, or of others, which have no digest.

    Args:
        label: that of the file, if it is known.

    Raises:
        FileError: the file cannot be read, is damaged, or is another one.
    """
    from safetensors import SafetensorError, safe_open

    try:
        open_regular(path).close()
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise cannot_read(path, error) from None
    if DIGEST in metadata or any(map(_SEAL.match, metadata.values())):  # or the key is damaged
        digest, _, own = metadata.get(DIGEST, "").partition(" ")
        if digest != digest_of_tensors(tensors, own):
            raise BrokenFile(f"{path} is damaged: its digest is not that of its contents.")
        check_label(own, label, path)
    return tensors


def digest_of_tensors(tensors: Mapping[str, Tensor], label: str = "") -> str:
    """Return one digest of names, types, shapes and contents, and of a label."""
    digest = hashlib.sha256(label.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
