"""One-shot pruning, Wanda and SparseGPT: compared with slow implementations."""

from __future__ import annotations

import pytest
import torch
from literal import batches, tiny_net
from torch import nn
from transformers.pytorch_utils import Conv1D

from baselines import sparsify
from baselines.checkpoint import Checkpoint, entries_of
from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.method import Plan
from baselines.methods.oneshot import OneShot, OneShotOptions
from baselines.methods.wanda_sparsegpt import CalibratedOptions
from baselines.samples import Samples
from baselines.sparsifier import Sparsifier
from baselines.tools.layer_inputs import columns, layer_inputs, reconstructed, row_masks
from baselines.tools.masks import top_k_mask


def test_rows_share_their_weights():
    scores = torch.tensor([[1.0, 5, 2, 4], [3, 3, 3, 1], [0, 9, 0, 0]])
    kept = torch.tensor([[0, 1, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]])
    assert torch.equal(row_masks(scores, 7), kept.bool())


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(6, 4, bias=False),
        nn.Conv2d(6, 4, 3, stride=2, padding=1, bias=False),
        nn.Conv2d(6, 4, (3, 2), padding="same", dilation=2, groups=2, bias=False),
        nn.Conv2d(6, 6, 3, padding=1, groups=6, padding_mode="reflect", bias=False),
    ],
)
def test_a_layer_is_its_weight_times_its_columns(layer):
    layer = layer.double()
    shape = (5, 3, 6) if isinstance(layer, nn.Linear) else (5, 6, 7, 8)
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = columns(layer, x)
    rows = layer.weight.reshape(len(found), -1, found.shape[-1])
    products = torch.bmm(found, rows.transpose(1, 2))  # (groups, examples and positions, rows)
    expected = layer(x)
    if isinstance(layer, nn.Conv2d):
        expected = expected.permute(0, 2, 3, 1)
    expected = expected.reshape(-1, layer.weight.shape[0])
    assert torch.allclose(torch.cat(list(products), 1), expected, rtol=0, atol=1e-12)


def slow_reconstruction(weight, hessian, count, block):
    """Prune one weight after the other; each is made up for by those to its right."""
    w, h = weight.clone(), hessian.clone()
    h += 0.01 * h.diagonal().mean() * torch.eye(len(h)).to(h)
    inverses = [torch.linalg.inv(h[q:, q:]) for q in range(len(h))]
    mask = torch.zeros_like(w, dtype=torch.bool)
    size = w.shape[1]
    for q in range(size):
        if q % block == 0:
            end = min(q + block, size)
            pivots = torch.stack([inverses[j][0, 0] for j in range(q, end)])
            quota = round(count * end / size) - round(count * q / size)
            mask[:, q:end] = top_k_mask(w[:, q:end].square() / pivots, quota)
        for row in range(len(w)):
            if not mask[row, q]:
                w[row, q:] -= w[row, q].clone() / inverses[q][0, 0] * inverses[q][0]
    return w * mask, mask


@pytest.mark.parametrize("block", [12, 5])
def test_sparsegpt_removes_weights_one_by_one(block):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 12, dtype=torch.float64, generator=generator)
    x = torch.randn(50, 12, dtype=torch.float64, generator=generator).cumsum(1)
    found, mask = reconstructed(weight, x.T @ x, 20, block)
    expected, expected_mask = slow_reconstruction(weight, x.T @ x, 20, block)
    assert int(mask.sum()) == 20 and torch.equal(mask, expected_mask)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


