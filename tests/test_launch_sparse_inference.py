"""Sparse formats compute what dense layers do, and replace them only where they are faster."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

import launch.measures.timing
from baselines.errors import UserError
from launch.measures.timing import Times, measure, threads_set
from launch.sparse_inference.candidates import candidates, why_dense
from launch.sparse_inference.format_choice import (
    FASTER,
    TOLERANCES,
    LayerFormat,
    check_outputs,
    choose_formats,
    relative_difference,
    with_formats,
)
from launch.sparse_inference.formats import Block, Gather, block_side, formats_of, held_bytes
from launch.sparse_inference.layers import conv_matrix

CONVS = {
    "3×3": lambda: nn.Conv2d(8, 12, 3, 1, 1),
    "no bias, no padding": lambda: nn.Conv2d(8, 12, 3, bias=False),
    "stride": lambda: nn.Conv2d(8, 12, 3, stride=2, padding=1),
    "sides differ": lambda: nn.Conv2d(8, 12, (3, 5), (2, 1), (1, 2), (2, 1)),
    "dilation": lambda: nn.Conv2d(8, 12, 3, padding=2, dilation=2),
    "groups": lambda: nn.Conv2d(8, 12, 3, 2, 1, groups=4),
    "depthwise": lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8),
    "1×1": lambda: nn.Conv2d(8, 12, 1),
    "1×1, stride": lambda: nn.Conv2d(8, 12, 1, 2),
    "same": lambda: nn.Conv2d(8, 12, 4, padding="same"),
    "circular": lambda: nn.Conv2d(8, 12, 3, padding=1, padding_mode="circular"),
    "1d": lambda: nn.Conv1d(8, 12, 5, 2, 1),
    "3d": lambda: nn.Conv3d(8, 12, 3, padding=1),
}
LINEARS = {
    "linear": lambda: nn.Linear(40, 24),
    "linear, no bias": lambda: nn.Linear(40, 24, bias=False),
}


@torch.no_grad()
def sparsified(layer, kind, dtype):
    """Return the layer with zeros: at random, also in whole outputs, everywhere, or nowhere."""
    layer = layer.to(dtype)
    flat = layer.weight.view(len(layer.weight), -1)
    if kind == "random":
        flat.mul_(torch.rand_like(flat) > 0.8)
    elif kind == "empty outputs":
        flat.mul_(torch.rand_like(flat) > 0.6)[1::3] = 0
    elif kind == "fan-in 3":
        kept = torch.rand_like(flat).argsort(1)[:, :3]
        flat.mul_(torch.zeros_like(flat).scatter_(1, kept, 1))
    elif kind == "blocks":
        wide = torch.rand(flat.shape[0] // 4, flat.shape[1] // 4) > 0.7
        flat.mul_(wide.repeat_interleave(4, 0).repeat_interleave(4, 1))
    elif kind == "no weights":
        flat.zero_()
    return layer.eval()


@pytest.mark.parametrize("dtype, rtol", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("kind", ["random", "empty outputs", "no weights", "dense", "fan-in 3"])
@pytest.mark.parametrize("name", [*CONVS, *LINEARS])
@torch.no_grad()
def test_every_format_computes_what_the_dense_layer_does(name, kind, dtype, rtol):
    layer = sparsified({**CONVS, **LINEARS}[name](), kind, dtype)
    sides = (7, 9, 8)[: layer.weight.ndim - 2]
    shapes = [(3, 8, *sides), (1, 8, *sides), (8, *sides)]
    if name in LINEARS:
        shapes = [(40,), (1, 40), (2, 5, 40), (300, 40), (0, 40)]
    found = candidates(layer)
    assert {"csr", "gather"} <= set(found)
    assert ("rows" in found) == (isinstance(layer, nn.Conv2d) and layer.kernel_size[0] > 1)
    for make, shape in itertools.product(found.values(), shapes):
        x = torch.randn(shape, dtype=dtype)
        output = make()(x)
        assert output.is_contiguous()
        torch.testing.assert_close(output, layer(x), rtol=rtol, atol=rtol)


@torch.no_grad()
def test_large_batches_are_computed_in_pieces(monkeypatch):
    monkeypatch.setattr("launch.sparse_inference.layers.TABLE", 5000)  # 2 of 7 images
    layer = sparsified(nn.Conv2d(8, 12, 3, padding=1), "random", torch.float64)
    x = torch.randn(7, 8, 6, 6, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    calls = []
    for make in candidates(layer).values():
        module = make()
        fill = module.fill
        module.fill = lambda *args, fill=fill: (calls.append(len(args[0])), fill(*args))
        torch.testing.assert_close(module(x), layer(x), rtol=1e-12, atol=1e-12)
    assert max(calls) < 7 and sum(calls) == 7 * len(candidates(layer))


@pytest.mark.parametrize("name", ["linear", "stride", "groups"])
@torch.no_grad()
def test_bfloat16_rounds_as_the_dense_layer_does(name):
    layer = sparsified({**CONVS, **LINEARS}[name](), "random", torch.float64)
    x = torch.randn((5, 40) if name in LINEARS else (3, 8, 7, 9), dtype=torch.float64)
    exact, low, x_low = layer(x), copy.deepcopy(layer).bfloat16(), x.bfloat16()
    found = candidates(low)
    assert not {"csr", "block"} & set(found)
    for make in found.values():
        output = make()(x_low)
        assert output.dtype == torch.bfloat16
        torch.testing.assert_close(output.double(), exact, rtol=0.02, atol=0.02)


@torch.no_grad()
def test_blocks_are_a_format_of_masks_that_have_them():
    layer = sparsified(nn.Linear(40, 24), "blocks", torch.float64)
    assert block_side(layer.weight) == 4
    assert list(candidates(layer)) == ["csr", "gather", "block"]
    x = torch.randn(5, 40, dtype=torch.float64)
    torch.testing.assert_close(candidates(layer)["block"]()(x), layer(x), rtol=1e-12, atol=1e-12)
    scattered = sparsified(nn.Linear(40, 24), "random", torch.float64)
    assert "block" not in formats_of(scattered.weight)
    assert not block_side(torch.ones(8, 8)) and not block_side(torch.zeros(8, 8))
    with pytest.raises(UserError, match="not in square blocks"):
        Block(scattered.weight)


def test_the_matrix_of_groups_by_hand():
    layer = nn.Conv1d(4, 2, 1, groups=2)
    layer.weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[..., None]
    expected = torch.tensor([[1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 3.0, 4.0]])
    assert torch.equal(conv_matrix(layer), expected)


def test_bytes_by_hand():
    layer = sparsified(nn.Linear(40, 24), "fan-in 3", torch.float32)
    assert held_bytes(layer) == 4 * (40 * 24 + 24)
    constant, rows = candidates(layer)["gather"](), candidates(layer)["csr"]()
    assert constant.product.columns.shape == (24, 3)  # an index and a value for each weight
    assert held_bytes(constant) == (4 + 4) * 72 + 4 * 24
    assert held_bytes(rows) == (4 + 4) * 72 + 4 * 25 + 4 * 24
    layer.weight.data[0] = 0.0
    product = Gather(layer.weight.detach())
    assert product.columns.shape == (69,) and len(product.starts) == 25


# ---- the choice


def small_net():
    net = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 16)),
        *(nn.ReLU(), nn.Linear(16, 5)),
    )
    for index in (0, 3):
        sparsified(net[index], "random", torch.float32)
    return net.eval()


def timings(**ratios):
    """Return a measurement in which formats take these times; others take twice the dense time."""

    def fake(works, rounds, device):
        for work in works.values():
            work()
        given = {"dense": 1.0, **ratios}
        return {name: Times(given.get(name, 2.0), given.get(name, 2.0)) for name in works}

    return fake


@pytest.mark.parametrize(
    "ratios, expected",
    [
        ({}, ["dense", "dense", "dense"]),
        ({"csr": 1.0, "gather": 1.0, "rows": 1.0}, ["dense", "dense", "dense"]),
        ({"csr": FASTER + 0.01}, ["dense", "dense", "dense"]),
        ({"csr": FASTER}, ["csr", "csr", "dense"]),
        ({"rows": 0.3}, ["rows", "dense", "dense"]),
        ({"csr": 0.5, "gather": 0.4, "rows": 0.45}, ["gather", "gather", "dense"]),
    ],
)
def test_a_layer_is_replaced_only_by_a_faster_format(ratios, expected):
    net, x = small_net(), torch.randn(2, 1, 4, 4)
    choices = choose_formats(net, x, rounds=1, timer=timings(**ratios))
    assert [choice.format for choice in choices] == expected
    assert [choice.name for choice in choices] == ["0", "3", "5"]
    assert choices[2].reason == "its weight has no zeros"
    swapped = with_formats(net, choices)
    kinds = [type(swapped[i]) is type(net[i]) for i in (0, 3, 5)]
    assert kinds == [name == "dense" for name in expected]
    assert type(net[0]) is nn.Conv2d  # the dense network is as it was
    assert check_outputs(net, swapped, x) < 1e-6


def test_only_what_can_be_exported_is_measured_for_export():
    choices = choose_formats(small_net(), torch.randn(1, 1, 4, 4), 1, True, timings(csr=0.1))
    assert list(choices[0].times) == ["dense", "gather", "rows"]
    assert not any(choice.is_sparse for choice in choices)


@torch.no_grad()
def test_layers_that_nothing_can_replace_have_a_reason():
    zeros = sparsified(nn.Linear(8, 8), "random", torch.float32)
    assert why_dense(zeros) == ""
    assert why_dense(zeros, is_called=False) == "the model does not call it"
    assert why_dense(nn.ConvTranspose2d(2, 2, 3)) == "there is no sparse ConvTranspose2d"
    assert why_dense(nn.Linear(2, 2).half()) == "its weight is of type float16"
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    assert why_dense(normed) == "its weight is computed from other parameters"
    assert "too large" not in why_dense(nn.Conv2d(4096, 4096, 2, groups=4096))
    assert why_dense(nn.Conv2d(4097, 4097, 2, groups=4097)).endswith("all groups is too large")
    hooked = nn.Linear(2, 2)
    hooked.register_forward_hook(lambda *_: None)
    assert why_dense(hooked) == "it has hooks"

    class Standardised(nn.Conv2d):
        def forward(self, x):
            return super().forward(x) / 2

    assert why_dense(Standardised(2, 2, 3)) == "there is no sparse Standardised"


def test_layers_whose_weights_are_read_by_others_stay_dense():
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    attention.out_proj.weight.data[0] = 0.0

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = attention

        def forward(self, x):
            return self.attention(x, x, x, need_weights=False)[0]

    choices = choose_formats(Model().eval(), torch.randn(2, 3, 8), 1, timer=timings(csr=0.1))
    assert {choice.name: choice.reason for choice in choices} == {
        "attention": "there is no sparse MultiheadAttention",
        "attention.out_proj": "the model does not call it",
    }


def test_a_layer_in_two_places_is_replaced_in_both():
    layer = sparsified(nn.Linear(6, 6), "random", torch.float32)
    net, x = nn.Sequential(layer, nn.ReLU(), layer).eval(), torch.randn(2, 6)
    swapped = with_formats(net, choose_formats(net, x, 1, timer=timings(gather=0.1)))
    assert swapped[0] is swapped[2] and type(swapped[0]) is not nn.Linear
    alone = with_formats(layer, choose_formats(layer, x, 1, timer=timings(gather=0.1)))
    assert check_outputs(layer, alone, x) < 1e-6


def test_differences_are_relative_to_the_largest_expected_value():
    zeros, ones = torch.zeros(2), torch.ones(2)
    assert relative_difference(torch.tensor([1.0, -3.0]), torch.tensor([1.0, -4.0])) == 0.25
    assert relative_difference(zeros, zeros) == 0.0 and relative_difference(ones, zeros) == 1.0


def test_outputs_beyond_the_tolerance_are_refused():
    net, x = small_net(), torch.randn(2, 1, 4, 4)
    other = with_formats(net, [LayerFormat("3", "Linear", (16, 128), 0.2, "gather")])
    size, tolerance = net(x).abs().max().item(), TOLERANCES[torch.float32]
    with torch.no_grad():
        assert check_outputs(net, other, x) < tolerance
        other[5] = nn.Linear(16, 5)
        other[5].weight.copy_(net[5].weight)
        other[5].bias.copy_(net[5].bias + 2 * tolerance * size)
    with pytest.raises(UserError, match="differ by 0.0002 of the largest one; 0.0001 is allowed"):
        check_outputs(net, other, x)
    with pytest.raises(UserError, match="differ by nan"):
        check_outputs(net, nn.Sequential(net, nn.Threshold(1e9, float("nan"))), x)
    with pytest.raises(UserError, match="sparse weights do not run"):
        check_outputs(net, nn.Linear(3, 3), x)


@pytest.mark.parametrize("threads, clock", [(1, "process_time"), (2, "perf_counter")])
def test_times_are_medians_over_rounds(threads, clock, monkeypatch):
    monkeypatch.setattr(launch.measures.timing, "MORE", 1)
    now = [0.0]
    monkeypatch.setattr(launch.measures.timing.time, clock, lambda: now[0])
    durations = {"a": [9.0, 9.0, 1.0, 2.0, 40.0], "b": [9.0, 9.0, 3.0, 8.0, 20.0]}

    def work(name):
        def take():
            now[0] += durations[name].pop(0)

        return take

    with threads_set(threads):
        found = measure({name: work(name) for name in durations}, rounds=3)
    assert found == {"a": Times(2.0, 1.0), "b": Times(8.0, 3.0)}  # of 3/1, 8/2 and 20/40
