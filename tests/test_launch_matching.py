"""Matching of units: permuted networks are found again, functions and optima are exact."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

import launch.measures.matching
from baselines.checkpoint import Checkpoint
from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.tools.paths import trace
from launch.cli import main
from launch.measures.alignment import align
from launch.measures.matching import match_units, permute_units
from launch.measures.units import permutable_units
from launch.models import build_model
from launch.runs.checkpoints import write_checkpoint
from launch.runs.snapshots import write_snapshot


def groups_of(model, x):
    return permutable_units(trace(SparseModel(model), x), model.state_dict())


def shuffled(model, groups, seed=0):
    """Return the state of the network with the units of all groups in a random order."""
    generator = torch.Generator().manual_seed(seed)
    state = model.state_dict()
    orders = []
    for first, *_ in groups:
        n = state[first.name].shape[first.dim] // first.block
        orders.append(torch.randperm(n, generator=generator))
    return permute_units(state, groups, orders)


def names(model):
    return [name for name, _ in model.named_parameters()]


class Flat(nn.Module):
    """A convolution whose units have four entries each behind the flatten, and a layer scale."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 6, 3), nn.Linear(6 * 4, 3)
        self.scale = nn.Parameter(torch.rand(6, 1, 1))

    def forward(self, x):
        return self.fc((self.conv(x).relu() * self.scale).flatten(1))


MODELS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)), (1, 5), 1),
    "flatten": (Flat, (1, 1, 4, 4), 1),
    "digits-cnn": (lambda: build_model("digits-cnn", 10, 1, 8), (1, 1, 8, 8), 3),
    "resnet20": (lambda: build_model("resnet20", 10, 3, 16), (1, 3, 16, 16), 12),
    # depthwise convolutions, squeeze and excitation
    "mobilenet": (lambda: timm.create_model("lcnet_035", num_classes=5), (1, 3, 32, 32), 4),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_permuted_network_computes_the_same_and_is_found_again(name):
    make, shape, at_least = MODELS[name]
    model = make().double().eval()
    x = torch.randn(shape, dtype=torch.float64)
    groups = groups_of(model, x)
    assert len(groups) >= at_least
    other = make().double().eval()
    state = shuffled(model, groups)
    assert not all(torch.equal(t, state[k]) for k, t in model.state_dict().items())
    other.load_state_dict(state)
    torch.testing.assert_close(other(x), model(x), rtol=1e-9, atol=1e-12)
    found = match_units(model.state_dict(), state, groups, names(model))
    again = permute_units(model.state_dict(), groups, found)
    for key, tensor in again.items():
        assert torch.equal(tensor, state[key]), key


def test_the_assignment_of_one_group_is_the_best_of_all():
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    target = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).double().state_dict()
    groups = groups_of(model, torch.randn(1, 3, dtype=torch.float64))
    source = model.state_dict()

    def product(order):
        permuted = permute_units(source, groups, [torch.tensor(order)])
        return sum((permuted[k] * target[k]).sum() for k in target).item()

    best = max(itertools.permutations(range(5)), key=product)
    (found,) = match_units(source, target, groups, names(model))
    assert found.tolist() == list(best)


class Shortcut(nn.Module):
    """A block with a shortcut: both axes of its weight run over the same units."""

    def __init__(self, units):
        super().__init__()
        self.stem, self.block = nn.Conv2d(2, units, 3), nn.Conv2d(units, units, 1)
        self.head = nn.Conv2d(units, 4, 1)

    def forward(self, x):
        x = self.stem(x).relu()
        return self.head(x + self.block(x).relu()).mean((2, 3))


def shortcut(seed, units=16):
    torch.manual_seed(seed)
    return Shortcut(units).double()


@pytest.mark.parametrize("seed", range(4))
def test_units_on_both_axes_of_a_weight_are_found_again(seed):
    model = shortcut(seed)
    model.block.weight.data *= 2  # as important as the layers with one of the axes
    groups = groups_of(model, torch.randn(1, 2, 6, 6, dtype=torch.float64))
    state = shuffled(model, groups, seed)
    again = permute_units(
        source := model.state_dict(), groups, match_units(source, state, groups, names(model))
    )
    for key, tensor in again.items():
        assert torch.equal(tensor, state[key]), key


def test_no_round_lowers_the_inner_product(monkeypatch):
    rises = []
    for seed in range(6):
        source, target = shortcut(seed, 8), shortcut(100 + seed, 8).state_dict()
        groups = groups_of(source, torch.randn(1, 2, 6, 6, dtype=torch.float64))
        products = []
        for rounds in range(5):
            monkeypatch.setattr(launch.measures.matching, "MAX_ROUNDS", rounds)
            found = match_units(source.state_dict(), target, groups, names(source))
            permuted = permute_units(source.state_dict(), groups, found)
            products.append(sum((permuted[k] * target[k]).sum().item() for k in target))
        assert products == sorted(products)
        rises.append(len(set(products)))
    assert max(rises) > 2  # of some networks more than one round changes something