def test_an_input_that_is_always_zero_loses_its_weights_first():
    x = torch.randn(30, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[:, 2] = 0
    found, mask = reconstructed(torch.ones(3, 4).double(), x.T @ x, 9)
    assert not mask[:, 2].any() and mask.sum() == 9 and found.isfinite().all()


def pruned(name, model, **options):
    """Prune half of the weights. Return the sparsifier and the optimizer."""
    data = batches(2, torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    samples = {"samples": lambda n: data} if name != "oneshot" else {}
    choices = {"sparsity": 0.5, "steps": 4, **samples, **options}
    return sparsify(model, optimizer, name, **choices), optimizer


def test_wanda_takes_the_inputs_from_the_pruned_layers_before():
    model, other = tiny_net().double().eval(), tiny_net().double().eval()
    masks = pruned("wanda", model)[0].masks
    x = torch.cat([x for x, _ in batches(2, torch.float64)])
    with torch.no_grad():
        for i, layer in enumerate(other):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                norms = columns(layer, x).norm(dim=1)
                rows = layer.weight.view(len(norms), -1, norms.shape[1])
                scores = (rows.abs() * norms.unsqueeze(1)).flatten(0, 1)
                mask = masks[f"{i}.weight"]
                for row, kept in zip(scores, mask.flatten(1), strict=True):
                    assert row[kept].min() >= row[~kept].max()
                layer.weight.mul_(mask)
            x = layer(x)
    for name, weight in other.named_parameters():
        assert torch.equal(weight, model.get_parameter(name))


@pytest.mark.parametrize("name", ["wanda", "sparsegpt"])
def test_all_batches_count_by_their_examples(name):
    (x, y), (x2, y2) = batches(2, torch.float64)
    parts, found = [(x, y), (5 * x2[:4], y2[:4])], []
    for data in (parts, [tuple(map(torch.cat, zip(*parts, strict=True)))]):
        model = tiny_net().double().eval()
        masks = pruned(name, model, samples=lambda n, d=data: d, sample_batch_size=0)[0].masks
        found.append((masks, model.state_dict()))
    for split, joined in zip(*found, strict=True):
        for key, value in split.items():
            torch.testing.assert_close(value, joined[key], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("choices", "kept"), [({}, [2, 6]), ({"scope": "layer"}, [4, 4])])
def test_the_smallest_weights_are_those_of_the_network_or_of_each_layer(choices, kept):
    """Of 1 to 8 and 5 to 12 the eight largest are 7, 8 and 7 to 12."""
    model = nn.Sequential(nn.Linear(4, 2, bias=False), nn.Linear(2, 4, bias=False)).double()
    with torch.no_grad():
        for layer, least in zip(model, (1.0, 5.0), strict=True):
            layer.weight.copy_(torch.arange(least, least + 8).view_as(layer.weight))
    masks = pruned("oneshot", model, **choices)[0].masks
    for mask, count in zip(masks.values(), kept, strict=True):
        assert mask.flatten().tolist() == [False] * (8 - count) + [True] * count


@pytest.mark.parametrize("name", ["oneshot", "wanda", "sparsegpt"])
def test_without_fine_tuning_weights_stay(name):
    model = tiny_net().double()
    sparsifier, optimizer = pruned(name, model, finetune=False)
    net = sparsifier.net
    assert net.nnz == net.numel - round(0.5 * net.numel)
    before = {k: v.clone() for k, v in net.weights.items()}
    x, y = batches(1, torch.float64)[0]
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    assert all(torch.equal(net.weights[k], before[k]) for k in before)
    assert sparsifier.step == 1


def test_sparsegpt_changes_the_output_less_than_magnitude():
    x, _ = batches(1, torch.float64)[0]
    wanted = tiny_net().double().eval()(x)
    errors = {}
    for name in ("oneshot", "sparsegpt"):
        model = tiny_net().double().eval()
        options = {"scope": "layer"} if name == "oneshot" else {}
        pruned(name, model, **options)
        errors[name] = float((model(x) - wanted).detach().norm())
    assert errors["sparsegpt"] < errors["oneshot"]


def test_the_network_can_be_read_from_a_source():
    source = tiny_net().double()
    for parameter in source.parameters():
        nn.init.normal_(parameter)
    checkpoint = Checkpoint(source.state_dict(), {}, "runs/a")
    plan = Plan(0.5, 4, 4, read=lambda source, **_: {"a@final": checkpoint}[source])
    options = OneShotOptions(init_from="a@final", scope="layer")
    assert options.needs == ("a",) and CalibratedOptions(init_from="x/y.pt").needs == ()
    model = tiny_net().double()
    net = SparseModel(model)
    sparsifier = Sparsifier(net, OneShot(plan, options))
    sparsifier.start(torch.optim.SGD(model.parameters(), 0.1), Samples(lambda n: []), False)
    for name, weight in source.named_parameters():
        found = model.get_parameter(name)
        kept = found != 0
        assert torch.equal(found[kept], weight[kept])
        if name in net.layers:
            assert weight[kept].abs().min() >= weight[~kept].abs().max()
    plan = Plan(0.5, 4, 4, read=lambda _, **__: Checkpoint({}, {}, "runs/b"))
    with pytest.raises(UserError, match=r"runs/b has no 0.weight"):
        OneShot(plan, options).prepare(SparseModel(tiny_net()), None)


def test_a_file_without_counts_of_batches_is_read():
    """Old versions of torch had no `num_batches_tracked`; `load_state_dict` fills in zeros."""
    model, other = (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)) for _ in range(2))
    model(torch.randn(5, 3))
    state = {k: v for k, v in model.state_dict().items() if k != "1.num_batches_tracked"}
    assert other.load_state_dict(state, strict=True)
    found = entries_of(Checkpoint(state, {}), model.state_dict())
    assert found.keys() == other.state_dict().keys()
    assert all(torch.equal(found[name], value) for name, value in other.state_dict().items())
    del state["1.running_var"]
    with pytest.raises(UserError, match="has no 1.running_var"):
        entries_of(Checkpoint(state, {}), model.state_dict())


