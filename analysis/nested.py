"""Nested dictionaries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the entries of nested dictionaries by dotted names."""
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        flat |= (
            flatten(entry, f"{prefix}{key}.") if isinstance(entry, dict) else {prefix + key: entry}
        )
    return flat
