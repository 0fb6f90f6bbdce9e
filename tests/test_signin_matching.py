"""Names of checkpoints of any origin, matched to those of a model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from baselines.checkpoint import Checkpoint
from baselines.errors import UserError
from signin.matching import match_names


class Net(nn.Module):
    def __init__(self, classes=4):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 8, 3))
        self.head = nn.Linear(8, classes)


def state(model=None):
    return {k: v.clone() for k, v in (model or Net()).state_dict().items()}


def prefixed(prefix, named):
    return {prefix + name: tensor for name, tensor in named.items()}


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "_orig_mod.module.", "net.", "student.module.backbone.", "a.b.c.d.e."],
)
def test_a_prefix_of_the_file_is_removed(prefix):
    ours = state()
    weights = prefixed(prefix, state())
    masks = {prefix + "head.weight": torch.ones(4, 8, dtype=torch.bool)}
    others = {"epoch": torch.tensor(3), "teacher.head.bias": torch.zeros(4)}
    found, note = match_names(Checkpoint({**weights, **others}, masks, "FILE"), ours)
    assert all(torch.equal(found.weights[name], weights[prefix + name]) for name in ours)
    assert set(found.masks) == {"head.weight"}
    assert {"epoch", "teacher.head.bias"} <= set(found.weights)
    assert bool(note) == bool(prefix) and (not prefix or f"{prefix}…" in note)


def test_of_two_networks_the_one_that_fits_is_taken():
    small, large = state(Net(3)), state(Net(4))
    both = {**prefixed("student.net.", small), **prefixed("teacher.", large)}
    found, note = match_names(Checkpoint(both, {}, "FILE"), state(Net(3)))
    assert torch.equal(found.weights["head.weight"], small["head.weight"])
    assert note == "FILE: names that begin with student.net.… are no prefix… here"


def test_a_prefix_of_the_model_is_added():
    inner = state()
    found, note = match_names(Checkpoint(prefixed("module.", inner), {}), prefixed("net.", inner))
    assert torch.equal(found.weights["net.head.bias"], inner["head.bias"])
    assert "module.… are net.… here" in note


def without_a_layer(weights):
    del weights["m.features.2.weight"]


def of_more_classes(weights):
    weights["m.head.weight"] = torch.zeros(5, 8)


def with_another_name(weights):
    weights["m.fc.weight"] = weights.pop("m.head.weight")


@pytest.mark.parametrize(
    "change, message",
    [
        (
            without_a_layer,
            r"FILE has no m.features.2.weight of shape \(8, 6, 3, 3\); the nearest of its 8 "
            r"tensors: m.features.\d.weight",
        ),
        (of_more_classes, r"FILE: m.head.weight has shape \(5, 8\), not \(4, 8\) as head.weight"),
        (with_another_name, r"FILE has no m.head.weight of shape \(4, 8\); .*m.fc.weight \(4, 8\)"),
    ],
)
def test_what_has_no_counterpart_is_named_with_the_nearest(change, message):
    weights = prefixed("m.", state())
    change(weights)
    with pytest.raises(UserError, match=message):
        match_names(Checkpoint(weights, {}, "FILE"), state())


def test_a_checkpoint_of_something_else_is_refused():
    with pytest.raises(UserError, match="FILE has no features.0.weight"):
        match_names(Checkpoint({"x": torch.zeros(2)}, {}, "FILE"), state())
