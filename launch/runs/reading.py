"""Reading a run from its folder: its description, and its network with a snapshot's weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from analysis.folder import read_config, read_result
from baselines.checkpoint import Checkpoint
from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError, one_line
from baselines.fields import earlier_defaults
from baselines.registry import find_method
from launch.config.recipes import known_recipe
from launch.config.run import Run
from launch.inputs import Inputs
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
        recipe, method = fields.pop("recipe"), fields.pop("method")
        base = recipe if known_recipe(recipe) else "digits"  # a file's: the fields are complete
        return _following(replace(Run.make(base, method, **fields), recipe=recipe))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder} is not the folder of a run: {error}") from None


def read_own_run(folder: Path) -> Run:
    """Return the run in a folder, which has its name. Raises UserError."""
    run = read_run(folder)
    if run.name != folder.name:
        raise UserError(f"this version names it {run.name}.")
    return run


class OtherData(UserError):
    """A run was trained on other data than those that are there."""


def check_data(folder: Path, digest: str) -> None:
    """Raise OtherData if a run was trained on other data.

    Args:
        digest: of the data that are there now; empty if it is not known.
    """
    config = read_config(folder)
    then = config.get("data_digest") if config else None
    if then and digest and then != digest:
        raise OtherData(
            f"{folder} was trained on other data: restore them as they were, or give their "
            "folder with --data-dir."
        )


def _following(run: Run) -> Run:
    """Return the run without decays of Sign-In that equal those that follow its weight decay."""
    recipe = known_recipe(run.recipe) or run.settings
    sign_in = replace(
        run.settings.sign_in,
        sign_in_decays=recipe.sign_in.sign_in_decays,
        frobenius_decay=None,
        sign_in_weight_decay=None,
    )
    same = replace(run, settings=replace(run.settings, sign_in=sign_in))
    return same if same.decayed == run.decayed else run


def load_network(
    run: Run, snapshot: Checkpoint, classes: int, inputs: Inputs, device: torch.device
) -> SparseModel:
    """Build the run's model with a snapshot's weights and masks, in float32 and eval mode.

    Raises:
        UserError: the snapshot is that of another model.
    """
    from launch.models import make_model

    model = make_model(run.settings.model, classes, inputs)
    try:
        model.load_state_dict(snapshot.weights, strict=True)
    except RuntimeError as error:
        name = f"{run.settings.model} of {classes} classes and {inputs}"
        raise UserError(f"{snapshot.origin} does not fit {name}: {one_line(error)}") from None
    dense = not find_method(run.method).is_sparse
    net = SparseModel(model.to(device).eval(), exclude=run.exclude, stays_dense=dense)
    net.set_masks(snapshot.masks)
    return net


def network_shape(folder: Path, run: Run, snapshot: Checkpoint) -> tuple[int, Inputs]:
    """Return classes and inputs of a run's network.

    Runs of version 0.1 have no record of them. They were trained on square images; classes and
    channels are those of the last and the first layer that can be pruned.

    Raises:
        UserError: there is no record, and the snapshot does not fit such a network.
    """
    for known in (read_config(folder), read_result(folder)):
        if known is not None and "classes" in known:
            shape, vocabulary = tuple(known["input_shape"]), known["vocabulary"]
            return known["classes"], Inputs(shape, "int64" if vocabulary else "float32", vocabulary)
    from launch.models import make_model

    size = run.settings.image_size
    ordered = make_model(run.settings.model, 10, Inputs.image(3, size)).state_dict()
    weights = [snapshot.weights[name] for name in ordered if name in snapshot.masks]
    classes, inputs = len(weights[-1]), Inputs.image(weights[0].shape[1], size)
    load_network(run, snapshot, classes, inputs, torch.device("cpu"))
    return classes, inputs
