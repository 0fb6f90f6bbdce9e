"""Networks of runs, from their folders."""

from __future__ import annotations

import pytest
import torch

from baselines.checkpoint import Checkpoint
from baselines.errors import UserError
from launch.config.run import Run
from launch.inputs import Inputs
from launch.models import build_model
from launch.runs.provenance import note_start, write_config
from launch.runs.reading import network_shape


@pytest.mark.parametrize(
    "inputs", [Inputs.image(3, 8), Inputs((2, 6, 4)), Inputs((5,)), Inputs((12,), "int64", 40)]
)
def test_the_shape_of_a_run_that_has_not_finished_is_in_its_configuration(tmp_path, inputs):
    run = Run.make("digits", "random")
    write_config(tmp_path, run)
    about = {"classes": 7, "input_shape": inputs.shape, "vocabulary": inputs.vocabulary}
    note_start(tmp_path, 0, about)
    assert network_shape(tmp_path, run, Checkpoint({}, {})) == (7, inputs)


@pytest.mark.parametrize("model, channels", [("digits-cnn", 1), ("resnet20", 3)])
def test_the_shape_of_a_run_without_a_record_is_that_of_its_layers(tmp_path, model, channels):
    """The file of a snapshot has them in alphabetical order."""
    run = Run.make("digits", "random", model=model)
    weights = build_model(model, 7, channels, 8).state_dict()
    masks = {name: t.bool() for name, t in sorted(weights.items()) if t.ndim > 1}
    shape = network_shape(tmp_path, run, Checkpoint(weights, masks))
    assert shape == (7, Inputs.image(channels, 8))


def test_a_network_of_an_unknown_shape_is_refused(tmp_path):
    run = Run.make("digits", "random", exclude=("8.weight",))
    weights = build_model("digits-cnn", 10, 1, 8).state_dict()
    masks = {name: torch.ones(t.shape).bool() for name, t in weights.items() if t.ndim > 1}
    del masks["8.weight"]
    with pytest.raises(UserError, match="the source does not fit digits-cnn of 48 classes") as info:
        network_shape(tmp_path, run, Checkpoint(weights, masks))
    assert "\n" not in str(info.value)
