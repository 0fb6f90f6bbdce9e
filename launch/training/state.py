"""States of earlier versions, in the form of this one."""

from __future__ import annotations

from typing import Any

from baselines.engine.sparse_model import SparseModel

State = dict[str, Any]


def upgraded(state: State, step: int, net: SparseModel) -> State:
    """Return a loop's state as `Loop.load_state_dict` takes it.

    Version 0.1 had no sparsifier: masks and latents, which had no names, were the loop's.

    Args:
        step: number of steps that had been taken.
    """
    if "sparsifier" in state:
        return state
    latents = {
        layer: dict(zip(net.storage.names, values, strict=True))
        for layer, values in state["net"]["latents"].items()
    }
    sparsifier = {
        "step": step,
        "begun": False,
        "net": {"masks": state["net"]["masks"], "latents": latents},
        "method": state["method"],
        "rule": {},
    }
    return {"model": state["model"], "optimizer": state["optimizer"], "sparsifier": sparsifier}
