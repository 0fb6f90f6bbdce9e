"""Selection of the largest numbers, compared with a stable sort."""

from __future__ import annotations

import numpy as np
import pytest

from baselines.tools import largest


def slow(values, k):
    """Return the mask of the first k of a stable sort from the largest on."""
    mask = np.zeros(len(values), dtype=bool)
    mask[np.argsort(-values, kind="stable")[:k]] = True
    return mask


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(largest, "SAMPLE", 500)
    monkeypatch.setattr(largest, "CHUNK", 700)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ties", ["none", "most are the least", "few values", "all", "infinite"])
def test_largest_is_the_start_of_a_stable_sort(dtype, ties):
    generator = np.random.default_rng(1)
    values = generator.normal(size=10_000).astype(dtype)
    if ties == "most are the least":
        values[generator.random(10_000) < 0.8] = -9
    elif ties == "few values":
        values = values.round()
    elif ties == "all":
        values[:] = 0
    elif ties == "infinite":
        values[:100], values[-3000:] = np.inf, -np.inf
    for k in (1, 99, 101, 1000, 1990, 2100, 5000, 9990, 10_000):
        np.testing.assert_array_equal(largest.largest(values, k), slow(values, k))


def test_only_numbers_near_the_threshold_are_partitioned(monkeypatch):
    values = np.random.default_rng(1).normal(size=10_000)
    values[::2] = -9
    lengths = []
    exactly = largest._exactly

    def noted(values, k):
        lengths.append(len(values))
        return exactly(values, k)

    monkeypatch.setattr(largest, "_exactly", noted)
    for k in (500, 4900):
        largest.largest(values, k)
    assert max(lengths) < 3000


def test_a_sample_that_misleads_costs_time_only(monkeypatch):
    values = np.random.default_rng(1).normal(size=10_000)
    for bounds in ((-0.1, 0.1), (2.0, 3.0)):
        monkeypatch.setattr(largest, "_bounds", lambda *_, bounds=bounds: bounds)
        for k in (1, 100, 3000, 9000):
            np.testing.assert_array_equal(largest.largest(values, k), slow(values, k))
