"""The benchmark measures what it says. Speeds are not tested."""

from __future__ import annotations

import csv
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.multiprocessing as mp

import launch.bench.memory
import launch.bench.scaling
import launch.bench.steps
from launch.bench.variants import StepsBench, make_step, run_choices
from launch.bench.whole_run import Parts
from launch.cli import main
from launch.models import build_model
from launch.trackers.tracking import ADAPTERS

FLOAT32 = "--precision float32"  # many times as fast on a CPU without instructions for bfloat16
MEASURES = ("steps", "run", "masks", "scores")
SMALL = StepsBench(models=("resnet20",), batch_size=4, steps=1, threads=1, device="cpu")


def test_the_table_has_every_variant(tmp_path, capsys):
    output = tmp_path / "out" / "bench.csv"
    flags = "--models resnet20 --batch-size 4 --steps 2 --no-memory --threads 1 --device cpu"
    assert main(["bench", *flags.split(), "--output", str(output)]) == 0
    with output.open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["variant"] for row in rows] == list(run_choices(StepsBench()))
    for row in rows:
        assert float(row["ms min"]) <= float(row["ms median"]) <= float(row["ms max"])
    assert float(rows[0]["median / bare"]) == 1.0
    printed = capsys.readouterr().out
    assert all(variant in printed for variant in run_choices(StepsBench()))


def test_bytes_are_counted_by_hand():
    n, rest = 270_896, 1386  # prunable weights of ResNet20, and what else it trains
    buffers = 19  # batch normalisations, each with 2 running statistics and an 8-byte counter
    statistics = 4 * 2 * (rest - 10) // 2 + 8 * buffers
    active = n - round(0.9 * n)
    indexed = active - 1584  # three layers are full at this density and need no index
    expected = {
        "bare": 4 * 3 * (n + rest),
        "random s=0.9": 4 * (2 * n + 3 * rest) + 4 * active + (4 + 4 + 8) * indexed,
        # two factors with momentum and gradient
        "random s=0.9 + Sign-In": 4 * (2 * n + 3 * rest) + 24 * active + 8 * indexed,
    }
    for variant, trained in expected.items():
        step = make_step(SMALL, "resnet20", variant, torch.device("cpu"))
        step.take()  # the first step makes the optimizer's state; the next ones are as all others
        step.take()
        assert step.held() == pytest.approx(trained + statistics, rel=2e-3)


def test_the_in_forward_variant_trains_masked_factors():
    step = make_step(SMALL, "resnet20", "in-forward s=0.9", torch.device("cpu"))
    step.take()
    bare = make_step(SMALL, "resnet20", "bare", torch.device("cpu"))
    bare.take()
    # m, their gradients and momentum, and a float mask, each of full size
    assert step.held() - bare.held() == 4 * 4 * 270_896


def test_memory_is_measured_in_mib(monkeypatch):
    monkeypatch.setattr(launch.bench.memory, "PROCESSES", 1)
    found = launch.bench.memory.median_memory(SMALL, "resnet20", "random s=0.9 + Sign-In")
    assert 2 < found["counted MiB"] < 5
    assert found["peak MiB"] > found["counted MiB"]  # activations too


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--models resnet21", "unknown model 'resnet21', did you mean resnet20"),
        ("--steps 0", "steps must be positive, not 0"),
        ("--sparsity 1", "sparsity must be in (0, 1)"),
        *((f"{what} --threads -1", "threads must not be negative") for what in MEASURES),
    ],
)
def test_wrong_values_are_named(capsys, flags, message):
    assert main(["bench", *flags.split()]) == 2
    assert message in capsys.readouterr().err


