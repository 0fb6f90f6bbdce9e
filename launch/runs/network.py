"""A run back from its folder: its description, and its network with the weights of a snapshot."""

from __future__ import annotations

from pathlib import Path

import torch

from analysis.folder import read_config
from baselines.checkpoint import Checkpoint
from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.fields import earlier_defaults
from baselines.registry import find_method
from launch.config.run import Run
from signin import SignIn


def read_run(folder: Path) -> Run:
    """Return the run that a folder belongs to.

    Raises:
        UserError: its config.json cannot be read, or describes something else.
    """
    try:
        config = read_config(folder)
        if config is None:
            raise UserError("it has no configuration")
        run = dict(config["run"])
        settings = dict(config["run"]["settings"])
        options = config["run"]["options"]
        del run["settings"], run["options"]
        rules = {**settings.pop("sign_in"), **settings.pop("ham", {})}
        method = find_method(config["run"]["method"])
        earlier = earlier_defaults(method.options_class) | earlier_defaults(SignIn)
        fields = {**earlier, **options, **rules, **settings, **run}
        return Run.make(fields.pop("recipe"), fields.pop("method"), **fields)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder} is not the folder of a run: {error}") from None


def load_network(
    run: Run, snapshot: Checkpoint, classes: int, channels: int, device: torch.device
) -> SparseModel:
    """Build the run's model with a snapshot's weights and masks, in float32 and eval mode."""
    from launch.models import build_model

    settings = run.settings
    model = build_model(settings.model, classes, channels, settings.image_size)
    model.load_state_dict(snapshot.weights, strict=True)
    net = SparseModel(model.to(device).eval(), exclude=run.exclude)
    net.set_masks(snapshot.masks)
    return net
