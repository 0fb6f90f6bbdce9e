"""SNIP, GraSP and SynFlow compared with slow literal formulations."""

from __future__ import annotations

import copy

import pytest
import torch
from literal import batches, flow_scores, tiny_net
from torch import nn
from torch.func import functional_call

from baselines.engine.sparse_model import SparseModel
from baselines.method import Plan
from baselines.methods.grasp import Grasp, grasp_scores
from baselines.methods.snip import SampleOptions, Snip, snip_scores
from baselines.methods.synflow import synflow_masks
from baselines.samples import Samples
from baselines.tools.synaptic_flow import Flow
from launch.models import build_model


def two_batches(per_class=1):
    """Return two batches of different sizes."""
    (x, y), (x2, y2) = batches(2, torch.float64)
    return [(x, y), (x2[:4], y2[:4])]


SAMPLE = two_batches(), nn.functional.cross_entropy


def double_net():
    model = tiny_net().double()
    model[1] = nn.GroupNorm(2, 8).double()  # the batches' losses add up to that of the whole
    return SparseModel(model)


def test_snip_is_the_sensitivity_to_gates():
    net = SparseModel(tiny_net().double())  # normalises by the statistics of each batch
    gates = {k: torch.ones_like(w, requires_grad=True) for k, w in net.weights.items()}
    gated = {k: w.detach() * gates[k] for k, w in net.weights.items()}
    losses = [
        nn.functional.cross_entropy(functional_call(net.model, gated, (x,)), y, reduction="sum")
        for x, y in two_batches()
    ]
    grads = torch.autograd.grad(sum(losses) / 20, list(gates.values()))
    net.model.eval()  # also if the model comes in evaluation mode
    scores = snip_scores(net, *SAMPLE)
    for got, expected in zip(scores.values(), grads, strict=True):
        torch.testing.assert_close(got, expected.abs(), rtol=1e-9, atol=1e-12)


def test_grasp_is_theta_times_the_dense_hessian_times_the_gradient():
    torch.manual_seed(0)
    hidden = nn.Sequential(nn.Linear(108, 3), nn.BatchNorm1d(3), nn.Tanh())
    model = nn.Sequential(nn.Flatten(), hidden, nn.Linear(3, 5)).double().eval()
    net = SparseModel(model)
    names = list(net.weights)
    sizes = [w.numel() for w in net.weights.values()]
    sample = two_batches()

    def loss(flat):
        first, last = (
            part.view(net.shapes[name]) for name, part in zip(names, flat.split(sizes), strict=True)
        )
        total = 0.0
        for x, y in sample:
            h = nn.functional.linear(x.flatten(1), first, hidden[0].bias)
            h = (h - h.mean(0)) / (h.var(0, correction=0) + 1e-5).sqrt()  # of the batch
            logits = nn.functional.linear(h.tanh(), last, model[2].bias) / 200
            total = total + nn.functional.cross_entropy(logits, y) * len(y) / 20
        return total

    theta = torch.cat([w.detach().flatten() for w in net.weights.values()])
    g, h = torch.func.grad(loss)(theta), torch.func.hessian(loss)(theta)
    expected = -theta * (h @ g)
    got = torch.cat([s.flatten() for s in grasp_scores(net, *SAMPLE).values()])
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-15)


def test_snip_removes_the_smallest_scores_and_grasp_the_largest():
    """A weight's removal raises the squared norm of the gradient by about 2·(−θ ⊙ Hg)."""
    for method, scores_of, sign in ((Snip, snip_scores, 1), (Grasp, grasp_scores, -1)):
        net = double_net()
        scores = scores_of(net, *SAMPLE)
        samples = Samples(lambda n: two_batches(), nn.functional.cross_entropy)
        method(Plan(0.3, 10, 10), SampleOptions(sample_batch_size=0)).prepare(net, samples)
        assert net.nnz == net.numel - round(0.3 * net.numel)
        kept, removed = (
            torch.cat([sign * scores[name][mask == on] for name, mask in net.masks.items()])
            for on in (True, False)
        )
        assert kept.min() >= removed.max()


