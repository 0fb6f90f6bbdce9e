"""STR and STR (target): the soft threshold compared with autograd and worked numbers."""

from __future__ import annotations

import copy
import csv
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from literal import batches, loss_of, tiny_net
from test_launch_train import train
from timm import scheduler as timm_scheduler
from torch import nn
from torch.func import functional_call
from torch.optim import lr_scheduler
from torch.optim.swa_utils import SWALR

from baselines.engine.soft_threshold import SoftThreshold
from baselines.engine.sparse_model import SparseModel
from baselines.engine.storage import Plain
from baselines.errors import UserError
from baselines.method import Plan
from baselines.methods.str_ import Str, StrOptions, predicted_s
from baselines.methods.str_target import StrTarget
from launch.config.run import Run
from signin import Product


def test_the_worked_example():
    """θ, ∂w and ∂s from w, s and g, worked out by hand."""
    storage = SoftThreshold(Plain(), "sigmoid", -3.0)
    w = torch.tensor([0.5, -0.02, 0.003, -0.3])
    latents = storage.split([w])
    (theta,) = storage.merge(latents)
    torch.testing.assert_close(theta, torch.tensor([0.452574, 0, 0, -0.252574]), rtol=0, atol=1e-6)
    (dw,), (ds,) = storage.pull_back([torch.tensor([0.1, 0.2, -0.3, -0.4])], latents)
    assert dw.tolist() == pytest.approx([0.1, 0, 0, -0.4])
    assert ds.item() == pytest.approx(-0.02258833, rel=1e-5)


@pytest.mark.parametrize("kind", ["sigmoid", "exp"])
@pytest.mark.parametrize("beta", [None, 0.5])
def test_trajectory_equals_autograd_through_the_forward_pass(kind, beta):
    threshold = {"sigmoid": torch.sigmoid, "exp": torch.exp}[kind]
    model = tiny_net().double()
    names = list(SparseModel(model).layers)
    others = {k: p for k, p in model.named_parameters() if k not in names}
    start = {k: model.get_parameter(k).detach().clone() for k in names}
    inner = Plain() if beta is None else Product(beta)
    factors = {k: [nn.Parameter(t) for (t,) in inner.split([x])] for k, x in start.items()}
    s = {k: nn.Parameter(torch.tensor(-3.0, dtype=torch.float64)) for k in names}
    rest = {k: nn.Parameter(p.detach().clone()) for k, p in others.items()}

    def theta():
        x = {k: f[0] if beta is None else f[0] * f[1] for k, f in factors.items()}
        return {k: x[k].sign() * torch.relu(x[k].abs() - threshold(s[k])) for k in names}

    groups = [
        {"params": [p for f in factors.values() for p in f] + list(rest.values())},
        {"params": list(s.values()), "weight_decay": 0.02},
    ]
    slow = torch.optim.SGD(groups, 0.1, 0.9, weight_decay=1e-3)
    net = SparseModel(model, SoftThreshold(inner, kind, -3.0, decay=0.02))
    fast = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=1e-3)
    net.attach(fast)
    copy = tiny_net().double()
    for i, (x, y) in enumerate(batches(8, torch.float64)):
        for name, value in theta().items():
            torch.testing.assert_close(net.weights[name].detach(), value.detach())
        slow.zero_grad()
        loss_of(functional_call(copy, {**theta(), **rest}, (x,)), y).backward()
        slow.step()
        fast.zero_grad()
        loss_of(model(x), y).backward()
        fast.step()
        if i == 4:  # θ stays, and plain x too
            before = {k: v.detach().clone() for k, v in net.weights.items()}
            net.rescale() if beta is None else None
            for name, weight in net.weights.items():
                assert torch.equal(weight, before[name])
    assert 0.05 < net.sparsity() < 0.95


@given(st.floats(-4, 0), st.integers(0, 100))
def test_written_weights_are_taken_over(s, seed):
    torch.manual_seed(seed)
    model = nn.Linear(6, 5).double()
    net = SparseModel(model, SoftThreshold(Plain(), "exp", s))
    net.attach(torch.optim.SGD(model.parameters(), 0.0))
    wanted = torch.randn(5, 6, dtype=torch.float64) * (torch.rand(5, 6) < 0.5)
    net.set_weights({"weight": wanted})
    torch.testing.assert_close(model.weight.detach(), wanted, atol=1e-14, rtol=1e-14)
    assert torch.equal(model.weight == 0, wanted == 0)


def test_decay_alone_takes_s_where_predicted():
    model = nn.Linear(3, 2, bias=False)
    net = SparseModel(model, SoftThreshold(Plain(), "sigmoid", -50.0, decay=0.002))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    net.attach(optimizer)
    for _ in range(1000):
        (model(torch.zeros(1, 3)).sum()).backward()
        optimizer.step()
    s = net.layers["weight"].latents["s"].item()
    assert s == pytest.approx(predicted_s(-50.0, 0.002, 1000 * 0.1 / 0.1), rel=0.06)
    assert predicted_s(-3200, 2.251757813e-5, 522_762) == pytest.approx(-0.0247, rel=0.01)
    assert predicted_s(-3200, 2.251757813e-5, 156_375) == pytest.approx(-94.5, rel=0.01)


