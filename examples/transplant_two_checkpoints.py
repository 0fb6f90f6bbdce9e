"""Train a mask from the signs of one checkpoint and the magnitudes of another.

A is trained dense and pruned to 90 %; B is an untrained network. A's mask is then trained with
the magnitudes of B and the signs of A or B. Needs the extra "suite". Run it with

    python examples/transplant_two_checkpoints.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from baselines import SparseModel
from baselines.tools.density import keep_count
from baselines.tools.masks import global_top_k_masks
from signin import agreement, transplant_weights

X, Y = map(torch.tensor, load_digits(return_X_y=True))
X = X.float() / 16


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def train(net: SparseModel, steps: int = 400) -> float:
    """Train on 1,437 images. Return the accuracy on the other 360."""
    optimizer = torch.optim.SGD(net.model.parameters(), lr=0.1, momentum=0.9)
    net.attach(optimizer)
    for step in range(steps):
        batch = torch.arange(64 * step, 64 * (step + 1)) % 1437
        F.cross_entropy(net.model(X[batch]), Y[batch]).backward()
        optimizer.step()
        optimizer.zero_grad()
    net.detach()
    return (net.model(X[1437:]).argmax(1) == Y[1437:]).float().mean().item()


def main() -> None:
    a = SparseModel(network(seed=0))
    print(f"A, dense: {train(a):.3f}")
    masks = global_top_k_masks(a.magnitudes(), keep_count(a.numel, sparsity=0.9))
    b = SparseModel(network(seed=1)).weights
    for name, signs in (("A", a.weights), ("B", b)):
        weights, _ = transplant_weights(masks, signs, b, torch.Generator().manual_seed(0))
        equal = agreement(weights, a.weights, masks)["0.weight"]
        net = SparseModel(network(seed=1))
        net.set_masks(masks)
        net.set_weights(weights)
        print(f"A's mask, {name}'s signs ({equal:.0%} equal), B's magnitudes: {train(net):.3f}")


if __name__ == "__main__":
    main()
