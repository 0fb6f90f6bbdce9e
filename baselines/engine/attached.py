"""AttachedLatents: makes every step of an optimizer a step on latents.

Before each step the latents get their gradients and replace the weights in the optimizer's
parameter groups. After the step the merged latents are written to the weights, and the weights are
back in the groups.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from baselines.engine.blocks import blocks, columns
from baselines.engine.cpu_step import step_in_pieces
from baselines.engine.latents import Latents, clear_masked_latents
from baselines.engine.layer import Layer
from baselines.engine.optimizer_state import (
    Lists,
    clear_gradients,
    complete_state,
    set_gradients,
    show_latents,
    show_weights,
)
from baselines.engine.step_hooks import StepHooks
from baselines.engine.storage import Storage
from baselines.errors import UserError

Hook = Callable[[Optimizer], None]


def nothing(optimizer: Optimizer) -> None:
    """Do nothing."""


class AttachedLatents(Latents):
    """The latents of all layers, stepped by an optimizer until `remove`.

    Args:
        layers: by name; entries may be replaced by `move`.
        optimizer: one that `served_optimizer` returned.
        before: called before each step, before anything else.
        after: called after each step.

    Raises:
        Exception: of any type; only the masked weights have changed then.
    """

    def __init__(
        self,
        layers: dict[str, Layer],
        storage: Storage,
        optimizer: Optimizer,
        before: Hook = nothing,
        after: Hook = nothing,
    ) -> None:
        super().__init__(layers, storage, optimizer)
        self._before, self._after = before, after
        self._hidden: Lists | None = None  # the weights, while latents are in their place
        self._is_stepping = self._is_skipped = False
        self._handles: list[Any] = []
        state = dict(optimizer.state)
        try:
            self.make()
            self._register()
        except BaseException:
            self.remove()
            optimizer.state.clear()
            optimizer.state.update(state)
            raise

    def _register(self) -> None:
        optimizer = self.optimizer
        for register, hook in (
            (optimizer.register_state_dict_pre_hook, self._show_latents),
            (optimizer.register_state_dict_post_hook, self._show_weights),
            (optimizer.register_load_state_dict_pre_hook, self._show_latents),
            (optimizer.register_load_state_dict_post_hook, self._show_weights),
        ):
            self._handles.append(register(hook))
        hooks = StepHooks(optimizer, self._before_step, self._after_step, self._restore)
        self._handles.append(hooks)

    def remove(self) -> None:
        """Remove the hooks, the latents and the optimizer's state of them."""
        for handle in self._handles:
            handle.remove()
        self._show_weights()
        self.drop()

    def _before_step(self) -> None:
        if getattr(self.optimizer, "grad_scale", None) is not None:
            raise UserError(
                "call scaler.unscale_(optimizer) before scaler.step(optimizer), or make the "
                "optimizer with fused=False."
            )
        if self._skip_step():
            return
        self._before(self.optimizer)
        stepped = self.stepped
        for layer in stepped + self.masked_in_place:
            layer.check_placement()
        self.follow()
        self._show_weights()  # they are there unless saving or loading a state failed
        groups = self._groups()
        self._is_stepping = True
        for layer in self.masked_in_place:
            layer.mask_gradient()
        waiting = []
        for layer in stepped:
            if layer.weight.grad is None:
                clear_gradients(tuple(layer.latents.values()))
            elif not self._step_now(layer, groups[id(layer.weight)]):
                waiting.append(layer)
        for block in blocks(waiting):
            latents = columns(block)
            parts = self.storage.pull_back([_gather_gradient(layer) for layer in block], latents)
            for tensors, grads in zip(latents, parts, strict=True):
                set_gradients(self.optimizer, tensors, grads)
        self._show_latents()
        for group in self.optimizer.param_groups:
            complete_state(self.optimizer, group)

    def _groups(self) -> dict[int, dict[str, Any]]:
        """Return the parameter group of each parameter, by the parameter's id."""
        groups = {id(p): group for group in self.optimizer.param_groups for p in group["params"]}
        for layer in self.stepped:
            if layer.weight.grad is not None and id(layer.weight) not in groups:
                raise UserError(
                    f"{layer.name} is no longer in the optimizer's param_groups: put it back, and "
                    "freeze it with requires_grad_(False)."
                )
        return groups

    def _skip_step(self) -> bool:
        """Skip a step that a fused optimizer takes although a GradScaler has found infinity.

        Other optimizers are not called then.
        """
        found = getattr(self.optimizer, "found_inf", None)
        self._is_skipped = found is not None and bool(found)
        if self._is_skipped:
            clear_gradients([p for group in self.optimizer.param_groups for p in group["params"]])
        return self._is_skipped

    def _step_now(self, layer: Layer, group: dict[str, Any]) -> bool:
        """Step a layer in place of the optimizer, if the step can be done in pieces.

        Latents that the layer shares are left to the optimizer.
        """
        if layer.index is not None:
            return False
        grads = step_in_pieces(self.storage, self.optimizer, group, layer)
        if grads is None:
            return False
        clear_gradients(layer.own_latents)
        if shared := layer.shared_latents:
            set_gradients(self.optimizer, shared, grads)
        layer.mark_read()
        return True

    def _after_step(self) -> None:
        if self._is_skipped:
            return
        self._show_weights()
        self._check_unwritten()
        self._finish([layer for layer in self.stepped if layer.has_gradient])
        self._after(self.optimizer)

    def _check_unwritten(self) -> None:
        """Check that the optimizer has stepped the latents that it was shown, not the weights."""
        written = [layer for layer in self.stepped if layer.was_written]
        for layer in written:
            layer.clear_masked(layer.weight)
        if written:
            raise UserError(
                f"{type(self.optimizer).__name__}.step writes to {written[0].name} itself: it must "
                "step the parameters that its param_groups hold at that time."
            )

    def _restore(self) -> None:
        """Make model, optimizer and latents agree after a step that failed."""
        self._show_weights()
        if self._is_stepping:
            self._finish(self.stepped)

    def _finish(self, stepped: list[Layer]) -> None:
        clear_masked_latents(stepped + self.masked_in_place)
        self.push(stepped)
        self.mark_in_place()
        self._is_stepping = False

    def _show_latents(self, *_: Any) -> None:
        self._show_weights()
        self._hidden = show_latents(self.optimizer, self.stepped, self.storage.shared_decay)

    def _show_weights(self, *_: Any) -> None:
        if self._hidden is not None:
            show_weights(self.optimizer, self._hidden)
            self._hidden = None


def _gather_gradient(layer: Layer) -> Tensor:
    assert layer.weight.grad is not None
    return layer.take(layer.weight.grad)
