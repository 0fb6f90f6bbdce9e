"""Prune a network for tabular data: which fraction of the weights does it need?

Writes a data set of scikit-learn to a file and trains on it. A file has arrays x_train, y_train,
x_test and y_test, of features (float), images (uint8) or tokens (integers). Run it with

    python examples/tabular_data.py
"""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

from launch import run

x, y = load_breast_cancer(return_X_y=True)
x, x_test, y, y_test = train_test_split(x, y, test_size=0.3, stratify=y, random_state=0)
mean, std = x.mean(0), x.std(0)
np.savez(
    "cancer.npz",
    x_train=(x - mean) / std,  # features are used as they are
    y_train=y,
    x_test=(x_test - mean) / std,
    y_test=y_test,
)

for sparsity in (0.5, 0.9, 0.95):
    found = run(
        data="cancer.npz",
        model="mlp",
        method="gmp",
        sparsity=sparsity,
        epochs=10,
        batch_size=32,
        lr=0.02,
        progress=False,
    )
    print(f"sparsity {sparsity:.2f}: accuracy {found['result.accuracy']:.3f}")