def test_the_masks_of_grasp_raise_the_norm_of_the_gradient():
    def squared_norm(net):
        losses = [nn.functional.cross_entropy(net.model(x), y) * len(y) for x, y in two_batches()]
        grads = torch.autograd.grad(sum(losses) / 20, list(net.weights.values()))
        return float(sum(grad.square().sum() for grad in grads))

    net, samples = double_net(), Samples(lambda n: two_batches(), nn.functional.cross_entropy)
    dense = squared_norm(net)
    Grasp(Plan(0.02, 10, 10), SampleOptions(sample_batch_size=0)).prepare(net, samples)
    assert squared_norm(net) > dense


def test_scoring_leaves_no_trace():
    model = tiny_net().double()
    model.eval()
    net = SparseModel(model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    snip_scores(net, *SAMPLE)
    grasp_scores(net, *SAMPLE)
    synflow_masks(net, torch.ones(1, 3, 6, 6), 0.1, 3)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not model.training and all(p.grad is None for p in model.parameters())


def test_synflow_worked():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    model[0].weight.data = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
    model[1].weight.data = torch.tensor([[1.0, -1.0]])
    flow = Flow(SparseModel(model), torch.ones(1, 2))
    flow.prune(6)  # keeps all
    scores = flow.scores
    assert scores["0.weight"].tolist() == [[1, 2], [3, 4]]
    assert scores["1.weight"].tolist() == [[3, 7]]
    assert sum(float(s.sum()) for s in scores.values()) == 2 * 10


@pytest.mark.parametrize("density", [0.1, 0.05])
def test_synflow_empties_no_layer_of_a_resnet20_but_shortcuts(density):
    torch.manual_seed(0)
    net = SparseModel(build_model("resnet20", 10, 3, 32))
    masks = synflow_masks(net, torch.ones(1, 3, 32, 32), density, 100)
    assert sum(int(m.sum()) for m in masks.values()) == round(density * net.numel)
    empty = [name for name, mask in masks.items() if not mask.any()]
    assert all("shortcut" in name for name in empty)


def test_synflow_prunes_as_the_obvious_loop_does():
    torch.manual_seed(0)
    net = SparseModel(build_model("resnet20", 10, 3, 32))
    model = copy.deepcopy(net.model).double()
    for parameter in model.parameters():
        parameter.data.abs_()
    ones = torch.ones(1, 3, 32, 32)
    masks = {name: torch.ones(shape, dtype=torch.bool) for name, shape in net.shapes.items()}
    for i in range(1, 6):
        scores = flow_scores(model, masks, ones.double())
        flat = torch.cat([scores[k].masked_fill(~m, -1.0).flatten() for k, m in masks.items()])
        k = round(0.05 ** (i / 5) * net.numel)
        kept = torch.zeros_like(flat, dtype=torch.bool)
        kept[flat.sort(descending=True, stable=True).indices[:k]] = True
        parts = kept.split([m.numel() for m in masks.values()])
        masks = {n: part.view(m.shape) for part, (n, m) in zip(parts, masks.items(), strict=True)}
        for name, mask in masks.items():
            model.get_parameter(name).data.mul_(mask)
    got = synflow_masks(net, ones, 0.05, 5)
    assert all(torch.equal(got[name], mask) for name, mask in masks.items())


def test_synflow_prefers_active_weights_of_score_zero_to_pruned_ones():
    # the first layer's second unit leads nowhere: its weights and what it feeds have a score of 0
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    model[0].weight.data = torch.tensor([[1e-9, 2.0], [3.0, 4.0]])
    model[1].weight.data = torch.tensor([[1.0, 0.0]])
    flow = Flow(SparseModel(model), torch.ones(1, 2))
    flow.prune(5)  # of the scores 1e-9, 2, 0, 0, 2 and 0
    assert flow.masks["1.weight"].tolist() == [[True, False]]
    flow._theta[1] = 0.0  # now no weight has a score above 0, and the pruned one is the last
    flow._active[0], flow._left = False, 4
    flow._theta[0] = 0.0
    flow.prune(3)
    assert flow.masks["0.weight"].tolist() == [[False, True], [True, True]]


def test_grasp_of_one_batch_takes_its_gradient_from_the_pass_that_is_differentiated():
    net, (batch, _) = double_net(), two_batches()
    (first,) = ([(x[:2], y[:2]) for x, y in [batch]],)
    whole = grasp_scores(net, first, nn.functional.cross_entropy)
    halves = [(x[i : i + 1], y[i : i + 1]) for x, y in first for i in (0, 1)]
    parts = grasp_scores(net, halves, nn.functional.cross_entropy)
    for got, expected in zip(whole.values(), parts.values(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-14)
