"""YAML files of users, read within limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from analysis.checked import read_text
from baselines.errors import UserError, one_line

ENDINGS = (".yaml", ".yml")
MOST_BYTES = 2**17
MOST_VALUES = 10_000  # counted where they are used: an alias counts as all that it stands for


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        UserError: the file cannot be read, is too large, refers to itself, or is no mapping of
            texts to values.
    """
    import yaml

    try:
        loader = yaml.SafeLoader(read_text(path.expanduser(), MOST_BYTES))
        node = loader.get_single_node()
        if node is not None and _size(node, {}) > MOST_VALUES:
            raise UserError(f"{path} has more than {MOST_VALUES:,} values.")
        if again := _repeated_key(node):
            raise UserError(f"{path}: {again} is given twice.")
        found = None if node is None else loader.construct_document(node)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from None
    except (
        Exception
    ) as error:  # values that the parser takes for dates or numbers fail in many ways
        raise UserError(f"{path} is not YAML: {one_line(error, 200)}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a mapping of fields to values.")
    check_keys(found, path)
    return found


def check_keys(value: Any, path: Path) -> None:
    """Raise UserError if a key is not a text."""
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise UserError(f"{path}: the key {key!r} is not a text.")
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            check_keys(part, path)


def _repeated_key(node: Any) -> str:
    """Return a key that a mapping in a node has twice, of which YAML would take the last."""
    if not isinstance(getattr(node, "value", None), list):
        return ""
    keys = [key.value for key, _ in node.value] if node.id == "mapping" else []
    again = next((key for key in keys if keys.count(key) > 1), "")
    parts = (part for e in node.value for part in (e if isinstance(e, tuple) else (e,)))
    return str(again) or next(filter(None, map(_repeated_key, parts)), "")


def _size(node: Any, known: dict[int, float]) -> float:
    """Return the number of values in a node; infinity if it contains itself.

    Args:
        known: sizes of nodes by id; infinity while a node is being counted.
    """
    if id(node) not in known:
        known[id(node)] = float("inf")
        entries = node.value if isinstance(node.value, list) else []
        parts = [part for e in entries for part in (e if isinstance(e, tuple) else (e,))]
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]