def test_residual_groups_share_a_permutation():
    model = build_model("resnet20", 10, 3, 16)
    groups = groups_of(model, torch.randn(1, 3, 16, 16))
    (stage,) = [g for g in groups if any(a.name == "conv1.weight" for a in g)]
    outputs = {axis.name for axis in stage if axis.dim == 0 and axis.name.endswith("conv2.weight")}
    assert outputs == {f"layer1.{i}.conv2.weight" for i in range(3)}


def test_units_that_cannot_be_permuted_are_noticed():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(16, 2))
    other = copy.deepcopy(model)
    other[0].weight.data = other[0].weight[[2, 1, 0, 3]]
    states = [Checkpoint(m.state_dict(), {}) for m in (model, other)]
    with pytest.raises(UserError, match="cannot be permuted: that changes what it computes"):
        align(*states, SparseModel(model), torch.zeros(1, 1, 4, 4))


FLAGS = ["--model", "digits-cnn", "--classes", "10", "--channels", "1", "--image-size", "8"]


@pytest.mark.parametrize("own", ["mask.safetensors", "./mask.safetensors", "dense.safetensors"])
def test_transplant_aligns_the_mask_and_what_else_is_from_its_source(
    tmp_path, capsys, monkeypatch, own
):
    monkeypatch.chdir(tmp_path)
    model = build_model("digits-cnn", 10, 1, 8)
    groups = groups_of(model, torch.zeros(1, 1, 8, 8))
    state = shuffled(model, groups)
    masks = {k: torch.rand(t.shape) < 0.4 for k, t in model.state_dict().items() if t.ndim > 1}
    pruned = {k: t * masks[k] if k in masks else t for k, t in model.state_dict().items()}
    write_checkpoint(Path("mask.safetensors"), Checkpoint(pruned, masks))
    write_checkpoint(Path("dense.safetensors"), Checkpoint(model.state_dict(), {}))
    write_checkpoint(Path("other.safetensors"), Checkpoint(state, {}))
    sources = ["--mask=mask.safetensors", "--align-from=dense.safetensors"]
    sources += ["--align=other.safetensors", "--magnitudes=other.safetensors", f"--signs={own}"]
    assert main(["transplant", *sources, *FLAGS, "-o", "out.safetensors"]) == 0
    assert f"aligned: {len(groups)} permutations" in (shown := capsys.readouterr().out)
    assert "1.000 after" in shown
    found = load_file("out.safetensors")
    orders = match_units(model.state_dict(), state, groups, names(model))
    moved = permute_units(masks, groups, orders)
    for key, mask in moved.items():  # the shuffled network under the mask that moved with it
        assert torch.equal(found[key], state[key] * mask), key
    for key in state.keys() - moved.keys():  # biases are the source's, permuted
        assert torch.equal(found[key], state[key]), key


def test_all_snapshots_of_the_masks_run_are_aligned(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = build_model("digits-cnn", 10, 1, 8)
    whole = model.state_dict()
    state = shuffled(model, groups_of(model, torch.zeros(1, 1, 8, 8)))
    early = {name: tensor.sign() for name, tensor in whole.items()}
    for epoch, weights in enumerate((early, whole)):
        write_snapshot(Path("runs/run"), "run", epoch, Checkpoint(weights, {}))
    write_checkpoint(Path("other.safetensors"), Checkpoint(state, {}))
    sources = ["--mask=run@1", "--signs=runs/run@init", "--magnitudes=other.safetensors"]
    given = [*sources, "--align=other.safetensors", *FLAGS, "-o", "out.safetensors"]
    assert main(["transplant", *given]) == 0
    found = load_file("out.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--align", "a.pt"], "--align needs --model"),
        (["--align-from", "a.pt", *FLAGS], "--align-from needs --align"),
        (["--align", "a.pt", *FLAGS], "there is no file"),
    ],
)
def test_what_cannot_be_aligned_is_one_line(tmp_path, capsys, flags, message):
    torch.save(build_model("digits-cnn", 10, 1, 8).state_dict(), tmp_path / "m.pt")
    source = ["--mask", str(tmp_path / "m.pt"), "-o", str(tmp_path / "out.pt")]
    assert main(["transplant", *source, *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out.pt").exists()


class Concatenated(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(6, 5)
        self.d = nn.Linear(5, 2)

    def forward(self, x):
        return self.d(self.c(torch.cat([self.a(x), self.b(x)], 1)).relu())


def test_concatenated_units_stay():
    groups = groups_of(Concatenated(), torch.randn(1, 4))
    assert {axis.name for group in groups for axis in group} == {"c.weight", "c.bias", "d.weight"}
