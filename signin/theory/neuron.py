"""One ReLU neuron learns another (§5): gradient descent for many students at a time, exactly.

The student is f(z) = a σ(wᵀz), the teacher σ(w̃ᵀz), the loss L = 1/(2n) Σ (f(zᵢ) − yᵢ)². While no
sample changes its side of the hyperplane wᵀz = 0, the gradients depend on the samples only through
M = 1/n Σ zzᵀ and c = 1/n Σ zy over those with wᵀz > 0:

    r = a M w − c,   ∂L/∂a = wᵀr,   ∂L/∂w = a r.

The samples nearest to the hyperplane are evaluated in every step. The others are summed in M and c,
which are recomputed for a student when its direction has turned far enough for one of them to
change sides. The result is that of plain full-batch gradient descent, at a cost that hardly depends
on n. For one input and a = −w, both gradients are computed exactly antisymmetrically: a run on the
stable manifold of the saddle at the origin stays on it, while rounding errors would push half of
the runs off.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from baselines.engine.product import Product
from baselines.engine.storage import Plain, Storage

#: Storages of the outer weight a and of the inner weights w.
Storages = tuple[Storage, Storage]
_PLAIN = Plain()
PLAIN: Storages = (_PLAIN, _PLAIN)

#: A run has learned the teacher if its final loss is below this. That of the zero function is
#: ‖w̃‖²/4: 1/4, and on average 1/2 with random teachers.
SUCCESS = 1e-3
#: A run is stopped when its loss is below this; it only decreases from there.
CONVERGED = 1e-6
CHECK_EVERY = 100
#: Number of samples near the hyperplane evaluated in every step. It affects only the speed.
NEAR = 16


def sign_in_storages(outer: float = 1.0, inner: float | None = None) -> Storages:
    """Return Sign-In's storages for a and w, with inner scalings β₁ and β₂ (by default β₁)."""
    return Product(outer), Product(outer if inner is None else inner)


class Moments(NamedTuple):
    """The quantities that determine the gradients of students of given directions."""

    square: Tensor
    """M over the active samples far from the hyperplane: [runs, d, d]."""
    cross: Tensor
    """c over the same samples: [runs, d]."""
    near: Tensor
    """The samples near the hyperplane, divided by √n: [runs, NEAR, d]."""
    labels: Tensor
    """Their labels, divided by √n: [runs, NEAR]."""
    margin: Tensor
    """Distance between unit vectors within which no far sample changes sides: [runs]."""


class Task(Protocol):
    """The data and teachers that students learn from."""

    def moments(self, direction: Tensor, rows: Tensor) -> Moments:
        """Return the moments for unit vectors w/‖w‖ [k, d] of the runs `rows` [k]."""

    def loss(self, outer: Tensor, inner: Tensor, rows: Tensor) -> Tensor:
        """Return L [k] for a [k] and w [k, d] of the runs `rows` [k]."""


class DataSet(Task):
    """A data set that all runs share.

    Args:
        inputs: z, [n, d].
        teachers: w̃ of each run, [runs, d].
    """

    def __init__(self, inputs: Tensor, teachers: Tensor) -> None:
        self._inputs = inputs / len(inputs) ** 0.5
        self._labels = (teachers @ self._inputs.T).clamp(min=0)
        self._squares = (self._inputs[:, :, None] * self._inputs[:, None, :]).flatten(1)
        self._unit = inputs / inputs.norm(dim=1, keepdim=True)

    def moments(self, direction: Tensor, rows: Tensor) -> Moments:
        distance = direction @ self._unit.T
        active = (distance > 0).to(direction.dtype)
        count = min(NEAR, len(self._inputs) - 1)
        nearest, which = distance.abs().topk(count + 1, largest=False)
        which = which[:, :count]
        active.scatter_(1, which, 0.0)
        labels = self._labels[rows]
        return Moments(
            (active @ self._squares).unflatten(1, (direction.shape[1], -1)),
            (active * labels) @ self._inputs,
            self._inputs[which],
            labels.gather(1, which),
            nearest[:, -1] * (1 - 1e-9),
        )

    def loss(self, outer: Tensor, inner: Tensor, rows: Tensor) -> Tensor:
        output = outer[:, None] * (inner @ self._inputs.T).clamp(min=0)
        error: Tensor = output - self._labels[rows]
        return error.square().sum(1) / 2


