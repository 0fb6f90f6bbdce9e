"""Layer: one prunable weight tensor, its mask, and the latents that are stepped for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from baselines.engine.memory_layout import in_memory_order, lie_alike
from baselines.errors import UserError


@dataclass(eq=False)
class Layer:
    """One prunable weight tensor.

    Attributes:
        index: memory offsets of the active positions, in row-major order; None if all positions
            are active.
        full_size: give latents the weight's shape under every mask, zero where masked.
        latents: what the optimizer steps while one is attached, by the storage's names: vectors
            over the active positions, or tensors of the weight's shape if all are active. The
            weight itself if the storage is the identity and the shape is the weight's. A latent
            with no dimension is shared by the whole layer.
        own_latents: those with one entry per active position.
        shared_latents: those that all weights of the layer share.
        is_in_place: the only latent is the weight itself.
    """

    name: str
    weight: nn.Parameter
    index: Tensor | None = None
    full_size: bool = False

    def __post_init__(self) -> None:
        self.stride = self.weight.stride()  # the memory layout that the index refers to
        self.hold({})
        self.mark_read()

    def hold(self, latents: dict[str, nn.Parameter]) -> None:
        """Set the latents, by the storage's names. An empty dict removes them."""
        self.latents = latents
        self.own_latents = tuple(latent for latent in latents.values() if latent.ndim > 0)
        self.shared_latents = tuple(latent for latent in latents.values() if latent.ndim == 0)
        self.is_in_place = any(latent is self.weight for latent in latents.values())

    def mark_read(self) -> None:
        """Remember the weight's version: a higher one later is a write from outside."""
        self.version = self.weight._version

    @property
    def was_written(self) -> bool:
        """Whether the weight was written from outside since `mark_read`."""
        return self.weight._version != self.version

    def check_placement(self) -> None:
        """Check that the weight is where its latents are.

        Raises:
            UserError: the model was moved, or its dtype or memory format has changed.
        """
        weight, latent = self.weight, next(iter(self.latents.values()))
        if (
            weight.device != latent.device
            or weight.dtype != latent.dtype
            or weight.stride() != self.stride
            or (self.index is not None and self.index.device != weight.device)
        ):
            raise UserError(
                "the model was moved, or its dtype or memory format changed, after it was made "
                "sparse."
            )

    @property
    def nnz(self) -> int:
        """Number of active positions."""
        return self.weight.numel() if self.index is None else self.index.numel()

    @property
    def latent_shape(self) -> torch.Size:
        """Shape of the latents that are not shared."""
        return self.weight.shape if self.index is None or self.full_size else self.index.shape

    @property
    def mask(self) -> Tensor | None:
        """Boolean mask of the weight's shape, True where active; None if all are active."""
        if self.index is None:
            return None
        mask = torch.zeros_like(self.weight, dtype=torch.bool)
        in_memory_order(mask)[self.index.to(mask.device)] = True
        return mask

    @property
    def has_gradient(self) -> bool:
        """Whether the latents have gradients for the step that is being taken."""
        *_, last = self.latents.values()
        return last.grad is not None

    def gather(self, dense: Tensor) -> Tensor:
        """Return the entries at the active positions of a tensor of the weight's shape."""
        if self.index is None:
            return dense
        # take uses all threads, index_select one
        return in_memory_order(self._laid_out(dense)).take(self.index)

    def scatter(self, values: Tensor, dense: Tensor) -> Tensor:
        """Write values to the active positions of a tensor of the weight's shape."""
        if self.index is None:
            return dense.copy_(values)
        target = self._laid_out(dense)
        in_memory_order(target).index_copy_(0, self.index, values)
        return dense if target is dense else dense.copy_(target)

    def take(self, dense: Tensor) -> Tensor:
        """Return the entries of a tensor of the weight's shape that a latent holds."""
        if not self.full_size or self.index is None:
            return self.gather(dense)
        return self.scatter(self.gather(dense), torch.zeros_like(self.weight, dtype=dense.dtype))

    def put(self, latent: Tensor, dense: Tensor) -> Tensor:
        """Write the active entries of a latent to a tensor of the weight's shape."""
        active = self.gather(latent) if self.full_size else latent
        return self.scatter(active, dense)

    def _laid_out(self, dense: Tensor) -> Tensor:
        """Return the tensor itself, or a copy with the weight's memory layout."""
        if lie_alike(dense, self.weight):
            return dense
        return torch.empty_like(self.weight, dtype=dense.dtype).copy_(dense)

    def with_mask(self, mask: Tensor | None) -> Layer:
        """Return the layer under another mask, without latents."""
        if mask is None or bool(mask.all()):
            return Layer(self.name, self.weight, full_size=self.full_size)
        offsets = torch.empty_like(self.weight, dtype=torch.int64)
        in_memory_order(offsets).copy_(torch.arange(offsets.numel(), device=offsets.device))
        index = offsets[mask.to(offsets.device, torch.bool)]
        return Layer(self.name, self.weight, index, full_size=self.full_size)

    def clear_masked(self, dense: Tensor) -> None:
        """Set the masked positions of a tensor of the weight's shape to zero."""
        if self.index is not None:
            active = self.gather(dense)
            self.scatter(active, dense.zero_())

    def mask_gradient(self) -> None:
        """Set the weight's gradient, if there is one, to zero where masked."""
        if self.weight.grad is not None:
            self.clear_masked(self.weight.grad)