def test_detached_it_is_a_plain_network_and_a_plain_optimizer():
    model = nn.Linear(6, 5)
    net = SparseModel(model, SoftThreshold(Plain(), "exp", -1.5))  # 0.22; weights are up to 0.41
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    net.attach(optimizer)
    assert len(optimizer.param_groups) == 1  # schedulers made before or after see the same groups
    net.detach()
    assert len(optimizer.param_groups) == 1 and 0 < net.sparsity() < 1
    assert optimizer.param_groups[0]["params"] == list(model.parameters())


@pytest.mark.parametrize("sparsity", [0.5, 0.95])
@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("lr", [0.01, 0.2])
def test_the_target_is_met_at_any_budget_and_rate(machine, sparsity, epochs, lr):
    run = Run.make("digits", "str-target", sparsity=sparsity, epochs=epochs, lr=lr)
    result = train(run, machine)
    assert result["active"] == result["prunable"] - round(sparsity * result["prunable"])
    assert result["sparsity"] == pytest.approx(sparsity, abs=1e-4)


def test_sparsity_follows_a_cubic_and_every_epoch_reports_s(machine):
    run = Run.make("digits", "str-target", sparsity=0.8, epochs=10)
    train(run, machine)
    with (machine.runs / run.name / "layers.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 10 * len({row["layer"] for row in rows})
    for row in rows:
        assert float(row["threshold"]) == pytest.approx(math.exp(float(row["s"])), rel=1e-5)
    method = StrTarget(Plan(0.8, 1000, 100))
    # begins at a tenth of the steps, halfway to the end at 0.4: 0.8·(1 − 0.5³) = 0.7
    assert [method.sparsity(step) for step in (0, 100, 400, 700, 999)] == pytest.approx(
        [0, 0, 0.7, 0.8, 0.8]
    )


def test_the_weights_left_after_each_move_of_the_thresholds():
    """640·(0.1 + 0.9·(1 − i/4)³) at quarters of the way from a tenth to 0.7 of the steps."""
    model = nn.Linear(64, 10)
    with torch.no_grad():  # none is close to another, which a threshold could not tell apart
        model.weight.copy_(0.01 * 1.005 ** torch.arange(640.0).view(10, 64))
    net, method = SparseModel(model), StrTarget(Plan(0.9, 20, 5))
    method.setup(net)
    net.attach(torch.optim.SGD(model.parameters(), 0.1))
    found = []
    for step in (1, 5, 8, 11, 14, 19):
        method.before_step(net, step)
        found.append(int(model.weight.count_nonzero()))
    assert found == [640, 307, 136, 73, 64, 64]


def test_the_constants_decide_the_sparsity(machine):
    choices = {"s_init": -8.0, "threshold_decay": 3e-3, "epochs": 4}
    result = train(Run.make("digits", "str", **choices), machine)
    assert 0.001 < result["sparsity"] < 0.999
    assert result["active"] == round((1 - result["sparsity"]) * result["prunable"])


def test_constants_that_would_prune_nothing_are_refused():
    plan = Plan(0.9, 125_100, 1251, lr_integral=156_375)
    method = Str(plan, StrOptions(s_init=-3200.0, threshold_decay=2.25e-5))
    net = SparseModel(nn.Linear(3, 2))
    with pytest.raises(UserError, match=r"threshold_decay must be above 3\.2e-05"):
        method.prepare(net, lambda n: [])


@pytest.mark.parametrize(
    "options, constants",
    [
        ({}, None),
        ({"s_init": -8.0}, None),
        ({"threshold_decay": 0.1, "calibrated": (-20.0, 0.09)}, None),
        ({"calibrated": (-20.0, 0.09)}, (-20.0, 0.09)),
        ({"s_init": -8.0, "threshold_decay": 0.1, "calibrated": (-20.0, 0.09)}, (-8.0, 0.1)),
    ],
)
def test_constants_are_given_or_calibrated_or_missing(options, constants):
    found = StrOptions(**options)
    assert found.constants == constants
    method, net = Str(Plan(0.9, 10, 10), found), SparseModel(nn.Linear(3, 2))
    if constants is None:
        with pytest.raises(UserError, match="give both, or use str-target"):
            method.setup(net)
    else:
        method.setup(net)
        assert (net.storage.s_init, net.storage.shared_decay) == constants


@pytest.mark.parametrize(
    "options, message",
    [
        ({"s_init": 1.0}, "s_init must be at most 0, not 1.0"),
        ({"threshold_decay": -1.0}, "threshold_decay must not be negative, not -1.0"),
        ({"calibrated": (1.0,)}, "calibrated must be s_init and threshold_decay"),
        ({"begin": 0.8}, "need 0 <= begin < end"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(UserError, match=message):
        StrOptions(**options)


def test_the_former_default_trains_as_str_target_does(machine):
    """`--method str --mode target`, which was the default, keeps its name."""
    former, now = (
        Run.make("digits", method, sparsity=0.8, epochs=2, begin=0.2, **mode)
        for method, mode in (("str", {"mode": "target"}), ("str-target", {}))
    )
    hashes = {train(run, machine)["mask_hash"] for run in (former, now)}
    assert len(hashes) == 1 and former.label == "str (begin=0.2)"
    assert Run.make("digits", "str", mode="target").name == "digits-str-s0.9-seed0-841aa087"


def constant_then_cosine(opt):
    parts = [lr_scheduler.ConstantLR(opt, 0.3, 2), lr_scheduler.CosineAnnealingLR(opt, 6)]
    return lr_scheduler.SequentialLR(opt, parts, milestones=[3])


SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, [lambda t: 1 - t / 10, lambda t: 1 / (1 + t)]),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, [lambda t: 0.9, lambda t: 0.8]),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 5]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.3, 4),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, total_iters=4),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.8),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 6, 2.0),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 8),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.2, 3),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, [0.3, 0.1], total_steps=10),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "SequentialLR": constant_then_cosine,
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.StepLR(o, 3), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "SWALR": lambda o: SWALR(o, 0.02, 3),
    "timm cosine": lambda o: timm_scheduler.CosineLRScheduler(o, 8, warmup_t=3),
    "timm multi-step": lambda o: timm_scheduler.MultiStepLRScheduler(o, [2, 5], 0.1),
    "timm plateau": lambda o: timm_scheduler.PlateauLRScheduler(o, patience_t=1, mode="min"),
    "timm poly": lambda o: timm_scheduler.PolyLRScheduler(o, 8),
    "timm step": lambda o: timm_scheduler.StepLRScheduler(o, 2, 0.3),
    "timm tanh": lambda o: timm_scheduler.TanhLRScheduler(o, 8),
}
if hasattr(timm_scheduler, "WSDLRScheduler"):  # new in timm 1.0.31
    SCHEDULERS["timm wsd"] = lambda o: timm_scheduler.WSDLRScheduler(o, 8, 4)


