"""Masks of linear maps as bipartite networks: links by locality, and scores of missing links.

Each one in a mask of shape (outputs, inputs) is a link. Sources: Zhang et al. 2025 (arXiv
2501.19107), for CHTs; Muscoloni & Cannistraci, for the score CH2-L3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from baselines.tools.masks import top_k_mask


def ch2_l3(mask: Tensor) -> Tensor:
    """Return how much the network's paths of three links suggest each link, in float32.

    The paths output i – input v – output j – input u are closed by the link (i, u). Those over one
    j count with (c + 1)/max(d − c, 1) together, where c > 0 is the number of inputs v that i and j
    share and d that of all inputs of j. This is summed over j, and from u to i in the same way.
    Scores are meaningful only for links that do not exist.

    Args:
        mask: (outputs, inputs), boolean.
    """
    links = mask.float()
    return _closing(links) + _closing(links.t()).t()


def _closing(links: Tensor) -> Tensor:
    common = links @ links.t()
    outside = (links.sum(1) - common).clamp_min(1)  # [i, j]: neighbours of j that i lacks
    return torch.where(common > 0, (common + 1) / outside, 0.0) @ links


def local_links(shape: tuple[int, int], count: int, r: float, generator: torch.Generator) -> Tensor:
    """Return a mask with exactly `count` ones, a bipartite receptive field.

    Each node of the smaller side has at least one link, if there are enough, and all others are
    given to its nodes at random. Nodes of the larger side lie on a ring, on which each of the
    smaller has its place, ⌊large / small⌋ after the last one's, as in the official code: if the
    sizes do not divide, the rest of the ring has none. It is linked to those at distance d with a
    probability ∝ (1 + d)^−α, where α = (1 − r)/r.

    Args:
        shape: outputs and inputs.
        count: number of links, at most outputs · inputs.
        r: from 0, the nearest nodes only, to 1, any.
        generator: of the CPU.
    """
    small, large = sorted(shape)
    degrees = _degrees(small, large, count, generator)
    place = torch.arange(small, device="cpu") * max(1, large // small) % large
    distance = (torch.arange(large, device="cpu") - place[:, None]).abs()
    distance = torch.minimum(distance, large - distance).float()
    noise = _gumbel((small, large), generator)
    scores = -distance if r == 0 else noise - (1 - r) / r * distance.log1p()
    rank = scores.argsort(dim=1, descending=True).argsort(dim=1)
    links = rank < degrees[:, None]
    return links if shape[0] == small else links.t().contiguous()


def _degrees(small: int, large: int, count: int, generator: torch.Generator) -> Tensor:
    """Return the number of links of each node of the smaller side, at most `large` each."""
    if count < small:
        return (torch.randperm(small, generator=generator, device="cpu") < count).long()
    degrees = torch.ones(small, dtype=torch.int64, device="cpu")
    while left := count - int(degrees.sum()):
        more = torch.randint(small, (left,), generator=generator, device="cpu")
        degrees = (degrees + torch.bincount(more, minlength=small)).clamp_max(large)
    return degrees


def sample_links(
    weights: Tensor, mask: Tensor, count: int, power: float, generator: torch.Generator
) -> Tensor:
    """Return a mask of `count` links, drawn without replacement, each ∝ |weight|^power.

    Args:
        weights: of any shape and device.
        mask: the links, at least `count`. Those with a weight of zero are drawn last.
        generator: of the CPU.
    """
    logs = weights.detach().abs().double().clamp_min(1e-300).log()
    scores = power * logs + _gumbel(tuple(weights.shape), generator).to(logs.device)
    scores.masked_fill_(~mask, -math.inf)  # with a power near 0, their weights do not rule them out
    return top_k_mask(scores, count)


def _gumbel(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return Gumbel noise: the k largest of log p + noise are k draws without replacement."""
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu")
    return -(-uniform.clamp(1e-300, 1 - 1e-16).log()).log()
