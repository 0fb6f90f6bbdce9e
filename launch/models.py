"""Models by name: the paper's, small ones for digits and features, any of timm's, a user's own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.errors import UserError, check_positive, require, unknown
from launch.inputs import OF_IMAGES, OF_TOKENS, Inputs
from launch.plugins import call_with_known, import_attribute


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with a shortcut, which is a 1×1 convolution if the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class CifarResNet(nn.Module):
    """ResNet of depth 6n + 2 for small images (He et al. 2016, §4.2), with 1×1 shortcuts."""

    def __init__(self, blocks: int, classes: int, channels: int) -> None:
        super().__init__()
        width = 16
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._stage(blocks, width, width, 1)
        self.layer2 = self._stage(blocks, width, 2 * width, 2)
        self.layer3 = self._stage(blocks, 2 * width, 4 * width, 2)
        self.fc = nn.Linear(4 * width, classes)
        _he_init(self, "fan_out")

    @staticmethod
    def _stage(blocks: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
        rest = [BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)]
        return nn.Sequential(BasicBlock(inputs, outputs, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


def digits_cnn(classes: int, channels: int, image_size: int) -> nn.Module:
    """Return a small network for CPUs: three convolutions and a classifier, no normalisation."""
    width = 24
    model = nn.Sequential(
        nn.Conv2d(channels, width, 3, 1, 1),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(2 * width, 2 * width, 3, 1, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * width, classes),
    )
    _he_init(model, "fan_in")
    return model


def fashion_cnn(classes: int, channels: int, image_size: int) -> nn.Module:
    """Return a small network for CPUs: four convolutions with batch normalisation."""
    widths = (channels, 16, 32, 64, 64)
    layers: list[nn.Module] = []
    for inputs, outputs, stride in zip(widths, widths[1:], (2, 2, 2, 1), strict=False):
        conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))
    model = nn.Sequential(*layers, *head)
    _he_init(model, "fan_out")
    return model


def resnet20(classes: int, channels: int, image_size: int) -> nn.Module:
    """Return ResNet20: 270,896 prunable weights for 10 classes."""
    return CifarResNet(3, classes, channels)


def resnet18_cifar(classes: int, channels: int, image_size: int) -> nn.Module:
    """Return torchvision's ResNet18 with a 3×3 stem and without max pooling.

    It has 11,210,432 prunable weights for 100 classes.
    """
    from torchvision.models import resnet18

    model = resnet18(num_classes=classes)
    model.conv1 = nn.Conv2d(channels, 64, 3, 1, 1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model  # type: ignore[no-any-return]


def resnet50(classes: int, channels: int, image_size: int) -> nn.Module:
    """Return torchvision's ResNet50: 25,502,912 prunable weights for 1,000 classes."""
    from torchvision.models import resnet50 as torchvision_resnet50

    model = torchvision_resnet50(num_classes=classes)
    if channels != 3:
        model.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    return model  # type: ignore[no-any-return]


def mlp(classes: int, features: int) -> nn.Module:
    """Return a network for features: two hidden layers of 256 units."""
    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(features, 256),
        nn.ReLU(),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Linear(256, classes),
    )
    _he_init(model, "fan_in")
    return model


# a user's module adds its own by MODELS[name] = …; see `call_factory` for the parameters
MODELS: dict[str, Callable[..., nn.Module]] = {
    "digits-cnn": digits_cnn,
    "mlp": mlp,
    "fashion-cnn": fashion_cnn,
    "resnet20": resnet20,
    "resnet18-cifar": resnet18_cifar,
    "resnet50": resnet50,
}

# classes, channels and image size that a model of the suite is made for; others: as ImageNet
_SHAPES = {
    "digits-cnn": (10, 1, 8),
    "mlp": (10, 1, 8),
    "fashion-cnn": (10, 1, 28),
    "resnet20": (10, 3, 32),
    "resnet18-cifar": (100, 3, 32),
}
_IMAGENET = (1000, 3, 224)


def shape_of_model(model: str, **given: int | None) -> tuple[int, int, int]:
    """Return classes, channels and image size of a model that is named by --model.

    Args:
        model: its name; empty if there is none.
        given: `classes`, `channels` and `image_size`, in this order; where None, those that the
            model of the suite is made for, or those of ImageNet.

    Raises:
        UserError: one of them is given without a model, or is not positive.
    """
    for name, value in given.items():
        if value is not None:
            require(bool(model), f"--{name.replace('_', '-')} is of --model, which is not given.")
            check_positive(**{name: value})
    usual = _SHAPES.get(model, _IMAGENET)
    pairs = zip(given.values(), usual, strict=True)
    classes, channels, size = (own if value is None else value for value, own in pairs)
    return classes, channels, size


