"""2:4 layers by core torch's kernels: on a GPU if there is one, and with stand-ins on a CPU."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from needs import on_gpu
from semi_structured import as_on_gpu, pruned
from small_digits import small_digits
from test_docs import words
from test_launch_sparse_inference import timings
from test_launch_train import train
from torch import nn
from torch.sparse import SparseSemiStructuredTensorCUTLASS
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

import launch.bench.gpu
import launch.bench.sparse
import launch.training.kernel_speed
from analysis.folder import read_result
from baselines.engine.sparse_model import SparseModel
from launch.bench.gpu import GpuBench, kernel_bench
from launch.cli import main
from launch.config.run import Run
from launch.inputs import Inputs
from launch.measures import timing
from launch.measures.timing import GPU_CALLS, measure, threads_set
from launch.sparse_inference.candidates import candidates, why_dense
from launch.sparse_inference.format_choice import (
    FASTER,
    check_outputs,
    choose_formats,
    relative_difference,
    with_formats,
)
from launch.sparse_inference.formats import held_bytes
from launch.sparse_inference.semi_structured import (
    KERNELS,
    TYPES,
    SemiStructuredLinear,
    is_semi_structured,
    kernels_for,
    why_no_kernel,
)
from launch.training.kernel_speed import kernel_speed, speed_text
from launch.training.run import run_training

CUTLASS, CUSPARSELT = "2:4 cutlass", "2:4 cusparselt"
MLP = ("--model", "mlp", "--classes", "64", "--channels", "1", "--image-size", "8")
SHAPES = [(128,), (1, 128), (15, 128), (3, 5, 128), (0, 128)]


@pytest.fixture
def gpu(monkeypatch):
    """Have stand-ins for the kernels of CUTLASS."""
    as_on_gpu(monkeypatch)


# ---- the format


@pytest.mark.parametrize("n, m", [(2, 4), (1, 4), (1, 5), (1, 10)])
@pytest.mark.parametrize("dtype", TYPES)
def test_masks_of_the_suite_round_trip_exactly(n, m, dtype):
    weight = pruned(nn.Linear(320, 64), n, m).weight.detach().to(dtype)
    assert is_semi_structured([weight]) and 0 < int(weight.count_nonzero()) < weight.numel()
    packed, meta = sparse_semi_structured_from_dense_cutlass(weight)
    assert packed.shape == (64, 160)
    assert torch.equal(sparse_semi_structured_to_dense_cutlass(packed, meta), weight)


def test_what_is_not_2_4_loses_weights_and_is_refused(gpu):
    """Groups run over the inputs of an output, as the kernels read them, not over the outputs."""
    weight = pruned(nn.Linear(64, 128)).bfloat16().weight.detach().T.contiguous()
    packed = sparse_semi_structured_from_dense_cutlass(weight)
    assert not torch.equal(sparse_semi_structured_to_dense_cutlass(*packed), weight)
    layer = nn.Linear(128, 64).bfloat16()
    layer.weight.data = weight
    assert why_dense(layer) == "more than 2 of 4 consecutive inputs have a weight"
    assert not is_semi_structured([weight]) and not is_semi_structured([torch.ones(4, 4)])


def test_types_and_shapes_of_the_kernels():
    taken = {
        (rows, columns): kernels_for(torch.zeros(rows, columns, dtype=torch.bfloat16))
        for rows, columns in [(32, 64), (64, 384), (16, 64), (32, 16), (1000, 384), (64, 72)]
    }
    assert taken == {
        (32, 64): [CUSPARSELT, CUTLASS],
        (64, 384): [CUSPARSELT, CUTLASS],
        (16, 64): [CUSPARSELT],
        (32, 16): [CUSPARSELT],
        (1000, 384): [],
        (64, 72): [],
    }
    assert not kernels_for(torch.zeros(32, 64))  # whose format has 1 of 2


def test_layers_without_a_kernel_have_a_reason(gpu):
    assert why_dense(nn.Conv2d(64, 64, 3)) == "there is no 2:4 Conv2d"
    assert why_dense(nn.Linear(64, 64)) == "its weight has no zeros"
    assert why_dense(pruned(nn.Linear(64, 64))) == "there is no 2:4 format of type float32"
    assert why_dense(pruned(nn.Linear(64, 10)).half()) == (
        "no 2:4 kernel takes a weight of its shape"
    )
    layer = pruned(nn.Linear(64, 64)).half()
    assert why_dense(layer) == why_no_kernel(layer) == ""
    assert why_dense(layer, is_called=False) == "the model does not call it"


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", TYPES)
@torch.no_grad()
def test_a_layer_computes_what_the_dense_one_does(gpu, bias, dtype):
    layer = pruned(nn.Linear(128, 64, bias=bias)).to(dtype)
    sparse = SemiStructuredLinear(layer, SparseSemiStructuredTensorCUTLASS)
    assert torch.equal(sparse.weight.to_dense(), layer.weight)
    assert held_bytes(sparse) == 2 * (64 * 64 + 64 * 8 + 64 * bias)  # values, 2 bits each, bias
    assert set(sparse.state_dict()) == {"packed", "meta", *(["bias"] if bias else [])}
    for shape in SHAPES:
        x = torch.randn(shape).to(dtype)
        torch.testing.assert_close(sparse(x), layer(x), rtol=0.02, atol=0.02)
    x = torch.randn(128, 7).to(dtype).T  # not contiguous
    torch.testing.assert_close(sparse(x), layer(x), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("dtype", [on_gpu(dtype) for dtype in TYPES])
@torch.no_grad()
def test_the_kernels_of_a_gpu_compute_what_dense_layers_do(dtype):
    layer = pruned(nn.Linear(128, 64)).to("cuda", dtype)
    x = torch.randn(48, 128, device="cuda", dtype=dtype)
    (choice,) = choose_formats(layer, x, rounds=1)
    assert set(choice.times) | set(choice.failed) == {"dense", *KERNELS}
    for name in set(choice.times) - {"dense"}:
        sparse = candidates(layer)[name]()
        assert torch.equal(sparse.weight.to_dense(), layer.weight)
        for shape in SHAPES[:-1]:
            x = torch.randn(shape, device="cuda", dtype=dtype)
            assert relative_difference(sparse(x), layer(x)) < 0.02


# ---- the choice


def net_of_linears():
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.Linear(64, 10))
    for index in (0, 2, 3):
        pruned(net[index])
    return net.bfloat16().eval()


@pytest.mark.parametrize("ratio, is_swapped", [(0.5, True), (FASTER, True), (FASTER + 0.01, False)])
def test_layers_are_swapped_only_where_the_kernel_is_faster(gpu, ratio, is_swapped):
    net, x = net_of_linears(), torch.randn(5, 64).bfloat16()
    choices = choose_formats(net, x, 1, timer=timings(**{CUTLASS: ratio}))
    formats = [choice.format for choice in choices]
    assert formats == ([CUTLASS] * 2 if is_swapped else ["dense"] * 2) + ["dense"]
    swapped = with_formats(net, choices)
    kinds = [type(layer) is SemiStructuredLinear for layer in swapped]
    assert kinds == [is_swapped, False, is_swapped, False]
    assert check_outputs(net, swapped, x) < 0.02
    assert choices[2].reason == "no 2:4 kernel takes a weight of its shape"


def test_kernels_that_a_gpu_lacks_are_named(gpu):
    net, x = net_of_linears(), torch.randn(5, 64).bfloat16()
    choices = choose_formats(net, x, 1, timer=timings())
    assert list(choices[0].times) == ["dense", CUTLASS]
    assert list(choices[0].failed) == [CUSPARSELT]
    assert "Could not run 'aten::_cslt_compress'" in choices[0].failed[CUSPARSELT]


def test_kernels_with_wrong_results_are_not_used(gpu, monkeypatch):
    right = torch._sparse_semi_structured_addmm
    monkeypatch.setattr(torch, "_sparse_semi_structured_addmm", lambda *a: 1.2 * right(*a))
    x = torch.randn(5, 64).bfloat16()
    choices = choose_formats(net_of_linears(), x, 1, timer=timings(**{CUTLASS: 0.1}))
    assert [choice.format for choice in choices] == ["dense"] * 3
    assert "sparse and dense outputs differ by 0.2" in choices[0].failed[CUTLASS]

    def broken(*args):
        raise RuntimeError("Supported only on GPUs with compute capability 8.x")

    monkeypatch.setattr(torch, "_sparse_semi_structured_addmm", broken)
    (choice, *_) = choose_formats(net_of_linears(), x, 1, timer=timings())
    assert choice.failed[CUTLASS].endswith("capability 8.x") and list(choice.times) == ["dense"]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_gpu_is_idle_when_the_clock_is_read(threads, monkeypatch):
    events = []

    def read():
        events.append("clock")
        return float(len(events))

    monkeypatch.setattr(timing, "MORE", 1)
    monkeypatch.setattr(timing.time, "perf_counter", read)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: events.append("idle"))
    with threads_set(threads):
        times = measure({"a": lambda: events.append("a")}, 1, torch.device("cuda", 0))
    block = ["idle", "clock", *["a"] * GPU_CALLS, "idle", "clock"]
    assert events == 3 * block  # two that are not counted
    assert times["a"].seconds == pytest.approx((GPU_CALLS + 2) / GPU_CALLS)


# ---- the speed in the result of a run


def test_speeds_are_sums_over_the_measured_layers(gpu, monkeypatch):
    def speed(**ratios):
        choose = partial(choose_formats, timer=timings(**ratios))
        monkeypatch.setattr(launch.training.kernel_speed, "choose_formats", choose)
        return kernel_speed(net, Inputs((64,)), 5)

    net = SparseModel(net_of_linears().float())
    net.set_masks({name: weight != 0 for name, weight in net.weights.items()})
    found = speed(**{CUTLASS: 0.8})
    assert found == {
        "layers": 2,
        "faster": 2,
        "batch": 5,
        "dense_seconds": 2.0,
        "sparse_seconds": 1.6,
        "speed": 1.25,
        "reason": "no 2:4 kernel takes a weight of its shape",
    }
    assert net.model[0].weight.dtype == torch.float32  # the network is as it was
    assert speed_text(found) == (
        "2:4 kernels are 1.25 × as fast as dense ones in 2 linear layers at batch size 5"
    )
    slower = speed(**{CUTLASS: 2.0})
    assert slower["speed"] == 0.5 and slower["faster"] == 0
    net.set_masks({name: torch.ones_like(mask) for name, mask in net.masks.items()})
    with torch.no_grad():
        net.weights["0.weight"].fill_(1.0)[0, 0] = 0.0
    assert speed() is None


METHODS = [("srste", {}), ("rigl_nm", {}), ("rigl_nm", {"sign_in": True})]


@pytest.mark.parametrize("method, choices", METHODS)
def test_a_2_4_run_on_a_gpu_has_the_speed_in_its_result(gpu, machine, monkeypatch, method, choices):
    short = {"epochs": 1, "model": "mlp", "sparsity": 0.5, **choices}
    monkeypatch.setattr(launch.training.kernel_speed, "ROUNDS", 1)
    run = Run.make("digits", method, **small_digits(**short))
    result = train(run, machine)
    found = result["kernel_speed"]
    assert found["layers"] == 2 and found["batch"] == run.settings.batch_size
    assert found["speed"] == pytest.approx(found["dense_seconds"] / found["sparse_seconds"])
    assert set(found) == words("kernel_speed")
    assert read_result(machine.runs / run.name)["kernel_speed"] == found
    assert json.loads((machine.runs / run.name / "result.json").read_text())["kernel_speed"]


def test_other_runs_have_no_speed(machine, monkeypatch):
    short = small_digits(epochs=1, model="mlp")
    assert "kernel_speed" not in train(Run.make("digits", "srste", sparsity=0.5, **short), machine)
    as_on_gpu(monkeypatch)
    assert "kernel_speed" not in train(Run.make("digits", "random", sparsity=0.5, **short), machine)
    assert "kernel_speed" not in train(Run.make("digits", "dense", **short), machine)


def test_a_run_says_why_nothing_was_measured(gpu, machine, monkeypatch):
    said = []
    run = Run.make("digits", "rigl_nm", **small_digits(epochs=1, sparsity=0.5))
    result = run_training(run, machine, report=said.append, bar=False)
    reason = "there is no 2:4 Conv2d; no 2:4 kernel takes a weight of its shape"
    assert result["kernel_speed"] == {"reason": reason}
    assert any(f"speed of 2:4 kernels not measured: {reason}" in line for line in said)

    def broken(*args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(launch.training.kernel_speed, "choose_formats", broken)
    result = train(Run.make("digits", "srste", **small_digits(epochs=1, sparsity=0.5)), machine)
    assert result["kernel_speed"] == {"reason": "CUDA out of memory. Tried to allocate"}


@pytest.mark.parametrize("method", [on_gpu("srste"), on_gpu("rigl_nm")])
def test_a_gpu_is_measured_at_the_end_of_a_run(machine, method):
    run = Run.make("digits", method, **small_digits(epochs=1, model="mlp", sparsity=0.5))
    found = train(run, replace(machine, device="cuda"))["kernel_speed"]
    assert "speed" in found or found["reason"]  # some GPUs have no such kernels


# ---- the commands


@pytest.fixture
def bench(tmp_path):
    """Return a function that runs `signbench bench sparse` on a 2:4 network, and returns rows."""

    def run(*flags):
        path = tmp_path / "sparse.csv"
        given = ["--density", "nm", "--sparsity", "0.5", "--batch", "5", "--rounds", "1"]
        where = ["--precision", "bfloat16", "--output", str(path)]
        assert main(["bench", "sparse", "random", *MLP, *given, *where, *flags]) == 0
        with path.open() as stream:
            return list(csv.DictReader(stream))

    return run


def test_the_kernels_are_measured_by_bench_sparse(gpu, bench, monkeypatch, capsys):
    choose = partial(choose_formats, timer=timings(**{CUTLASS: 0.5}))
    monkeypatch.setattr(launch.bench.sparse, "choose_formats", choose)
    monkeypatch.setattr(launch.bench.sparse, "measure", timings(sparse=0.5))
    rows = bench("--layers")
    assert {row["sparsity"] for row in rows} == {"0.5"}
    (sparse,) = (row for row in rows if row["format"] == "sparse")
    assert 0 < float(sparse["error"]) < 0.02
    assert [row["format"] for row in rows if row["chosen"] == "True"] == [CUTLASS] * 3
    failed = [row for row in rows if row["format"] == CUSPARSELT]
    assert len(failed) == 3 and all("_cslt_compress" in row["reason"] for row in failed)
    assert not any(row["ms"] for row in failed)
    said = capsys.readouterr().out
    assert "sparse is 2.00 × as fast as dense" in said and "3 of 3 layers are sparse" in said


def test_n_m_masks_are_measured_on_a_cpu_as_well(bench):
    rows = bench()
    assert {row["device"] for row in rows} == {"cpu"}
    assert {row["format"] for row in rows if row["layer"]} == {"dense", "gather"}


@pytest.mark.parametrize("device", [on_gpu("cuda")])
def test_a_gpu_is_measured_by_bench_sparse(bench, device):
    rows = bench("--device", device)
    assert {row["device"] for row in rows} == {torch.cuda.get_device_name()}
    assert {row["format"] for row in rows if row["layer"]} == {"dense", *KERNELS}


@pytest.mark.parametrize("flags", [(), ("--precision", "bfloat16")])
def test_a_gpu_that_is_not_there_is_refused_at_once(flags, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    where = ("--device", "cuda", "-o", str(tmp_path / "out" / "sparse.csv"))
    assert main(["bench", "sparse", "random", *MLP, *flags, *where]) == 2
    error = capsys.readouterr().err
    assert "no GPU 0: this machine has 0" in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_gpu_takes_no_float32(monkeypatch, tmp_path, capsys):
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(launch.bench.sparse, "find_device", lambda name: gpu)
    given = ("--device", "cuda", "-o", str(tmp_path / "sparse.csv"))
    assert main(["bench", "sparse", "random", *MLP, *given]) == 2
    error = capsys.readouterr().err
    assert "--device cuda needs --precision bfloat16" in error and error.count("\n") == 1


@pytest.mark.parametrize("size, sizes", [(0, (256, 1024)), (8, (8,))])
def test_bench_gpu_measures_deit_small_at_the_batch_sizes_of_its_recipe(size, sizes, tmp_path):
    bench = kernel_bench(GpuBench(batch_size=size, output=tmp_path / "a.csv"), "cuda")
    assert bench.batch == sizes and bench.output == tmp_path / "a-nm.csv"
    assert bench.device == "cuda" and bench.precision == "bfloat16"
    (network,) = bench.source.networks()
    assert network.sparsity == pytest.approx(0.5)
    linears = [m for m in network.model.modules() if isinstance(m, nn.Linear)]
    taken = [m for m in linears if not why_no_kernel(m.bfloat16())]
    assert len(linears) == 49 and len(taken) == 48  # all but the classifier of 1,000 outputs
