"""What is attached, what is refused, and what a step that goes wrong leaves behind."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from literal import batches, loss_of, tiny_net
from torch.distributed.optim import ZeroRedundancyOptimizer

from baselines import Method, Options, SparseModel, sparsify
from baselines.errors import UserError
from signin import HAM, SignIn


class Calling(torch.optim.SGD):
    """An optimizer whose step calls its parent's, whose hooks run as well then."""

    def step(self, closure=None):
        return super().step(closure)


class Wrapper:
    """As accelerate's: not an Optimizer of its own, with the real one inside."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    @property
    def param_groups(self):
        return self.optimizer.param_groups

    def step(self):
        self.optimizer.step()


class Failing(torch.optim.SGD):
    """Fails once, in the middle of a step: after the first half of the update."""

    fails = False

    def step(self, closure=None):
        if self.fails:
            self.fails = False
            raise KeyboardInterrupt
        return super().step(closure)


def train(model, optimizer, n=6):
    for x, y in batches(n, torch.float64):
        optimizer.zero_grad() if hasattr(optimizer, "zero_grad") else model.zero_grad()
        loss_of(model(x), y).backward()
        optimizer.step()


def sparse(kind, sign_in, method="rigl", wrap=None):
    model = tiny_net().double()
    optimizer = kind(model.parameters(), 0.05, 0.9)
    given = optimizer if wrap is None else wrap(optimizer)
    options = {"update_every": 2} if method == "rigl" else {}
    rule = SignIn() if sign_in else None
    found = sparsify(model, given, method, sparsity=0.8, steps=40, sign_in=rule, **options)
    return model, given, found


def assert_equal(one, other):
    for key, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


@pytest.mark.parametrize("sign_in", [False, True])
def test_a_step_that_calls_its_parents_is_one_step(sign_in):
    usual, other = sparse(torch.optim.SGD, sign_in), sparse(Calling, sign_in)
    for model, optimizer, found in (usual, other):
        train(model, optimizer)
        assert found.step == 6
    assert_equal(usual[0], other[0])


@pytest.mark.parametrize("sign_in", [False, True])
def test_the_optimizer_in_a_wrapper_is_attached(sign_in):
    usual, other = sparse(torch.optim.SGD, sign_in), sparse(torch.optim.SGD, sign_in, wrap=Wrapper)
    for model, optimizer, _ in (usual, other):
        train(model, optimizer)
    assert_equal(usual[0], other[0])


@pytest.mark.parametrize("method", ["random", "rigl", "str-target"])
@pytest.mark.parametrize("sign_in", [False, True])
def test_a_step_that_was_interrupted_can_be_taken_again(sign_in, method):
    usual = sparse(torch.optim.SGD, sign_in, method)
    train(usual[0], usual[1])
    model, optimizer, found = sparse(Failing, sign_in, method)
    for i, (x, y) in enumerate(batches(6, torch.float64)):
        optimizer.zero_grad()
        loss_of(model(x), y).backward()
        if i == 3:
            optimizer.fails = True
            with pytest.raises(KeyboardInterrupt):
                optimizer.step()
            held = {id(p) for group in optimizer.param_groups for p in group["params"]}
            assert len(held) >= len(list(model.parameters()))
        optimizer.step()
    assert found.step == 6
    assert_equal(usual[0], model)


@pytest.mark.parametrize("sign_in", [False, True])
def test_a_closure_that_raises_leaves_the_step_to_be_taken(sign_in):
    model, optimizer, found = sparse(torch.optim.SGD, sign_in)

    def raising():
        raise RuntimeError("no batch")

    with pytest.raises(RuntimeError, match="no batch"):
        optimizer.step(raising)
    assert found.step == 0
    usual = sparse(torch.optim.SGD, sign_in)
    for parts in (usual, (model, optimizer)):
        train(parts[0], parts[1])
    assert_equal(usual[0], model)


def test_optimizers_that_cannot_be_served_are_refused_and_left_as_they_were(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        model = tiny_net()
        zero = ZeroRedundancyOptimizer(model.parameters(), torch.optim.SGD, lr=0.1)
        for attach in (
            lambda: SparseModel(model).attach(zero),
            lambda: sparsify(model, zero, "random", sparsity=0.5, steps=4, sign_in=True),
        ):
            with pytest.raises(UserError, match="parts of the parameters on other ranks"):
                attach()
        assert not zero._optimizer_step_pre_hooks
    finally:
        dist.destroy_process_group()
    with pytest.raises(UserError, match=r"object has no step hooks"):
        SparseModel(tiny_net()).attach(object())


def test_a_refused_optimizer_keeps_its_weight_decay():
    model, other = tiny_net(), tiny_net()
    wrong = torch.optim.SGD(other.parameters(), 0.1, weight_decay=0.3)
    with pytest.raises(UserError, match="does not hold"):
        sparsify(model, wrong, "random", sparsity=0.5, steps=4, sign_in=True)
    assert wrong.param_groups[0]["weight_decay"] == 0.3


@pytest.mark.parametrize("rule", [None, True, HAM()], ids=["plain", "sign-in", "ham"])
@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_a_scaler_leaves_out_is_none(rule, fused):
    """A fused optimizer is called for it, other optimizers are not."""
    model = tiny_net()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, fused=fused)
    sparsifier = sparsify(model, optimizer, "set", sparsity=0.5, steps=20, sign_in=rule)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for i, (x, y) in enumerate(batches(6)):
        before = [p.detach().clone() for p in model.parameters()]
        scaler.scale(loss_of(model(x), y) * (float("inf") if i == 3 else 1)).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        same = [torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True)]
        assert all(same) if i == 3 else not any(same)
    assert sparsifier.step == 5
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("method", ["rigl", "granet", "mest", "woodfisher"])
@pytest.mark.parametrize("everywhere", [True, False])
@pytest.mark.parametrize("fused", [False, True])
def test_a_method_does_not_see_the_gradients_of_a_step_that_is_left_out(method, fused, everywhere):
    """The masks are those of a training without that step (WoodFisher sees a gradient less)."""
    found = []
    for wrong in (None, 4):
        model = tiny_net()
        optimizer = torch.optim.SGD(model.parameters(), 0.05, fused=fused)
        own = {"rigl": {"update_every": 2}, "mest": {"gradient_weight": 1.0}}.get(method, {})
        sparsifier = sparsify(model, optimizer, method, sparsity=0.5, steps=20, **own)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=10**6)
        for i, (x, y) in enumerate(batches(20)):
            for factor in (float("inf"), 1.0) if i == wrong else (1.0,):
                scaler.scale(loss_of(model(x), y) * (factor if everywhere else 1.0)).backward()
                model[-1].bias.grad.mul_(factor)
                scaler.unscale_(optimizer)
                sparsifier.mask_gradients()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1e6)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
        assert sparsifier.step == 20 and sparsifier.sparsity() == pytest.approx(0.5, abs=0.01)
        found.append(sparsifier.masks)
    same = [torch.equal(found[0][name], mask) for name, mask in found[1].items()]
    assert method == "woodfisher" or all(same)


class Reader(Method[Options]):
    """Reads the gradients of active weights, as a method of a user may do."""

    name = "reader"

    def needs_dense_gradients(self, step):
        return False

    def after_backward(self, net, step):
        assert all(bool(layer.weight.grad.isfinite().all()) for layer in net)
        return False


def test_a_users_method_does_not_see_the_gradients_of_a_step_that_is_left_out():
    model = tiny_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    sparsifier = sparsify(model, optimizer, Reader, sparsity=0.5, steps=20)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for factor in (1.0, float("inf"), 1.0):
        scaler.scale(loss_of(model(batches(1)[0][0]), batches(1)[0][1]) * factor).backward()
        scaler.unscale_(optimizer)
        sparsifier.mask_gradients()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert sparsifier.step == 2


class Own(torch.optim.SGD):
    """Steps the parameters that it was given, whatever its groups hold."""

    def __init__(self, parameters, lr):
        self.parameters = list(parameters)
        super().__init__(self.parameters, lr)

    @torch.no_grad()
    def step(self, closure=None):
        for p in self.parameters:
            p.sub_(p.grad, alpha=0.1)


@pytest.mark.parametrize("sign_in", [None, True])
def test_an_optimizer_that_steps_the_weights_themselves_is_refused(sign_in):
    model = tiny_net()
    optimizer = Own(model.parameters(), 0.1)
    sparsifier = sparsify(model, optimizer, "random", sparsity=0.5, steps=10, sign_in=sign_in)
    x, y = batches(1)[0]
    loss_of(model(x), y).backward()
    with pytest.raises(UserError, match=r"Own.step writes to \d.weight itself"):
        optimizer.step()
    assert sparsifier.sparsity() == pytest.approx(0.5, abs=1e-3)


def test_a_weight_that_has_left_the_optimizer_is_named():
    model = tiny_net()
    groups = [{"params": [p]} for p in model.parameters()]
    optimizer = torch.optim.SGD(groups, 0.1, 0.9)
    sparsifier = sparsify(model, optimizer, "random", sparsity=0.5, steps=10, sign_in=True)
    (x, y), name = batches(1)[0], next(iter(sparsifier.net.layers))
    weight = model.get_parameter(name)
    at = next(i for i, g in enumerate(optimizer.param_groups) if g["params"][0] is weight)
    lost = optimizer.param_groups.pop(at)
    loss_of(model(x), y).backward()
    with pytest.raises(UserError, match=f"^{name} is no longer in the optimizer's param_groups"):
        optimizer.step()
    optimizer.param_groups.append(lost)
    weight.requires_grad_(False)  # as the message says
    optimizer.zero_grad()
    before = weight.clone()
    loss_of(model(x), y).backward()
    optimizer.step()
    assert sparsifier.step == 1 and torch.equal(weight, before)
    optimizer.param_groups.pop()  # a frozen layer may leave
    loss_of(model(x), y).backward()
    optimizer.step()
    assert sparsifier.step == 2 and torch.equal(weight, before)