def test_a_weight_that_modules_share_has_the_inputs_of_all():
    first, a, b = nn.Linear(108, 6), nn.Linear(6, 6), nn.Linear(6, 6)
    b.weight = a.weight
    net = SparseModel(nn.Sequential(nn.Flatten(), first, a, nn.ReLU(), b).double())
    data = batches(2, torch.float64)
    x = first(torch.cat([x for x, _ in data]).flatten(1))
    expected = torch.cat([x, a(x).relu()]).square().sum(0)
    found = sum(x.square().sum(1) for x in layer_inputs(net, "2.weight", data))
    assert torch.allclose(found[0], expected, rtol=1e-12)
    assert not a._forward_pre_hooks and not b._forward_pre_hooks


def test_layers_without_inputs_are_refused():
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 5)).double()
    model.extra = nn.Identity()
    model.extra.head = nn.Linear(3, 3).double()
    with pytest.raises(UserError, match=r"extra.head.weight: its layer is not called"):
        pruned("wanda", model)
    for module in (nn.LSTM(4, 4), nn.Conv1d(4, 4, 3)):
        with pytest.raises(UserError, match="sparsegpt supports Linear, Conv2d and Hugging Face's"):
            pruned("sparsegpt", module)


@pytest.mark.parametrize("name", ["wanda", "sparsegpt"])
def test_a_conv1d_of_hugging_face_is_pruned_as_its_linear_layer(name):
    linear = nn.Sequential(nn.Flatten(), nn.Linear(108, 7), nn.GELU(), nn.Linear(7, 5)).double()
    layers = [Conv1D(7, 108), Conv1D(5, 7)]
    transposed = nn.Sequential(nn.Flatten(), layers[0], nn.GELU(), layers[1]).double()
    with torch.no_grad():
        for layer, i in zip(layers, (1, 3), strict=True):
            layer.weight.copy_(linear[i].weight.t())
            layer.bias.copy_(linear[i].bias)
    expected, found = pruned(name, linear)[0], pruned(name, transposed)[0]
    for key, mask in expected.masks.items():
        assert torch.equal(found.masks[key], mask.t())
        assert torch.allclose(transposed.get_parameter(key), linear.get_parameter(key).t())
