"""N:M masks: compared with numbers worked out by hand and with a slow implementation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from baselines.errors import UserError
from baselines.tools.nm import has_nm, nm_mask, nm_pattern


@pytest.mark.parametrize(
    ("sparsity", "pattern"),
    [(0.5, (2, 4)), (0.75, (1, 4)), (0.8, (1, 5)), (0.9, (1, 10)), (0.7, (3, 10)), (0.0, (4, 4))],
)
def test_the_pattern_of_a_sparsity(sparsity, pattern):
    assert nm_pattern(sparsity) == pattern


def test_a_given_m():
    assert nm_pattern(0.5, 8) == (4, 8) and nm_pattern(0.9375, 16) == (1, 16)
    with pytest.raises(UserError, match=r"0.9 is not 1 - N/M for M = 4"):
        nm_pattern(0.9, 4)
    with pytest.raises(UserError, match=r"0.9999 is not 1 - N/M for M from 4 to 128"):
        nm_pattern(0.9999)


def test_by_hand():
    scores = torch.tensor([[3.0, 1, 2, 2, 0, 0, 0, 0, 5, 4], [1, 2, 3, 4, 4, 3, 2, 1, 9, 8]])
    kept = torch.tensor([[1, 0, 1, 0, 1, 1, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0, 0, 0, 1, 1]])
    # the third group has the last two of the first row and the first two of the second
    assert torch.equal(nm_mask(scores, 2, 4), kept.bool())
    # groups of 8: ten of the twenty weights, of which the last group of four has two
    assert nm_mask(scores, 4, 8).flatten().split(8)[2].tolist() == [False, False, True, True]


def test_patterns_are_found_by_hand():
    weight = torch.tensor([[0.5, 0, -1, 0, 0, 0], [2, 3, 0, 0, 4, 0]])
    # groups of 4: two, then none of the first row and two of the second, then one of the four left
    assert has_nm(weight, 2, 4) and not has_nm(weight, 1, 4)
    assert not has_nm(weight, 2, 6) and has_nm(weight, 3, 6)
    weight[0, 5] = 1e-9
    assert not has_nm(weight, 2, 4)


@pytest.mark.parametrize("shape", [(6, 4), (5, 7), (4, 3, 3, 3), (3, 5, 2)])
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 5), (4, 8)])
def test_masks_have_their_pattern(shape, n, m):
    mask = nm_mask(torch.rand(shape), n, m)
    assert has_nm(mask, n, m)
    inputs_last = mask.movedim(1, -1).contiguous()
    inputs_last.view(-1)[:m] = True
    assert not has_nm(inputs_last.movedim(-1, 1), n, m)


def slow(scores: Tensor, n: int, m: int) -> Tensor:
    """Follow the inputs at a position of the kernel, then the next position, then the output."""
    mask = torch.zeros_like(scores, dtype=torch.bool)
    places = [
        (o, i, a, b)
        for o in range(scores.shape[0])
        for a in range(scores.shape[2])
        for b in range(scores.shape[3])
        for i in range(scores.shape[1])
    ]
    for at in range(0, len(places), m):
        group = sorted(places[at : at + m], key=lambda place: -float(scores[place]))
        for place in group[: int(n * len(group) / m + 0.5)]:
            mask[place] = True
    return mask


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 7), (4, 4)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_of_convolutions(n, m, layout):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 9, (5, 6, 3, 3), generator=generator).double()  # with ties
    assert torch.equal(nm_mask(scores.to(memory_format=layout), n, m), slow(scores, n, m))
