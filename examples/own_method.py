"""Add a method and train with it, plain and with Sign-In.

The method removes randomly chosen weights gradually. Run it by one of

    python examples/own_method.py
    PYTHONPATH=examples signbench run --method own_method:RandomGradual --pruning-events 5
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from baselines import Method, Options, SparseModel, register
from baselines.tools.masks import global_masks, seeded
from baselines.tools.schedules import cubic_sparsity, events
from launch import run


@dataclass(frozen=True)
class RandomGradualOptions(Options):
    pruning_events: int = 10
    """Number of pruning events."""


@register
class RandomGradual(Method[RandomGradualOptions]):
    """Gradual pruning of randomly chosen weights."""

    name, family, paper = "random-gradual", "dense to sparse", "-"

    def before_step(self, net: SparseModel, step: int) -> None:
        at = events(0.2, 0.7, self.options.pruning_events, self.plan.steps)
        if step in at:
            sparsity = cubic_sparsity(at.index(step) + 1, len(at), self.plan.sparsity)
            scores = {}
            for layer in net:  # the same random order at every event, so masks are nested
                generator = seeded(self.plan.seed, layer.name)
                scores[layer.name] = torch.rand(layer.weight.shape, generator=generator)
            net.set_masks(global_masks(scores, sparsity))


def main() -> None:
    for sign_in in (False, True):
        found = run(
            "digits", "random-gradual", sparsity=0.8, epochs=3, sign_in=sign_in, progress=False
        )
        accuracy, sparsity = found["result.accuracy"], found["result.sparsity"]
        print(f"Sign-In {sign_in}: {accuracy:.3f} at sparsity {sparsity:.4f}")


if __name__ == "__main__":
    main()