def test_memory_that_cannot_be_measured_is_one_line(tmp_path, monkeypatch, capsys):
    output = tmp_path / "bench.csv"
    original = launch.bench.steps.median_memory

    def failing(options, model, variant):
        if model == "resnet20":
            return {"peak MiB": 1.0}
        return original(replace(options, device="nonsense"), model, variant)

    monkeypatch.setattr(launch.bench.steps, "median_memory", failing)
    flags = "--models resnet20,resnet18 --batch-size 2 --steps 1 --threads 1 --device cpu"
    assert main(["bench", *flags.split(), "--output", str(output)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "cannot measure the memory of resnet18, bare (--no-memory leaves it out): " in error
    assert "device must be auto, cpu, cuda" in error
    with output.open() as stream:  # what was measured before is there
        rows = list(csv.DictReader(stream))
    assert {row["model"] for row in rows} == {"resnet20"} and rows[0]["peak MiB"] == "1.0"


def test_the_loader_is_measured_against_decoding(image_folder, capsys):
    flags = ["--data", str(image_folder), "--batch-size", "4", "--images", "8", "--rounds", "1"]
    assert main(["bench", "loader", *flags, "--workers", "1"]) == 0
    rows = [line.rsplit(maxsplit=4) for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[0] for row in rows] == ["loader", "workers", "decode only"]
    assert rows[-1][-1] == "1.000" and all(float(row[-1]) > 0 for row in rows)
    assert main(["bench", "loader", "--data", "nowhere"]) == 2
    assert "no folder" in capsys.readouterr().err


def test_methods_are_measured_over_their_whole_schedule(tmp_path, capsys):
    flags = "--models resnet20 --methods str,snip --steps 1 --batch-size 8 --epochs 2 --images 16"
    flags += f" --no-memory --device cpu {FLOAT32}"
    file = tmp_path / "bench.csv"
    assert main(["bench", *flags.split(), "--output", str(file)]) == 0
    with file.open() as stream:
        rows = {row["variant"]: row for row in csv.DictReader(stream)}
    for name in ("str", "str + Sign-In", "snip", "snip + Sign-In"):
        assert float(rows[name]["mean / dense"]) > 0 and float(rows[name]["prepare s"]) >= 0
    assert rows["dense"]["mean / dense"] == ""


def test_a_whole_run_is_measured_against_the_bare_loop(capsys):
    flags = f"--images 40 --batch-size 8 --rounds 1 --threads 1 --device cpu {FLOAT32}"
    assert main(["bench", "run", *flags.split()]) == 0
    out = capsys.readouterr().out
    for line in ("training on 40 images", "evaluation on 10 images", "end of an epoch"):
        assert line in out
    assert "an epoch of 50,000 + 10,000 images, computed" in out


def test_an_epoch_of_another_size_is_computed_from_its_parts():
    parts = Parts(train=2.0, test=1.0, end=0.5)
    assert parts.per_image((10, 5), of=(100, 5)) == 2.0 * 10 + 1.0 + 0.5


def test_unknown_measures_are_named(capsys):
    assert main(["bench", "step"]) == 2
    assert "did you mean steps" in capsys.readouterr().err


def test_work_on_masks_is_timed(capsys):
    flags = f"--model resnet20 --iterations 2 --threads 1 --device cpu {FLOAT32}"
    assert main(["bench", "masks", *flags.split()]) == 0
    out = capsys.readouterr().out
    for line in ("global top-k of 270,896", "RigL update", "SynFlow, 2 iterations", "snapshot"):
        assert line in out
    assert "of an epoch" in out and "once per run" in out


def test_the_time_of_trackers_is_measured(capsys, monkeypatch):
    monkeypatch.setitem(ADAPTERS, "mlflow", ("launch.trackers.mlflow", "MLflow", "no_such_module"))
    flags = "--trackers tensorboard mlflow --model resnet20 --epochs 3"
    assert main(["bench", "trackers", *flags.split()]) == 0
    head, _, first, second = capsys.readouterr().out.splitlines()[-4:]
    assert head.startswith("resnet20: 22 layers, 3 epochs")
    assert first.startswith("tensorboard") and float(first.split()[3]) > 0
    assert second.startswith("mlflow") and "pip install no_such_module" in second
    assert main(["bench", "trackers", "--trackers", "tensorbord"]) == 2
    assert "tensorboard" in capsys.readouterr().err


def test_scores_are_compared_with_their_passes(capsys):
    flags = "--models resnet20 --iterations 2 --rounds 1 --samples-per-class 2 --device cpu"
    assert main(["bench", "scores", *flags.split()]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["snip", "grasp", "synflow"]
    assert all(float(line.split()[-1]) > 0 for line in lines)
    assert main(["bench", "scores", "--methods", "phew"]) == 2


def test_scaling_counts_what_ranks_send(forked_workers, monkeypatch, capsys):
    fork = partial(mp.start_processes, start_method="fork")  # saves the imports
    monkeypatch.setattr(launch.bench.scaling.mp, "spawn", fork)
    flags = "--sizes 2 --ranks 2 --steps 1 --image-batch 0 --device cpu"
    assert main(["bench", "scaling", *flags.split()]) == 0
    out = capsys.readouterr().out
    assert "2 runs of one epoch" in out
    sent = [line.rsplit("step, ")[1] for line in out.splitlines() if "ranks" in line]
    weights = sum(p.numel() for p in build_model("digits-cnn", 10, 1, 8).parameters())
    assert sent == [f"{4 * weights:,} bytes of gradients"] * 3  # sparse or factors: as dense


def test_a_gpu_is_measured_in_one_call(forked_workers, tmp_path, capsys):
    sizes = "--batch-size 8 --steps 1 --iterations 1 --images 40 --epochs 1 --at-once 1,2"
    sizes += f" {FLOAT32}"
    where = f"--device cpu --no-compile --mask-model resnet20 --output {tmp_path / 'gpu.csv'}"
    assert main(["bench", "gpu", "--models", "resnet20", *sizes.split(), *where.split()]) == 0
    out = capsys.readouterr().out
    parts = ("median / bare", "global top-k", "end of an epoch", "2 runs at once", "63 runs of")
    parts += ("2:4 kernels need a GPU",)
    assert all(part in out for part in parts)
    assert (tmp_path / "gpu.csv").exists()
