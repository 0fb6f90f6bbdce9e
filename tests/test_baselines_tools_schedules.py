"""Schedules compared with numbers worked out by hand."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baselines.tools.schedules import (
    acdc_phases,
    cosine_fraction,
    cubic_sparsity,
    events,
    is_update,
    triangular,
)


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


def test_cubic_sparsity_worked():
    assert cubic_sparsity(0, 10, 0.9) == 0
    assert cubic_sparsity(5, 10, 0.9) == pytest.approx(0.7875)
    assert cubic_sparsity(10, 10, 0.9) == 0.9
    # 0.5 + 0.4·(1 − (1 − i/4)³): the cubes are 1, 27/64, 1/8, 1/64 and 0
    found = [cubic_sparsity(i, 4, 0.9, 0.5) for i in range(5)]
    assert found == pytest.approx([0.5, 0.73125, 0.85, 0.89375, 0.9])


@given(
    begin=st.floats(0, 0.9),
    length=st.floats(0, 0.9),
    count=st.integers(1, 80),
    total=st.integers(1, 1000),
)
def test_events_are_distinct_and_end_in_time(begin, length, count, total):
    end = min(0.99, begin + length)
    at = events(begin, end, count, total)
    assert list(at) == sorted(set(at)) and len(at) <= count
    assert at[-1] == int(end * total) < total and at[0] >= int(begin * total)


def test_cosine_fractions_worked():
    steps = [0, 100, 6250, 12500, 18750, 24900, 25000]
    fractions = [0.3, 0.299988157, 0.256066, 0.15, 0.043934, 1.1843e-5, 0]
    got = [cosine_fraction(t, 25000, 0.3) for t in steps]
    assert got == pytest.approx(fractions, rel=1e-4, abs=1e-12)
    assert [int(3687 * f) for f in got] == [1106, 1106, 944, 553, 161, 0, 0]


@pytest.mark.parametrize(
    "steps, updates, gaps",
    [
        (32_000, 250, {95, 96}),  # RigL's ImageNet training: 25,000 of 32,000 steps and ΔT = 100
        (125_100, 250, {373, 374}),  # the same images in batches of 1,024
        (14_550, 250, {43, 44}),  # the CIFAR recipes
        (3_000, 89, {25}),  # short: 25 steps apart
        (360, 9, {27}),  # shorter: ten periods, as on digits
        (20, 9, {1, 2}),
        (8, 5, {1}),
    ],
)
def test_the_number_of_updates_does_not_depend_on_the_batch_size(steps, updates, gaps):
    end = 0.75 * steps
    at = [step for step in range(steps) if is_update(step, end, updates=250)]
    assert len(at) == updates
    assert at[-1] < end and at[0] in gaps
    assert {b - a for a, b in itertools.pairwise(at)} <= gaps


@given(end=st.floats(0, 5000), every=st.integers(1, 600))
def test_updates_at_a_given_period(end, every):
    at = [step for step in range(6000) if is_update(step, end, 250, every)]
    period = every if every <= end / 10 else max(1, int(end / 10))
    assert at == [step for step in range(period, 6000, period) if step < end]


def test_few_updates_are_as_many_as_asked_for():
    assert [step for step in range(100) if is_update(step, 60, updates=3)] == [15, 30, 45]
    assert not any(is_update(step, 60, updates=0) for step in range(100))
    assert not any(is_update(step, 0.0, updates=9) for step in range(100))


def phase_string(epochs):
    """Return one letter per epoch: d for dense, s for sparse."""
    text, kind = "", "d"
    for step in range(epochs):
        kind = acdc_phases(epochs, epochs).get(step, kind)[0]
        text += kind
    return text


def test_acdc_phases_are_the_official_ones():
    alternation = "s" * 5 + "d" * 5
    end = "s" * 5 + "d" * 10 + "s" * 15
    assert phase_string(100) == "d" * 10 + alternation * 6 + end
    assert phase_string(150) == "d" * 10 + alternation * 11 + end
    assert phase_string(200) == "d" * 10 + alternation * 16 + end
    assert phase_string(100).count("d") == phase_string(100).count("s") == 50


@given(epochs=st.integers(1, 300), per_epoch=st.integers(1, 50))
def test_acdc_ends_sparse_at_any_budget(epochs, per_epoch):
    phases = acdc_phases(epochs, epochs * per_epoch)
    last = max(phases)
    assert phases[last] == "sparse" and last < epochs * per_epoch


def test_acdc_scales_the_phases_of_100_epochs():
    tenfold = {10 * epoch: kind for epoch, kind in acdc_phases(100, 100).items()}
    assert acdc_phases(5, 1000) == tenfold
