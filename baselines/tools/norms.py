"""Normalisation layers between their parameters and those of an initialisation, in training.

"Find A Winning Sign" (Oh et al. 2025, arXiv 2504.05357): with a number a that is drawn for each
step, every normalisation layer computes with the scale a + (1 − a)·γ and the shift (1 − a)·β, so
that the network depends less on γ and β, and more on the signs of its weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from baselines.errors import UserError

KINDS = (_NormBase, nn.LayerNorm, nn.GroupNorm)  # _NormBase: batch and instance normalisation


class InterpolatedNorms:
    """Makes the normalisation layers of a model compute with interpolated parameters in training.

    The parameters themselves do not change, also for an optimizer, and evaluation uses them.

    Args:
        model: its normalisation layers with a scale are used; a shift is optional.

    Attributes:
        share: a, from 0 (the layers as they are) to 1 (scale 1 and shift 0).

    Raises:
        UserError: there are no such layers.
    """

    def __init__(self, model: nn.Module) -> None:
        layers = [m for m in model.modules() if isinstance(m, KINDS) and m.weight is not None]
        if not layers:
            raise UserError("interpolate_norms: the network has no normalisation with scales.")
        self.share = 0.0
        self._layers = layers
        self._handles: list[Any] = []
        for layer in layers:
            self._handles.append(layer.register_forward_pre_hook(self._enter))
            self._handles.append(layer.register_forward_hook(_leave, always_call=True))

    def remove(self) -> None:
        """Remove the hooks."""
        self.share = 0.0
        for handle in self._handles:
            handle.remove()
        for layer in self._layers:
            _show_parameters(layer)

    def _enter(self, layer: nn.Module, inputs: Any) -> None:
        _show_parameters(layer)  # after Ctrl-C in a pass, PyTorch has called no hook
        if not (self.share and layer.training):
            return
        # an attribute hides the parameter of its name from the layer's own code
        scale, shift = layer._parameters["weight"], layer._parameters.get("bias")
        assert scale is not None
        vars(layer)["weight"] = torch.lerp(scale, torch.ones_like(scale), self.share)
        if shift is not None:
            vars(layer)["bias"] = (1 - self.share) * shift


def _leave(layer: nn.Module, inputs: Any, outputs: Any) -> None:
    _show_parameters(layer)


def _show_parameters(layer: nn.Module) -> None:
    vars(layer).pop("weight", None)
    vars(layer).pop("bias", None)
