"""Several neurons learn several (§5 and Appendix C): f(z) = 1/k Σ aᵢ σ(wᵢᵀz), two inputs.

The teacher has three neurons of unit length and signs ±1, drawn for each seed. The output is the
mean over the k neurons, as in the mean-field papers that the experiment follows. With a sum, the
dense network diverges at the paper's learning rate of 2.15 (for 100 of 100 seeds).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from baselines.engine.product import Product
from baselines.engine.storage import Plain
from signin.theory.neuron import one_thread

TEACHER, INPUTS, SAMPLES = 3, 2, 100
#: Recovered: the mean squared error is below this fraction of the mean squared label.
RECOVERED = 1e-2


class NetworkPaths(NamedTuple):
    """Trajectories and final errors of all seeds."""

    a: Tensor
    """Outer weights at the kept steps: [times, seeds, k]."""
    w: Tensor
    """Inner weights at the kept steps: [times, seeds, k, 2]."""
    teacher_a: Tensor
    """Outer weights of the teacher: [seeds, 3]."""
    teacher_w: Tensor
    """Inner weights of the teacher: [seeds, 3, 2]."""
    error: Tensor
    """Final mean squared error divided by the mean squared label: [seeds]."""

    @property
    def recovered(self) -> Tensor:
        return self.error < RECOVERED


@dataclass(frozen=True)
class Panel:
    """A panel of Figure 6: a network and its initial signs.

    Values of `signs`:

    - cob: the outer signs of the second half of the neurons are the reverse of those of the first.
    - good: all signs are those of the teacher's neurons.
    - bad: the same with all outer signs positive, which is wrong for 7 of 8 teachers.
    - bad_inner: as bad, with random inner signs.
    """

    signs: Literal["cob", "good", "bad", "bad_inner"]
    width: int = TEACHER
    """k, the number of neurons."""
    rate: float = 1.0
    beta: float | None = None
    """Inner scaling of Sign-In; None without it."""
    steps: int = 3000
    seeds: int = 100
    every: int = 10
    """Number of steps from one kept step to the next."""

    @property
    def cost(self) -> float:
        return 0.4 * self.steps * self.width

    def measure(self) -> NetworkPaths:
        """Train all seeds at once by full-batch gradient descent on 1/(2n) Σ (f(zᵢ) − yᵢ)²."""
        with one_thread():
            return self._train()

    def _draw(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return inputs, teacher's a and w, initial a and w. Panels share the random numbers."""
        drawn = []
        for seed in range(self.seeds):
            generator = torch.Generator().manual_seed(seed)

            def normal(*shape: int, generator: torch.Generator = generator) -> Tensor:
                return torch.randn(*shape, generator=generator, dtype=torch.float64)

            z, teacher = normal(SAMPLES, INPUTS), normal(TEACHER, INPUTS)
            signs = normal(TEACHER).sign()
            teacher = teacher / teacher.norm(dim=1, keepdim=True)
            w, a = (normal(self.width, x) / INPUTS**0.5 for x in (INPUTS, 1))
            drawn.append((z, signs, teacher, a[:, 0], w))
        z, signs, teacher, a, w = (torch.stack(x) for x in zip(*drawn, strict=True))
        return z, signs, teacher, *self._sign(a, w, signs, teacher)

    def _sign(self, a: Tensor, w: Tensor, signs: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Return a and w with the panel's initial signs."""
        if self.signs == "cob":
            half = self.width // 2
            return torch.cat([a[:, :half], -a[:, :half]], 1), w
        a = a.abs() * signs if self.signs == "good" else a.abs()
        return a, w if self.signs == "bad_inner" else w.abs() * teacher.sign()

    def _train(self) -> NetworkPaths:
        z, signs, teacher, a, w = self._draw()
        labels = _output(z, signs, teacher)
        storage = Plain() if self.beta is None else Product(self.beta)
        latents = storage.split([a, w])
        kept = []
        for step in range(self.steps + 1):
            a, w = storage.merge(latents)
            if step % self.every == 0:
                kept.append((a.clone(), w.clone()))
            if step < self.steps:
                grads = gradients(z, labels, a, w)
                pulled = storage.pull_back(grads, latents)
                for tensors, slopes in zip(latents, pulled, strict=True):
                    torch._foreach_add_(list(tensors), list(slopes), alpha=-self.rate)
        error = (_output(z, a, w) - labels).square().mean(1) / labels.square().mean(1)
        all_a, all_w = (torch.stack(x) for x in zip(*kept, strict=True))
        return NetworkPaths(*(x.clone() for x in (all_a, all_w, signs, teacher, error)))


def _output(z: Tensor, a: Tensor, w: Tensor) -> Tensor:
    """Return f(z): [seeds, n]."""
    return ((z @ w.mT).relu() @ a[:, :, None])[:, :, 0] / a.shape[1]


def gradients(z: Tensor, labels: Tensor, a: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of the loss with respect to a [seeds, k] and w [seeds, k, 2]."""
    hidden = (z @ w.mT).relu()
    residual = (hidden @ a[:, :, None]) / a.shape[1] - labels[:, :, None]
    residual = residual / (z.shape[1] * a.shape[1])
    outer = (hidden.mT @ residual)[:, :, 0]
    inner = ((residual * (hidden > 0)).mT @ z) * a[:, :, None]
    return outer, inner


#: The panels of Figure 6 by title.
PANELS = {
    "Dense": Panel("cob", width=20, rate=2.15),
    "Sparse, good signs": Panel("good"),
    "Sparse, bad signs": Panel("bad"),
    "Sparse, bad signs, Sign-In": Panel("bad", beta=2.0),
}
#: Panels that are counted but not drawn.
EXTRA = {
    "Sparse, bad signs, Sign-In with β = 0.5": Panel("bad", beta=0.5),
    "Sparse, good signs, Sign-In": Panel("good", beta=2.0),
    "Sparse, bad outer signs, inner at random": Panel("bad_inner"),
    "Sparse, bad outer signs, inner at random, Sign-In": Panel("bad_inner", beta=2.0),
}


def example(found: dict[str, NetworkPaths]) -> int:
    """Return the first seed at which all panels end as in the paper; 0 if there is none.

    In the paper all panels recover the teacher except that of bad signs without Sign-In.
    """
    right = torch.stack(
        [paths.recovered == (name != "Sparse, bad signs") for name, paths in found.items()]
    ).all(0)
    return int(right.to(torch.uint8).argmax())


def recoveries(found: dict[str, NetworkPaths]) -> pd.DataFrame:
    """Return one row per panel with the fraction of seeds that recover the teacher.

    For panels with Sign-In, also: plain_failed, the number of seeds that fail without it; rescued,
    how many of these recover with it; lost, how many seeds fail only with it.
    """
    rows = []
    for name, paths in found.items():
        plain = found.get(name.partition(", Sign-In")[0])
        row: dict[str, object] = {
            "panel": name,
            "recovered": paths.recovered.double().mean().item(),
        }
        if plain is not None and plain is not paths:
            row["plain_failed"] = int((~plain.recovered).sum())
            row["rescued"] = int((paths.recovered & ~plain.recovered).sum())
            row["lost"] = int((~paths.recovered & plain.recovered).sum())
        rows.append(row)
    counts = ["plain_failed", "rescued", "lost"]
    return pd.DataFrame(rows, columns=["panel", "recovered", *counts]).astype(
        dict.fromkeys(counts, "Int64")
    )
