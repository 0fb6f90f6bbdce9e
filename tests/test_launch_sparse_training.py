"""Trainings with sparse products end as dense ones do. Speeds are not tested."""

from __future__ import annotations

import os
import tempfile
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from in_process import fork_two_ranks
from safetensors.torch import load_file, save_file
from small_digits import small_digits
from test_contract import FIRST_VARIANTS, case, make
from test_launch_sparse_inference import timings
from test_launch_train import assert_same, interrupt_after, train
from torch import nn
from two_ranks import default_dtype, train_loop

import launch.sparse_training.products
import launch.training.build
from analysis.folder import read_config
from baselines import sparsify
from baselines.errors import UserError
from baselines.registry import find_method
from baselines.tools.masks import random_mask, random_masks
from launch.cli import main
from launch.config.run import Run
from launch.ranks import Ranks
from launch.sparse_training.linear import Pattern, both_passes, sparse_linear
from launch.sparse_training.products import SparseProducts
from launch.training.build import build_loop

ONE = Ranks(0, 1, torch.device("cpu"))
LAYERS = ((64, 40), (40, 30), (30, 10))  # inputs and outputs
BATCH = 48  # 6 steps per epoch
FULL = {"dense", "srste", "str", "str-target", "topkast"}  # have no masks while they train


