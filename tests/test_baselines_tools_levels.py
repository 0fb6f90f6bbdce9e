"""The sparsities of levels."""

from __future__ import annotations

import pytest

from baselines.tools.levels import Levels, level_sparsities


@pytest.mark.parametrize(
    "sparsity, levels", [(0.0, 1), (0.2, 2), (0.8, 9), (0.9, 12), (0.95, 15), (0.99, 22)]
)
def test_levels_keep_08_and_the_last_is_clamped(sparsity, levels):
    sparsities = level_sparsities(sparsity, 0.8)
    densities = [1 - s for s in sparsities]
    assert len(densities) == levels and sparsities[-1] == sparsity
    assert densities[:-1] == pytest.approx([0.8**i for i in range(levels - 1)])
    assert densities[-1] == 1 - sparsity and (levels == 1 or densities[-1] >= 0.8 * densities[-2])


def test_levels_that_start_sparse_go_on_from_there():
    assert level_sparsities(0.9, 0.5, 0.8) == (0.8, 0.9)
    assert level_sparsities(0.95, 0.5, 0.6) == pytest.approx((0.6, 0.8, 0.9, 0.95))
    assert level_sparsities(0.9, 0.8, 0.9) == (0.9,)


def test_two_cycles_of_three_steps_and_a_rewound_step():
    """Three levels: six steps, then five, as the first step of a level is left out."""
    levels = Levels((0.0, 0.5, 0.7), length=3, skipped=1, cycles=2)
    assert levels.steps == 16
    places = [0, 1, 2, 0, 1, 2, *[1, 2, 0, 1, 2]]
    assert [levels.place(step) for step in range(11)] == places
    assert {step: s for step in range(16) if (s := levels.pruned_before(step)) is not None} == {
        6: 0.5,
        11: 0.7,
    }
    assert [step for step in range(16) if levels.restarts_before(step)] == [3, 8, 13]


def test_one_cycle_restarts_with_its_level_only():
    levels = Levels((0.0, 0.5), length=4)
    assert not any(levels.restarts_before(step) for step in range(levels.steps))
    assert [levels.place(step) for step in (0, 3, 4, 7)] == [0, 3, 0, 3]
    assert [levels.pruned_before(step) for step in (3, 4, 7)] == [None, 0.5, None]