def test_all_schedulers_are_tested():
    ours = {n for n in dir(lr_scheduler) if n.endswith(("LR", "Restarts", "Plateau", "Scheduler"))}
    assert ours - {"LRScheduler", "_LRScheduler"} <= SCHEDULERS.keys()
    theirs = [name for name in dir(timm_scheduler) if name.endswith("LRScheduler")]
    assert len(theirs) == sum("timm" in name for name in SCHEDULERS)


def advance(name, scheduler, i):
    if name == "ReduceLROnPlateau":
        scheduler.step(1.0 + i)
    elif "timm" in name:
        scheduler.step(i + 1, 1.0 + i)
    else:
        scheduler.step()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_made_before_and_after_attaching_set_the_rate_of_s(name):
    ends, rates = [], set()
    for before in (True, False):
        model = tiny_net()
        *first, weight, bias = model.parameters()
        groups = [{"params": first}, {"params": [weight, bias], "lr": 0.04}]
        opt = torch.optim.SGD(groups, 0.1, 0.9, weight_decay=1e-3)
        net = SparseModel(model, SoftThreshold(Plain(), "exp", -3.0, decay=0.05))
        scheduler = SCHEDULERS[name](opt) if before else None
        net.attach(opt)
        scheduler = scheduler or SCHEDULERS[name](opt)
        thresholds = [net.layers[layer].latents["s"] for layer in ("0.weight", "7.weight")]
        memories = [0.0, 0.0]
        for i, (x, y) in enumerate(batches(8)):
            loss_of(model(x), y).backward()
            old = [s.item() for s in thresholds]
            opt.step()
            for j, (s, group) in enumerate(zip(thresholds, opt.param_groups, strict=True)):
                memories[j] = group["momentum"] * memories[j] + s.grad.item() + 0.05 * old[j]
                assert s.item() == pytest.approx(old[j] - group["lr"] * memories[j], rel=1e-5)
                rates.add(group["lr"])
            opt.zero_grad()
            advance(name, scheduler, i)
        ends.append(model.state_dict())
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])
    assert len(rates) > 3  # the scheduler did something


def test_s_is_saved_with_its_momentum():
    saved, data = None, batches(6)
    for _ in range(2):
        model = tiny_net()
        opt = torch.optim.SGD(model.parameters(), 0.1, 0.9)
        net = SparseModel(model, SoftThreshold(Plain(), "exp", -3.0))
        net.attach(opt)
        if saved is None:
            for x, y in data[:3]:
                loss_of(model(x), y).backward()
                opt.step()
                opt.zero_grad()
            saved = copy.deepcopy((model.state_dict(), net.state_dict(), opt.state_dict()))
            first = model
        else:
            for part, state in zip((model, net, opt), saved, strict=True):
                part.load_state_dict(state)
            assert len(opt.param_groups) == 1
        for x, y in data[3:]:
            loss_of(model(x), y).backward()
            opt.step()
            opt.zero_grad()
    for a, b in zip(first.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)
