"""What all methods of one comparison share: data, model, optimizer, schedule, sign rules."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from baselines.errors import (
    UserError,
    check_at_most,
    check_fraction,
    check_in_unit,
    check_not_negative,
    check_positive,
)
from baselines.fields import typed
from signin import HAM, SignIn

T = TypeVar("T")

Precision = Literal["float32", "bfloat16"]
RULES = ("sign_in", "ham")  # fields of Recipe with the settings, and of Run with the choice


@dataclass(frozen=True)
class Recipe:
    """What all methods of one comparison share. The defaults are those of the digits recipe."""

    data: str = "digits"
    """digits, fashion-mnist, cifar10, cifar100, a folder with train/<class>/ and test/<class>/
    (or val/), a file of arrays (.npz, .pt, .safetensors), package.module:name, or hf:NAME."""
    model: str = "digits-cnn"
    """One of the suite's models, any timm model by name, or package.module:factory."""
    image_size: int = 8
    """Height and width of the images in pixels. Up to 64 pixels, the set is held on the device."""
    crop_padding: int = 0
    """Pad images by this many pixels, then crop at random (sets held on the device)."""
    flip: bool = False
    """Flip images horizontally at random."""
    bad_images: Literal["error", "skip"] = "error"
    """What to do with a file that cannot be read: stop, or leave it out (training uses the next
    image) and count it in epochs.csv. Sets held on the device and Datasets always stop."""
    normalise: Literal["data", "model"] = "data"
    """Normalise images by mean and standard deviation of the training set (of files with an
    image_size above 64, by ImageNet's), or by those of timm's pretrained configuration of the
    model."""
    validation: float = 0.0
    """Fraction of the training examples that are not trained on, but evaluated after each epoch to
    choose hyper-parameters by. Drawn from each class, the same for all seeds."""
    epochs: int = 20
    """Length of the training. Every schedule scales with it."""
    batch_size: int = 64
    """Examples per step, over all ranks together."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """Optimizer of the weights, or of the factors."""
    lr: float = 0.05
    """Peak learning rate."""
    momentum: float = 0.9
    """Momentum of SGD."""
    nesterov: bool = False
    """Use Nesterov momentum in SGD."""
    weight_decay: float = 1e-4
    """Weight decay of the parameters that the optimizer steps."""
    decay_norm_and_bias: bool = True
    """Also decay parameters of one dimension (normalisation and biases)."""
    warmup: float = 0.2
    """Fraction of the steps in which the triangular learning rate rises."""
    lr_start: float = 0.2
    """Initial learning rate, as a fraction of the peak."""
    label_smoothing: float = 0.0
    """Label smoothing of the cross entropy."""
    clip_norm: float = 0.0
    """Clip the gradient to this norm, masked entries not counted; 0: do not clip."""
    precision: Precision = "float32"
    """Precision of the forward pass; bfloat16 uses autocast."""
    channels_last: bool = False
    """Use the channels_last memory format for model and images."""
    sign_in: SignIn = field(default_factory=SignIn)
    ham: HAM = field(default_factory=HAM)

    @property
    def inertia(self) -> float:
        """The momentum of SGD; 0 with AdamW, which multiplies no weight decay by momentum."""
        return self.momentum if self.optimizer == "sgd" else 0.0

    @property
    def sign_in_decayed(self) -> SignIn:
        """Sign-In with the decays that follow this recipe's weight decay."""
        return self.sign_in.following(self.weight_decay, decoupled=self.optimizer == "adamw")

    def __post_init__(self) -> None:
        check_positive(
            image_size=self.image_size, epochs=self.epochs, batch_size=self.batch_size, lr=self.lr
        )
        check_not_negative(
            crop_padding=self.crop_padding,
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
        )
        check_at_most(100_000, epochs=self.epochs, image_size=self.image_size)
        check_at_most(self.image_size, crop_padding=self.crop_padding)
        check_in_unit(
            warmup=self.warmup, lr_start=self.lr_start, label_smoothing=self.label_smoothing
        )
        check_fraction(validation=self.validation, momentum=self.momentum)
        if self.nesterov and self.momentum == 0:
            raise UserError("nesterov needs a momentum above 0.")


def replace_settings(recipe: Recipe, choices: dict[str, Any]) -> Recipe:
    """Return a copy of a recipe with its fields, and those of its rules, taken out of `choices`.

    Raises:
        UserError: a value has another type or is not allowed.
    """
    rules = {name: replace_fields(getattr(recipe, name), choices) for name in RULES}
    return dataclasses.replace(replace_fields(recipe, choices), **rules)


def replace_fields(home: T, choices: dict[str, Any]) -> T:
    """Return a copy of a dataclass instance with its fields taken out of `choices`."""
    keys = (field_names(home) - set(RULES)) & choices.keys()
    values = typed(home, {key: choices.pop(key) for key in keys})
    return dataclasses.replace(home, **values)  # type: ignore[type-var]  # it is a dataclass


def field_names(home: Any) -> set[str]:
    """Return the names of a dataclass's fields."""
    return {spec.name for spec in dataclasses.fields(home)}


def setting_names(recipe: Recipe) -> set[str]:
    """Return the names of all fields of a recipe and its rules. No two share a name."""
    rules = (field_names(getattr(recipe, name)) for name in RULES)
    return (field_names(recipe) - set(RULES)).union(*rules)