def build_model(name: str, classes: int, channels: int, image_size: int) -> nn.Module:
    """Return a freshly initialised model of square images, as `make_model` does."""
    return make_model(name, classes, Inputs.image(channels, image_size))


def make_model(name: str, classes: int, inputs: Inputs) -> nn.Module:
    """Return a freshly initialised model, drawn from torch's global generator.

    Args:
        name: a key of `MODELS`, a model of timm, or `package.module:factory`.

    Raises:
        UserError: there is no such model, or it cannot take such inputs, or its output is not of
            shape (N, classes).
    """
    factory = find_model(name)
    try:
        model = factory(classes, inputs)
        with torch.no_grad():
            output = model.eval()(inputs.zeros(1))
    except UserError:
        raise
    except Exception as error:  # models raise exceptions of many types
        hint = " (integers are tokens; features are floats)" if inputs.vocabulary else ""
        raise UserError(f"{name} cannot take {inputs}{hint}: {error}") from error
    if getattr(output, "shape", None) != (1, classes):
        got = getattr(output, "shape", type(output).__name__)
        raise UserError(f"{name} must return logits of shape (N, {classes}), not {got}.")
    return model.train()


def find_model(name: str) -> Callable[[int, Inputs], nn.Module]:
    """Return the function of classes and inputs that makes a model.

    Raises:
        UserError: there is no model of that name; the message has the nearest names.
    """
    if name in MODELS:
        return partial(call_factory, MODELS[name], name)
    if ":" in name:
        found = import_attribute(name, "model")
        if isinstance(found, nn.Module):
            raise UserError(f"model {name} is a network; name a function or class that makes one.")
        return partial(call_factory, found, name)
    import timm

    if not timm.is_model(name):
        raise unknown("model", name, [*MODELS, *timm.list_models()])
    return partial(_timm_model, name)


def call_factory(
    factory: Callable[..., nn.Module], name: str, classes: int, inputs: Inputs
) -> nn.Module:
    """Call a function or class that makes a model with those parameters that it has.

    Known are classes (or num_classes), channels (in_chans), image_size (img_size), features,
    shape, vocabulary (vocab_size), length, and inputs. A function of three parameters of other
    names gets classes, channels and image size.

    Raises:
        UserError: it needs another parameter, or makes no module.
    """
    known = {"classes": classes, "num_classes": classes, **inputs.facts}
    positions = ("classes", "channels", "image_size")
    takes = "; the model mlp takes them" if not (inputs.is_image or inputs.vocabulary) else ""
    hint = f" The inputs are {inputs}{takes}."
    reserved = (*OF_IMAGES, *OF_TOKENS)
    given = call_with_known(factory, known, name, positions, reserved, hint)
    if not isinstance(given, nn.Module):
        raise UserError(f"model {name} is a {type(given).__name__}, not a torch.nn.Module.")
    return given


def _timm_model(name: str, classes: int, inputs: Inputs) -> nn.Module:
    import timm

    if not inputs.is_image:
        raise UserError(f"{name} takes images, not {inputs}.")
    return timm.create_model(name, **timm_arguments(name, classes, inputs))


def timm_arguments(name: str, classes: int, inputs: Inputs) -> dict[str, Any]:
    """Return the arguments of `timm.create_model` for images."""
    import timm

    arguments = {"num_classes": classes, "in_chans": inputs.shape[0]}
    if getattr(timm.models.get_pretrained_cfg(name), "fixed_input_size", False):
        arguments["img_size"] = inputs.facts["img_size"]  # the size of position embeddings
    return arguments


def _he_init(model: nn.Module, mode: Literal["fan_in", "fan_out"]) -> None:
    """Initialise convolutions, and with fan_in linear layers, by Kaiming's normal distribution.

    All other parameters keep torch's default initialisation, as in torchvision's ResNets (fan_out).
    """
    kinds = (nn.Conv2d, nn.Linear) if mode == "fan_in" else (nn.Conv2d,)
    for module in model.modules():
        if isinstance(module, kinds):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