class Population(Task):
    """Infinitely many samples.

    With φ the angle between w and w̃, M = I/2 and c = ‖w̃‖ ((π − φ) w̃/‖w̃‖ + sin φ w/‖w‖) / 2π, by
    the arc-cosine kernel wᵀc.

    Args:
        teachers: w̃ of each run, [runs, d].
    """

    def __init__(self, teachers: Tensor) -> None:
        self._norm = teachers.norm(dim=1, keepdim=True)
        self._unit = teachers / self._norm

    def moments(self, direction: Tensor, rows: Tensor) -> Moments:
        (count, width), teacher = direction.shape, self._unit[rows]
        cosine = (direction * teacher).sum(1, keepdim=True).clamp(-1, 1)
        pull = (torch.pi - cosine.arccos()) * teacher + (1 - cosine**2).sqrt() * direction
        return Moments(
            (torch.eye(width, dtype=direction.dtype) / 2).repeat(count, 1, 1),
            self._norm[rows] * pull / (2 * torch.pi),
            direction.new_zeros(count, 0, width),
            direction.new_zeros(count, 0),
            direction.new_zeros(count),
        )

    def loss(self, outer: Tensor, inner: Tensor, rows: Tensor) -> Tensor:
        norm = inner.norm(dim=1)
        cross = self.moments(inner / norm[:, None], rows).cross
        overlap = outer * (inner * cross).sum(1)
        square: Tensor = (outer * norm) ** 2 + self._norm[rows, 0] ** 2
        return square / 4 - overlap


class FinalState(NamedTuple):
    """Final a [runs], w [runs, d] and loss [runs]."""

    outer: Tensor
    inner: Tensor
    loss: Tensor

    @property
    def success(self) -> Tensor:
        return self.loss < SUCCESS


class Descent:
    """Gradient descent of many students: `outer` a [runs], `inner` w [runs, d]."""

    def __init__(
        self, task: Task, outer: Tensor, inner: Tensor, storages: Storages, rate: float
    ) -> None:
        self.task, self.storages, self.rate = task, storages, rate
        self.rows = torch.arange(len(outer))
        self._latents = [
            s.split([x]) for s, x in zip(storages, (outer[:, None], inner), strict=True)
        ]
        self._seen = torch.full_like(inner, torch.nan)
        self._moments = task.moments(inner, self.rows)
        self._compute()

    def _compute(self) -> None:
        """Compute the effective weights and their gradients."""
        (self.a,), (self.w,) = (
            s.merge(latents) for s, latents in zip(self.storages, self._latents, strict=True)
        )
        direction = self.w / self.w.norm(dim=1, keepdim=True).clamp(min=1e-300)
        turned = ~((direction - self._seen).norm(dim=1) < self._moments.margin)
        changed = turned.nonzero()[:, 0]
        if len(changed):
            self._seen[changed] = direction[changed]
            fresh = self.task.moments(direction[changed], self.rows[changed])
            for old, new in zip(self._moments, fresh, strict=True):
                old[changed] = new
        square, cross, near, labels, _ = self._moments
        residual = self.a * torch.bmm(square, self.w[:, :, None])[:, :, 0] - cross
        side = torch.bmm(near, self.w[:, :, None])[:, :, 0]
        error = (self.a * side - labels) * (side > 0)
        residual += torch.bmm(error[:, None, :], near)[:, 0, :]
        self.gradients = ((self.w * residual).sum(1, keepdim=True), self.a * residual)

    def step(self) -> None:
        for storage, latents, gradient in zip(
            self.storages, self._latents, self.gradients, strict=True
        ):
            for (latent,), (slope,) in zip(
                latents, storage.pull_back([gradient], latents), strict=True
            ):
                latent.sub_(slope, alpha=self.rate)
        self._compute()

    @property
    def loss(self) -> Tensor:
        """Return L, of shape (runs,)."""
        return self.task.loss(self.a[:, 0], self.w, self.rows)

    @property
    def stuck(self) -> Tensor:
        """Return which runs provably never reach a loss below that of f = 0: [runs].

        Implemented for one input and a teacher w̃ > 0. There w < 0 stays negative (Theorem 5.1),
        since a step multiplies it by a positive number, and a = −w is preserved if a and w have
        equal storages.
        """
        if self.w.shape[1] > 1:
            return torch.zeros(len(self.w), dtype=torch.bool)
        alike = self.storages[0] == self.storages[1]
        return ((self.w <= 0) | ((self.a == -self.w) & alike))[:, 0]

    def keep(self, kept: Tensor) -> None:
        """Continue with some of the runs only."""
        self.rows, self._seen = self.rows[kept], self._seen[kept]
        self._latents = [tuple([x[kept] for x in part] for part in y) for y in self._latents]
        self._moments = Moments(*(part[kept] for part in self._moments))
        self._compute()


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: sums are reproducible, and small tensors faster."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(before)


def train(
    task: Task, outer: Tensor, inner: Tensor, storages: Storages, rate: float, steps: int
) -> FinalState:
    """Train students until they have converged, are stuck, or have taken all steps.

    Args:
        outer, inner: initial a [runs] and w [runs, d].
    """
    with one_thread():
        descent = Descent(task, outer, inner, storages, rate)
        end = FinalState(outer.clone(), inner.clone(), torch.zeros_like(outer))
        for step in range(steps + 1):
            if step % CHECK_EVERY == 0 or step == steps:
                loss = descent.loss
                done = (loss < CONVERGED) | ~loss.isfinite() | descent.stuck | (step == steps)
                rows = descent.rows[done]
                end.outer[rows], end.inner[rows] = descent.a[done, 0], descent.w[done]
                end.loss[rows] = loss[done]
                if done.all():
                    break
                if done.any():
                    descent.keep(~done)
            descent.step()
    return end
