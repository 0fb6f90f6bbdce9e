"""Train a sparse network with RigL and Sign-In in a plain PyTorch loop.

Shows `sparsify` and `finalize`. Needs the extra "suite". Run it with

    python examples/own_loop.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from baselines import sparsify
from signin import SignIn

EPOCHS = 15


def digits() -> tuple[TensorDataset, TensorDataset]:
    """Return 1,437 training and 360 test images."""
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    y = torch.tensor(labels)
    return TensorDataset(x[:1437], y[:1437]), TensorDataset(x[1437:], y[1437:])


def main() -> None:
    torch.manual_seed(0)
    train, test = digits()
    loader = DataLoader(train, batch_size=64, shuffle=True)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    epoch = len(loader)
    steps = EPOCHS * epoch
    sparsifier = sparsify(  # all that a dense loop does not have
        model, optimizer, "rigl", sparsity=0.9, steps=steps, steps_per_epoch=epoch, sign_in=SignIn()
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(EPOCHS):
        for x, y in loader:
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    print(f"sparsity {sparsifier.sparsity():.3f}")

    plain = sparsifier.finalize().eval()
    x, y = test.tensors
    print(f"accuracy {(plain(x).argmax(1) == y).float().mean():.3f}")
    torch.save(plain.state_dict(), "sparse-digits.pt")


if __name__ == "__main__":
    main()
