"""Sharpness: the largest eigenvalues of the loss's Hessian over the weights that masks keep.

They are computed by Lanczos' method (ARPACK, in scipy) from products of the Hessian with vectors,
which need no matrix. A product costs about as much as two gradients, or three if the graph of the
gradient does not fit into memory and is computed again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import diags_array
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, aslinearoperator, eigsh
from torch import Tensor, nn

from baselines.errors import UserError
from baselines.tools.scores import TwiceDifferentiable

LabelledBatches = Sequence[tuple[Tensor, Tensor]]

MOST_KEPT = 2**30  # bytes of the graph of the gradient that are kept between products
SEED = 0  # of initial vectors and probes


class NotConverged(UserError):
    """Lanczos' method has not reached the tolerance."""


@contextmanager
def without_tf32() -> Iterator[None]:
    """Compute convolutions and matrix products on a GPU with all bits of float32.

    TensorFloat-32, torch's default for convolutions, has errors of 1e-3.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    were = cudnn.allow_tf32, matmul.allow_tf32
    try:
        cudnn.allow_tf32 = matmul.allow_tf32 = False
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = were


class Hessian(LinearOperator):
    """The Hessian of the mean cross-entropy over the active entries of some parameters.

    Args:
        model: in train or eval mode, as wanted; attention must be twice differentiable.
        weights: some of its parameters, by name.
        masks: True at the active entries; of parameters without a mask all entries are active.
        batches: inputs and labels; the loss is the mean over all of them.
    """

    def __init__(
        self,
        model: nn.Module,
        weights: Mapping[str, nn.Parameter],
        masks: Mapping[str, Tensor],
        batches: LabelledBatches,
    ) -> None:
        self.model, self.batches = model, batches
        self.weights = list(weights.values())
        self.masks = [
            masks.get(name, torch.ones_like(weight, dtype=torch.bool)).to(weight.device)
            for name, weight in weights.items()
        ]
        self.images = sum(len(y) for _, y in batches)
        self._kept: dict[int, tuple[Tensor, ...]] = {}
        self._keeps = self._bytes_of_graph() * len(batches) <= MOST_KEPT
        n = sum(int(mask.sum()) for mask in self.masks)
        super().__init__(np.dtype(np.float64), (n, n))  # type: ignore[call-arg]

    def relative(self) -> LinearOperator:
        """Return DHD, where D multiplies each active entry by the norm of its layer's entries.

        It is the Hessian with respect to changes relative to these norms. It stays the same where
        a layer is scaled whose outputs are normalised; H changes by the scale's inverse square.
        Similar to the normalisation of ASAM (Kwon et al. 2021).
        """
        active = self._active([weight.detach() for weight in self.weights])
        norms = torch.cat([entries.norm().expand(len(entries)) for entries in active])
        scale = aslinearoperator(diags_array(norms.double().cpu().numpy()))
        return scale @ self @ scale

    def _matvec(self, vector: np.ndarray) -> np.ndarray:
        direction = self._spread(torch.from_numpy(np.ascontiguousarray(vector).reshape(-1)))
        total = [torch.zeros_like(weight) for weight in self.weights]
        for i in range(len(self.batches)):
            grads = self._kept[i] if i in self._kept else self._gradient(i)
            slope = sum((g * d).sum() for g, d in zip(grads, direction, strict=True))
            assert isinstance(slope, Tensor)
            products = torch.autograd.grad(slope, self.weights, retain_graph=self._keeps)
            torch._foreach_add_(total, list(products))
            if self._keeps:
                self._kept[i] = grads
        return torch.cat(self._active(total)).double().cpu().numpy()

    def _active(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the active entries of tensors of the parameters' shapes."""
        return [tensor[mask] for tensor, mask in zip(tensors, self.masks, strict=True)]

    def _gradient(self, i: int) -> tuple[Tensor, ...]:
        """Return a batch's part of the gradient, with its graph."""
        x, y = self.batches[i]
        with TwiceDifferentiable():
            output = self.model(x)
        loss = F.cross_entropy(output, y) * (len(y) / self.images)
        return torch.autograd.grad(loss, self.weights, create_graph=True)

    def _bytes_of_graph(self) -> int:
        """Return the bytes that the graph of the first batch's gradient holds."""
        sizes: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            self._gradient(0)
        return sum(sizes.values())

    def _spread(self, vector: Tensor) -> list[Tensor]:
        """Return a vector over the active entries as tensors of the parameters' shapes."""
        parts = torch.split(vector, [int(mask.sum()) for mask in self.masks])
        spread = []
        for weight, mask, part in zip(self.weights, self.masks, parts, strict=True):
            dense = torch.zeros_like(weight)
            dense[mask] = part.to(weight)
            spread.append(dense)
        return spread


@dataclass(frozen=True)
class Spectrum:
    """The largest eigenvalues.

    Attributes:
        values: in descending order.
        residuals: ‖Hv − λv‖ / |λ| of each.
    """

    values: list[float]
    residuals: list[float]


def largest_eigenvalues(hessian: LinearOperator, k: int = 1, tolerance: float = 1e-3) -> Spectrum:
    """Return the k algebraically largest eigenvalues.

    Args:
        tolerance: relative tolerance of Lanczos' method.

    Raises:
        NotConverged: the tolerance is not reached within ARPACK's default number of iterations.
    """
    n = hessian.shape[0]
    start = np.random.default_rng(SEED).standard_normal(n)
    if n <= k + 1:  # too small for ARPACK
        values, vectors = np.linalg.eigh(hessian @ np.eye(n))
    else:
        try:
            values, vectors = eigsh(hessian, k=k, which="LA", v0=start, tol=tolerance)
        except ArpackNoConvergence as error:
            raise NotConverged(f"Lanczos' method has not converged: {error}") from error
    order = np.argsort(values)[::-1][:k]
    residuals = [
        float(np.linalg.norm(hessian @ vectors[:, i] - values[i] * vectors[:, i]) / abs(values[i]))
        for i in order
    ]
    return Spectrum([float(values[i]) for i in order], residuals)


def estimate_trace(hessian: LinearOperator, probes: int) -> tuple[float, float]:
    """Return Hutchinson's estimate of the trace with random signs, and its standard error."""
    rng = np.random.default_rng(SEED)
    samples = []
    for _ in range(probes):
        signs = rng.choice([-1.0, 1.0], hessian.shape[0])
        samples.append(float(signs @ (hessian @ signs)))
    error = float(np.std(samples, ddof=1) / np.sqrt(probes)) if probes > 1 else float("nan")
    return float(np.mean(samples)), error
