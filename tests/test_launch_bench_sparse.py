"""`signbench bench sparse`: what it measures, writes and says. Speeds are not tested."""

from __future__ import annotations

import csv
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from test_launch_sparse_inference import timings
from test_launch_train import train

import launch.bench.sparse
import launch.bench.sparse_step
from baselines.checkpoint import Checkpoint
from launch.bench.sparse_step import PARTS, RESULTS, STEP
from launch.cli import main
from launch.config.run import Run
from launch.models import build_model
from launch.runs.checkpoints import write_checkpoint
from launch.sparse_inference.format_choice import choose_formats
from launch.sparse_training.linear import both_passes

DIGITS = ("--model", "digits-cnn", "--classes", "10", "--channels", "1", "--image-size", "8")


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Return a function that runs the benchmark with given times and returns the rows."""

    def run(*flags, layers=None, network=None):
        if layers:
            choose = partial(choose_formats, timer=timings(**layers))
            monkeypatch.setattr(launch.bench.sparse, "choose_formats", choose)
        if network:
            monkeypatch.setattr(launch.bench.sparse, "measure", timings(**network))
        path = tmp_path / "out" / "sparse.csv"
        given = ["bench", "sparse", *flags, "--rounds", "1", "--output", str(path)]
        assert main(given) == 0
        with path.open() as stream:
            return list(csv.DictReader(stream))

    return run


def test_random_masks_are_measured(bench, capsys):
    threads = torch.get_num_threads()
    settings = ("--sparsity", "0.5,0.9", "--batch", "1,2", "--threads", "1,2", "--layers")
    rows = bench("random", *DIGITS, *settings)
    assert torch.get_num_threads() == threads
    whole = [row for row in rows if not row["layer"]]
    assert {(row["sparsity"], row["batch"], row["threads"]) for row in whole} == {
        (s, b, t) for s in ("0.5", "0.9") for b in "12" for t in "12"
    }
    dense = [row for row in whole if row["format"] == "dense"]
    numbers = sum(p.numel() for p in build_model("digits-cnn", 10, 1, 8).parameters())
    for row in dense:
        assert float(row["ratio"]) == 1.0
        assert float(row["inputs/s"]) == pytest.approx(1e3 * int(row["batch"]) / float(row["ms"]))
        assert float(row["MiB"]) == 4 * numbers / 2**20 < float(row["file MiB"])
    names = {row["layer"] for row in rows} - {""}
    assert names == {"0", "2", "4", "8"}
    for name in names:
        chosen = [row for row in rows if row["layer"] == name and row["chosen"] == "True"]
        assert len(chosen) == 8  # one per setting
    assert capsys.readouterr().out.count("2 threads: ") == 4


def test_it_says_which_is_the_fastest(bench, capsys):
    flags = ("random", *DIGITS, "--sparsity", "0.9", "--batch", "2")
    rows = bench(*flags, layers={"gather": 0.5}, network={"sparse": 0.5})
    assert "sparse is 2.00 × as fast as dense (4 of 4 layers are sparse)" in capsys.readouterr().out
    (sparse,) = (row for row in rows if row["format"] == "sparse")
    assert float(sparse["error"]) < 1e-6
    (dense, *_) = (row for row in rows if row["format"] == "dense" and not row["layer"])
    assert float(sparse["MiB"]) < 0.25 * float(dense["MiB"])  # 8 bytes for a tenth of the weights
    assert float(sparse["file MiB"]) < 0.5 * float(dense["file MiB"])
    rows = bench(*flags, network={"sparse": 0.5, "dense, channels_last": 0.4})
    said = "dense wins: sparse takes 1.25 × the time of dense, channels_last (4 of 4 layers are"
    assert said in capsys.readouterr().out
    rows = bench(*flags, layers={"rows": 1.5})
    assert "dense wins: none of 4 layers is faster in a sparse format" in capsys.readouterr().out
    assert not [row for row in rows if row["format"] == "sparse"]


def test_bfloat16_has_networks_of_its_own(bench, capsys):
    flags = ("random", *DIGITS, "--sparsity", "0.9", "--batch", "2")
    network = {"sparse": 0.5, "dense, bfloat16": 0.25}
    rows = bench(*flags, layers={"gather": 0.5}, network=network)
    assert "but dense in bfloat16 is 2.00 × as fast as sparse in flo" in capsys.readouterr().out
    rows = bench(*flags, "--precision", "bfloat16")
    assert {row["precision"] for row in rows} == {"bfloat16"}
    whole = {row["format"]: row for row in rows if not row["layer"]}
    assert list(whole) == ["dense", "dense, channels_last", "sparse"]
    assert 0 < float(whole["sparse"]["error"]) < 0.05
    numbers = sum(p.numel() for p in build_model("digits-cnn", 10, 1, 8).parameters())
    assert float(whole["dense"]["MiB"]) == 2 * numbers / 2**20


def test_runs_and_checkpoints_are_measured(bench, machine, tmp_path, capsys):
    run = Run.make("digits", "random", epochs=1, sparsity=0.8)
    train(run, machine)
    runs = ("--runs", str(machine.runs))
    for name in (run.name, f"{run.name}@init"):
        rows = bench(name, *runs, "--batch", "1")
        assert {row["network"] for row in rows} == {run.name}
        assert {row["sparsity"] for row in rows} == {"0.8"}
    torch.manual_seed(0)
    model = build_model("digits-cnn", 10, 1, 8)
    with torch.no_grad():
        model[2].weight[:24] = 0.0
    file = tmp_path / "file.safetensors"
    write_checkpoint(file, Checkpoint(model.state_dict(), {}))
    rows = bench(str(file), *DIGITS, "--batch", "1")
    half = [row for row in rows if row["layer"] == "2"]
    assert {row["density"] for row in half} == {"0.5"}
    (full,) = (row for row in rows if row["layer"] == "4")
    assert full["reason"] == "its weight has no zeros"
    wrapped = {f"trainer.student.{name}": value for name, value in model.state_dict().items()}
    torch.save(wrapped, tmp_path / "theirs.pth")
    rows = bench(str(tmp_path / "theirs.pth"), *DIGITS, "--batch", "1")
    assert {row["density"] for row in rows if row["layer"] == "2"} == {"0.5"}
    assert "theirs.pth: reads trainer.student.*" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "name a network: RUN, RUN@EPOCH, a checkpoint file with --model, or random"),
        (["random"], "random needs --model"),
        (["nobody"], "there is no run nobody"),
        (["nobody", *DIGITS], "there is no run nobody in runs, and no such file"),
        (["random", "--model", "resnet21"], "unknown model 'resnet21'"),
        (["random", *DIGITS, "--sparsity", "1"], "sparsity must be in [0, 1), not 1.0"),
        (["random", *DIGITS, "--density", "odd"], "unknown density 'odd'"),
        (["nobody", *DIGITS, "--sparsity", "0.5"], "--sparsity is for random masks"),
        (["nobody", *DIGITS, "--density", "erk"], "--density is for random masks"),
        (["nobody", "--density", "erk"], "--density is for random masks"),
        (["nobody", "--classes", "10"], "--classes is of --model, which is not given"),
        (["nobody", "--image-size", "8"], "--image-size is of --model, which is not given"),
        (["random", "--model", "resnet20", "--classes", "0"], "classes must be positive"),
        (["random", *DIGITS, "--batch", "0"], "batch must be positive"),
        (["random", *DIGITS, "--threads", "0"], "threads must be positive"),
        (["pyproject.toml"], "is a checkpoint file: give its --model"),
    ],
)
def test_wrong_values_are_named(flags, message, tmp_path, capsys):
    assert main(["bench", "sparse", *flags, "-o", str(tmp_path / "sparse.csv")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_steps_of_linear_layers_are_measured(tmp_path, capsys):
    path = tmp_path / "step.csv"
    sizes = ("--layers", "20x30,7x5", "--rows", "200", "--sparsity", "0.5,0.9", "--rounds", "1")
    sizes += ("--networks", "12-20-10", "--batch", "4")
    assert main(["bench", "sparse-step", *sizes, "-o", str(path)]) == 0
    with path.open() as stream:
        rows = list(csv.DictReader(stream))
    parts = [row["part"] for row in rows]
    assert parts == 2 * 2 * list(PARTS) + 2 * [STEP]  # of layers and sparsities; of sparsities
    assert all(float(row["sparse / dense"]) > 0 for row in rows)
    assert capsys.readouterr().out.count("of 2 linear layers") == 2


@pytest.mark.parametrize("result", RESULTS)
def test_results_of_a_step_that_differ_are_refused(result, tmp_path, monkeypatch, capsys):
    def wrong(product, x, weight, gradient):
        found = both_passes(product, x, weight, gradient)
        if product is not F.linear:
            found[RESULTS.index(result)] *= 1.001
        return found

    monkeypatch.setattr(launch.bench.sparse_step, "both_passes", wrong)
    flags = ("--layers", "20x30", "--rows", "20", "--output", str(tmp_path / "step.csv"))
    assert main(["bench", "sparse-step", *flags]) == 2
    assert f"sparse and dense {result} differ by 0.001" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--layers", "20"], "a layer is INPUTSxOUTPUTS, such as 384x1536, not '20'"),
        (["--layers", "0x4"], "a layer is INPUTSxOUTPUTS"),
        (["--sparsity", "0"], "sparsity must be in (0, 1), not 0.0"),
        (["--rows", "0"], "rows must be positive"),
        (["--batch", "0"], "batch must be positive"),
        (["--networks", "12-0"], "the widths of a network must be positive, not 12-0"),
        (["--networks", "deit_smal"], "unknown model 'deit_smal'"),
    ],
)
def test_wrong_values_of_a_step_are_named(flags, message, capsys):
    assert main(["bench", "sparse-step", *flags]) == 2
    assert message in capsys.readouterr().err
