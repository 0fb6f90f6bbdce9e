"""Steps of every optimizer of torch and timm are those on the literal formulation, or refused."""

from __future__ import annotations

import inspect
import math

import pytest
import timm.optim
import torch
from torch import nn
from torch.func import functional_call

from baselines import SparseModel
from baselines.errors import UserError
from signin import Product

REFUSED = {"torch LBFGS": "closure", "timm adahessian": "second derivatives"}
NOT_FACTORS = ("timm madgrad", "timm madgradw")
BY_SHAPE = ("adafactor", "adamp", "sgdp", "mars", "muon", "kron")  # in their lower-case names
ELSEWHERE = ("bnb", "fused")  # need a GPU
COMPILED = ("kron",)  # take seconds: see test_baselines_engine_served_optimizer


class KeepsGradients(torch.optim.Optimizer):
    """Steps along the last two gradients, of which it keeps the earlier one without a copy."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                if (grad := parameter.grad) is not None:
                    before = self.state[parameter].get("before", torch.zeros_like(grad))
                    parameter.add_(grad + 0.5 * before, alpha=-group["lr"])
                    self.state[parameter]["before"] = grad


def optimizers():
    """Return functions that make optimizers of a list of parameters, by name."""
    found = {
        f"timm {name}": lambda ps, name=name: timm.optim.create_optimizer_v2(ps, name, lr=1e-2)
        for name in timm.optim.list_optimizers()
        if not name.startswith((*ELSEWHERE, *COMPILED))
    }
    for name, cls in vars(torch.optim).items():
        if inspect.isclass(cls) and issubclass(cls, torch.optim.Optimizer):
            found[f"torch {name}"] = lambda ps, cls=cls: cls(ps, lr=1e-2)
    for name in ("Optimizer", "SparseAdam", "Muon"):  # Muon takes no biases: tested elsewhere
        found.pop(f"torch {name}", None)
    return {**found, "one's own": lambda ps: KeepsGradients(ps, lr=1e-2)}


OPTIMIZERS = optimizers()


def network():
    torch.manual_seed(0)
    layers = nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 3)
    return nn.Sequential(*layers).double()


MASKS = {
    name: torch.rand(weight.shape, generator=torch.Generator().manual_seed(weight.numel())) < 0.4
    for name, weight in network().named_parameters()
    if weight.ndim > 1
}


def loss_of(output):
    return nn.functional.cross_entropy(output, torch.arange(32) % 3)


X = torch.rand(32, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
STEPS = 4


def literal(make, is_product, dense):
    """Return θ = S ⊙ m ⊙ w or S ⊙ w after steps of the optimizer on m and w under autograd."""
    model = network()
    latents = {n: split(model.get_parameter(n).detach() * s, is_product) for n, s in MASKS.items()}
    latents = {
        name: [nn.Parameter(part * MASKS[name] if dense else part[MASKS[name]]) for part in parts]
        for name, parts in latents.items()
    }

    def theta():
        values = {name: math.prod(parts) for name, parts in latents.items()}
        if dense:
            return {name: value * MASKS[name] for name, value in values.items()}
        return {
            name: torch.zeros(MASKS[name].shape, dtype=value.dtype).masked_scatter(
                MASKS[name], value
            )
            for name, value in values.items()
        }

    named = model.named_parameters()
    optimizer = make([p for name, parameter in named for p in latents.get(name, [parameter])])
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss_of(functional_call(model, theta(), (X,))).backward()
        optimizer.step()
        with torch.no_grad():
            for name, parts in latents.items():
                for part in parts if dense else []:
                    part.mul_(MASKS[name])
    return {**dict(model.named_parameters()), **theta()}


def split(theta, is_product):
    """Return m and w with m² − w² = 1, or θ alone."""
    if not is_product:
        return [theta]
    m = (0.5 + (theta**2 + 0.25).sqrt()).sqrt()
    return [m, theta / m]


def stepped(make, is_product, dense):
    """Return the weights after the same steps with the engine."""
    model = network()
    net = SparseModel(model, Product() if is_product else None, dense_latents=dense)
    net.set_masks(MASKS)
    optimizer = make(list(model.parameters()))
    net.attach(optimizer)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss_of(model(X)).backward()
        optimizer.step()
    return dict(model.named_parameters())


@pytest.mark.parametrize("is_product", [False, True], ids=["plain", "product"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_those_of_the_literal_formulation(name, is_product):
    make = OPTIMIZERS[name]
    if name in REFUSED:
        with pytest.raises(UserError, match=REFUSED[name]):
            stepped(make, is_product, False)
        return
    if is_product and name in NOT_FACTORS:
        with pytest.raises(UserError, match="MADGRAD remembers the initial values"):
            stepped(make, is_product, False)
        return
    dense = any(part in name.lower() for part in BY_SHAPE)
    if dense:
        with pytest.raises(UserError, match="set dense_latents=True"):
            stepped(make, is_product, False)
    expected = literal(make, is_product, dense)
    for key, value in stepped(make, is_product, dense).items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=1e-12, msg=key)


def test_first_states_that_are_not_zero_are_known():
    """Weights that grow begin with them: see `cleared_value`."""
    found = set()
    for name in OPTIMIZERS.keys() - REFUSED.keys():
        weight = nn.Parameter(torch.zeros(6, 5))
        weight.grad = torch.zeros(6, 5)
        optimizer = OPTIMIZERS[name]([weight])
        optimizer.step()
        for key, value in optimizer.state[weight].items():
            is_own = torch.is_tensor(value) and value.shape == weight.shape
            if is_own and float(value.abs().max()) > 1e-6:  # some add a small ε
                found.add((type(optimizer).__name__, key))
    assert found == {("RMSpropTF", "square_avg"), ("Rprop", "step_size")}
