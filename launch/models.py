"""Models by name: the paper's, a small one for digits, and any of timm's."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.errors import UserError, unknown


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

    def __init__(self, blocks: int, classes: int, channels: int, width: int = 16) -> None:
        super().__init__()
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


# functions of (classes, channels, image_size); a user's module adds its own by MODELS[name] = …
MODELS = {
    "digits-cnn": digits_cnn,
    "resnet20": resnet20,
    "resnet18-cifar": resnet18_cifar,
    "resnet50": resnet50,
}


def build_model(name: str, classes: int, channels: int, image_size: int) -> nn.Module:
    """Return a freshly initialised model, drawn from torch's global generator.

    Raises:
        UserError: the name is neither in `MODELS` nor one of timm's, or the model cannot take
            images of that shape.
    """
    try:
        model = _build(name, classes, channels, image_size)
        with torch.no_grad():
            model.eval()(torch.zeros(1, channels, image_size, image_size))
    except UserError:
        raise
    except Exception as error:  # models raise exceptions of many types
        size = f"{channels} × {image_size} × {image_size}"
        raise UserError(f"{name} cannot take images of {size}: {error}") from error
    return model.train()


def check_model_name(name: str) -> None:
    """Raise UserError if there is no model of that name."""
    if name not in MODELS:
        import timm

        if not timm.is_model(name):
            raise unknown("model", name, [*MODELS, *timm.list_models()])


def _build(name: str, classes: int, channels: int, image_size: int) -> nn.Module:
    check_model_name(name)
    if name in MODELS:
        return MODELS[name](classes, channels, image_size)
    import timm

    sized: dict[str, Any] = {}
    if getattr(timm.models.get_pretrained_cfg(name), "fixed_input_size", False):
        sized["img_size"] = image_size  # the size of position embeddings
    return timm.create_model(name, num_classes=classes, in_chans=channels, **sized)


def _he_init(model: nn.Module, mode: Literal["fan_in", "fan_out"]) -> None:
    """Initialise convolutions, and with fan_in linear layers, by Kaiming's normal distribution.

    All other parameters keep torch's default initialisation, as in torchvision's ResNets (fan_out).
    """
    kinds = (nn.Conv2d, nn.Linear) if mode == "fan_in" else (nn.Conv2d,)
    for module in model.modules():
        if isinstance(module, kinds):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
