"""Weight decay with Sign-In: what it follows, and what it does to θ."""

from __future__ import annotations

import warnings

import pytest
import timm.optim
import torch
from literal import batches, loss_of, tiny_net

from baselines import sparsify
from baselines.engine.decoupled_decay import decouples_decay
from baselines.engine.product import Product
from baselines.errors import UserError
from signin import SignIn

KEYS = {"sparsity": 0.5, "steps": 10}


def decays(sparsifier, optimizer):
    """Return the decay of θ and that of the factors which a training really has."""
    assert isinstance(sparsifier.net.storage, Product)
    return sparsifier.net.storage.frobenius, optimizer.param_groups[0]["weight_decay"]


def test_they_follow_the_optimizers_weight_decay():
    for rule, expected in (
        (SignIn(), (0.3, 0.0)),
        (SignIn(sign_in_decays="factors"), (0.0, 0.3)),
        (SignIn(frobenius_decay=0.1), (0.1, 0.0)),
        (SignIn(frobenius_decay=0.1, sign_in_weight_decay=0.2), (0.1, 0.2)),
        (True, (0.3, 0.0)),
    ):
        model = tiny_net()
        optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.3)
        assert (
            decays(sparsify(model, optimizer, "random", sign_in=rule, **KEYS), optimizer)
            == expected
        )


def test_decoupled_weight_decay_acts_on_the_factors():
    """As a part of the gradient, Adam would divide it by the gradient's size."""
    model = tiny_net()
    optimizer = torch.optim.AdamW(model.parameters(), 0.1, weight_decay=0.3)
    sparsifier = sparsify(model, optimizer, "random", sign_in=True, **KEYS)
    assert decays(sparsifier, optimizer) == (0.0, 0.3)
    parameters = list(tiny_net().parameters())
    assert not decouples_decay(torch.optim.Adam(parameters, weight_decay=0.3))
    assert not decouples_decay(torch.optim.RMSprop(parameters))
    assert decouples_decay(torch.optim.NAdam(parameters, decoupled_weight_decay=True))
    for groups in ([parameters, []], [[], parameters]):  # timm's groups may be empty
        optimizer = torch.optim.NAdam([{"params": group} for group in groups], 0.1)
        assert not decouples_decay(optimizer)
        settings = {"weight_decay": 0.1, "decoupled_weight_decay": True}
        assert decouples_decay(torch.optim.NAdam([{"params": g} for g in groups], 0.1, **settings))


