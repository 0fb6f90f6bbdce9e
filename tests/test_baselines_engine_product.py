"""Product storage: the formulas of Appendix B, and the effect of one step on θ and β."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from baselines.engine.product import Product
from baselines.errors import UserError
from signin import SignIn


@pytest.mark.parametrize(
    "x, m, w",
    [
        (0.3, 1.040719, 0.288262),
        (-0.3, 1.040719, -0.288262),
        (0.0, 1.0, 0.0),
        (0.05, 1.001246, 0.049938),
        (-2.0, 1.600485, -1.249621),
    ],
)
def test_split_gives_the_worked_numbers(x, m, w):
    (got_m,), (got_w,) = Product(1.0).split([torch.tensor([x], dtype=torch.float64)])
    assert got_m.item() == pytest.approx(m, abs=1e-6)
    assert got_w.item() == pytest.approx(w, abs=1e-6)


@given(
    x=st.floats(-3000, 3000, width=32),
    beta=st.floats(0.125, 100, width=32),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_split_is_exact_and_balanced_in_any_range(x, beta, dtype):
    (m,), (w,) = Product(beta).split([torch.tensor([x], dtype=dtype)])
    eps = 4 * torch.finfo(dtype).eps
    assert m.item() > 0
    assert (m * w).item() == pytest.approx(x, rel=eps, abs=torch.finfo(dtype).tiny)
    assert (m**2 - w**2).item() == pytest.approx(beta, abs=8 * eps * (m**2).item())


def test_grown_weights_are_trainable():
    (m,), (w,) = Product(4.0).split([torch.zeros(1)])
    assert (m.item(), w.item()) == (2.0, 0.0)


def one_step(x, g, lr, decay=0.0, frobenius=0.0, beta=1.0):
    product = Product(beta, frobenius)
    m, w = product.split([torch.tensor([x], dtype=torch.float64)])
    grad_m, grad_w = product.pull_back([torch.tensor([g], dtype=torch.float64)], (m, w))
    m1 = m[0] - lr * (grad_m[0] + decay * m[0])
    w1 = w[0] - lr * (grad_w[0] + decay * w[0])
    return (m1 * w1).item(), (m1**2 - w1**2).item()


def test_one_step_worked():
    theta, beta = one_step(0.3, 0.7, 0.1)
    assert theta == pytest.approx(0.2198367, abs=1e-7)
    assert beta == pytest.approx(0.9951, abs=1e-12)
    assert one_step(0.3, 0.7, 0.1, decay=5e-4)[1] == pytest.approx(0.9950000025, abs=1e-12)


@given(
    x=st.floats(-2, 2),
    g=st.floats(-3, 3),
    lr=st.floats(1e-3, 0.3),
    decay=st.floats(0, 0.1),
    frobenius=st.floats(0, 0.1),
    beta=st.floats(0.1, 3),
)
def test_one_step_keeps_the_exact_invariants(x, g, lr, decay, frobenius, beta):
    theta, after = one_step(x, g, lr, 0.0, frobenius, beta)
    total = g + frobenius * x
    speed = math.sqrt(4 * x**2 + beta**2)
    assert theta == pytest.approx(x - lr * speed * total + lr**2 * x * total**2, abs=1e-9)
    assert after == pytest.approx(beta * (1 - (lr * total) ** 2), abs=1e-9)
    _, decayed = one_step(x, g, lr, decay, 0.0, beta)
    assert decayed == pytest.approx(beta * ((1 - lr * decay) ** 2 - (lr * g) ** 2), abs=1e-9)


def test_rescale_epochs_follow_algorithm_1():
    # i = epoch + 1 runs from 1; rescale where i mod p = 0 and i < T2
    expected = {1: [*range(1, 10)], 3: [3, 6, 9], 5: [5], 10: [], 0: []}
    for period, paper in expected.items():  # the paper's i, for T₂ = 10
        rule = SignIn(rescale_period=period, rescale_until=0.5)
        assert [epoch + 1 for epoch in rule.rescale_epochs(20)] == paper


def test_bad_scalings_are_named():
    with pytest.raises(UserError, match="beta must be positive"):
        Product(0.0)
    with pytest.raises(UserError, match="frobenius"):
        Product(1.0, -1.0)
