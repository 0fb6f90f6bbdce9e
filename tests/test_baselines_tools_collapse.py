"""Dead networks are noticed: empty layers, outputs without input, weights chosen by position."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from literal import batches, tiny_net
from torch import nn

import baselines.tools.collapse
from baselines import sparsify
from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.method import Plan
from baselines.methods.synflow import SynFlow, SynFlowOptions
from baselines.registry import find_method, methods
from baselines.samples import Samples, no_samples
from baselines.tools.collapse import depends_on_input, empty_layers, set_initial_masks
from baselines.tools.graph import longest_path

AT_INIT = [n for n, m in methods().items() if m.family == "pruning at initialisation"]


class Block(nn.Module):
    """A residual block with a 1×1 convolution as shortcut, without biases."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x):
        inner = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(inner + self.shortcut(x))


def residual_net(zero_init=False):
    """Return two blocks and a classifier; the last normalisation of a block may start at 0."""
    torch.manual_seed(0)
    net = nn.Sequential(Block(3, 8), Block(8, 8), nn.Flatten(), nn.Linear(8 * 36, 5))
    if zero_init:
        for block in net[:2]:
            nn.init.zeros_(block.bn2.weight)
    return net


def saturating_net():
    """Return a deep network of ReLU6: the flow of |θ| is above 6 from the third layer on."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.ReLU6()]
    for _ in range(4):
        layers += [nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.ReLU6()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 36, 5))


def samples():
    (x, y), *_ = batches(1)
    return Samples(lambda n: [(x, y)])


def pruned(net, name, sparsity=0.8, **options):
    """Prune at initialisation. Return the texts of the warnings."""
    cls = find_method(name)
    method = cls(Plan(sparsity, 10, 10), cls.options_class.make(**options))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        method.prepare(net, samples())
    return [str(warning.message) for warning in caught]


def only(net, **masks):
    """Return masks with ones at the given positions of some layers; other layers stay full."""
    found = {k: torch.ones(shape, dtype=torch.bool) for k, shape in net.shapes.items()}
    for name, positions in masks.items():
        mask = torch.zeros(net.shapes[f"{name}.weight"], dtype=torch.bool)
        for position in positions:
            mask[position] = True
        found[f"{name}.weight"] = mask
    return found


# ---- SynFlow


def test_synflow_refuses_a_network_that_saturates():
    """Only the classifier's scores are not 0: positions would decide about all convolutions."""
    net = SparseModel(saturating_net())
    with pytest.raises(UserError, match=r"synflow: only \d+ of the 6264 .* such as ReLU6"):
        SynFlow(Plan(0.5, 10, 10)).prepare(net, samples())
    assert net.nnz == net.numel == 12528
    (text,) = pruned(net, "synflow", 0.9, iterations=1)  # the classifier alone is large enough
    assert "5 of 6 layers have no weights left" in text
    assert "The output of the network does not depend on its input." in text


def test_one_synflow_score_above_0_more_or_less():
    """Two of six paths carry flow: two weights of each layer may be kept, three may not."""
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 1, bias=False))
    model[0].weight.data = torch.tensor([[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]])
    model[1].weight.data = torch.tensor([[3.0, 1.0, 1.0]])
    inputs = Samples(lambda n: [(torch.ones(1, 2), torch.zeros(1))])
    for k, is_alive in ((3, True), (4, False)):
        net = SparseModel(model)
        method = SynFlow(Plan(1 - k / 9, 10, 10), SynFlowOptions(iterations=1))
        if is_alive:
            method.prepare(net, inputs)
            assert [int(mask.sum()) for mask in net.masks.values()] == [2, 1]
        else:
            with pytest.raises(UserError, match="only 3 of the 4 weights to keep"):
                method.prepare(net, inputs)


def test_synflow_names_scales_that_start_at_0():
    net = SparseModel(residual_net(zero_init=True))
    with pytest.raises(UserError, match=r"start at 0 \(0.bn2.weight, 1.bn2.weight\).*start them"):
        SynFlow(Plan(0.1, 10, 10)).prepare(net, samples())


def test_synflow_overflow_is_an_error():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    for layer in model:
        layer.weight.data.fill_(3e38)
    for _ in range(7):
        model.append(nn.Linear(1, 1, bias=False))
        model[-1].weight.data.fill_(3e38)
    inputs = Samples(lambda n: [(torch.ones(1, 2), torch.zeros(1))])
    with pytest.raises(UserError, match="overflows float64|NaN"):
        SynFlow(Plan(0.5, 10, 10), SynFlowOptions(1)).prepare(SparseModel(model), inputs)


# ---- all methods


@pytest.mark.parametrize("method", ["snip", "grasp"])
def test_scales_that_start_at_0_are_the_reason(method):
    (text,) = pruned(SparseModel(residual_net(zero_init=True)), method, sparsity=0.3)
    assert "have a score of 0: their position chose them" in text
    assert "start at 0 (0.bn2.weight, 1.bn2.weight)" in text and "zero_init_last=False" in text
    assert not pruned(SparseModel(residual_net()), method, sparsity=0.3)


def test_snip_says_which_layers_it_empties():
    net = SparseModel(residual_net(zero_init=True))
    (text,) = pruned(net, "snip", sparsity=0.9)
    empty = [layer.name for layer in net if not layer.nnz]
    assert text.startswith(f"snip: {len(empty)} of 7 layers have no weights left (")
    assert "1.conv1.weight" in empty and "1.conv1.weight" in text


