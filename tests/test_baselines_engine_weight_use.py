"""Modules that transform their weights are refused, or named in the first forward pass."""

from __future__ import annotations

import copy
import io
import warnings

import pytest
import timm
import torch
from timm.layers import CondConv2d, Conv2dSame, StdConv2d
from torch import nn
from torch.nn import functional as F

from baselines import SparseModel, sparsify
from baselines.engine.weight_use import WeightWatch
from baselines.errors import UserError


class Centred(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight - self.weight.mean(1, keepdim=True), self.bias)


class ByConvForward(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, F.normalize(weight.flatten(1) + 1).view_as(weight), bias)


class LowRank(nn.Linear):
    """Adds a matrix of low rank to the weight, as merged adapters do."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.a, self.b = (
            nn.Parameter(torch.randn(sizes[1], 2)),
            nn.Parameter(torch.ones(2, sizes[0])),
        )

    def forward(self, x):
        return x @ (self.weight + self.a @ self.b).T


class Scaled(nn.Linear):
    """Equalised learning rate and a half-precision copy: zeros stay zero."""

    def forward(self, x):
        w = F.normalize(self.weight * self.in_features**-0.5).to(torch.bfloat16)
        return F.linear(x.to(w), w).float()


class Dropped(nn.Linear):
    def forward(self, x):
        return F.linear(x, F.dropout(self.weight, 0.5, self.training))


class Counting(nn.Linear):
    """Has a state that its forward pass changes."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return F.linear(x, self.weight) + torch.rand(())


class TwoArguments(nn.Linear):
    def forward(self, x, y):
        return super().forward(x + y)


