"""SET and RigL: updates compared with numbers worked out by hand."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch
from literal import batches, loss_of, tiny_net
from method_cases import STORAGES, trained
from torch import nn

from baselines import sparsify
from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.method import Plan
from baselines.methods.set_rigl import RigL, RigLOptions, Set, SetOptions
from baselines.samples import Samples, no_samples


def test_rigl_keeps_what_is_regrown_and_clears_what_is_new():
    layer = nn.Linear(10, 1, bias=False).double()
    net = SparseModel(layer)
    optimizer = torch.optim.SGD(layer.parameters(), 0.0, 0.9)
    mask = torch.zeros(1, 10, dtype=torch.bool)
    mask[0, [0, 1, 2, 5, 7]] = True
    net.set_masks({"weight": mask})
    w = torch.tensor([[0.9, -0.05, 0.4, 0, 0, -0.2, 0, 0.1, 0, 0]], dtype=torch.float64)
    net.set_weights({"weight": w})
    net.attach(optimizer)
    layer.weight.grad = torch.arange(1.0, 11.0, dtype=torch.float64).view(1, 10)
    optimizer.step()  # fills the momentum with the gradient
    g = [0.1, 0.8, 0.05, 0.3, 0.02, 0.1, 0.6, 0.01, 0.9, 0.2]
    layer.weight.grad = torch.tensor([g], dtype=torch.float64)
    method = RigL(Plan(0.5, 100, 100), RigLOptions(update_every=1, drop_fraction=0.4))
    method.update(net, 0)
    assert layer.weight[0, 1] == -0.05 and layer.weight[0, 8] == 0 and layer.weight[0, 7] == 0
    (latent,) = net.layers["weight"].latents.values()
    momentum = optimizer.state[latent]["momentum_buffer"]
    assert momentum.tolist() == [1, 2, 3, 6, 0]  # positions 0, 1, 2, 5, 8


@pytest.mark.parametrize("method", [Set, RigL])
@pytest.mark.parametrize("storage", STORAGES)
def test_dynamic_masks_keep_their_counts_and_stop_changing(method, storage):
    counts, masks = [], []

    def after(net, _optimizer, _step):
        counts.append([layer.nnz for layer in net])
        masks.append({name: mask.clone() for name, mask in net.masks.items()})

    options = method.options_class(update_every=4, drop_fraction=0.5, update_until=0.5)
    trained(method(Plan(0.8, 40, 10), options), storage, after=after)
    assert all(count == counts[0] for count in counts)
    changed = [
        step
        for step, (a, b) in enumerate(itertools.pairwise(masks), start=1)
        if any(not torch.equal(a[k], b[k]) for k in a)
    ]
    assert changed == [2, 4, 6, 8, 10, 12, 14, 16, 18]  # 10 periods of 2 fit before step 20


def test_rigl_replaces_the_step_and_set_does_not():
    plan = Plan(0.8, 100, 100)
    for method, options, replaced in (
        (Set, SetOptions(update_every=5), False),
        (RigL, RigLOptions(update_every=5), True),
        (RigL, RigLOptions(update_every=5, keep_step=True), False),
    ):
        model = tiny_net()
        net = SparseModel(model)
        chosen = method(plan, options)
        chosen.prepare(net, Samples(no_samples))
        net.attach(torch.optim.SGD(model.parameters(), 0.1))
        x, y = batches(1)[0]
        loss_of(model(x), y).backward()
        assert not chosen.after_backward(net, 4)
        assert chosen.after_backward(net, 5) is replaced


def test_the_drop_fraction_of_set_is_constant_without_annealing():
    plan = Plan(0.8, 100, 100)
    annealed, constant = (Set(plan, SetOptions(anneal=on)) for on in (True, False))
    assert [round(annealed.drop_fraction(s), 3) for s in (0, 25, 50)] == [0.3, 0.225, 0.075]
    assert [constant.drop_fraction(s) for s in (0, 25, 50)] == [0.3] * 3

    def replaced(method: Set, step: int) -> int:
        layer = nn.Linear(40, 25, bias=False)
        net = SparseModel(layer)
        method.prepare(net, Samples(no_samples))
        before = net.masks["weight"].clone()
        method.update(net, step)
        return int((before & ~net.masks["weight"]).sum())

    # of 200 weights 7.5 % and 30 %, without those that are dropped and grown
    assert 12 <= replaced(annealed, 50) <= 15 and 50 <= replaced(constant, 50) <= 60


def test_a_layer_without_a_gradient_is_named():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sparsify(model, optimizer, "rigl", sparsity=0.5, steps=10, update_every=1)
    with pytest.raises(UserError, match="rigl grows by gradient: exclude 1.weight, which has none"):
        for _ in range(3):
            model[0](torch.ones(2, 8)).sum().backward()
            optimizer.step()


@pytest.mark.parametrize("name", ["rigl", "srigl", "rigl_nm"])
def test_a_layer_that_is_frozen_after_the_first_update_keeps_its_mask(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sparsifier = sparsify(model, optimizer, name, sparsity=0.5, steps=20, update_every=1)
    masks = []
    for step in range(5):  # updates at the steps 1 to 4
        if step == 2:
            model[0].requires_grad_(False)
        model(torch.randn(4, 8)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        masks.append(sparsifier.masks)
    assert not torch.equal(masks[0]["0.weight"], masks[1]["0.weight"])
    assert torch.equal(masks[1]["0.weight"], masks[4]["0.weight"])
    assert not torch.equal(masks[1]["1.weight"], masks[4]["1.weight"])


@pytest.mark.parametrize("name", ["rigl", "srigl", "rigl_nm"])
def test_a_step_without_any_gradient_is_no_update(name):
    """As that of a batch that the loop leaves out, such as Lightning's without a loss."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sparsifier = sparsify(model, optimizer, name, sparsity=0.5, steps=10, update_every=1)
    masks = []
    for x in (None, torch.ones(2, 8), None, torch.arange(16.0).view(2, 8)):
        if x is not None:
            model(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        masks.append(torch.stack(list(sparsifier.masks.values())))
    assert sparsifier.step == 4
    assert torch.equal(masks[1], masks[2]) and not torch.equal(masks[2], masks[3])


@pytest.mark.parametrize(
    "name, fewer",
    [
        *((name, {"keep_step": True}) for name in ("rigl", "srigl", "rigl_nm")),
        ("chts", {"updates": 1}),
    ],
)
def test_a_warning_says_that_updates_replace_many_steps(name, fewer):
    def start(steps, **options):
        model = tiny_net().double()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        sparsify(model, optimizer, name, sparsity=0.75, steps=steps, **options)

    # the mask changes for 15 of 20 steps, in 10 periods; for 75 of 100
    with pytest.warns(UserWarning, match="updates replace 9 of the first 20 optimizer steps"):
        start(20)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*updates replace")
        start(100)
        start(20, **fewer)
