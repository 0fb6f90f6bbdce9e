"""Steps that are nested, that fail, or that find another parameter in the model."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from literal import batches, loss_of, tiny_net
from torch import nn
from torch.nn import utils
from torch.optim.lr_scheduler import LambdaLR

from baselines import SparseModel, sparsify
from baselines.engine.soft_threshold import SoftThreshold
from baselines.engine.storage import Plain
from baselines.errors import UserError
from baselines.registry import find_method
from signin import Product, SignIn

STORAGES = {
    "plain": Plain(),
    "product": Product(0.7),
    "threshold": SoftThreshold(Product(1.0), "exp", -3.0),
}
STOPS = [RuntimeError, KeyboardInterrupt]


class Nested(torch.optim.SGD):
    """Calls the step of its base class, whose hooks run inside its own."""

    def step(self, closure=None):
        return super().step(closure)


class Failing(torch.optim.SGD):
    """Fails after it has stepped the first group, if told to."""

    error: type[BaseException] | None = None

    def step(self, closure=None):
        first, *_ = groups = self.param_groups
        self.param_groups = [first]
        value = super().step(closure)
        self.param_groups = groups
        if self.error:
            raise self.error("stopped")
        self.param_groups = groups[1:]
        super().step()
        self.param_groups = groups
        return value


def attached(kind, storage, **choices):
    model = tiny_net()
    torch.optim.SGD(model.parameters(), 0.1)  # PyTorch hooks a class at its first instance
    net = SparseModel(model, STORAGES[storage])
    net.set_masks({name: torch.rand(shape) < 0.4 for name, shape in net.shapes.items()})
    weights = list(net.weights.values())
    ids = {id(w) for w in weights}
    rest = [p for p in model.parameters() if id(p) not in ids]
    opt = kind([{"params": weights[:2]}, {"params": weights[2:] + rest}], 0.05, 0.9, **choices)
    net.attach(opt)
    return model, net, opt


def take_step(model, opt, x, y, closure=False):
    def evaluate():
        opt.zero_grad()
        loss = loss_of(model(x), y)
        loss.backward()
        return loss

    if closure:
        return opt.step(evaluate)
    evaluate()
    return opt.step()


def check_consistent(net, opt):
    held = {id(p) for group in opt.param_groups for p in group["params"]}
    assert held == {id(p) for p in net.model.parameters()}
    for layer in net:
        assert not layer.weight[~layer.mask].any()
        (value,) = net.storage.merge(tuple([t.detach()] for t in layer.latents.values()))
        torch.testing.assert_close(value, layer.gather(layer.weight.detach()))


@pytest.mark.parametrize("closure", [False, True])
@pytest.mark.parametrize("storage", STORAGES)
def test_a_step_inside_a_step_counts_once(storage, closure):
    ends = []
    for kind in (torch.optim.SGD, Nested):
        torch.manual_seed(0)
        model, net, opt = attached(kind, storage)
        for x, y in batches(4):
            take_step(model, opt, x, y, closure)
            check_consistent(net, opt)
        ends.append(model.state_dict())
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_sparsify_counts_nested_steps_once():
    model = tiny_net()
    opt = Nested(model.parameters(), 0.05, 0.9)
    sparsifier = sparsify(model, opt, "rigl", sparsity=0.8, steps=8, sign_in=SignIn())
    for x, y in batches(8):
        take_step(model, opt, x, y)
    assert sparsifier.step == 8 and sparsifier.is_done
    assert sparsifier.sparsity() == pytest.approx(0.8, abs=1e-3)


class Twice(torch.optim.SGD):
    """Needs the gradient at two points, as sharpness-aware minimisation does."""

    def step(self, closure):
        closure()
        return super().step(closure)


def test_a_second_call_of_a_closure_is_refused():
    model, net, opt = attached(Twice, "product")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match="closure several times"):
        take_step(model, opt, *batches(1)[0], closure=True)
    check_consistent(net, opt)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, before[name])


def test_a_closure_of_a_nested_step_is_refused():
    class Own(torch.optim.SGD):
        def step(self, closure=None):
            return super().step(lambda: 0.0)

    model, net, opt = attached(Own, "plain")
    with pytest.raises(UserError, match="gives a closure to another step"):
        take_step(model, opt, *batches(1)[0])
    check_consistent(net, opt)


@pytest.mark.parametrize("past_the_wrapper", [False, True])
@pytest.mark.parametrize("error", STOPS)
@pytest.mark.parametrize("storage", STORAGES)
def test_after_a_step_that_failed_half_way_training_goes_on(storage, error, past_the_wrapper):
    model, net, opt = attached(Failing, storage)
    data = batches(4)
    take_step(model, opt, *data[0])
    opt.error = error
    if past_the_wrapper:
        with pytest.raises(error):
            Failing.step(opt)
    else:
        with pytest.raises(error):
            take_step(model, opt, *data[1])
    opt.error = None
    for x, y in data[1:]:
        before = net.layers["0.weight"].weight.detach().clone()
        take_step(model, opt, x, y)
        assert not torch.equal(net.layers["0.weight"].weight, before)
        check_consistent(net, opt)


@pytest.mark.parametrize("error", STOPS)
@pytest.mark.parametrize("storage", STORAGES)
def test_a_step_that_failed_in_its_closure_can_be_repeated(storage, error):
    def closure():
        raise error("stopped")

    ends = []
    for fails in (False, True):
        torch.manual_seed(0)
        model, net, opt = attached(torch.optim.SGD, storage)
        for x, y in batches(3):
            if fails:
                with pytest.raises(error):
                    opt.step(closure)
                check_consistent(net, opt)
            take_step(model, opt, x, y)
        ends.append(model.state_dict())
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


@pytest.mark.parametrize("error", STOPS)
@pytest.mark.parametrize("hook", ["before_step", "after_backward", "after_step"])
@pytest.mark.parametrize("sign_in", [False, True])
def test_after_a_hook_of_the_method_failed_training_goes_on(hook, error, sign_in, monkeypatch):
    model = tiny_net()
    opt = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    choices = {"sparsity": 0.8, "steps": 8, "sign_in": sign_in}
    sparsifier = sparsify(model, opt, find_method("gmp"), **choices)
    data = batches(10)
    take_step(model, opt, *data[0])

    def fail(*_):
        raise error("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(sparsifier.method, hook, fail)
        with pytest.raises(error):
            take_step(model, opt, *data[1])
    held = {id(p) for group in opt.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}
    for x, y in data[2:]:
        take_step(model, opt, x, y)
    assert sparsifier.is_done
    assert sparsifier.sparsity() == pytest.approx(0.8, abs=1e-3)


def test_learning_rate_schedulers_wrap_the_step_before_and_after():
    model, net, opt = attached(torch.optim.SGD, "product")
    net.detach()
    first = LambdaLR(opt, lambda step: 1 / (1 + step))
    net.attach(opt)
    second = LambdaLR(opt, lambda step: 1 / (1 + step))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for x, y in batches(3):
            take_step(model, opt, x, y)
            first.step()
            second.step()
    net.detach()
    take_step(model, opt, *batches(1)[0])
    assert net.layers["0.weight"].weight[~net.layers["0.weight"].mask].any()  # dense again


@pytest.mark.parametrize("is_first", [False, True])
def test_a_hook_of_the_users_sees_the_stepped_weights(is_first):
    model = tiny_net()
    opt, seen = torch.optim.SGD(model.parameters(), 0.1), []

    def hook(optimizer, args, kwargs):
        assert optimizer.param_groups[0]["params"][0] is model[0].weight
        seen.append(model[0].weight.detach().clone())

    if is_first:
        opt.register_step_post_hook(hook)
    sparsify(model, opt, "random", sparsity=0.5, steps=10, sign_in=True)
    if not is_first:
        opt.register_step_post_hook(hook)
    take_step(model, opt, *batches(1)[0])
    assert torch.equal(seen[0], model[0].weight)


def test_nothing_is_left_on_a_detached_optimizer():
    _, net, opt = attached(torch.optim.SGD, "product")
    assert "step" in vars(opt)
    net.detach()
    assert "step" not in vars(opt)
    hooks = [value for name, value in vars(opt).items() if name.endswith("_hooks")]
    assert hooks and not any(hooks)


def replace_parameter(model):
    model[0].weight = nn.Parameter(torch.zeros_like(model[0].weight))


def replace_module(model):
    model[0] = nn.Conv2d(3, 8, 3, padding=1)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.load_state_dict(tiny_net().state_dict(), assign=True),
        replace_parameter,
        replace_module,
        lambda model: utils.parametrizations.weight_norm(model[0]),
    ],
    ids=["assign", "parameter", "module", "parametrization"],
)
@pytest.mark.parametrize("notices", ["step", "sparsity", "state_dict", "set_masks"])
def test_a_replaced_parameter_is_noticed(change, notices):
    model, net, opt = attached(torch.optim.SGD, "plain")
    change(model)
    x, y = batches(1)[0]
    loss_of(model(x), y).backward()
    uses = {"step": opt.step, "set_masks": lambda: net.set_masks({})}
    with pytest.raises(UserError, match=r"0.weight is another parameter.*assign=True"):
        uses.get(notices, getattr(net, notices, None))()


def test_modules_may_be_wrapped_after_attaching():
    ends = []
    for wrap in (False, True):
        model, net, opt = attached(torch.optim.SGD, "product")
        if wrap:
            model[0] = nn.Sequential(model[0])  # as torch.compile does with single layers
        for x, y in batches(3):
            take_step(model, opt, x, y)
            check_consistent(net, opt)
        ends.append(list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_a_copy_of_model_and_masks_notices_its_own_parameters():
    model, net, _ = attached(torch.optim.SGD, "plain")
    model2, net2 = copy.deepcopy((model, net))
    replace_parameter(model)
    assert net2.sparsity() == pytest.approx(0.6, abs=0.05)
    replace_parameter(model2)
    with pytest.raises(UserError, match="another parameter"):
        net2.sparsity()
