"""Networks on the line between two networks: hand-worked barriers, exact ends, and the command."""

from __future__ import annotations

import csv
import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_launch_train import train
from torch import nn

import launch.measures.barrier
from launch.cli import main
from launch.config.run import Run
from launch.measures.barrier import barrier, interpolate, points_between

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "values, expected",
    [
        ([0.1, 0.2, 0.3], 0.0),  # a straight line
        ([0.1, 0.9, 0.3], 0.7),
        ([0.5, 0.1, 0.5], 0.0),  # a valley
        ([0.0, 0.4, 1.0], 0.0),
    ],
)
def test_the_barrier_is_the_height_above_the_line_between_the_ends(values, expected):
    assert barrier([0, 0.5, 1], values) == pytest.approx(expected, abs=1e-12)


def test_the_height_is_above_the_line_at_each_position():
    assert barrier([0, 0.25, 1], [1.0, 1.0, 0.0]) == pytest.approx(0.25)


def test_both_ends_are_exact_and_counters_are_kept():
    first = {"w": torch.randn(1000), "n": torch.tensor(3)}
    second = {"w": torch.randn(1000), "n": torch.tensor(9)}
    assert torch.equal(interpolate(first, second, 0.0)["w"], first["w"])
    assert torch.equal(interpolate(first, second, 1.0)["w"], second["w"])
    middle = interpolate(first, second, 0.25)
    torch.testing.assert_close(middle["w"], 0.75 * first["w"] + 0.25 * second["w"])
    assert middle["n"] == 3


class Split:
    """Two batches of two inputs each."""

    skipped = 0

    def __init__(self):
        x = torch.tensor([[1.0], [2.0], [3.5], [6.0]])
        self.batches = [(x[:2], torch.tensor([0, 1])), (x[2:], torch.tensor([0, 1]))]

    def __len__(self):
        return 2

    def epoch(self, epoch):
        return iter(self.batches)


@pytest.mark.parametrize("fit, passes", [(3, 1), (2, 2), (0, 3)])
def test_training_images_are_read_once_for_all_networks_that_fit(monkeypatch, fit, passes):
    model = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2))
    ends = [{k: v + i for k, v in model.state_dict().items()} for i in (0.0, 1.0)]
    size = sum(v.numel() * v.element_size() for v in ends[0].values())
    monkeypatch.setattr(launch.measures.barrier, "MOST_BYTES", fit * size)
    train_split, epochs = Split(), []
    monkeypatch.setattr(train_split, "epoch", lambda e: epochs.append(e) or Split().epoch(e))
    points = list(points_between(model, tuple(ends), [0, 0.5, 1], train_split, Split(), CPU))
    assert epochs == [0] * passes and [p.position for p in points] == [0, 0.5, 1]


def test_one_group_of_networks_is_held_at_a_time(monkeypatch):
    alive, most = weakref.WeakSet(), []
    make = launch.measures.barrier._network

    def counted(*args):
        alive.add(net := make(*args))
        most.append(len(alive))
        return net

    monkeypatch.setattr(launch.measures.barrier, "MOST_BYTES", 0)
    monkeypatch.setattr(launch.measures.barrier, "_network", counted)
    model = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2))
    ends = (model.state_dict(), model.state_dict())
    assert len(list(points_between(model, ends, [0, 0.5, 1], Split(), Split(), CPU))) == 3
    assert most == [1, 1, 1]