@pytest.mark.parametrize("name", AT_INIT)
def test_every_method_at_initialisation_checks(name, monkeypatch):
    assert not pruned(SparseModel(tiny_net()), name)
    monkeypatch.setattr(baselines.tools.collapse, "depends_on_input", lambda *_: False)
    (text,) = pruned(SparseModel(tiny_net()), name)
    assert text == f"{name}: The output of the network does not depend on its input."


@pytest.mark.parametrize("name", ["set", "rigl", "granet", "svite", "mest", "chts"])
def test_dynamic_methods_warn_of_a_dead_start(name):
    """Of 264,192 weights, 528 are left: 2, 524 and 2, on no path from an input to the output."""
    torch.manual_seed(0)
    layers = nn.Linear(4, 256), nn.Linear(256, 1024), nn.Linear(1024, 1)
    net = SparseModel(nn.Sequential(*layers))
    options = {"initial_sparsity": 0.998} if name == "granet" else {}
    x = Samples(lambda n: [(torch.randn(8, 4), torch.zeros(8))])
    cls = find_method(name)
    method = cls(Plan(0.998, 1000, 100), cls.options_class.make(density="uniform", **options))
    with pytest.warns(UserWarning, match=f"{name}: The output .* does not depend on its input"):
        method.prepare(net, x)
    assert all(layer.nnz for layer in net)


def test_a_broken_chain_without_an_empty_layer():
    model = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 3))
    net, other = SparseModel(model), SparseModel(copy.deepcopy(model))
    masks = only(net, **{"0": [(0, 0)], "1": [(2, 1)]})  # into unit 0, out of unit 1
    x = Samples(lambda n: [(torch.randn(8, 4), torch.zeros(8))])
    with pytest.warns(UserWarning, match="random: The output .* does not depend on its input"):
        set_initial_masks("random", net, masks, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        set_initial_masks("random", other, only(net, **{"0": [(1, 0)], "1": [(2, 1)]}), x)


def test_an_empty_shortcut_may_be_removed_but_no_other_layer():
    net = SparseModel(residual_net())
    x = batches(1)[0][0]
    net.set_masks(only(net, **{"0.shortcut": []}))
    assert not empty_layers(net, x) and empty_layers(net) == ["0.shortcut.weight"]
    net = SparseModel(residual_net())
    net.set_masks(only(net, **{"0.conv2": [], "1.shortcut": []}))
    assert empty_layers(net, x) == ["0.conv2.weight"]
    assert depends_on_input(net.model, x)  # through the shortcut


def test_the_check_leaves_no_trace():
    model = residual_net().train()
    net = SparseModel(model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    set_initial_masks("snip", net, only(net, **{"0.shortcut": []}), samples())
    assert model.training and all(p.grad is None for p in model.parameters())
    assert torch.equal(state, torch.get_rng_state())
    for key, value in model.state_dict().items():
        assert key == "0.shortcut.weight" or torch.equal(value, before[key])


def test_without_an_input_only_layers_are_looked_at():
    net = SparseModel(nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 3)))
    with pytest.warns(UserWarning, match="random: 1 of 2 layers have no weights left") as caught:
        set_initial_masks("random", net, only(net, **{"0": []}), Samples(no_samples))
    assert len(caught) == 1
    words = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2))
    numbers = Samples(lambda n: [(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2))])
    set_initial_masks("random", SparseModel(words), {}, numbers)
    optimizer = torch.optim.SGD(words.parameters(), 0.1)
    sparsify(words, optimizer, "random", sparsity=0.5, steps=10)  # needs no samples


# ---- the longest path


class Parallel(nn.Module):
    """Branches whose outputs are added."""

    def __init__(self, *branches):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x):
        return sum(branch(x) for branch in self.branches)


def linear(bias=True):
    return nn.Linear(4, 4, bias=bias)


@pytest.mark.parametrize(
    "model, left_out",
    [
        (nn.Sequential(linear(), nn.ReLU(inplace=True), linear(False)), []),
        (nn.Sequential(linear(False), Parallel(linear(), nn.Sequential(linear(), linear()))), [0]),
        (Parallel(linear(), linear()), []),
        (Parallel(nn.Identity(), nn.Sequential(linear(), linear())), []),
        (Parallel(Parallel(linear(), nn.Sequential(linear(), linear())), linear()), [0, 3]),
    ],
)
def test_layers_off_the_longest_path(model, left_out):
    weights = {k: p for k, p in model.named_parameters() if p.ndim == 2}
    inside = [name for name in weights if "branches" in name]
    output = model(torch.randn(2, 4, requires_grad=True) * 1)
    found = longest_path(output, weights)
    assert set(weights) - found == {inside[i] for i in left_out}


def test_a_shared_layer_and_attention_are_on_the_path():
    shared = linear()
    model = nn.Sequential(shared, nn.Tanh(), shared)
    x = torch.randn(2, 4, requires_grad=True)
    assert longest_path(model(x), {"w": shared.weight}) == {"w"}
    attention = nn.MultiheadAttention(4, 2)
    weights = {k: p for k, p in attention.named_parameters() if p.ndim == 2}
    output, _ = attention(x, x, x)
    assert longest_path(output, weights) == set(weights) and len(weights) == 2
    assert longest_path(torch.zeros(2), {}) == set()
