"""Files of torch.save with objects of any classes, read without executing code of these classes.

Each class or function that a file names is replaced by a stand-in that keeps what the file says of
an object. Tensors can so be read next to an argparse.Namespace, a configuration or an optimizer,
and out of a whole model. A file that names functions of Python's library such as os.system is
refused, though they would not be called.
"""

from __future__ import annotations

import sys
from _compat_pickle import IMPORT_MAPPING
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from analysis.checked import BrokenFile

MOST_NAMES = 64  # torch looks at all of them for each object
MOST_MODULES = 20_000
MOST_LETTERS = 32 * 2**20  # of all names of tensors and modules together
MOST_PICKLE_OBJECTS = 2 * 2**20  # bytes of the description of a file with objects

# of Python's library: modules of plain values, and what else is part of one
_MODULES = {
    *("argparse", "collections", "datetime", "decimal", "enum", "fractions", "numbers"),
    *("pathlib", "typing", "uuid", "zoneinfo", "pathlib._local"),
}
_NAMES = {
    *(f"builtins.{t.__name__}" for t in (bool, int, float, complex, str, bytes, bytearray)),
    *(f"builtins.{t.__name__}" for t in (list, tuple, dict, set, frozenset, range, slice, object)),
    *("types.SimpleNamespace", "functools.partial", "copyreg._reconstructor", "_codecs.encode"),
    *("re._compile", "random.Random", "logging.Logger", "logging.getLogger", "array.array"),
}


class Stub:
    """An object of Python's library or of numpy, with the attributes that its file gives."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Stub:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update({str(key): value for key, value in state.items()})


class Attributes:
    """Makes an OrderedDict in place of an object: torch lets a file set its attributes and items,
    which classes derived from dict need."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Any:
        made: OrderedDict[str, Any] = OrderedDict()  # OrderedDict[str, Any]() has an attribute
        return made


def load_with_stubs(path: Path) -> Any:
    """Return the contents of an archive of torch.save, with its tensors mapped to the file.

    Raises:
        BrokenFile: the file names functions of Python's library, or has too many objects.
        ValueError, UnpicklingError: the file has an older format, or objects of unusual kinds.
    """
    names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    for name in names:
        if _is_of_python(name) and name not in _NAMES and name.rpartition(".")[0] not in _MODULES:
            raise BrokenFile(
                f"{path} has other contents than tensors and plain values: it names {name[:80]}, "
                "which no checkpoint needs."
            )
    if len(names) > MOST_NAMES:
        raise BrokenFile(f"{path} has objects of {len(names)} classes; save its state dict alone.")
    stubs: list[Any] = [(_stub_of(name), name) for name in names]
    with torch.serialization.safe_globals(stubs):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def _is_of_python(name: str) -> bool:
    module = name.partition(".")[0]
    return module in sys.stdlib_module_names or module in IMPORT_MAPPING  # names of Python 2


def _stub_of(name: str) -> Any:
    if name == "collections.defaultdict":
        return _dictionary
    is_value = _is_of_python(name) or name.startswith("numpy.")
    return Stub if is_value else Attributes


def _dictionary(*_args: Any) -> dict[Any, Any]:
    return {}


def contents(value: Any, path: object = "the file") -> Mapping[Any, Any] | None:
    """Return entries of a mapping, attributes of an object, or the state dict of a network.

    Returns:
        None for other values.

    Raises:
        BrokenFile: the network has too many modules or too long names.
    """
    if not isinstance(value, Stub | Mapping):
        return None
    own = getattr(value, "__dict__", {})
    if isinstance(own.get("_modules"), Mapping):
        return _network_tensors(own, path)
    items = value if isinstance(value, Mapping) else {}
    attributes = {k: v for k, v in own.items() if k != "_metadata"}  # of a usual state dict
    return {**attributes, **items} if attributes else items


def _network_tensors(own: Mapping[str, Any], path: object) -> dict[str, Tensor]:
    """Return parameters and buffers of a network, given its attributes, as in its state dict."""
    found: dict[str, Tensor] = {}
    pending, letters = [("", own)], 0
    for prefix, attributes in pending:  # grows, without end if a module is within itself
        for name, tensor in _buffers_and_parameters(attributes):
            found[prefix + name] = tensor
            letters += len(prefix) + len(name)
            _check_size(len(pending), letters, path)
        for name, module in _texts(attributes, "_modules"):
            pending.append((f"{prefix}{name}.", getattr(module, "__dict__", {})))
            letters += len(prefix) + len(name)
            _check_size(len(pending), letters, path)
    return found


def _check_size(modules: int, letters: int, path: object) -> None:
    if modules > MOST_MODULES or letters > MOST_LETTERS:
        raise BrokenFile(
            f"{path} has a network with more than {MOST_MODULES:,} modules, or with names of more "
            f"than {MOST_LETTERS:,} letters."
        )


def _buffers_and_parameters(attributes: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    left_out = attributes.get("_non_persistent_buffers_set")
    for group in ("_parameters", "_buffers"):
        for name, tensor in _texts(attributes, group):
            if isinstance(tensor, Tensor) and not (isinstance(left_out, set) and name in left_out):
                yield name, tensor


def _texts(attributes: Mapping[str, Any], group: str) -> Iterator[tuple[str, Any]]:
    """Yield the items of a dictionary among the attributes whose names are texts."""
    value = attributes.get(group)
    for name, item in value.items() if isinstance(value, dict) else ():
        if isinstance(name, str):
            yield name, item
