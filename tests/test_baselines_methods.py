"""Scores and updates of the methods, against hand-worked numbers and slow obvious formulations."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from literal import batches, loss_of, tiny_net
from torch import nn
from torch.func import functional_call

from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.method import Plan
from baselines.methods.acdc import AcDc
from baselines.methods.gmp import Gmp, GmpOptions
from baselines.methods.grasp import grasp_scores
from baselines.methods.lrr_wr_imp import Imp, LevelOptions, Lrr, RewindOptions, Wr, WrOptions
from baselines.methods.set_rigl import DynamicOptions, RigL, RigLOptions, Set
from baselines.methods.snip import SampleOptions, snip_scores
from baselines.methods.synflow import SynFlowOptions, synflow_masks, synflow_scores
from baselines.tools.density import capped
from baselines.tools.levels import level_sparsities
from baselines.tools.masks import drop_and_grow
from baselines.tools.schedules import acdc_phases, cosine_fraction, cubic_sparsity, events
from launch.models import build_model
from signin import Product

STORAGES = [None, Product()]


def trained(method, storage=None, steps=40, sparsity=0.8, after=None):
    """Steps a tiny net under a method as the training loop does."""
    model = tiny_net().double()
    net = SparseModel(model, storage)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    method.prepare(net, None)
    net.attach(optimizer)
    data = batches(4, torch.float64)
    for step in range(steps):
        method.before_step(net, step)
        x, y = data[step % 4]
        loss_of(model(x), y).backward()
        if not method.after_backward(net, step):
            optimizer.step()
        method.after_step(net, step)
        optimizer.zero_grad()
        if after is not None:
            after(net, optimizer, step)
    return net


# ---- AC/DC


def phase_string(epochs):
    """A letter an epoch: d dense, s sparse."""
    text, kind = "", "d"
    for step in range(epochs):
        kind = acdc_phases(epochs, epochs).get(step, kind)[0]
        text += kind
    return text


def test_acdc_phases_are_the_official_ones():
    alternation = "s" * 5 + "d" * 5
    end = "s" * 5 + "d" * 10 + "s" * 15
    assert phase_string(100) == "d" * 10 + alternation * 6 + end
    assert phase_string(150) == "d" * 10 + alternation * 11 + end
    assert phase_string(200) == "d" * 10 + alternation * 16 + end
    assert phase_string(100).count("d") == phase_string(100).count("s") == 50


@given(epochs=st.integers(1, 300), per_epoch=st.integers(1, 50))
def test_acdc_ends_sparse_at_any_budget(epochs, per_epoch):
    phases = acdc_phases(epochs, epochs * per_epoch)
    last = max(phases)
    assert phases[last] == "sparse" and last < epochs * per_epoch


def test_acdc_scales_the_phases_of_100_epochs():
    tenfold = {10 * epoch: kind for epoch, kind in acdc_phases(100, 100).items()}
    assert acdc_phases(5, 1000) == tenfold


@pytest.mark.parametrize("storage", STORAGES)
def test_acdc_compresses_by_one_threshold_and_returns_at_zero_without_momentum(storage):
    steps = 200
    phases = acdc_phases(5, steps)
    method = AcDc(Plan(0.8, 200, 40))
    model = tiny_net().double()
    net = SparseModel(model, storage)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    net.attach(optimizer)
    data = batches(4, torch.float64)
    for step in range(steps):
        before = torch.cat([w.detach().abs().flatten() for w in net.weights.values()])
        zeros = {n: w.detach() == 0 for n, w in net.weights.items()}
        method.before_step(net, step)
        if phases.get(step) == "sparse":
            kept = torch.cat([m.flatten() for m in net.masks.values()])
            assert int(kept.sum()) == net.numel - round(0.8 * net.numel)
            assert before[kept].min() >= before[~kept].max()
        if phases.get(step) == "dense":
            assert net.nnz == net.numel
            assert all(bool((net.weights[n][z] == 0).all()) for n, z in zeros.items())
            assert not any(
                bool(t.any())
                for state in optimizer.state.values()
                for t in state.values()
                if isinstance(t, torch.Tensor)
            )
        x, y = data[step % 4]
        loss_of(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert net.nnz == net.numel - round(0.8 * net.numel)


# ---- GMP


def test_cubic_sparsity_worked():
    assert cubic_sparsity(0, 10, 0.9) == 0
    assert cubic_sparsity(5, 10, 0.9) == pytest.approx(0.7875)
    assert cubic_sparsity(10, 10, 0.9) == 0.9


@given(
    begin=st.floats(0, 0.9),
    length=st.floats(0, 0.9),
    count=st.integers(1, 80),
    total=st.integers(1, 1000),
)
def test_events_are_distinct_and_end_in_time(begin, length, count, total):
    end = min(0.99, begin + length)
    at = events(begin, end, count, total)
    assert list(at) == sorted(set(at)) and len(at) <= count
    assert at[-1] == int(end * total) < total and at[0] >= int(begin * total)


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("storage", STORAGES)
def test_gmp_masks_are_nested_and_end_exactly(storage, scope):
    history = []

    def after(net, _optimizer, _step):
        history.append({name: mask.clone() for name, mask in net.masks.items()})

    method = Gmp(Plan(0.9, 40, 10), GmpOptions(scope=scope, events=7))
    net = trained(method, storage, after=after)
    for earlier, later in itertools.pairwise(history):
        assert all(not (later[k] & ~earlier[k]).any() for k in later)
    assert net.nnz == net.numel - round(0.9 * net.numel)
    counts = [sum(int(m.sum()) for m in masks.values()) for masks in history]
    assert counts[0] == net.numel and len(set(counts)) == 8


def test_capped_counts_keep_their_sum():
    assert capped({"a": 5, "b": 3, "c": 2}, {"a": 4, "b": 3, "c": 9}) == {"a": 4, "b": 3, "c": 3}
    assert capped({"a": 5}, {"a": 4}) == {"a": 4}


# ---- LRR, WR and IMP


def test_going_back_to_the_end_of_a_level_leaves_an_epoch_to_train():
    chosen = Wr(Plan(0.8, 10, 5), WrOptions(rewind_to=0.9, rewind_lr=True))
    assert chosen.epochs == 2 + 8 * 1


@pytest.mark.parametrize(
    "sparsity, levels", [(0.0, 1), (0.2, 2), (0.8, 9), (0.9, 12), (0.95, 15), (0.99, 22)]
)
def test_levels_keep_08_and_the_last_is_clamped(sparsity, levels):
    sparsities = level_sparsities(sparsity, 0.8)
    densities = [1 - s for s in sparsities]
    assert len(densities) == levels and sparsities[-1] == sparsity
    assert densities[:-1] == pytest.approx([0.8**i for i in range(levels - 1)])
    assert densities[-1] == 1 - sparsity and (levels == 1 or densities[-1] >= 0.8 * densities[-2])


LEVELS = [
    (Lrr, LevelOptions(keep=0.5)),
    (Imp, RewindOptions(keep=0.5)),
    (Wr, WrOptions(keep=0.5, rewind_to=0.5)),
    (Wr, WrOptions(keep=0.5, rewind_to=0.5, rewind_lr=True)),
]


@pytest.mark.parametrize("method, options", LEVELS)
@pytest.mark.parametrize("storage", STORAGES)
def test_levels_prune_globally_and_rewind_what_they_say(method, options, storage):
    chosen = method(Plan(0.8, 20, 5), options)  # 3 prunings: 0.5, 0.25, 0.2
    rewound = options.rewind_lr if isinstance(options, WrOptions) else False
    later = 20 - (10 if rewound else 0)
    starts = [20, 20 + later, 20 + 2 * later]
    assert chosen.epochs * 5 == 20 + 3 * later
    assert [chosen.schedule(s) for s in (0, 19)] == [(0, 20), (19, 20)]
    assert [chosen.schedule(s) for s in starts] == 3 * [(10 if rewound else 0, 20)]

    model = tiny_net().double()
    net = SparseModel(model, storage)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    net.attach(optimizer)
    data, states = batches(4, torch.float64), {}
    for step in range(chosen.epochs * 5):
        before = {n: w.detach().clone() for n, w in net.weights.items()}
        old = net.masks
        states[step] = {k: v.clone() for k, v in model.state_dict().items()}
        chosen.before_step(net, step)
        if step in starts:
            sparsity = (0.5, 0.75, 0.8)[starts.index(step)]
            masks = net.masks
            assert net.nnz == net.numel - round(sparsity * net.numel)
            kept = torch.cat([before[n].abs()[masks[n]] for n in masks])
            gone = torch.cat([before[n].abs()[old[n] & ~masks[n]] for n in masks])
            assert kept.min() >= gone.max() and all(not (masks[n] & ~old[n]).any() for n in masks)
            source = before if method is Lrr else states[0 if method is Imp else 10]
            for name, weight in net.weights.items():
                expected = source[name] * masks[name]
                if storage is None:
                    assert torch.equal(weight, expected)
                torch.testing.assert_close(weight.detach(), expected)
            statistics = states[step if method is Lrr else 0 if method is Imp else 10]
            assert torch.equal(model[1].running_mean, statistics["1.running_mean"])
            assert not optimizer.state
        x, y = data[step % 4]
        loss_of(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()


def test_statistics_stay_where_asked():
    chosen = Imp(Plan(0.5, 2, 2), RewindOptions(keep=0.5, rewind_statistics=False))
    net = trained(chosen, steps=2)
    mean = net.model[1].running_mean.clone()
    chosen.before_step(net, 2)
    assert torch.equal(net.model[1].running_mean, mean)
    assert net.nnz == net.numel - round(0.5 * net.numel)


# ---- SET and RigL


def test_cosine_fractions_worked():
    steps = [0, 100, 6250, 12500, 18750, 24900, 25000]
    fractions = [0.3, 0.299988157, 0.256066, 0.15, 0.043934, 1.1843e-5, 0]
    got = [cosine_fraction(t, 25000, 0.3) for t in steps]
    assert got == pytest.approx(fractions, rel=1e-4, abs=1e-12)
    assert [int(3687 * f) for f in got] == [1106, 1106, 944, 553, 161, 0, 0]


def test_one_rigl_update_worked():
    w = torch.tensor([0.9, -0.05, 0.4, 0, 0, -0.2, 0, 0.1, 0, 0])
    mask = torch.zeros(10, dtype=torch.bool)
    mask[[0, 1, 2, 5, 7]] = True
    g = torch.tensor([0.1, 0.8, 0.05, 0.3, 0.02, 0.1, 0.6, 0.01, 0.9, 0.2])
    new = drop_and_grow(w, mask, g, 0.4)
    assert new.nonzero().flatten().tolist() == [0, 1, 2, 5, 8]  # 1 went and came, 8 is new


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
        (Set, DynamicOptions(update_every=5), False),
        (RigL, RigLOptions(update_every=5), True),
        (RigL, RigLOptions(update_every=5, keep_step=True), False),
    ):
        model = tiny_net()
        net = SparseModel(model)
        chosen = method(plan, options)
        chosen.prepare(net, None)
        net.attach(torch.optim.SGD(model.parameters(), 0.1))
        x, y = batches(1)[0]
        loss_of(model(x), y).backward()
        assert not chosen.after_backward(net, 4)
        assert chosen.after_backward(net, 5) is replaced


# ---- scores at initialisation


def samples(per_class):
    """Two batches of unlike size."""
    (x, y), (x2, y2) = batches(2, torch.float64)
    return [(x, y), (x2[:4], y2[:4])]


def double_net():
    model = tiny_net().double()
    model[1] = nn.GroupNorm(2, 8).double()  # the batches' losses add up to that of the whole
    return SparseModel(model)


def whole_loss(model, weights):
    x, y = (torch.cat(parts) for parts in zip(*samples(1), strict=True))
    return nn.functional.cross_entropy(functional_call(model, weights, (x,)), y)


def test_snip_is_the_sensitivity_to_gates():
    net = double_net()
    gates = {k: torch.ones_like(w, requires_grad=True) for k, w in net.weights.items()}
    loss = whole_loss(net.model, {k: w.detach() * gates[k] for k, w in net.weights.items()})
    grads = torch.autograd.grad(loss, list(gates.values()))
    scores = snip_scores(net, samples, 1)
    for got, expected in zip(scores.values(), grads, strict=True):
        torch.testing.assert_close(got, expected.abs(), rtol=1e-9, atol=1e-12)


def test_grasp_is_theta_times_the_dense_hessian_times_the_gradient():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 3), nn.Tanh(), nn.Linear(3, 5)).double()
    net = SparseModel(model)
    names = list(net.weights)
    sizes = [w.numel() for w in net.weights.values()]
    x, y = (torch.cat(parts) for parts in zip(*samples(1), strict=True))

    def loss(flat):
        parts = {
            name: part.view(net.shapes[name])
            for name, part in zip(names, flat.split(sizes), strict=True)
        }
        return nn.functional.cross_entropy(functional_call(model, parts, (x,)) / 200, y)

    theta = torch.cat([w.detach().flatten() for w in net.weights.values()])
    g, h = torch.func.grad(loss)(theta), torch.func.hessian(loss)(theta)
    expected = -theta * (h @ g)
    got = torch.cat([s.flatten() for s in grasp_scores(net, samples, 1).values()])
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-15)


def test_scoring_leaves_no_trace():
    model = tiny_net().double()
    model.eval()
    net = SparseModel(model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    snip_scores(net, samples, 1)
    grasp_scores(net, samples, 1)
    synflow_masks(net, torch.ones(1, 3, 6, 6), 0.1, 3)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not model.training and all(p.grad is None for p in model.parameters())


def test_synflow_worked():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)).double()
    model[0].weight.data = torch.tensor([[1.0, -2.0], [3.0, 4.0]]).double().abs()
    model[1].weight.data = torch.tensor([[1.0, -1.0]]).double().abs()
    ones = torch.ones(1, 2, dtype=torch.float64)
    scores = synflow_scores(model, dict(model.named_parameters()), ones)
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


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: GmpOptions(begin=0.9, end=0.5), "begin <= end"),
        (lambda: GmpOptions(events=0), "events must be positive"),
        (lambda: LevelOptions(keep=1.0), r"keep must be in \(0, 1\)"),
        (lambda: LevelOptions(level_length=0), "level_length must be positive"),
        (lambda: WrOptions(rewind_to=1.0), r"rewind_to must be in \[0, 1\)"),
        (lambda: DynamicOptions(update_every=0), "update_every must be positive"),
        (lambda: RigLOptions(drop_fraction=1.5), r"must be in \[0, 1\]"),
        (lambda: SampleOptions(samples_per_class=0), "samples_per_class must be positive"),
        (lambda: SynFlowOptions(iterations=0), "iterations must be positive"),
    ],
)
def test_wrong_options_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()
