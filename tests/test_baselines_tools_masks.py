"""Masks have an exact number of ones, where they should be."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from baselines.tools.masks import (
    drop_and_grow,
    global_top_k_masks,
    layer_masks,
    random_mask,
    ranking,
    top_k_mask,
)


@given(n=st.integers(1, 200), data=st.data())
def test_random_masks_have_exactly_k_ones_and_depend_on_seed_and_name(n, data):
    k = data.draw(st.integers(0, n))
    mask = random_mask((n,), k, 3, "layer")
    assert int(mask.sum()) == k
    assert torch.equal(mask, random_mask((n,), k, 3, "layer"))
    if n > 60 and 20 < k < n - 20:
        assert not torch.equal(mask, random_mask((n,), k, 4, "layer"))
        assert not torch.equal(mask, random_mask((n,), k, 3, "other"))


@given(scores=st.lists(st.integers(-3, 3), min_size=1, max_size=40), data=st.data())
def test_top_k_takes_the_largest_and_breaks_ties_by_index(scores, data):
    k = data.draw(st.integers(0, len(scores)))
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    expected = torch.zeros(len(scores), dtype=torch.bool)
    expected[order[:k]] = True
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        assert torch.equal(top_k_mask(torch.tensor(scores, dtype=dtype), k), expected)


def test_global_top_k_has_one_threshold_over_all_layers():
    torch.manual_seed(0)
    scores = {"a": torch.rand(5, 7), "b": 2 * torch.rand(11), "c": 0.1 * torch.rand(2, 2, 2)}
    masks = global_top_k_masks(scores, 20)
    kept = torch.cat([scores[k][masks[k]] for k in scores])
    gone = torch.cat([scores[k][~masks[k]] for k in scores])
    assert len(kept) == 20
    assert kept.min() > gone.max()
    assert {k: m.shape for k, m in masks.items()} == {k: s.shape for k, s in scores.items()}


def test_one_rigl_update_worked():
    w = torch.tensor([0.9, -0.05, 0.4, 0, 0, -0.2, 0, 0.1, 0, 0])
    mask = torch.zeros(10, dtype=torch.bool)
    mask[[0, 1, 2, 5, 7]] = True
    g = torch.tensor([0.1, 0.8, 0.05, 0.3, 0.02, 0.1, 0.6, 0.01, 0.9, 0.2])
    new = drop_and_grow(w, mask, g, 0.4)
    assert new.nonzero().flatten().tolist() == [0, 1, 2, 5, 8]  # 1 went and came, 8 is new


def test_layer_masks_prune_every_layer_alike_and_never_what_is_masked():
    scores = {"a": torch.tensor([5.0, 1, 2, 3]), "b": torch.tensor([9.0, 8, 7, 6, 5, 4])}
    found = layer_masks(scores, 0.5)
    assert found["a"].tolist() == [True, False, False, True]
    assert found["b"].tolist() == [True, True, True, False, False, False]
    # 4 of 10 are kept: 1.6 and 2.4, rounded by the largest remainder
    found = layer_masks({**scores, "a": torch.tensor([5.0, -1, -1, -1])}, 0.6)
    assert found["a"].tolist() == [True, False, False, False]  # the other layer keeps what is left
    assert found["b"].tolist() == [True, True, True, False, False, False]


def test_a_ranking_has_kept_weights_above_1_and_no_new_ties_in_bfloat16():
    weight = torch.tensor([-1.0, 0.5, -(0.5 + 2**-8), 0.25, 0, 0], dtype=torch.bfloat16)
    mask = torch.tensor([1, 1, 1, 1, 0, 0]).bool()
    growth = torch.tensor([0, 0, 0, 0.5, 0.25, 2], dtype=torch.bfloat16)
    found = ranking(weight, mask, growth, 0.25)  # of four, 0.25 is dropped
    assert found.tolist() == [2, 1.5, 1.5 + 2**-8, 0.25, 0.125, 1]
