"""Runs back from their folders: the description, snapshots, and the network with its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from launch.config.run import Run
from launch.runs.record import peek_json
from launch.runs.sources import read_source
from signin.fixed import MASK


def find_folder(text: str, runs: Path) -> Path:
    """The folder of a run, by its name or path.

    Raises:
        UserError: there is none.
    """
    for folder in (runs / text, Path(text)):
        if (folder / "config.json").is_file():
            return folder
    raise UserError(f"there is no run {text} in {runs}.")


def read_run(folder: Path) -> Run:
    """The run that a folder is of.

    Raises:
        UserError: its config.json cannot be read, or is of something else.
    """
    config = peek_json(folder / "config.json") or {}
    try:
        run = dict(config["run"])
        settings = dict(run.pop("settings"))
        fields = {**run.pop("options"), **settings.pop("sign_in"), **settings, **run}
        return Run.make(fields.pop("recipe"), fields.pop("method"), **fields)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder} is not the folder of a run: {error!r}.") from None


@dataclass(frozen=True)
class Snapshot:
    """State dict of the plain model, and masks by the weights' names."""

    weights: dict[str, Tensor]
    masks: dict[str, Tensor]


def read_snapshot(folder: Path, epoch: str) -> Snapshot:
    """A snapshot by its epoch, or init or final.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    named = read_source(f"{folder.resolve()}@{epoch}", folder.parent)
    masks = {k.removeprefix(MASK): t for k, t in named.items() if k.startswith(MASK)}
    return Snapshot({k: t for k, t in named.items() if not k.startswith(MASK)}, masks)


def build_network(
    run: Run, snapshot: Snapshot, classes: int, channels: int, device: torch.device
) -> SparseModel:
    """The run's model with a snapshot's weights and masks, in float32 and eval mode."""
    from launch.models import build_model

    settings = run.settings
    model = build_model(settings.model, classes, channels, settings.image_size)
    model.load_state_dict(snapshot.weights, strict=True)
    net = SparseModel(model.to(device).eval(), exclude=run.exclude)
    net.set_masks(snapshot.masks)
    return net
