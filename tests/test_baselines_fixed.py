"""Masks and starts from files."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_launch_train import train

from baselines.errors import UserError
from launch.config import Run


@pytest.fixture
def trained(machine):
    run = Run.make("digits", "random", sparsity=0.7, epochs=2)
    train(run, machine)
    return machine.runs / run.name


def fixed(**choices):
    return Run.make("digits", "fixed", **{"sparsity": 0.7, "epochs": 1, **choices})


def first_snapshot(run, machine):
    return load_file(machine.runs / run.name / "snapshots" / "epoch-0.safetensors")


@pytest.mark.parametrize("sign_in", [False, True])
def test_masks_and_start_are_those_of_the_snapshot(machine, trained, sign_in):
    file = trained / "snapshots" / "epoch-2.safetensors"
    run = fixed(masks=str(file), weights=str(trained), seed=5, sign_in=sign_in)  # folder: its last
    result = train(run, machine)
    start, expected = first_snapshot(run, machine), load_file(file)
    assert start.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(start[name], tensor), name
    assert result["active"] == sum(int(t.sum()) for k, t in expected.items() if "mask:" in k)


def test_masks_alone_start_afresh_and_weights_alone_are_dense(machine, trained):
    masked = fixed(masks=str(trained), seed=5)
    train(masked, machine)
    fresh = Run.make("digits", "random", sparsity=0.7, epochs=1, seed=5)
    train(fresh, machine)
    one, other = first_snapshot(masked, machine), first_snapshot(fresh, machine)
    both = one["mask:4.weight"] & other["mask:4.weight"]
    assert both.any() and torch.equal(one["4.weight"][both], other["4.weight"][both])
    dense = fixed(weights=str(trained), sparsity=0.0)
    assert train(dense, machine)["active"] == train(dense, machine)["prunable"]


def test_what_does_not_fit_is_named(machine, trained, tmp_path):
    (tmp_path / "text.safetensors").write_text("no tensors")
    (tmp_path / "empty").mkdir()
    save_file({"mask:0.weight": torch.ones(2, 2)}, tmp_path / "part.safetensors")
    whole = load_file(trained / "snapshots" / "epoch-2.safetensors")
    save_file({**whole, "0.weight": torch.ones(2, 2)}, tmp_path / "shape.safetensors")
    save_file({**whole, "mask:0.weight": torch.ones(2, 2)}, tmp_path / "mask.safetensors")
    for choices, message in [
        ({"masks": "nowhere.safetensors"}, "there is no snapshot nowhere.safetensors"),
        ({"masks": str(tmp_path / "text.safetensors")}, "is not a snapshot"),
        ({"masks": str(tmp_path / "empty")}, "holds no snapshots"),
        ({"masks": str(tmp_path / "part.safetensors")}, "has no mask of 2.weight"),
        ({"weights": str(tmp_path / "part.safetensors")}, "has no 0.weight"),
        ({"weights": str(tmp_path / "shape.safetensors")}, r"0.weight has shape \(2, 2\)"),
        ({"masks": str(tmp_path / "mask.safetensors")}, "sparsity|shape"),
        ({"masks": str(trained), "sparsity": 0.9}, "say so with --sparsity"),
        ({"sparsity": 0.9}, "the masks have sparsity 0, not 0.9"),
    ]:
        with pytest.raises(UserError, match=message):
            train(fixed(**choices), machine)
