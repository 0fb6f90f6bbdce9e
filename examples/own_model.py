"""Train your own network, sparse and with Sign-In.

A function or class that makes a network gets the parameters that it names: classes, channels,
image_size, features, vocabulary, … Run it with

    python examples/own_model.py

or use the network with any command:

    PYTHONPATH=examples signbench run --model own_model:PatchNet --method rigl --sign-in
"""

from __future__ import annotations

from torch import Tensor, nn

from launch import run


class PatchNet(nn.Module):
    """Split an image into patches, embed each, and mix them by two layers."""

    def __init__(self, classes: int, channels: int, image_size: int, width: int = 64) -> None:
        super().__init__()
        patch = image_size // 4
        self.embed = nn.Conv2d(channels, width, patch, stride=patch)
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(16 * width, width), nn.ReLU(), nn.Linear(width, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.embed(x).relu())


if __name__ == "__main__":
    for sign_in in (False, True):
        found = run(
            model="own_model:PatchNet", method="rigl", sign_in=sign_in, epochs=4, progress=False
        )
        parameters = found["result.parameters"]
        print(f"Sign-In {sign_in}: {found['result.accuracy']:.3f} of {parameters:,} parameters")