class Signed(torch.optim.Optimizer):
    """Lion under another name."""

    def __init__(self, params, lr, weight_decay):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                mean = self.state[p].setdefault("mean", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_((0.9 * mean + 0.1 * p.grad).sign(), alpha=group["lr"])
                mean.lerp_(p.grad, 0.01)


@pytest.mark.parametrize(
    "name, is_decoupled",
    [
        *((name, True) for name in ("cadamw", "nadamw", "adan", "mars", "laprop", "adabelief")),
        *((name, False) for name in ("sgd", "momentum", "radam", "adam", "lars", "rmsprop")),
    ],
)
def test_the_decay_of_an_unknown_optimizer_is_found_by_a_step(name, is_decoupled):
    parameters = list(tiny_net().parameters())
    optimizer = timm.optim.create_optimizer_v2(parameters, name, lr=0.1, weight_decay=0.3)
    assert decouples_decay(optimizer) == is_decoupled
    assert not optimizer.state and optimizer.param_groups[0]["weight_decay"] == 0.3


@pytest.mark.parametrize(
    "method, option",
    [("spred", "factor_decay"), ("pilot", "factor_decay"), ("topkast", "exploration")],
)
def test_a_decay_that_adamw_normalises_is_warned_of(method, option):
    def warned(optimizer_class, decay):
        model = tiny_net()
        optimizer = optimizer_class(model.parameters(), 0.1)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            sparsify(model, optimizer, method, **{option: decay}, **KEYS)
        return [str(warning.message) for warning in caught]

    (text,) = warned(torch.optim.AdamW, 1e-4)
    assert text.startswith(f"{method}: its decay is added to the gradients") and "AdamW" in text
    assert not warned(torch.optim.AdamW, 0.0) and not warned(torch.optim.SGD, 1e-4)
    assert not warned(torch.optim.Adam, 1e-4)


@pytest.mark.parametrize(
    "method, rule, names",
    [
        ("random", SignIn(sign_in_decays="product"), ["the product m ⊙ w (frobenius_decay)"]),
        ("str-target", SignIn(frobenius_decay=0.1), ["the product m ⊙ w (frobenius_decay)"]),
        ("srste", SignIn(frobenius_decay=0.1), ["the product m ⊙ w (frobenius_decay)"]),
        ("spred", SignIn(frobenius_decay=0.1), ["the product m ⊙ w (frobenius_decay)", "spred"]),
        ("spred", None, ["spred"]),
        ("random", SignIn(), []),
    ],
)
def test_a_decay_of_the_product_that_adamw_normalises_is_warned_of(method, rule, names):
    model = tiny_net()
    optimizer = torch.optim.AdamW(model.parameters(), 0.1, weight_decay=0.3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sparsify(model, optimizer, method, sign_in=rule, **KEYS)
    texts = [str(warning.message) for warning in caught]
    told = [text.partition(": its decay is added")[0] for text in texts if "its decay" in text]
    assert told == names


def test_a_lion_under_another_name_decays_the_factors():
    model = tiny_net()
    optimizer = Signed(model.parameters(), 0.1, 0.3)
    sparsifier = sparsify(model, optimizer, "random", sign_in=True, **KEYS)
    assert decays(sparsifier, optimizer) == (0.0, 0.3)


def test_an_optimizer_without_weight_decay_cannot_decay_the_factors():
    model = tiny_net()
    optimizer = torch.optim.Rprop(model.parameters())
    rule = SignIn(frobenius_decay=0.1, sign_in_weight_decay=0.5)
    with pytest.raises(UserError, match=r"Rprop has no weight_decay, .* 0.5 has no effect"):
        sparsify(model, optimizer, "random", sign_in=rule, **KEYS)
    rule = SignIn(frobenius_decay=0.1)
    assert sparsify(model, optimizer, "random", sign_in=rule, **KEYS)


def test_unequal_weight_decays_cannot_be_followed():
    model = tiny_net()
    groups = [{"params": [p], "weight_decay": 0.1 * i} for i, p in enumerate(model.parameters())]
    optimizer = torch.optim.SGD(groups, 0.1)
    with pytest.raises(UserError, match="which Sign-In cannot follow: give frobenius_decay"):
        sparsify(model, optimizer, "random", sign_in=True, **KEYS)
    given = SignIn(frobenius_decay=0.1, sign_in_weight_decay=0.0)
    assert sparsify(model, optimizer, "random", sign_in=given, **KEYS)
    with pytest.raises(UserError, match="not known"):
        SignIn().storage()


@pytest.mark.parametrize("rule", [SignIn(), SignIn(sign_in_decays="factors"), SignIn(beta=4.0)])
def test_theta_decays_as_the_rule_says(rule):
    """Without a gradient, one step takes θ near zero to (1 − lr·decay)·θ, up to lr²."""
    lr, lam = 1e-3, 0.3
    followed = rule.following(lam, decoupled=False)
    storage = followed.storage()
    theta = torch.tensor([1e-3, -1e-3], dtype=torch.float64)
    latents = storage.split([theta])
    parameters = [torch.nn.Parameter(part[0]) for part in latents]
    optimizer = torch.optim.SGD(parameters, lr, weight_decay=followed.weight_decays(lam)[0])
    pulled = storage.pull_back([torch.zeros_like(theta)], latents)
    for parameter, grad in zip(parameters, pulled, strict=True):
        parameter.grad = grad[0]
    optimizer.step()
    (merged,) = storage.merge(([parameters[0].detach()], [parameters[1].detach()]))
    assert (1 - merged / theta) / lr == pytest.approx(followed.theta_decay(lam), rel=1e-3)


def test_a_state_with_other_decays_is_warned_of():
    model = tiny_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.3)
    sparsifier = sparsify(model, optimizer, "random", sign_in=True, **KEYS)
    ((x, y),) = batches(1)
    loss_of(model(x), y).backward()
    optimizer.step()
    state = sparsifier.state_dict()
    sparsifier.finalize()
    for decay in (0.3, 0.0):
        other = torch.optim.SGD(model.parameters(), 0.1, weight_decay=decay)
        again = sparsify(model, other, "random", sign_in=True, resume=True, **KEYS)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            again.load_state_dict(state)
        told = [str(w.message) for w in caught]
        assert len(told) == (decay == 0.0), told
        assert all("frobenius_decay 0.3" in text for text in told)
        again.finalize()
