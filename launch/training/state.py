"""States of a training: the checks of one that is loaded, and states of earlier versions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from analysis.folder import EPOCHS, LAYERS, parse_rows
from baselines.engine.sparse_model import SparseModel
from baselines.errors import describe
from launch.measures.flips import FlipTracker
from launch.runs.folder import Rows
from launch.training.loop import Loop

State = dict[str, Any]


class Misfit(ValueError):
    """A state is intact, but not one of this run as it is now."""


def load_state(loop: Loop, flips: FlipTracker, state: Mapping[str, Any]) -> tuple[int, Rows | None]:
    """Load a run's state. Return the number of epochs that it has trained, and their rows.

    Raises:
        Misfit: the state is not one of this run as it is now: data, model or code are others. Loop
            and flips must be built again.
    """
    try:
        done = int(state["epoch"]) + 1
        if not 0 < done <= loop.epochs:
            raise Misfit(f"it is that of epoch {done} of {loop.epochs}")
        if state.get("data", loop.data.digest) != loop.data.digest:  # old states do not say it
            raise Misfit("it was trained on other data")
        loop.attach()
        chosen = _hyperparameters(loop.optimizer)
        loop.load_state_dict(_upgrade(state["loop"], done * loop.steps, loop.sparsifier.net))
        if loop.sparsifier.step != done * loop.steps:
            raise Misfit(f"it has {loop.sparsifier.step} steps, not {done * loop.steps}")
        _check_optimizer(loop.optimizer, chosen)
        flips.load_state_dict(state["signs"])
        rows = rows_of(state)
        for part in rows or ():
            if {row["epoch"] for row in part} != set(range(done)):
                raise Misfit("it lacks the rows of some epochs")
    except (Misfit, MemoryError, torch.OutOfMemoryError, OSError):
        raise
    except Exception as error:  # contents of any other form
        if "CUDA error" in str(error):  # of the GPU
            raise
        raise Misfit(_reason(error)) from error
    return done, rows


def _reason(error: Exception) -> str:
    """Return in a few words why contents cannot be loaded."""
    text = describe(error)
    return text.rpartition("loading state_dict for ")[2][:100]  # of torch, which names the layer


def rows_of(state: Mapping[str, Any]) -> Rows | None:
    """Return the rows of a state. Version 0.1 had none.

    Raises:
        BrokenFile: they are not those of epochs and layers.
    """
    rows = state.get("rows")
    if not rows:
        return None
    epochs, layers = (
        parse_rows(text, Path(file)) for file, text in zip((EPOCHS, LAYERS), rows, strict=True)
    )
    return cast("Rows", (epochs, layers))


def has_last_rows(rows: Rows, done: int) -> bool:
    """Return whether epochs and layers both have rows of the last of `done` epochs."""
    return all(part and part[-1]["epoch"] == done - 1 for part in rows)


def _hyperparameters(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return what an optimizer's groups hold, but parameters and the scheduled learning rate."""
    return [
        {key: value for key, value in group.items() if key not in ("params", "lr", "initial_lr")}
        for group in optimizer.param_groups
    ]


def _check_optimizer(optimizer: Optimizer, chosen: list[dict[str, Any]]) -> None:
    """Raise Misfit if a loaded state does not fit an optimizer.

    Args:
        chosen: hyperparameters of its groups, which the state must not change.
    """
    for own, loaded in zip(chosen, optimizer.param_groups, strict=True):
        for name, value in own.items():
            if type(loaded.get(name)) is not type(value) or loaded[name] != value:
                raise Misfit(f"its {name} is {loaded.get(name)!r:.40}, not {value!r:.40}")
    for parameter, entries in optimizer.state.items():
        for name, value in entries.items():
            fits = not isinstance(value, Tensor) or value.shape == parameter.shape
            if not fits and value.numel() != 1:
                raise Misfit(f"{name} has shape {tuple(value.shape)}, not {parameter.shape}")


def _upgrade(state: State, step: int, net: SparseModel) -> State:
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
