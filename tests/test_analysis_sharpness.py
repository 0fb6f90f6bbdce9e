"""Eigenvalues compared with the dense Hessian and with another library, and on runs."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from curvlinops import HessianLinearOperator
from scipy.sparse.linalg import eigsh
from test_launch_train import train
from torch import nn

import launch.commands.sharpness
import launch.measures.hessian
from analysis.folder import read_sharpness
from baselines.checkpoint import Checkpoint
from launch.cli import main
from launch.commands.sharpness import SharpnessCommand, Task
from launch.config.run import Run
from launch.data import load_data
from launch.measures.hessian import Hessian, estimate_trace, largest_eigenvalues
from launch.ranks import Share
from launch.runs.atomic import write_csv
from launch.runs.snapshots import read_snapshot, write_snapshot


@pytest.fixture
def tiny():
    """Return a network of 54 parameters in float64, masks of its weights, and two batches."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4), nn.BatchNorm1d(4)).double()
    model(torch.randn(64, 4).double())
    weights = {name: model.get_parameter(name) for name in ("0.weight", "2.weight")}
    masks = {name: torch.rand_like(weight) < 0.6 for name, weight in weights.items()}
    batches = [(torch.randn(n, 4).double(), torch.randint(4, (n,))) for n in (7, 20)]
    return model.eval(), weights, masks, batches


def dense_hessian(model, weights, batches):
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))

    def loss(flat):
        parts = torch.split(flat, [weight.numel() for weight in weights.values()])
        given = {k: p.view_as(w) for (k, w), p in zip(weights.items(), parts, strict=True)}
        return nn.functional.cross_entropy(torch.func.functional_call(model, given, (x,)), y)

    flat = torch.cat([weight.detach().flatten() for weight in weights.values()])
    return torch.autograd.functional.hessian(loss, flat).numpy()


def test_eigenvalues_and_trace_of_the_dense_hessian(tiny):
    model, weights, masks, batches = tiny
    active = torch.cat([mask.flatten() for mask in masks.values()]).numpy()
    dense = dense_hessian(model, weights, batches)[np.ix_(active, active)]
    hessian = Hessian(model, weights, masks, batches)
    assert hessian.shape == dense.shape
    np.testing.assert_allclose(hessian @ np.eye(len(dense)), dense, atol=1e-10)
    expected = np.sort(np.linalg.eigvalsh(dense))[::-1][:3]
    found = largest_eigenvalues(hessian, k=3, tolerance=1e-8)
    np.testing.assert_allclose(found.values, expected, rtol=1e-6)
    assert max(found.residuals) < 1e-5
    estimate, error = estimate_trace(hessian, probes=400)
    assert abs(estimate - np.trace(dense)) < 4 * error < 0.5 * abs(np.trace(dense))


def test_the_relative_hessian_of_the_dense_one(tiny):
    model, weights, masks, batches = tiny
    active = torch.cat([mask.flatten() for mask in masks.values()]).numpy()
    dense = dense_hessian(model, weights, batches)[np.ix_(active, active)]
    norms = [
        weights[k].detach()[mask].norm().item() for k, mask in masks.items() for _ in mask[mask]
    ]
    expected = np.diag(norms) @ dense @ np.diag(norms)
    found = Hessian(model, weights, masks, batches).relative()
    np.testing.assert_allclose(found @ np.eye(len(dense)), expected, atol=1e-10)


def test_scale_before_batch_normalisation_changes_only_the_absolute_sharpness(tiny):
    model, _, _, batches = tiny
    last = {"2.weight": model[2].weight}  # batch normalisation follows
    model[3].eps = 0.0

    def measure():
        hessian = Hessian(model, last, {}, batches)
        operators = hessian, hessian.relative()
        return [largest_eigenvalues(h, tolerance=1e-10).values[0] for h in operators]

    absolute, relative = measure()
    with torch.no_grad():
        for part in (model[2].weight, model[2].bias, model[3].running_mean):
            part.mul_(3)
        model[3].running_var.mul_(9)
    np.testing.assert_allclose(measure(), [absolute / 9, relative], rtol=1e-8)


def test_products_of_another_library(tiny):
    model, weights, _, batches = tiny
    kept = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
    ours = Hessian(model, weights, kept, batches)
    theirs = HessianLinearOperator(model, nn.CrossEntropyLoss(), list(weights.values()), batches)
    vectors = np.random.default_rng(0).standard_normal((ours.shape[0], 3))
    expected = theirs @ torch.from_numpy(vectors)
    np.testing.assert_allclose(ours @ vectors, expected.numpy(), atol=1e-10)


