"""Files of torch.save with objects of any classes, read without executing code of these classes.

A class or function that a file names is replaced by a stub, which only keeps what the file says of
an object. So tensors can be read next to an argparse.Namespace, a configuration or an optimizer,
and out of a whole model. Functions of Python's own library are refused: a checkpoint has no use for
them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines.errors import UserError

# what checkpoints have of Python's own library
HARMLESS = {
    *("argparse.Namespace", "types.SimpleNamespace", "functools.partial"),
    *("collections.OrderedDict", "collections.defaultdict", "collections.Counter"),
    *("collections.deque", "builtins.set", "builtins.frozenset", "builtins.slice"),
    *("builtins.range", "builtins.complex", "builtins.object", "decimal.Decimal"),
    *("datetime.datetime", "datetime.date", "datetime.timedelta", "uuid.UUID"),
    *("pathlib.Path", "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.PurePosixPath"),
    *("pathlib._local.PosixPath", "pathlib._local.WindowsPath", "copyreg._reconstructor"),
    *("_codecs.encode", "builtins.list", "builtins.dict", "builtins.tuple"),
}


class Stub:
    """An object of a class that is not imported, with the attributes that its file gives."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Stub:
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) == 2:  # of a class with slots
            state = {**(state[0] or {}), **(state[1] or {})}
        if isinstance(state, dict):
            self.__dict__.update({str(key): value for key, value in state.items()})


def load_with_stubs(path: Path, **how: Any) -> Any:
    """Return the contents of a file of torch.save, with stubs for all that is no plain value.

    Args:
        how: arguments of torch.load.

    Raises:
        UserError: the file names functions of Python's library, or is of a format before 2020.
    """
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except ValueError:
        raise UserError(
            f"{path} has objects besides tensors, in the format of before torch 1.6. Where you "
            "trust it, convert it: torch.save(torch.load(PATH, weights_only=False), NEW)."
        ) from None
    for name in names:
        if name.partition(".")[0] in sys.stdlib_module_names and name not in HARMLESS:
            raise UserError(f"{path} calls {name}, for which a checkpoint has no use.")
    stubs: list[Any] = [(type(name.rpartition(".")[2], (Stub,), {}), name) for name in names]
    with torch.serialization.safe_globals(stubs):
        return torch.load(path, map_location="cpu", weights_only=True, **how)


def module_tensors(module: Stub, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield parameters and buffers of a stub of a network, named as in its state dict."""
    state = module.__dict__
    for group in ("_parameters", "_buffers"):
        for name, tensor in (state.get(group) or {}).items():
            if isinstance(tensor, Tensor) and name not in (state.get("_non_persistent") or ()):
                yield prefix + name, tensor
    for name, inner in (state.get("_modules") or {}).items():
        if isinstance(inner, Stub):
            yield from module_tensors(inner, f"{prefix}{name}.")


def is_network(value: Any) -> bool:
    """Return whether a value is a stub of a network."""
    return isinstance(value, Stub) and isinstance(value.__dict__.get("_modules"), Mapping)
