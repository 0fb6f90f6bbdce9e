"""LRR, WR and IMP prune globally and rewind the learning rate or the weights."""

from __future__ import annotations

import copy

import pytest
import torch
from literal import batches, loss_of, tiny_net
from method_cases import STORAGES, trained

from baselines import sparsify
from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.method import Plan
from baselines.methods.iterative import LevelOptions
from baselines.methods.lrr_wr_imp import Imp, Lrr, RewindOptions, Wr, WrOptions


def test_going_back_to_the_end_of_a_level_leaves_an_epoch_to_train():
    chosen = Wr(Plan(0.8, 10, 5), WrOptions(rewind_to=0.9))
    assert chosen.epochs == 2 + 8 * 1


LEVELS = [
    (Lrr, LevelOptions(keep=0.5)),
    (Imp, RewindOptions(keep=0.5)),
    (Wr, WrOptions(keep=0.5, rewind_to=0.5, rewind_lr=False)),
    (Wr, WrOptions(keep=0.5, rewind_to=0.5)),
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


@pytest.mark.parametrize(
    "epochs, length, rewound", [(150, 150, 10), (7, 7, 1), (2, 2, 1), (1, 2, 1)]
)
def test_wr_is_never_imp(epochs, length, rewound):
    plan = Plan(0.8, 4 * epochs, 4)
    chosen, restarting = Wr(plan), Wr(plan, WrOptions(rewind_lr=False))
    assert chosen.cycle_epochs == length and chosen.rewind_step == 4 * rewound
    # the paper's schedule: each level repeats what comes after the rewind epoch, rate included
    assert chosen.schedule(4 * length) == (4 * rewound, 4 * length)
    assert chosen.epochs == length + 8 * (length - rewound)
    assert restarting.schedule(4 * length) == (0, 4 * length) and restarting.epochs == 9 * length
    assert Wr(plan, WrOptions(rewind_to=0.0)).rewind_step == 0


class Versioned(torch.nn.Linear):
    """Reads the version of its state, as torchvision's MNASNet does."""

    _version = 2

    def _load_from_state_dict(self, state, prefix, metadata, *args):
        assert metadata.get("version") == 2
        super()._load_from_state_dict(state, prefix, metadata, *args)


@pytest.mark.parametrize("method", ["wr", "imp"])
@pytest.mark.parametrize("statistics", [True, False])
def test_rewinding_keeps_the_versions_of_modules(method, statistics):
    model = torch.nn.Sequential(Versioned(6, 6), torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    options = {"keep": 0.5, "rewind_statistics": statistics}
    sparsifier = sparsify(
        model, optimizer, method, sparsity=0.5, steps=2, steps_per_epoch=1, **options
    )
    for _ in range(sparsifier.total_steps):
        model(torch.randn(8, 6)).square().sum().backward()
        optimizer.step()
    assert sparsifier.sparsity() == 0.5


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.filterwarnings("ignore:.*Name them in include or exclude")
def test_rewinding_leaves_the_networks_of_other_optimizers(statistics):
    nets = {"one": tiny_net(), "other": tiny_net().append(torch.nn.BatchNorm1d(5, affine=False))}
    nets["one"].append(torch.nn.BatchNorm1d(5, affine=False))
    model = torch.nn.ModuleDict(nets)
    optimizers = [torch.optim.SGD(net.parameters(), 0.05) for net in nets.values()]
    start = copy.deepcopy(model.state_dict())
    options = {"keep": 0.5, "rewind_statistics": statistics, "exclude": ["other.*"]}
    sparsifier = sparsify(
        model, optimizers[0], "imp", sparsity=0.5, steps=2, steps_per_epoch=1, **options
    )
    for x, y in batches(2):
        for net in nets.values():
            loss_of(net(x), y).backward()
        optimizers[1].step()
        before = copy.deepcopy(model.state_dict())
        optimizers[0].step()  # the second one ends the first level
    for name, value in model.state_dict().items():
        is_statistic = "running_" in name or "num_batches" in name
        source = before if name.startswith("other") or (is_statistic and not statistics) else start
        assert torch.equal(value, source[name] * sparsifier.masks.get(name, 1)), name
        if not name.endswith("bias"):  # those before normalisation have no gradient
            assert not torch.equal(before[name], start[name]), name


@pytest.mark.parametrize("method", ["lrr", "wr", "imp"])
def test_cycles_restart_the_rate_and_momentum_under_one_mask(method):
    """Two levels of two cycles of five steps; WR leaves out the first two steps of the second."""
    model = tiny_net().double()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    sparsifier = sparsify(
        model, optimizer, method, sparsity=0.9, steps=10, steps_per_epoch=1, manual_begin=True,
        keep=0.5, cycles=2, initial_sparsity=0.8, **({"rewind_to": 0.4} if method == "wr" else {}),
    )  # fmt: skip
    rewound, net = 2 if method == "wr" else 0, sparsifier.net
    assert sparsifier.total_steps == 20 - rewound
    starts = [0, 5, 10, 15 - rewound]
    at = [0, 0, rewound, 0]
    assert [sparsifier.method.schedule(step) for step in starts] == [(step, 5) for step in at]
    assert net.nnz == net.numel - round(0.8 * net.numel)
    masks, cleared, weights = [net.masks], [], {}
    for step in range(sparsifier.total_steps):
        weights[step] = {name: w.detach().clone() for name, w in net.weights.items()}
        had_state = bool(optimizer.state)
        sparsifier.begin_step()
        if had_state and not optimizer.state:
            cleared.append(step)
        masks.append(net.masks)
        if step == starts[1]:  # a cycle rewinds nothing
            assert all(torch.equal(w, weights[step][n]) for n, w in net.weights.items())
        if step == starts[2]:
            source = weights[{"lrr": step, "wr": 2, "imp": 0}[method]]
            assert all(torch.equal(w, source[n] * net.masks[n]) for n, w in net.weights.items())
        x, y = batches(1, torch.float64)[0]
        loss_of(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    changes = [
        step
        for step in range(sparsifier.total_steps)
        if any(not torch.equal(masks[step][n], masks[step + 1][n]) for n in net.layers)
    ]
    assert changes == [10] and cleared == starts[1:]
    assert net.nnz == net.numel - round(0.9 * net.numel)


@pytest.mark.parametrize("reset", [True, False])
def test_momentum_is_cleared_at_a_level_unless_kept(reset):
    model = tiny_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    options = {"keep": 0.5, "reset_optimizer": reset, "manual_begin": True}
    sparsifier = sparsify(
        model, optimizer, "lrr", sparsity=0.5, steps=1, steps_per_epoch=1, **options
    )
    sparsifier.begin_step()
    ((x, y),) = batches(1)
    loss_of(model(x), y).backward()
    optimizer.step()
    before = optimizer.state[model[7].bias]["momentum_buffer"].clone()
    sparsifier.begin_step()
    assert sparsifier.sparsity() == pytest.approx(0.5, abs=1e-3)
    if reset:
        assert not optimizer.state
    else:
        assert torch.equal(optimizer.state[model[7].bias]["momentum_buffer"], before)


def test_a_random_mask_can_be_trained_in_cycles_alone():
    model = tiny_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    options = {"cycles": 3, "initial_sparsity": 0.9}
    sparsifier = sparsify(
        model, optimizer, "lrr", sparsity=0.9, steps=9, steps_per_epoch=1, **options
    )
    assert sparsifier.total_steps == 9
    schedule = [sparsifier.method.schedule(step) for step in (0, 2, 3, 8)]
    assert schedule == [(0, 3), (2, 3), (0, 3), (2, 3)]
    assert sparsifier.lr_factor(9) == sparsifier.lr_factor(8)  # schedulers ask after the last step


@pytest.mark.parametrize(
    "options, message",
    [
        ({"cycles": 0}, "cycles must be positive, not 0"),
        ({"level_length": float("inf")}, "level_length must be finite, not inf"),
        ({"initial_sparsity": 1.0}, r"initial_sparsity must be in \[0, 1\), not 1.0"),
        ({"initial_sparsity": 0.9}, "initial_sparsity 0.9 is above the sparsity 0.8"),
    ],
)
def test_cycles_that_cannot_be_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Lrr(Plan(0.8, 10, 1), LevelOptions(**options))
