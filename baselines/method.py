"""Method: how a training becomes sparse.

A method sees the network as a `SparseModel` and the training as a `Plan`. Every hook does nothing
by default, so that the base class is dense training. `baselines.registry` finds methods by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, Generic, Self, TypeVar, cast, get_args

from baselines.checkpoint import ReadSource, run_of
from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError, check_fraction, check_positive
from baselines.fields import check_types, typed
from baselines.samples import Samples


@dataclass(frozen=True)
class Plan:
    """What a method knows of the training.

    Attributes:
        sparsity: requested fraction of zeros among the prunable weights, in [0, 1).
        steps: number of optimizer steps, before a method that trains repeatedly multiplies them.
        steps_per_epoch: number of steps in one epoch; need not divide `steps`.
        seed: seed of everything that the method draws at random; equal on all ranks.
        lr_integral: sum of the learning rates of all steps, divided by 1 − momentum for SGD. A
            weight decay λ multiplies a parameter by exp(−λ·lr_integral) over the training.
            0 if not known.
        read: function that reads a source (a run's snapshot or a file); None if there is none.
    """

    sparsity: float
    steps: int
    steps_per_epoch: int
    seed: int = 0
    lr_integral: float = 0.0
    read: ReadSource | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.sparsity, Real):
            raise UserError(f"sparsity must be a number, not {self.sparsity!r}.")
        check_fraction(sparsity=self.sparsity)
        for name in ("steps", "steps_per_epoch", "seed"):
            if not isinstance(getattr(self, name), Integral):
                raise UserError(f"{name} must be a whole number, not {getattr(self, name)!r}.")
            object.__setattr__(self, name, int(getattr(self, name)))  # states have no numpy numbers
        object.__setattr__(self, "sparsity", float(self.sparsity))
        check_positive(steps=self.steps, steps_per_epoch=self.steps_per_epoch)

    @property
    def epochs(self) -> int:
        """Number of epochs, rounded to a whole number, at least 1."""
        return max(1, round(self.steps / self.steps_per_epoch))


@dataclass(frozen=True)
class Options:
    """Options of a method. A method that has any defines its own subclass."""

    @classmethod
    def make(cls, **values: Any) -> Self:
        """Return options with the given values and defaults for all others.

        Raises:
            UserError: an option is unknown, or its value has another type or is not allowed.
        """
        return cls(**typed(cls, values))

    @property
    def sources(self) -> tuple[str, ...]:
        """What the method reads before the first step: `RUN`, `RUN@EPOCH` or a file."""
        return ()

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the runs that must have finished before: those of `sources`."""
        return tuple(dict.fromkeys(filter(None, map(run_of, self.sources))))

    @property
    def unlabelled(self) -> tuple[str, ...]:
        """Names of the options that tables do not show."""
        return ()


O = TypeVar("O", bound=Options, covariant=True)  # noqa: E741  # the usual letter


class Method(Generic[O]):
    """Base class of all methods.

    A subclass names the class of its options in brackets (`class Gmp(Method[GmpOptions])`), sets
    `name` and overrides hooks (docs/guide/own-method.md says when each is called). Masks must be
    equal on all ranks: decide them from `plan.seed` or from what is equal on all ranks (weights,
    and gradients once DDP has averaged them).

    Attributes:
        name: name of the method on the command line and in folder names.
        family: kind of method, for listings.
        paper: authors and year, for listings.
        variants: settings of the options that overview grids show; empty if the method cannot run
            without options.
        is_sparse: False for a method that keeps every weight.
        factorised: True for a method that trains θ = m ⊙ w by definition, with the recipe's β
            unless it sets `inner_scaling`.
        tolerance: largest difference between the final and the requested sparsity, for a method
            whose structure does not allow every number of weights.
        options_class: class of the options, taken from the brackets.

    Args:
        plan: the training.
        options: defaults if None.

    Raises:
        UserError: the options are those of another method, or one has another type.
    """

    name: ClassVar[str]
    family: ClassVar[str] = "other"
    paper: ClassVar[str] = "-"
    variants: ClassVar[tuple[dict[str, Any], ...]] = ({},)
    is_sparse: ClassVar[bool] = True
    factorised: ClassVar[bool] = False
    tolerance: float = 0.0
    options_class: ClassVar[type[Options]] = Options

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        bases = vars(cls).get("__orig_bases__", ())
        for argument in (argument for base in bases for argument in get_args(base)):
            if isinstance(argument, type) and issubclass(argument, Options):
                cls.options_class = argument

    def __init__(self, plan: Plan, options: Options | None = None) -> None:
        options = self.options_class() if options is None else options
        if not isinstance(options, self.options_class):
            expected, given = self.options_class.__name__, type(options).__name__
            raise UserError(f"{self.name}: options must be {expected}, not {given}.")
        check_types(options)
        self.plan = plan
        self.options = cast(O, options)

    @property
    def total_steps(self) -> int:
        """Number of steps of the whole training; more than `plan.steps` if it is repeated."""
        return self.plan.steps

    @property
    def epochs(self) -> int:
        """Number of epochs of the whole training."""
        return max(1, round(self.total_steps / self.plan.steps_per_epoch))

    @property
    def inner_scaling(self) -> float | None:
        """β of the factors of a `factorised` method; None for the recipe's."""
        return None

    def early_epoch(self, epoch: int) -> int:
        """Return the epoch whose weights stand for those after `epoch` epochs, in transplants.

        It is an earlier one if weights that return later are masked after `epoch` epochs: masked
        weights have no sign.
        """
        return epoch

    def schedule(self, step: int) -> tuple[int, int]:
        """Return where a step stands in the learning rate's schedule: (step, number of steps)."""
        return step, self.plan.steps

    def epoch_of(self, step: int) -> tuple[int, int]:
        """Return the epoch of a step in the schedule, and the schedule's length in epochs."""
        at, total = self.schedule(step)
        return at // self.plan.steps_per_epoch, total // self.plan.steps_per_epoch

    @classmethod
    def keeps_masks(cls) -> bool:
        """Return whether masks stay as `prepare` sets them; by default, if it has no step hooks."""
        hooks = ("before_step", "after_backward", "after_step")
        return all(getattr(cls, hook) is getattr(Method, hook) for hook in hooks)

    def setup(self, net: SparseModel) -> None:
        """Wrap or replace `net.storage`. Called first, also when a run is resumed."""

    def prepare(self, net: SparseModel, samples: Samples) -> None:
        """Set the initial masks. Called before the first step, not when a run is resumed.

        No optimizer is attached yet, so that no latents of full size are made.

        Args:
            samples: gives, for a number n, batches (inputs, labels) with n training examples of
                each class, on the device and not augmented; the same on all ranks.
        """

    def before_step(self, net: SparseModel, step: int) -> None:
        """Act before the forward pass of a step. Steps count from 0 over the whole training."""

    def after_backward(self, net: SparseModel, step: int) -> bool:
        """Act on gradients. Return True to replace this step's update.

        Gradients are those at all positions if `needs_dense_gradients`.
        """
        return False

    def needs_dense_gradients(self, step: int) -> bool:
        """Return whether a step reads gradients at masked positions.

        They may be zero at other steps. By default, every step of a method with an
        `after_backward` does.
        """
        return type(self).after_backward is not Method.after_backward

    def reads_gradients(self, step: int) -> bool:
        """Return whether `after_backward` needs finite gradients at a step.

        It is not called before a step that a GradScaler leaves out then. By default, every step of
        a method with an `after_backward` does.
        """
        return type(self).after_backward is not Method.after_backward

    def after_step(self, net: SparseModel, step: int) -> None:
        """Act after the update of a step."""

    def columns(self, net: SparseModel) -> dict[str, dict[str, float]]:
        """Return columns for layers.csv after an epoch: {column: {layer: value}}."""
        return {}

    def finalize(self, net: SparseModel) -> None:
        """Remove what the method has added to the model. Called by `Sparsifier.finalize`."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs besides masks.

        Allowed are tensors, numbers, strings, lists and dicts.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
