"""The sparsities of levels."""

from __future__ import annotations

import pytest

from baselines.tools.levels import level_sparsities


@pytest.mark.parametrize(
    "sparsity, levels", [(0.0, 1), (0.2, 2), (0.8, 9), (0.9, 12), (0.95, 15), (0.99, 22)]
)
def test_levels_keep_08_and_the_last_is_clamped(sparsity, levels):
    sparsities = level_sparsities(sparsity, 0.8)
    densities = [1 - s for s in sparsities]
    assert len(densities) == levels and sparsities[-1] == sparsity
    assert densities[:-1] == pytest.approx([0.8**i for i in range(levels - 1)])
    assert densities[-1] == 1 - sparsity and (levels == 1 or densities[-1] >= 0.8 * densities[-2])
