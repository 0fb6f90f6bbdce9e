"""Places: where the weights of a model are, to notice at every step that one was replaced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from baselines.errors import UserError

Entry = tuple[Mapping[str, Any], str, Any]  # a module's children or parameters, a name, its value


class Places:
    """The modules of a model, and which parameters of theirs are the given weights.

    Args:
        weights: by name.

    Raises:
        UserError: a weight is not a parameter of the model.
    """

    def __init__(self, model: nn.Module, weights: Mapping[str, nn.Parameter]) -> None:
        self.model, self.weights = model, dict(weights)  # no ids of them: a copy has others
        self._entries = self._find()

    def check(self) -> None:
        """Check that the weights are still parameters of the model.

        Modules may be wrapped or moved. The cost is that of one comparison per module.

        Raises:
            UserError: a weight was replaced, or is transformed by a parametrization.
        """
        for held, name, value in self._entries:
            if held.get(name) is not value:
                self._entries = self._find()
                return

    def _find(self) -> list[Entry]:
        entries: list[Entry] = []
        missing = {id(weight): name for name, weight in self.weights.items()}
        held = set(missing)
        for module in self.model.modules():
            entries += [(module._modules, *child) for child in module._modules.items()]
            if isinstance(module, ParametrizationList):
                continue  # the layer computes with something else than the parameter
            for name, parameter in module._parameters.items():
                if id(parameter) in held:
                    entries.append((module._parameters, name, parameter))
                    missing.pop(id(parameter), None)
        for name in missing.values():
            raise UserError(
                f"{name} is another parameter than the one that was made "
                "sparse: load states without assign=True, or finalize() before replacing it."
            )
        return entries
