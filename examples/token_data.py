r"""Train a sparse network on tokens: find out which of two words comes first.

Model and data are functions of this file. A function of data returns a training and a test split,
each a torch Dataset or a pair of inputs and labels. The weights of attention and Linear layers are
pruned; the embeddings stay dense, which `exclude` says. Run it with

    python examples/token_data.py

or use both with any command:

    PYTHONPATH=examples signbench run --data token_data:word_order \
        --model token_data:WordNet --method snip --exclude words.weight places.weight
"""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from launch import run

WORDS, LENGTH = 30, 10
Split = tuple[np.ndarray, np.ndarray]


def word_order() -> tuple[Split, Split]:
    """Return sequences of words with the words 0 and 1, and which of the two comes first."""
    rng = np.random.default_rng(0)

    def split(n: int) -> Split:
        x = rng.integers(2, WORDS, (n, LENGTH))
        places = np.argsort(rng.random((n, LENGTH)), axis=1)[:, :2]
        np.put_along_axis(x, places, np.array([0, 1]), axis=1)
        return x, (places[:, 0] > places[:, 1]).astype(int)

    return split(2000), split(500)


class WordNet(nn.Module):
    """Embed the words, and read them by a transformer layer."""

    def __init__(self, classes: int, vocabulary: int, length: int, width: int = 32) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0, batch_first=True)
        self.out = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(self.words(x) + self.places.weight).mean(1))


if __name__ == "__main__":
    for method, sparsity in (("dense", 0.0), ("snip", 0.5)):
        found = run(
            data="token_data:word_order",
            model="token_data:WordNet",
            method=method,
            sparsity=sparsity,
            exclude=("words.weight", "places.weight"),  # embeddings
            epochs=5,
            batch_size=32,
            optimizer="adamw",
            lr=0.005,
            progress=False,
        )
        print(f"{method}: accuracy {found['result.accuracy']:.3f}")