def small_mlp(classes, channels, image_size):
    """Return a network of linear layers for digits."""
    layers = [layer for sizes in LAYERS for layer in (nn.Linear(*sizes), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


SHORT = small_digits(epochs=4, lr=0.05, model=f"{__name__}:small_mlp")


@pytest.fixture
def faster(monkeypatch):
    """Let measurements find a gain. Return the list of the layers' shapes in sparse calls."""
    calls = []
    forced = partial(SparseProducts, timer=timings(sparse=0.5))
    monkeypatch.setattr(launch.training.build, "SparseProducts", forced)

    def counted(x, weight, bias=None, *, pattern):
        if bias is not None:  # a measurement has none
            calls.append(tuple(weight.shape))
        return sparse_linear(x, weight, bias, pattern=pattern)

    monkeypatch.setattr(launch.sparse_training.products, "sparse_linear", counted)
    return calls


@pytest.mark.parametrize("shape", [(7,), (1, 7), (5, 7), (300, 7), (2, 3, 7), (0, 7)])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_passes_equal_those_of_the_dense_layer(shape, has_bias, dtype):
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=generator, dtype=dtype)
    mask = random_mask((9, 7), 12, 0, "layer")
    mask[3], mask[:, 2] = False, False  # an output and an input without weights
    weight, bias = draw(9, 7) * mask, draw(9) if has_bias else None
    x, gradient = draw(*shape), draw(*shape[:-1], 9)
    pattern = Pattern(mask.view(-1).nonzero()[:, 0], weight)
    found = gradients(partial(sparse_linear, pattern=pattern), x, weight, bias, gradient)
    expected = gradients(F.linear, x, weight, bias, gradient)
    expected[2] = expected[2] * mask
    for one, other in zip(found, expected, strict=True):
        close = {torch.float32: 1e-4, torch.float64: 1e-12}[dtype]
        torch.testing.assert_close(one, other, rtol=0, atol=close)
    assert not found[2][~mask].any()


def gradients(product, *arguments):
    *given, gradient = arguments
    leaves = [None if t is None else t.clone().requires_grad_() for t in given]
    out = product(*leaves)
    out.backward(gradient)
    return [out.detach(), *(leaf.grad for leaf in leaves if leaf is not None)]


def test_inputs_without_gradient_get_none():
    weight = torch.tensor([[0.0, 2.0], [3.0, 0.0]], requires_grad=True)
    pattern = Pattern(torch.tensor([1, 2]), weight)
    product = partial(sparse_linear, pattern=pattern)
    out, of_weight = both_passes(product, torch.tensor([[1.0, 10.0]]), weight, torch.ones(1, 2))
    assert out.tolist() == [[20.0, 3.0]] and of_weight.tolist() == [[0.0, 10.0], [1.0, 0.0]]


def test_a_weight_without_gradient_gets_none():
    weight = torch.tensor([[0.0, 2.0], [3.0, 0.0]])
    x = torch.tensor([[1.0, 10.0]], requires_grad=True)
    product = partial(sparse_linear, pattern=Pattern(torch.tensor([1, 2]), weight))
    _, of_x = both_passes(product, x, weight, torch.tensor([[1.0, 100.0]]))
    assert of_x.tolist() == [[300.0, 2.0]]


def final(run, sparse_kernels):
    """Return the final weights and masks of a run in float64, and its loop."""
    with default_dtype(torch.float64):
        loop = train_loop(run, ONE, sparse_kernels)
    net = loop.sparsifier.net
    assert next(iter(net.weights.values())).dtype == torch.float64
    return net.weights, net.masks, loop


@cache
def mask_file():
    shapes = {f"{1 + 2 * i}.weight": (o, n) for i, (n, o) in enumerate(LAYERS)}
    file = Path(tempfile.mkdtemp()) / "masks.safetensors"
    masks = random_masks("erk", shapes, 0.8, seed=7)
    save_file({f"mask:{name}": mask for name, mask in masks.items()}, file)
    return file


# options that overview grids do not show, of methods that look at gradients
GRADIENTS = (("mest", {"gradient_weight": 1.0}), ("rigl", {"keep_step": True}))
OTHERS = [case(name, variant, rule) for name, variant in GRADIENTS for rule in ("plain", "signin")]
# products see masks and weights, which a method changes in the same way with factors and without
EACH_METHOD = [found for found in FIRST_VARIANTS if found.values[2] == "plain"]
FACTORS = [case("rigl", {}, "signin"), case("rigl", {}, "ham")]


@pytest.mark.parametrize("name, variant, rule", EACH_METHOD + OTHERS + FACTORS)
def test_every_method_ends_as_with_dense_products(faster, name, variant, rule):
    choices = {**SHORT, "batch_size": BATCH}
    if name == "fixed":
        choices["mask"] = str(mask_file())
    if name in ("woodfisher", "cap"):
        choices |= {"damping": 0.1, "relative_damping": True}  # 1e-7 amplifies rounding
    run = make(name, variant, rule, **choices)
    weights, masks, loop = final(run, "auto")
    used = len(faster)
    dense, expected, _ = final(run, "none")
    assert len(faster) == used  # the other training is dense
    for key, mask in masks.items():
        assert torch.equal(mask, expected[key])
        torch.testing.assert_close(weights[key], dense[key], rtol=0, atol=1e-11)
    steps = loop.epochs * loop.steps
    needed = sum(map(loop.sparsifier.method.needs_dense_gradients, range(steps)))
    if name in FULL:
        assert not used
    else:
        assert used > 0 and needed < steps / 2


def test_gradients_are_clipped_by_the_same_norm(faster):
    run = make("set", {}, "signin", **SHORT, clip_norm=0.1)
    weights, _, _ = final(run, "auto")
    assert faster
    dense, _, _ = final(run, "none")
    for key, weight in weights.items():
        torch.testing.assert_close(weight, dense[key], rtol=0, atol=1e-11)


def library_training(method="random"):
    """Return sparse products, and a function that takes a step with them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 5))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sparsifier = sparsify(model, optimizer, method, sparsity=0.8, steps=100)
    products = SparseProducts(sparsifier, timer=timings(sparse=0.5))
    x = torch.randn(8, 20)

    def step():
        with products.forward_pass():
            loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return products, step


def test_a_method_with_a_hook_for_gradients_gets_dense_ones(faster):
    seen = []

    class Watching(find_method("random")):
        def after_backward(self, net, step):
            seen.append(all(bool(x.weight.grad[~x.mask].any()) for x in net))
            return False

    products, step = library_training(Watching)
    step()
    products.choose()
    step()
    assert seen == [True, True] and not faster


def test_layers_are_measured_again_when_their_density_has_halved_or_doubled():
    products, step = library_training()
    net, measured = products.sparsifier.net, []
    products._timer = lambda *given: measured.append(1) or timings(sparse=0.5)(*given)
    products.choose()
    assert not measured  # no input is known
    step()
    densities = (0.2, 2), (0.2, 2), (0.11, 2), (0.09, 3), (0.17, 3), (0.19, 4), (1, 4)
    for density, number in densities:
        mask = random_mask((30, 20), round(600 * density), 0, "layer") if density < 1 else None
        net.set_masks({"0.weight": mask})
        products.choose()
        assert len(measured) == number, density


@pytest.mark.parametrize("ratio, is_sparse", [(0.91, False), (0.89, True)])
def test_only_layers_with_a_gain_of_a_tenth_are_sparse(faster, ratio, is_sparse):
    products, step = library_training()
    products._timer = timings(sparse=ratio)
    step()
    assert products.news() == "sparse products in 0 of 2 linear layers"
    products.choose()
    assert products.news() == ("sparse products in 2 of 2 linear layers" if is_sparse else "")
    step()
    assert faster == ([(30, 20), (5, 30)] if is_sparse else [])


def test_full_and_empty_masks_and_other_uses_are_dense(faster):
    products, step = library_training()
    step()
    products.choose()
    net = products.sparsifier.net
    net.set_masks({"0.weight": None, "2.weight": torch.zeros(5, 30, dtype=torch.bool)})
    step()
    assert not faster
    net.set_masks({name: random_mask(shape, 20, 0, name) for name, shape in net.shapes.items()})
    x, weight = torch.randn(3, 20), net.weights["0.weight"]
    with products.forward_pass():
        assert (x @ weight.T).shape == (3, 30)
        with torch.autocast("cpu", torch.bfloat16):
            assert F.linear(x, weight).dtype == torch.bfloat16
        assert F.linear(x[:0], weight).shape == (0, 30)
        assert not faster
        F.linear(input=x, weight=weight, bias=torch.zeros(30))
    assert faster == [(30, 20)]


def test_a_resumed_run_keeps_its_choices(machine, faster, monkeypatch):
    run = make("rigl", {}, "signin", **SHORT)
    machine = replace(machine, sparse_kernels="auto")
    other = replace(machine, runs=machine.runs / "uninterrupted")
    train(run, other)
    used = len(faster)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        interrupt_after(2, patch)
        train(run, machine)
    slower = partial(SparseProducts, timer=timings(sparse=2.0))  # on a busy machine, say
    monkeypatch.setattr(launch.training.build, "SparseProducts", slower)
    train(run, machine)
    assert len(faster) == 2 * used > 0
    assert_same(run, machine, other)


@pytest.mark.parametrize("first, then", [("none", "auto"), ("auto", "none")])
def test_a_state_serves_runs_with_and_without_the_option(machine, faster, monkeypatch, first, then):
    run = make("set", {}, "plain", **SHORT)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        interrupt_after(2, patch)
        train(run, replace(machine, sparse_kernels=first))
    used = len(faster)
    warned = pytest.warns(UserWarning, match="goes on with dense") if used else nullcontext()
    with warned:
        train(run, replace(machine, sparse_kernels=then))
    config = read_config(machine.runs / run.name)
    assert (config["sparse_kernels"], config["resumed"][0]["sparse_kernels"]) == (first, then)
    assert (used > 0, len(faster) > used) == (first == "auto", then == "auto")


def test_rank_0_measures_for_both_ranks(tmp_path, monkeypatch, machine):
    def ranked(works, rounds, device):
        assert os.environ["RANK"] == "0"
        return timings(sparse=0.5)(works, rounds, device)

    forced = partial(SparseProducts, timer=ranked)
    monkeypatch.setattr(launch.training.build, "SparseProducts", forced)
    run = make("rigl", {}, "signin", **SHORT)
    there = replace(machine, sparse_kernels="auto", threads=1, runs=tmp_path / "two")
    fork_two_ranks(lambda: train(run, there) and None, tmp_path)
    train(run, machine)
    folders = (where.runs / run.name / "snapshots" for where in (there, machine))
    found, alone = (load_file(folder / "epoch-4.safetensors") for folder in folders)
    for key, value in alone.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=1e-4)


def test_a_run_says_how_many_layers_are_sparse(tmp_path, faster, capsys):
    flags = ["--method", "random", "--sparsity", "0.8", "--epochs", "2", "--device", "cpu"]
    flags += ["--model", SHORT["model"], "--runs", str(tmp_path), "--sparse-kernels", "auto"]
    assert main(["run", *flags]) == 0
    assert capsys.readouterr().out.count("sparse products in 3 of 3 linear layers\n") == 1


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--compile"], "--sparse-kernels auto does not work with --compile: leave one out."),
        (["--precision", "bfloat16"], "--sparse-kernels auto needs float32: give --precision"),
    ],
)
def test_what_has_no_sparse_products_is_refused(flags, message, tmp_path, capsys):
    flags = ["--device", "cpu", "--runs", str(tmp_path / "runs"), *flags]
    assert main(["run", "--method", "random", "--sparse-kernels", "auto", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_gpus_are_refused():
    gpu = torch.device("cuda", 0)
    with pytest.raises(UserError, match="--sparse-kernels auto needs a CPU: give --device cpu too"):
        build_loop(Run.make("digits", "dense"), None, Ranks(0, 1, gpu), sparse_kernels="auto")
