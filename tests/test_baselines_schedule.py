"""Schedules against hand-worked numbers."""

from __future__ import annotations

import pytest

from baselines.tools.schedules import triangular


def test_triangular_worked():
    expected = [0.2, 0.6, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    assert [triangular(t, 10) for t in range(10)] == pytest.approx(expected)


def test_triangular_of_the_cifar_recipe():
    total = 97 * 150
    factors = [triangular(t, total) for t in range(total)]
    assert factors.index(1.0) == 2910 == 30 * 97
    assert factors[-1] == pytest.approx(8.6e-5, rel=0.01)
    assert sum(factors) / total == pytest.approx(0.520, abs=1e-3)


@pytest.mark.parametrize("total", [1, 2, 3, 5])
def test_triangular_of_short_trainings(total):
    factors = [triangular(t, total) for t in range(total)]
    assert all(0 < f <= 1 for f in factors)


def test_triangular_without_warmup_falls_all_the_way():
    assert [triangular(t, 4, warmup=0) for t in range(4)] == [1, 0.75, 0.5, 0.25]
