"""Exported files contain the run's network."""

from __future__ import annotations

import math
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_launch_sparse_inference import timings
from test_launch_train import train

import launch.commands.export
from baselines.errors import UserError
from launch.cli import main
from launch.commands.export import INCOMPLETE
from launch.commands.run import parse_run
from launch.config.run import Run
from launch.config.shell import run_command
from launch.data.sources import SOURCES
from launch.inputs import Inputs
from launch.models import MODELS, build_model, mlp
from launch.runs.card import input_facts, result_facts
from launch.runs.reading import read_run
from launch.runs.snapshots import read_snapshot, write_snapshot
from launch.sparse_inference.export import sparse_network


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
    assert f"| test accuracy | {accuracy_by(card, model, tmp_path):.2%}, after 2 epochs |" in card
    line = re.search(r"^signbench run .*$", card, flags=re.M)[0]
    assert parse_run(shlex.split(line)[2:]).run == run


def accuracy_by(card, model, root):
    """Return a model's accuracy on the digits, prepared as its card says."""
    assert "| inputs | images of 1 × 8 × 8 (channels × height × width) |" in card
    assert "| pixels | bytes / 255" in card and "(pixels − mean) / std" in card
    mean, std = (float(re.search(rf"; {name} ([\d.e-]+)", card)[1]) for name in ("mean", "std"))
    _, (images, labels), _ = SOURCES["digits"](root)
    x = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.no_grad():
        return float((model(x).argmax(1) == torch.from_numpy(labels)).float().mean())


def test_a_card_imports_what_a_plugin_adds(machine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "tiny_plugin.py").write_text("")
    monkeypatch.setitem(MODELS, "tiny-net", lambda classes, features: mlp(classes, features))
    run = Run.make("digits", "random", model="tiny-net", epochs=1)
    train(run, machine)
    given = ["export", run.name, "--runs", str(machine.runs), "-o", "out"]
    assert main([*given, "--import", "tiny_plugin"]) == 0
    card = Path("out", "README.md").read_text()
    command = re.search(r"^signbench run .*$", card, flags=re.M)[0]
    made = parse_run(shlex.split(command)[2:])
    assert made.run == run and made.machine.imports == ("tiny_plugin",)
    assert "import tiny_plugin\nfrom launch.inputs import Inputs\n" in card


def test_a_card_says_how_images_become_inputs():
    image, known = Inputs.image(3, 32), {"classes": 2, "mean": [0.5, 1 / 3, 0], "std": [1, 2, 3e-6]}
    facts = input_facts({**known, "resize": "cropped"}, image)
    assert facts["resizing"] == "cropped"
    assert facts["normalisation"].endswith("; mean 0.5, 0.3333333, 0; std 1, 2, 3e-06")
    assert "resizing" not in input_facts(known, image)
    assert input_facts({"classes": 2}, Inputs((5,))) == {
        "inputs": "features of shape 5",
        "normalisation": "none: inputs are as the data give them",
    }
    assert "not recorded" in input_facts({}, image)["normalisation"]


def test_a_card_says_what_a_result_has():
    result = {"accuracy": 0.5, "epochs": 3, "device": "cpu", "flops": 1e6, "dense_flops": 1e7}
    facts = {"test accuracy": "50.00%, after 3 epochs", "device": "cpu"}
    operations = {"operations of a forward pass": "1e+06, of 1e+07 with all weights"}
    assert result_facts(result) == {**facts, **operations}
    del result["dense_flops"]
    assert result_facts(result) == facts
    assert result_facts({"accuracy": 0.5}) == {"test accuracy": "50.00%"}


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


def choose_with(monkeypatch, network=0.5, **ratios):
    timed = partial(sparse_network, timer=timings(sparse=network, **ratios))
    monkeypatch.setattr(launch.commands.export, "sparse_network", timed)


LOADER = """
import os, sys
for name in ("baselines", "signin", "analysis", "launch"):
    sys.modules[name] = None  # importing it fails
for folder in sys.argv[1:]:
    os.chdir(folder)
    exec(open("code.py").read())
    torch.save(model(torch.load("x.pt")), "y.pt")
"""


