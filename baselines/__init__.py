"""What makes a network sparse: methods, and `sparsify`, which puts one into any training loop.

The names below are imported when they are first used, so that `baselines.errors` can be imported
without PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from baselines.engine.sparse_model import SparseModel
    from baselines.errors import UserError
    from baselines.method import Method, Options, Plan
    from baselines.registry import find_method, register
    from baselines.samples import Samples
    from baselines.sign_rule import SignRule
    from baselines.sparsifier import Sparsifier, sparsify

_HOMES = {
    "Method": "baselines.method",
    "Options": "baselines.method",
    "Plan": "baselines.method",
    "Samples": "baselines.samples",
    "SignRule": "baselines.sign_rule",
    "SparseModel": "baselines.engine.sparse_model",
    "Sparsifier": "baselines.sparsifier",
    "UserError": "baselines.errors",
    "find_method": "baselines.registry",
    "register": "baselines.registry",
    "sparsify": "baselines.sparsifier",
}

__all__ = [
    "Method",
    "Options",
    "Plan",
    "Samples",
    "SignRule",
    "SparseModel",
    "Sparsifier",
    "UserError",
    "find_method",
    "register",
    "sparsify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
