"""Checkpoint files of other trainers, through every command that reads one."""

from __future__ import annotations

import argparse

import pytest
import torch
from safetensors.torch import load_file
from test_launch_train import train

from baselines.errors import UserError
from launch.cli import main
from launch.config.run import Run
from launch.runs.snapshots import read_source
from launch.training.check import check_runs

PREFIX = "student.module.backbone."
SHAPE = ["--model", "digits-cnn", "--classes", "10", "--channels", "1", "--image-size", "8"]


@pytest.fixture
def source(machine, monkeypatch):
    """Train a run at 70 % sparsity, and write its network as another trainer might."""
    run = Run.make("digits", "random", sparsity=0.7, epochs=1)
    train(run, machine)
    monkeypatch.chdir(machine.runs.parent)
    final = snapshot(machine, run.name, 1)
    state = {k: t for k, t in final.items() if not k.startswith("mask:")}
    ema = {name: 2 * tensor for name, tensor in state.items()}
    file = {
        "model": {PREFIX + name: tensor for name, tensor in state.items()},
        "model_ema": {"module." + name: tensor for name, tensor in ema.items()},
        "args": argparse.Namespace(lr=0.1),
        "epoch": 3,
    }
    torch.save(file, "theirs.pth.tar")
    return run, state


def snapshot(machine, name, epoch):
    return load_file(machine.runs / name / "snapshots" / f"epoch-{epoch}.safetensors")


def called(capsys, *args, code=0):
    """Call a command in one thread; return what it printed."""
    assert main([*map(str, args)]) == code
    shown = capsys.readouterr()
    assert not code or shown.err.count("\n") == 1
    return shown.err if code else shown.out


def started(machine, shown):
    """Return the first weights of the run that a command has trained."""
    (line,) = (line for line in shown.splitlines() if line.startswith("results in "))
    return snapshot(machine, line.rpartition("/")[2], 0)


RUN = ["run", "--recipe", "digits", "--sparsity", "0.7", "--epochs", "1", "--threads", "1"]
READS = f"theirs.pth.tar: reads model.{PREFIX}*; FILE@KEY chooses another one: model_ema.module\n"


@pytest.mark.parametrize(
    "flags, factor, note",
    [
        (["--method", "fixed", "--init", "theirs.pth.tar"], 1, READS),
        (["--method", "fixed", "--init", "theirs.pth.tar", "--key", "model_ema"], 2, "model_ema."),
        (["--method", "fixed", "--init", "theirs.pth.tar@model_ema"], 2, "model_ema.module.*\n"),
        (["--method", "oneshot", "--init-from", "theirs.pth.tar"], 1, READS),
        (["--method", "oneshot", "--init-from", "theirs.pth.tar@model_ema"], 2, "model_ema."),
    ],
)
def test_runs_start_from_it(machine, source, capsys, flags, factor, note):
    _, state = source
    shown = called(capsys, *RUN, *flags)
    assert shown.count("theirs.pth.tar: reads") == 1 and note in shown
    start = started(machine, shown)
    assert all(torch.equal(start[name], factor * tensor) for name, tensor in state.items())


def test_a_transplant_takes_parts_of_it(machine, source, capsys):
    run, state = source
    parts = ["--mask", "theirs.pth.tar", "--magnitudes", "theirs.pth.tar@model_ema"]
    for model in ([], SHAPE):
        shown = called(capsys, "transplant", *parts, *model, "-o", "out.safetensors")
        out = load_file("out.safetensors")
        # without a model, only the prefixes that every trainer uses are known to be prefixes
        prefix = "" if model else PREFIX
        assert out.keys() == {prefix + name for name in state}
        expected = 2 * state["4.weight"]
        torch.testing.assert_close(out[f"{prefix}4.weight"], expected, rtol=0, atol=0)
        assert shown.count(": reads ") == 2
    shown = called(capsys, "transplant", "--mask", run.name, *parts[2:], "-o", "out.safetensors")
    assert load_file("out.safetensors").keys() == state.keys()


def test_a_barrier_to_it_is_measured(machine, source, capsys):
    run, _ = source
    flags = ["--points", "3", "--device", "cpu", "--threads", "1"]
    shown = called(capsys, "barrier", run.name, "theirs.pth.tar", *flags)
    assert shown.startswith(READS) and "barrier: 0.00 percentage points of error" in shown
    shown = called(capsys, "barrier", run.name, "theirs.pth.tar", "--key", "model_ema", *flags)
    assert "reads model_ema.module.*" in shown


def test_the_error_names_the_file_and_the_nearest_keys(machine, source, capsys):
    _, state = source
    renamed = {name.replace("4.weight", "fc.weight"): tensor for name, tensor in state.items()}
    torch.save({"net": {"m." + name: tensor for name, tensor in renamed.items()}}, "other.pt")
    shown = called(capsys, *RUN, "--method", "fixed", "--init", "other.pt", code=2)
    shape = tuple(state["4.weight"].shape)
    assert f"other.pt has no 4.weight of shape {shape}; nearest: fc.weight {shape}" in shown
    shown = called(capsys, *RUN, "--method", "fixed", "--init", "theirs.pth.tar@ema", code=2)
    assert "theirs.pth.tar has no entry 'ema'; there are model, model_ema." in shown


def test_a_run_without_an_epoch_is_its_last_snapshot(machine, source, capsys):
    run, _ = source
    at = [read_source(text, machine.runs) for text in (run.name, f"{run.name}@final")]
    assert all(torch.equal(at[0].masks[name], at[1].masks[name]) for name in at[1].masks)
    plain, final = (Run.make("digits", "fixed", mask=f"{run.name}{at}") for at in ("", "@final"))
    assert plain.needs == (run.name,) and plain == final and plain.name == final.name
    assert Run.make("digits", "oneshot", init_from="a").options.init_from == "a@final"
    assert Run.make("digits", "oneshot", init_from="a.pt").options.init_from == "a.pt"
    assert Run.make("digits", "wanda", init_from="a").options.init_from == "a@final"
    with pytest.raises(UserError, match="samples_per_class must be positive"):
        Run.make("digits", "wanda", samples_per_class=0)
    shown = called(capsys, *RUN, "--method", "fixed", "--mask", run.name)
    start = started(machine, shown)
    assert all(torch.equal(start[f"mask:{name}"], mask) for name, mask in at[1].masks.items())
    shown = called(capsys, *RUN, "--method", "fixed", "--mask", "nobody", code=2)
    assert "there is no run runs/nobody" in shown
    for text in ("theirs.pth@ema", "~/theirs.pth@ema"):
        with pytest.raises(UserError, match="there is no file .*theirs.pth"):
            read_source(text, machine.runs / "nowhere")


def test_fixed_without_a_mask_explains_itself(machine, source, capsys):
    n = len(list(machine.runs.iterdir()))
    for flags in ([], ["--signs", "theirs.pth.tar"]):
        shown = called(capsys, *RUN, "--method", "fixed", *flags, code=2)
        assert "fixed trains a given mask: name its source" in shown and "--mask" in shown
    with pytest.raises(UserError, match="fixed trains a given mask"):
        check_runs([Run.make("digits", "fixed")], machine)
    assert len(list(machine.runs.iterdir())) == n