def test_batch_statistics_are_those_of_each_network():
    """Normalisation without weights hides a scale: all networks on the line are the same."""
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.BatchNorm1d(2, affine=False))
    states = []
    for scale in (1.0, 5.0):
        model[0].weight.data = scale * torch.tensor([[-1.0], [1.0]])
        model[1].running_mean.fill_(-7.0)
        states.append({k: v.clone() for k, v in model.state_dict().items()})
    split = Split()
    points = list(points_between(model, tuple(states), [0, 0.5, 1], split, split, CPU))
    assert [p.position for p in points] == [0, 0.5, 1]
    losses = torch.tensor([p.loss for p in points])
    torch.testing.assert_close(losses, losses[0].expand(3), rtol=1e-4, atol=0)
    x = torch.cat([x for x, _ in split.batches])
    # the mean of the batches' means, and of their unbiased variances
    mean, variance = (1.5 + 4.75) / 2, (0.5 + 3.125) / 2
    z = (x - mean) / (variance + 1e-5) ** 0.5
    y = torch.tensor([0, 1, 0, 1])
    expected = nn.functional.cross_entropy(torch.cat([-z, z], 1), y)
    assert points[0].loss == pytest.approx(expected.item(), rel=1e-4)
    assert points[0].error == 0.5  # answers 0, 0, 1, 1


@pytest.fixture
def two_runs(machine):
    runs = [Run.make("digits", "random", sparsity=0.8, epochs=2, seed=s) for s in (0, 1)]
    results = [train(run, machine) for run in runs]
    return runs, results


def test_the_command_measures_writes_and_draws(two_runs, machine, capsys, tmp_path):
    (one, other), results = two_runs
    csv_file, picture = tmp_path / "line.csv", tmp_path / "line.pdf"
    flags = ["--points", "3", "--runs", str(machine.runs), "--device", "cpu", "--threads", "1"]
    flags += ["--output", str(csv_file), str(picture)]
    assert main(["barrier", one.name, f"{other.name}@final", *flags]) == 0
    with csv_file.open() as stream:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(stream)]
    # the net has no batch statistics, so the ends are the runs
    for row, result in zip((rows[0], rows[-1]), results, strict=True):
        assert 1 - row["error"] == pytest.approx(result["accuracy"], abs=1e-12)
    height = 100 * barrier([0, 0.5, 1], [row["error"] for row in rows])
    assert f"barrier: {height:.2f} percentage points of error" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"%PDF")


def test_the_second_may_be_a_file(two_runs, machine, capsys):
    (one, other), _ = two_runs
    file = machine.runs / other.name / "snapshots" / "epoch-2.safetensors"
    flags = ["--points", "3", "--runs", str(machine.runs), "--device", "cpu", "--threads", "1"]
    shown = []
    for second in (other.name, str(file)):
        assert main(["barrier", one.name, second, *flags]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    double = machine.runs.parent / "double.safetensors"
    tensors = {k: x.double() if x.is_floating_point() else x for k, x in load_file(file).items()}
    save_file(tensors, double)
    assert main(["barrier", one.name, str(double), *flags]) == 0
    assert shown[0] in capsys.readouterr().out
    copy = machine.runs.parent / "copy.safetensors"
    copy.write_bytes(file.read_bytes())
    assert main(["barrier", str(copy), one.name, *flags]) == 2
    assert "the first of the two must be a run" in capsys.readouterr().err


def test_what_cannot_be_compared_is_one_line(two_runs, machine, capsys):
    (one, other), _ = two_runs
    flags = ["--runs", str(machine.runs)]
    wide = Run.make("digits", "random", sparsity=0.8, epochs=1, model="resnet20")
    train(wide, machine)
    for args, message in (
        ([one.name], "give two runs"),
        ([one.name, "nothing"], "there is no run nothing"),
        ([one.name, f"{other.name}@7"], "has no snapshot '7'"),
        ([one.name, wide.name], "the runs differ in model: digits-cnn and resnet20"),
        ([one.name, other.name, "--points", "2"], "points must be at least 3"),
        ([one.name, other.name, "-o", "a.txt"], "--output must end in"),
        ([one.name, other.name, "-o", "nowhere/a.csv"], "there is no folder nowhere"),
        ([one.name, other.name, "--threads", "-1"], "threads must not be negative"),
    ):
        assert main(["barrier", *args, *flags]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