def test_the_sparse_network_loads_without_the_suite(machine, tmp_path, monkeypatch):
    run = Run.make("digits", "random", epochs=1, sparsity=0.95)
    train(run, machine)
    given = ["export", run.name, "--runs", str(machine.runs), "--sparse", "--batch", "3", "-o"]
    outs = {kind: tmp_path / kind for kind in ("gather", "rows")}
    for kind, out in outs.items():
        choose_with(monkeypatch, **{kind: 0.5})
        assert main([*given, str(out)]) == 0
        card = (out / "README.md").read_text()
        *_, code = re.findall(r"^```python\n(.*?)^```$", card, flags=re.S | re.M)
        assert len(code.splitlines()) <= 30
        (out / "code.py").write_text(code)
        torch.save(torch.rand(3, 1, 8, 8), out / "x.pt")
    done = subprocess.run(
        [sys.executable, "-I", "-c", LOADER, *map(str, outs.values())],
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for kind, out in outs.items():
        check_sparse_export(kind, out)


def check_sparse_export(kind, out):
    model = build_model("digits-cnn", 10, 1, 8).eval()
    model.load_state_dict(load_file(out / "model.safetensors"), strict=True)
    with torch.no_grad():
        expected = model(torch.load(out / "x.pt"))
    torch.testing.assert_close(torch.load(out / "y.pt"), expected, rtol=1e-4, atol=1e-4)
    card = (out / "README.md").read_text()
    size = (out / "sparse.pt2").stat().st_size
    assert f"{size:,} bytes" in card and "takes 0.50 of the dense network's time" in card
    masks = load_file(out / "masks.safetensors")
    pruned = [name for name, mask in masks.items() if not mask.all()]
    if kind == "rows":
        pruned.remove("8.weight")  # the classifier has no rows of pixels
    assert f"{len(pruned)} of 4 layers are sparse" in card and len(pruned) > 1


def test_dense_networks_are_not_exported_as_sparse(machine, tmp_path, monkeypatch, capsys):
    choose_with(monkeypatch, gather=1.1)
    run = Run.make("digits", "random", epochs=1, sparsity=0.9)
    train(run, machine)
    out = tmp_path / "out"
    given = ["export", run.name, "--runs", str(machine.runs), "-o", str(out), "--sparse"]
    assert main(given) == 2
    assert "dense wins: none of 4 layers" in capsys.readouterr().err
    choose_with(monkeypatch, network=1.25, gather=0.5)
    assert main(given) == 2
    assert "the network takes 1.25 of the dense time at batch size 1" in capsys.readouterr().err
    assert main([*given, "--batch", "0"]) == 2
    assert "batch must be positive" in capsys.readouterr().err
    assert main([*given[:-1], "--batch", "8"]) == 2
    assert "--batch is that of sparse.pt2: add --sparse" in capsys.readouterr().err
    assert not out.exists()


@pytest.fixture
def exporting(machine, tmp_path):
    """Return the arguments that export a trained run to tmp_path/"out"."""
    run = Run.make("digits", "random", epochs=2, ham=True)
    train(run, machine)
    return ["export", run.name, "--runs", str(machine.runs), "-o", str(tmp_path / "out")]


def test_a_second_export_leaves_nothing_of_the_first(exporting, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    assert main(exporting) == 0
    card = (out / "README.md").read_text()
    (out / "README.md").write_text(f"---\nlicense: mit\n---\n{card.replace('random', 'rigl')}")
    for file in ("model.onnx", "sparse.pt2"):
        (out / file).write_text("of another network")
    (out / "notes.txt").write_text("mine")
    assert main(exporting) == 0
    names = {"README.md", "model.safetensors", "masks.safetensors", "notes.txt"}
    assert {path.name for path in out.iterdir()} == names
    assert "| method | random + HAM |" in (out / "README.md").read_text()

    def stop(*_args, **_kwargs):
        raise UserError("no space")

    monkeypatch.setattr(launch.commands.export, "write_checkpoint", stop)
    assert main(exporting) == 2
    assert (out / "README.md").read_text() == INCOMPLETE  # it would describe other weights


def test_an_export_that_was_interrupted_is_made_again(exporting, tmp_path, monkeypatch):
    monkeypatch.setattr(launch.commands.export, "_onnx", lambda *_: b"onnx")
    written = []

    def stop(path, target):
        move(path, target)
        written.append(target.name)
        if len(written) == last:
            raise KeyboardInterrupt

    move = Path.replace
    for last in range(1, 5):
        written.clear()
        given = [*exporting[:-1], str(tmp_path / f"{last}"), "--onnx"]
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", stop)
            assert main(given) == 130
        assert len(written) == last
        assert main(given) == 0
        assert "| method | random + HAM |" in (tmp_path / f"{last}" / "README.md").read_text()
    assert written[-1] == "model.onnx"


def test_files_of_others_are_not_removed(exporting, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    names = ("README.md", "model.safetensors", "masks.safetensors", "model.onnx", "sparse.pt2")
    for file in names:
        (out / file).write_text("of a project")
        assert main(exporting) == 2
        error = capsys.readouterr().err
        assert f"{out} has a {file} that is not from an earlier export" in error
        assert error.count("\n") == 1 and [path.name for path in out.iterdir()] == [file]
        assert (out / file).read_text() == "of a project"
        (out / file).unlink()


def test_weights_that_are_sparse_without_masks_are_counted(exporting, machine, tmp_path):
    """As in the snapshots of STR, SR-STE and Top-KAST during the training."""
    folder = machine.runs / exporting[1]
    snapshot = read_snapshot(folder, "1")
    ones = {name: torch.ones_like(mask) for name, mask in snapshot.masks.items()}
    write_snapshot(folder, folder.name, 1, replace(snapshot, masks=ones))
    assert main([*exporting, "--epoch", "1"]) == 0
    assert "| sparsity | 0.9000 of" in (tmp_path / "out" / "README.md").read_text()
    masks = load_file(tmp_path / "out" / "masks.safetensors")
    assert masks and all(torch.equal(masks[name], snapshot.masks[name]) for name in snapshot.masks)


def test_exported_masks_are_a_source_of_a_mask(exporting, machine, tmp_path):
    """They are booleans under the names of the weights."""
    assert main(exporting) == 0
    given = ["--mask", str(tmp_path / "out" / "masks.safetensors"), "--others", exporting[1]]
    given += ["--signs", f"{exporting[1]}@init", "--magnitudes", "random", "--model", "digits-cnn"]
    given += ["--runs", str(machine.runs), "-o", str(tmp_path / "new.safetensors")]
    assert main(["transplant", *given]) == 0
    found = load_file(tmp_path / "new.safetensors")
    masks = read_snapshot(machine.runs / exporting[1], "final").masks
    assert all(torch.equal(found[name] != 0, mask) for name, mask in masks.items())


def test_a_folder_that_cannot_be_made_is_named_before_the_measurement(
    exporting, tmp_path, monkeypatch, capsys
):
    (tmp_path / "out").write_text("a file")
    monkeypatch.setattr(launch.commands.export, "sparse_network", None)  # not called
    assert main([*exporting, "--sparse"]) == 2
    assert f"cannot write {tmp_path / 'out'}" in capsys.readouterr().err


def test_the_last_snapshot_is_that_of_the_last_epoch(exporting, machine, tmp_path, capsys):
    (file,) = machine.runs.glob("*/snapshots/epoch-2.safetensors")
    file.unlink()
    assert main(exporting) == 2
    assert "epoch 2, is missing" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert main([*exporting, "--epoch", "1"]) == 0


class FakeSession:
    """A session of onnxruntime with another output than the model's, or none."""

    def __init__(self, _exported, providers):
        if isinstance(self.logits, Exception):
            raise self.logits

    def run(self, _outputs, inputs):
        return [np.full((len(inputs["images"]), 10), self.logits, dtype=np.float32)]


@pytest.mark.parametrize(
    "logits, message",
    [
        (math.nan, "the ONNX file's output differs from the model's by nan"),
        (1e6, "the ONNX file's output differs from the model's by 1e+06"),
        (RuntimeError("no\nkernel"), "onnxruntime cannot run the ONNX file: no kernel"),
    ],
)
def test_an_onnx_file_that_is_wrong_is_not_written(
    exporting, tmp_path, monkeypatch, capsys, logits, message
):
    monkeypatch.setattr(FakeSession, "logits", logits, raising=False)
    monkeypatch.setattr("onnxruntime.InferenceSession", FakeSession)
    monkeypatch.setattr(launch.commands.export, "_export", lambda *_: b"")
    assert main([*exporting, "--onnx"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
