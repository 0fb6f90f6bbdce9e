"""Exported files contain the run's network."""

from __future__ import annotations

import re
import shlex

import pytest
import torch
from safetensors.torch import load_file
from test_launch_train import train

from launch.cli import main
from launch.commands.run import parse_run
from launch.config.run import Run
from launch.config.shell import run_command
from launch.models import build_model
from launch.runs.network import read_run


def test_a_runs_network_loads_and_scores_the_same(machine, tmp_path):
    run = Run.make("digits", "acdc", epochs=2, sign_in=True, sparsity=0.8)
    train(run, machine)
    out = tmp_path / "out"
    given = ["export", run.name, "--runs", str(machine.runs), "-o", str(out), "--onnx"]
    assert main(given) == 0
    weights, masks = (load_file(out / f"{name}.safetensors") for name in ("model", "masks"))
    model = build_model("digits-cnn", 10, 1, 8).eval()
    model.load_state_dict(weights, strict=True)
    assert all(not weights[name][~mask].any() for name, mask in masks.items())
    import onnxruntime

    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    x = torch.rand(5, 1, 8, 8)
    (found,) = session.run(None, {"images": x.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), model(x), rtol=1e-4, atol=1e-4)
    card = (out / "README.md").read_text()
    assert "acdc + Sign-In" in card and "0.8000 of 33,240" in card
    line = re.search(r"^signbench run .*$", card, flags=re.M)[0]
    assert parse_run(shlex.split(line)[2:]).run == run


@pytest.mark.parametrize(
    "choices",
    [
        {"recipe": "digits", "method": "rigl", "drop_fraction": 0.2, "seed": 3},
        {"recipe": "cifar10-resnet20", "method": "dense", "nesterov": True, "flip": False},
        {"recipe": "digits", "method": "random", "sparsity": 0.5, "beta": 2.0, "sign_in": True},
        {"recipe": "imagenet-deit-small", "method": "snip", "keep_epochs": (1, 2)},
        {"recipe": "digits", "method": "gmp", "exclude": ("0.weight",), "rescale_period": 0},
    ],
)
def test_the_command_that_makes_a_run_again(choices):
    run = Run.make(**choices)
    again = parse_run(shlex.split(run_command(run))[2:]).run
    assert again.name == run.name


def test_a_run_is_read_back_from_its_folder(machine):
    run = Run.make("digits", "rigl", epochs=1, drop_fraction=0.2, sign_in=True, beta=0.5)
    train(run, machine)
    assert read_run(machine.runs / run.name) == run


def test_what_cannot_be_exported_is_one_line(machine, tmp_path, capsys):
    machine.runs.mkdir()
    (machine.runs / "odd").mkdir()
    (machine.runs / "odd" / "config.json").write_text('{"run": {"recipe": "digits"}}')
    for name, reason in (("nobody", "there is no run"), ("odd", "is not the folder of a run")):
        out = tmp_path / "out"
        assert main(["export", name, "--runs", str(machine.runs), "-o", str(out)]) == 2
        error = capsys.readouterr().err
        assert reason in error and error.count("\n") == 1
        assert not out.exists()