def test_sharpness_of_a_runs_snapshots(machine, capsys, monkeypatch):
    loads = []

    def counted(*args, **kwargs):
        loads.append(args)
        return load_data(*args, **kwargs)

    monkeypatch.setattr(launch.commands.sharpness, "load_data", counted)
    run = Run.make("digits", "random", epochs=2, sign_in=True)
    train(run, machine)
    where = ["--runs", str(machine.runs), "--data-dir", str(machine.data_dir), "--device", "cpu"]
    flags = [*where, "--per-class", "5"]
    assert (
        main(["sharpness", run.name, "--epochs", "0,2", "--top", "2", "--probes", "3", *flags]) == 0
    )
    assert len(loads) == 1  # for both snapshots
    assert main(["sharpness", run.name, "--epochs", "2", "--relative", *flags]) == 0
    assert main(["sharpness", "--epochs", "1", *flags]) == 0
    assert main(["sharpness", "--epochs", "0", "--again", *flags]) == 0  # keeps what it leaves out
    with (machine.runs / run.name / "sharpness.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert all(float(row["sharpness"]) > 0 and float(row["residual"]) < 0.01 for row in rows)
    assert float(rows[2]["relative_sharpness"]) > 0 and not rows[0]["relative_sharpness"]
    assert 0 <= float(rows[2]["relative_residual"]) < 0.01 and rows[2]["probes"] == "3"
    assert all(row["trace"] for row in (rows[0], rows[2])) and not rows[1]["trace"]
    assert 0 < float(rows[0]["eigenvalue_2"]) <= float(rows[0]["sharpness"])
    assert main(["sharpness", run.name, "--epochs", "7", *flags]) == 2
    assert "no snapshot 7" in capsys.readouterr().err
    assert main(["sharpness", "nobody", *flags]) == 2
    assert "there is no run nobody" in capsys.readouterr().err
    assert main(["sharpness", "--runs", str(machine.runs / "rnus")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert main(["sharpness", *where, "--where", "method=rigl"]) == 2
    assert "there are no such runs" in capsys.readouterr().err


def test_rows_that_another_process_writes_meanwhile_are_kept(machine, monkeypatch):
    run = Run.make("digits", "random", epochs=1)
    train(run, machine)
    file = machine.runs / run.name / "sharpness.csv"
    measured = launch.commands.sharpness._row

    def slow(*args):
        found = measured(*args)
        write_csv(file, [{**found, "epoch": 0, "sharpness": 7.0}])
        return found

    monkeypatch.setattr(launch.commands.sharpness, "_row", slow)
    flags = ["--data-dir", str(machine.data_dir), "--device", "cpu", "--per-class", "2"]
    given = ["sharpness", run.name, "--epochs", "1", "--runs", str(machine.runs), *flags]
    assert main(given) == 0
    first, second = read_sharpness(file.parent)
    assert (first["epoch"], first["sharpness"], second["epoch"]) == (0, 7.0, 1)


def test_what_was_measured_less_precisely_is_due_again(machine):
    run = Run.make("digits", "random", epochs=1)
    train(run, machine)
    folder = machine.runs / run.name
    row = {"epoch": 1, "sharpness": 2.0, "residual": 1e-8, "images": 50, "per_class": 5}
    row["seconds"] = 1.0

    def is_due(row, **choices):
        write_csv(folder / "sharpness.csv", [row])
        given = SharpnessCommand(epochs=(1,), per_class=5, tolerance=1e-6, **choices)
        return bool(list(launch.commands.sharpness._tasks(folder, given)))

    assert not is_due(row)
    for choices, less, enough in (
        ({"probes": 8}, {"trace": 3.0}, {"probes": 8}),
        ({"probes": 8}, {"trace": 3.0, "probes": 4}, {"probes": 9}),
        ({"relative": True}, {"relative_sharpness": 3.0}, {"relative_residual": 1e-7}),
        ({"top": 2}, {"eigenvalue_2": 1.0, "residual_2": 1e-4}, {"residual_2": 1e-6}),
    ):
        assert is_due({**row, **less}, **choices)
        assert not is_due({**row, **less, **enough}, **choices)


def test_snapshots_at_which_it_does_not_converge_are_left_out(machine, monkeypatch, capsys):
    run = Run.make("digits", "random", epochs=1)
    train(run, machine)
    settings = torch.backends.cudnn, torch.backends.cuda.matmul
    were, seen = [setting.allow_tf32 for setting in settings], []

    def limited(*args, **choices):
        seen.append([setting.allow_tf32 for setting in settings])
        most = {"maxiter": 1, "ncv": 2} if len(seen) == 1 else {}
        return eigsh(*args, **most, **choices)

    monkeypatch.setattr(launch.measures.hessian, "eigsh", limited)
    where = ["--runs", str(machine.runs), "--data-dir", str(machine.data_dir), "--device", "cpu"]
    assert main(["sharpness", run.name, "--per-class", "2", *where]) == 2
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith(f"[1/2] {run.name} epoch 0: not measured. Lanczos' method")
    assert "has not converged at 1 of 2 snapshots: measure them with a larger --tol" in last
    assert [row["epoch"] for row in read_sharpness(machine.runs / run.name)] == [1]
    assert seen == [[False, False]] * 2
    assert [setting.allow_tf32 for setting in settings] == were


def test_masks_without_zeros_do_not_change_the_sharpness_of_a_sparse_network(machine):
    run = Run.make("digits", "random", epochs=1)
    train(run, machine)
    folder = machine.runs / run.name
    where = ["--runs", str(machine.runs), "--data-dir", str(machine.data_dir), "--device", "cpu"]
    flags = ["--epochs", "1", "--per-class", "5", "--again", *where]
    assert main(["sharpness", run.name, *flags]) == 0
    (before,) = read_sharpness(folder)
    snapshot = read_snapshot(folder, "1")
    ones = {name: torch.ones_like(mask) for name, mask in snapshot.masks.items()}
    write_snapshot(folder, run.name, 1, Checkpoint(snapshot.weights, ones))
    assert main(["sharpness", run.name, *flags]) == 0
    (after,) = read_sharpness(folder)
    assert after["sharpness"] == pytest.approx(before["sharpness"], rel=1e-3)


def test_images_that_a_run_held_out_are_not_measured(machine, monkeypatch):
    run = Run.make("digits", "random", validation=0.5, batch_size=1, seed=3)
    where = (machine.data_dir, torch.device("cpu"))
    trained = load_data(run.settings, *where, run.seed, Share(), 0).train
    known = {x.numpy().tobytes() for x, _ in trained.epoch(0)}
    measured = []

    def note(_run, data, *_):
        measured.extend(x.numpy().tobytes() for x, _ in data.train.sample(5))

    monkeypatch.setattr(launch.commands.sharpness, "read_run", lambda _: run)
    monkeypatch.setattr(launch.commands.sharpness, "_row", note)
    monkeypatch.setattr(launch.commands.sharpness, "_write", lambda *_: None)
    given = SharpnessCommand(data_dir=machine.data_dir, device="cpu")
    launch.commands.sharpness._measure(Task(machine.runs, 0), given, load_data)
    assert len(measured) == 50 and set(measured) <= known


def test_data_that_have_changed_are_refused(machine, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def write(shift):
        x, y = np.random.default_rng(0).normal(size=(40, 5)) + shift, np.arange(40) % 2
        np.savez("set.npz", x_train=x, y_train=y, x_test=x, y_test=y)

    choices = {"data": "set.npz", "model": "mlp", "epochs": 1, "batch_size": 8}
    runs = [Run.make("digits", "random", **choices, seed=seed) for seed in (0, 1)]
    names = [run.name for run in runs]
    for run, shift in zip(runs, (0, 1), strict=True):
        write(shift)
        train(run, machine)
    where = ["--runs", str(machine.runs), "--device", "cpu", "--threads", "1"]
    assert main(["sharpness", names[1], "--per-class", "2", "--epochs", "1", *where]) == 0
    capsys.readouterr()
    before = read_sharpness(machine.runs / names[1])
    for given in (["barrier", *names], ["barrier", *names[::-1]], ["sharpness", names[0]]):
        assert main([*given, *where]) == 2
        assert f"{names[0]} was trained on other data" in capsys.readouterr().err
    both = ["--per-class", "2", "--epochs", "1", "--again", *where]
    assert main(["sharpness", *names, *both]) == 2
    shown = capsys.readouterr()
    assert "1 of 2 snapshots were not measured: the data have changed." in shown.err
    assert f"[2/2] {names[1]} epoch 1: sharpness" in shown.out
    write(2)
    assert main(["sharpness", names[1], "--again", *where]) == 2
    rows = [{**row, "seconds": 0.0} for row in read_sharpness(machine.runs / names[1])]
    assert rows == [{**row, "seconds": 0.0} for row in before]
