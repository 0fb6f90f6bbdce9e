"""Links and their scores, compared with numbers worked out by hand and with loops over paths."""

from __future__ import annotations

import pytest
import torch

from baselines.tools.link_prediction import ch2_l3, local_links, sample_links


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_one_path_of_three_links():
    # output 0 – input 0 – output 1 – inputs 1 and 2: they share 1, and output 1 has 2 more;
    # inputs 0 and 1 share output 1, and input 0 has 1 more; input 3 is on no path
    mask = torch.tensor([[1, 0, 0, 0], [1, 1, 1, 0]]).bool()
    scores = ch2_l3(mask)
    assert scores[0].tolist()[1:] == pytest.approx([2 / 2 + 2 / 1, 2 / 2 + 2 / 1, 0])
    assert scores[1, 3] == 0


def slow_scores(mask):
    """Return the sum over all paths i – v – j – u, of the term of j and of that of v."""
    outputs, inputs = mask.shape
    of_output = [{u for u in range(inputs) if mask[i, u]} for i in range(outputs)]
    of_input = [{i for i in range(outputs) if mask[i, u]} for u in range(inputs)]
    scores = torch.zeros(mask.shape)

    def term(one, other):
        common = len(one & other)
        return (common + 1) / max(len(other) - common, 1)

    for i in range(outputs):
        for u in range(inputs):
            ends = {j for v in of_output[i] for j in of_input[v]} & of_input[u]
            starts = {v for j in of_input[u] for v in of_output[j]} & of_output[i]
            scores[i, u] = sum(term(of_output[i], of_output[j]) for j in ends)
            scores[i, u] += sum(term(of_input[u], of_input[v]) for v in starts)
    return scores


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("density", [0.05, 0.2, 0.6])
def test_scores_are_sums_over_paths(seed, density):
    mask = torch.rand(11, 17, generator=generator(seed)) < density
    torch.testing.assert_close(ch2_l3(mask)[~mask], slow_scores(mask)[~mask])


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (10, 10), (1, 9), (3, 216)])
@pytest.mark.parametrize("r", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("share", [0.02, 0.2, 0.9, 1.0])
def test_local_links_are_as_many_as_asked(shape, r, share):
    count = round(share * shape[0] * shape[1])
    mask = local_links(shape, count, r, generator())
    assert mask.shape == shape and mask.is_contiguous() and int(mask.sum()) == count
    assert torch.equal(mask, local_links(shape, count, r, generator()))
    if count >= min(shape):
        assert mask.any(int(shape[0] <= shape[1])).all()


def test_links_are_local():
    """Four nodes at 0, 4, 8 and 12 of a ring of sixteen, with three or less links on average."""
    nearest = local_links((4, 16), 12, 0.0, generator(1))
    for i, row in enumerate(nearest):
        distances = sorted(min((u - 4 * i) % 16, (4 * i - u) % 16) for u in range(16))
        own = sorted(min((u - 4 * i) % 16, (4 * i - u) % 16) for u in row.nonzero().flatten())
        assert own == distances[: len(own)]
    # the official code's places, a floor apart: the last units of the ring have none
    mask = local_links((4, 15), 4, 0.0, generator(1))
    assert mask.nonzero().tolist() == [[i, 3 * i] for i in range(4)]
    # r = 0.5: one link, at distance d with a probability ∝ 1/(1 + d)
    drawn = sum(local_links((1, 7), 1, 0.5, generator(i)).double()[0] for i in range(4000)) / 4000
    weights = torch.tensor([1, 1 / 2, 1 / 3, 1 / 4, 1 / 4, 1 / 3, 1 / 2], dtype=torch.float64)
    torch.testing.assert_close(drawn, weights / weights.sum(), rtol=0, atol=0.03)


def test_links_are_drawn_in_proportion_and_zeros_last():
    weights, mask = torch.tensor([1.0, -3.0, 0.0, 0.0]), torch.tensor([True, True, True, False])
    drawn = [sample_links(weights, mask, 1, 2.0, generator(i)) for i in range(4000)]
    share = torch.stack(drawn).double().mean(0)
    expected = torch.tensor([0.1, 0.9, 0.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(share, expected, rtol=0, atol=0.02)
    for i in range(100):
        drawn = sample_links(weights, mask, 2, 9.0, generator(i))
        assert drawn.tolist() == [True, True, False, False]
        assert torch.equal(sample_links(weights, mask, 3, 9.0, generator(i)), mask)


def test_a_power_of_zero_draws_links_alike():
    weights, mask = torch.tensor([1.0, -3.0, 100.0, 0.0]), torch.tensor([True, True, True, False])
    drawn = [sample_links(weights, mask, 1, 0.0, generator(i)) for i in range(4000)]
    share = torch.stack(drawn).double().mean(0)
    expected = torch.tensor([1 / 3, 1 / 3, 1 / 3, 0], dtype=torch.float64)
    torch.testing.assert_close(share, expected, rtol=0, atol=0.03)