class Patched(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.forward = lambda x: F.linear(x, self.weight.softmax(1))


TRANSFORMS = {
    "standardised": lambda: StdConv2d(8, 8, 3),
    "centred": lambda: Centred(8, 8),
    "conv-forward": lambda: ByConvForward(8, 8, 3, groups=2),
    "low-rank": lambda: LowRank(8, 8),
    "patched": lambda: Patched(8, 8),
}
AS_IT_IS = {
    "same": lambda: Conv2dSame(8, 8, 3, 2),
    "scaled": lambda: Scaled(8, 8),
    "dropped": lambda: Dropped(8, 8),
    "counting": lambda: Counting(8, 8),
    "two": lambda: TwoArguments(8, 8),
    "conditional": lambda: CondConv2d(8, 8, 3, num_experts=2),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_modules_that_transform_their_weight_are_refused_with_its_name(name):
    model = nn.ModuleList([nn.Linear(8, 8), TRANSFORMS[name](), TRANSFORMS[name]()])
    kind = type(model[1]).__name__
    with pytest.raises(UserError, match=rf"1\.weight \(and 1 others\): a {kind} transforms") as e:
        SparseModel(model)
    assert "\n" not in str(e.value)
    net = SparseModel(model, exclude=["[12]", "[12].[ab]"] if name == "low-rank" else ["[12]"])
    assert list(net.layers) == ["0.weight"]


def test_they_are_found_with_another_default_device():
    inside, outside, x = nn.ModuleList([Centred(8, 8)]), Outside(), torch.randn(4, 8)
    with torch.device("meta"):
        with pytest.raises(UserError, match="a Centred transforms"):
            SparseModel(inside)
        SparseModel(outside).attach(torch.optim.SGD(outside.parameters(), 0.1))
        with pytest.warns(UserWarning, match=r"^a\.weight \(and 1 others\) is transformed"):
            outside(x)


@pytest.mark.parametrize("name", AS_IT_IS)
def test_others_are_served_and_left_as_they_were(name):
    model = nn.ModuleList([AS_IT_IS[name]()])
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    SparseModel(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_weight_standardised_network_is_refused_unless_it_stays_dense():
    model = timm.create_model("resnetv2_50x1_bit", num_classes=3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(UserError, match=r"stem\.conv\.weight \(and 52 others\): a StdConv2d"):
        sparsify(model, optimizer, "gmp", sparsity=0.5, steps=10)
    assert not model._forward_pre_hooks and not optimizer._optimizer_step_pre_hooks
    sparsify(model, optimizer, "dense", sparsity=0.0, steps=10).finalize()


# ---- the first forward pass


class Outside(nn.Module):
    """The model itself transforms weights of its layers."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(8, 8, bias=False) for _ in range(3))
        self.rest = nn.LSTM(8, 8)

    def forward(self, x):
        a, b = torch.cat([self.a.weight, self.b.weight]).chunk(2)
        x = F.linear(F.linear(x, a), F.normalize(b.t() - b.t().mean(0, keepdim=True)))
        return self.rest(F.linear(x, F.normalize(self.c.weight)))[0]


def train_once(model, net):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    net.attach(optimizer)
    model(torch.randn(4, 8)).square().sum().backward()
    optimizer.step()
    return optimizer


def test_the_first_forward_pass_names_weights_that_the_model_transforms():
    model = Outside()
    net = SparseModel(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    net.attach(optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with torch.no_grad():
            model(torch.randn(4, 8))  # not a pass of a training
    with pytest.warns(UserWarning, match=r"^a\.weight \(and 1 others\) is transformed") as caught:
        model(torch.randn(4, 8))
    assert len(caught) == 1 and not model._forward_pre_hooks and not model._forward_hooks
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(torch.randn(4, 8))


def test_the_watched_pass_computes_the_same_and_leaves_no_hook():
    ends = []
    for watched in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(), Dropped(8, 8), nn.Linear(8, 4))
        net = SparseModel(model, stays_dense=not watched)
        train_once(model, net)
        assert not model._forward_pre_hooks and not model._forward_hooks
        ends.append(model.state_dict())
    assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())


def test_detaching_removes_the_hooks():
    model = nn.Sequential(nn.Linear(8, 8))
    net = SparseModel(model).attach(torch.optim.SGD(model.parameters(), 0.1))
    assert model._forward_pre_hooks
    net.detach()
    assert not model._forward_pre_hooks and not model._forward_hooks


def test_a_first_pass_that_fails_can_be_repeated():
    model = nn.Sequential(nn.Linear(8, 8))
    SparseModel(model).attach(torch.optim.SGD(model.parameters(), 0.1))
    with pytest.raises(RuntimeError):
        model(torch.randn(4, 3))
    model(torch.randn(4, 8))
    assert not model._forward_pre_hooks and not model._forward_hooks
    assert not torch.overrides._get_current_function_mode_stack()


def test_a_model_can_be_copied_and_saved_before_its_first_pass():
    model = nn.Sequential(nn.Linear(8, 8))
    SparseModel(model).attach(torch.optim.SGD(model.parameters(), 0.1))
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        other(torch.randn(4, 8))
        assert not other._forward_pre_hooks and not other._forward_hooks
    assert model._forward_pre_hooks


@pytest.mark.parametrize("whole", [True, False])
def test_compiled_models_are_not_watched(whole):
    model = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8)))
    net = SparseModel(model)
    if not whole:
        model[1] = torch.compile(model[1], backend="eager")
    compiled = torch.compile(model, backend="eager", fullgraph=True) if whole else model
    train_once(compiled, net)
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled(torch.randn(4, 8))


def test_a_watch_sees_what_reaches_a_linear_operation():
    weight = nn.Parameter(torch.zeros(8, 8))  # of no use for a comparison of values
    x = torch.randn(2, 8)
    for name, use in {
        "as it is": lambda w: F.linear(x, w),
        "transposed": lambda w: x @ w.t().contiguous(),
        "a part": lambda w: F.linear(x, w[:4].double().float()),
        "another's": lambda w: F.linear(x, w.detach().abs().sum() + torch.ones(8, 8)),
        "shifted": lambda w: x @ (w + 1),
        "shifted part": lambda w: F.linear(x, w[:4] + 0.1),
        "standardised": lambda w: F.linear(x, F.batch_norm(w[None], None, None, training=True)[0]),
    }.items():
        with WeightWatch([("w", weight)]) as watch:
            use(weight)
        assert list(watch.transformed) == ["w"] * name.startswith(("shifted", "standardised")), name


class Interrupted(nn.Sequential):
    """Ends its first forward pass as Ctrl-C does."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        if self.calls == 1:
            raise KeyboardInterrupt
        return super().forward(x)


@pytest.mark.parametrize("then", ["train", "evaluate", "detach"])
def test_a_first_pass_that_is_interrupted_is_no_longer_watched(then):
    model, x = Interrupted(nn.Linear(8, 8)), torch.randn(4, 8)
    net = SparseModel(model)
    net.attach(torch.optim.SGD(model.parameters(), 0.1))
    with pytest.raises(KeyboardInterrupt):
        model(x)
    watching = torch.overrides._get_current_function_mode_stack()
    copy.deepcopy(model)(x)
    assert torch.overrides._get_current_function_mode_stack() == watching
    if then == "detach":
        net.detach()
    else:
        model.train(then == "train")(x)
    assert not torch.overrides._get_current_function_mode_stack()
    assert bool(model._forward_hooks) == (then == "evaluate")
