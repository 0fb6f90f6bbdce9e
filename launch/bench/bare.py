"""The bare PyTorch loop, the baseline of all measurements."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from launch.config.recipe import Recipe
from launch.models import build_model
from launch.training.loop import autocast, memory_format


class BareLoop:
    """Forward pass, loss, backward pass and fused optimizer, on one batch of noise.

    The batch is on the device. There is no data loading, no schedule and no accuracy. The model
    has the recipe's precision and memory format.
    """

    def __init__(self, recipe: Recipe, classes: int, device: torch.device) -> None:
        torch.manual_seed(0)
        self.recipe, self.device = recipe, device
        model = build_model(recipe.model, classes, 3, recipe.image_size)
        layout = memory_format(recipe)
        self.model: nn.Module = model.to(device=device, memory_format=layout)  # type: ignore[call-overload]
        shape = (recipe.batch_size, 3, recipe.image_size, recipe.image_size)
        self.x = torch.randn(shape, device=device).contiguous(memory_format=layout)
        self.y = torch.randint(classes, (recipe.batch_size,), device=device)
        self.optimizer = _optimizer(self.model, recipe)

    def restart(self) -> None:
        """Make a new optimizer, after the model's parameters have been replaced."""
        self.optimizer = _optimizer(self.model, self.recipe)

    def step(self) -> None:
        """Take one training step."""
        self.model.train()
        with autocast(self.recipe, self.device):
            loss = F.cross_entropy(
                self.model(self.x), self.y, label_smoothing=self.recipe.label_smoothing
            )
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.no_grad()
    def evaluate(self, images: int) -> Tensor:
        """Take forward passes over that number of images. Return the sums of the outputs."""
        self.model.eval()
        parts = torch.split(torch.arange(images), self.recipe.batch_size)
        with autocast(self.recipe, self.device):
            return torch.stack([self.model(self.x[: len(part)]).sum() for part in parts])


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    decay = recipe.weight_decay
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), recipe.lr, weight_decay=decay, fused=True)
    return torch.optim.SGD(
        model.parameters(), recipe.lr, recipe.momentum, weight_decay=decay, fused=True
    )
