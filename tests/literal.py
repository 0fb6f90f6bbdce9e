"""The slow literal formulation, with which the engine is compared.

The re-parameterisation is part of the forward pass, with weights of full size, and autograd
computes the gradients: θ = S ⊙ w, or θ = S ⊙ m ⊙ w.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.func import functional_call

MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def tiny_net(channels_last: bool = False) -> nn.Module:
    """Return convolutions (full, grouped, depthwise), batch normalisation and a classifier."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
        nn.Conv2d(8, 12, 3, groups=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12 * 4 * 4, 5),
    )
    return net.to(memory_format=torch.channels_last) if channels_last else net


def optimizer_maker(name: str) -> MakeOptimizer:
    """Return a function that makes SGD with momentum or AdamW, both with weight decay."""
    if name == "SGD":
        return lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=1e-3)
    return lambda p: torch.optim.AdamW(p, 0.01, weight_decay=1e-3)


def parts_of(model: nn.Module, beta: float | None) -> dict[str, list[nn.Parameter]]:
    """Return each parameter as itself, or with `beta`, if it is a weight, as two factors."""
    parts = {}
    for key, parameter in model.named_parameters():
        values = parameter.detach()
        if parameter.ndim > 1 and beta:
            m = ((beta + (beta**2 + 4 * values.square()).sqrt()) / 2).sqrt()
            parts[key] = [nn.Parameter(m), nn.Parameter(values / m)]
        else:
            parts[key] = [nn.Parameter(values.clone())]
    return parts


def flow_scores(model: nn.Module, names: Iterable[str], ones: Tensor) -> dict[str, Tensor]:
    """Return |θ · ∂R/∂θ| by name, where R is the sum of a model's outputs in eval mode."""
    weights = [model.get_parameter(name) for name in names]
    grads = torch.autograd.grad(model.eval()(ones).sum(), weights)
    return {
        name: (weight.detach() * grad).abs()
        for name, weight, grad in zip(names, weights, grads, strict=True)
    }


def batches(n: int, dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(16, 3, 6, 6, generator=generator).to(dtype),
            torch.randint(5, (16,), generator=generator),
        )
        for _ in range(n)
    ]


def loss_of(output: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output, y)


def train_literally(
    model: nn.Module,
    masks: dict[str, Tensor],
    make_optimizer: MakeOptimizer,
    data: Iterable[tuple[Tensor, Tensor]],
    beta: float | None = None,
    frobenius: float = 0.0,
) -> list[dict[str, Tensor]]:
    """Return the effective weights after each step.

    Args:
        beta: inner scaling of the factors; None for plain weights.
    """
    others = {k: p for k, p in model.named_parameters() if k not in masks}
    w = {k: nn.Parameter(model.get_parameter(k).detach().clone()) for k in masks}
    m: dict[str, nn.Parameter] = {}
    if beta is not None:
        for k, x in w.items():
            u = (beta / 2 + (x.detach() ** 2 + beta**2 / 4).sqrt()).sqrt()
            m[k] = nn.Parameter(u)
            w[k] = nn.Parameter(x.detach() / u)

    def theta() -> dict[str, Tensor]:
        return {k: masks[k] * (m[k] * w[k] if m else w[k]) for k in masks}

    optimizer = make_optimizer([*others.values(), *m.values(), *w.values()])
    history = []
    for x, y in data:
        optimizer.zero_grad()
        effective = theta()
        loss = loss_of(functional_call(model, effective, (x,)), y)
        penalty = sum((t**2).sum() for t in effective.values())
        (loss + frobenius / 2 * penalty).backward()
        optimizer.step()
        history.append({k: t.detach().clone() for k, t in theta().items()})
    return history
