"""The networks whose inference is measured: of runs, checkpoint files, or with random masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from baselines.checkpoint import entries_of
from baselines.engine.prunable import prunable_weights
from baselines.errors import UserError, check_fraction, require
from baselines.tools.masks import random_masks
from baselines.tools.nm import nm_mask, nm_pattern
from launch.config.machine import Imports
from launch.inputs import Inputs
from launch.models import build_model, shape_of_model
from launch.plugins import import_plugins
from launch.runs.reading import load_network, network_shape, read_run
from launch.runs.snapshots import read_source, run_folder_of

RANDOM = "random"
NM = "nm"  # a kind of random masks


@dataclass(frozen=True)
class Network:
    """A network to measure, in eval mode.

    Attributes:
        sparsity: fraction of the prunable weights that are zero.
    """

    name: str
    model: nn.Module
    inputs: Inputs

    @property
    def sparsity(self) -> float:
        weights = prunable_weights(self.model).values()
        return 1 - sum(int(w.count_nonzero()) for w in weights) / sum(w.numel() for w in weights)


@dataclass(frozen=True)
class SparseSource:
    """Which networks to measure."""

    source: str = ""
    """RUN, RUN@EPOCH, a checkpoint file, or `random`: a fresh initialisation of --model with random
    masks. May be given before the options, without --source."""
    model: str = ""
    """One of the suite's models or of timm's, for a checkpoint file or `random`."""
    classes: int | None = None
    """Number of classes of --model; by default what it is made for (timm: 1000)."""
    channels: int | None = None
    """Number of input channels of --model; by default what it is made for (timm: 3)."""
    image_size: int | None = None
    """Side of the images of --model in pixels; by default what it is made for (timm: 224)."""
    sparsity: tuple[float, ...] = ()
    """Sparsities of `random`; 0.8, 0.9 and 0.95 if not given."""
    density: str | None = None
    """Densities of the layers of `random`: uniform (if not given), erk or balanced; or nm, N:M
    masks: 2:4 with sparsity 0.5."""
    runs: Path = Path("runs")
    """Folder of the run folders."""
    imports: Imports = ()
    """Import this Python module first, which defines methods, models or data of your own."""

    def __post_init__(self) -> None:
        _ = self.shape  # raises UserError
        for value in self.sparsity:
            check_fraction(sparsity=value)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Classes, channels and image size of --model."""
        return shape_of_model(
            self.model, classes=self.classes, channels=self.channels, image_size=self.image_size
        )

    def networks(self) -> Iterator[Network]:
        """Yield the networks.

        Raises:
            UserError: the source is missing or cannot be read, or does not fit the model.
        """
        if not self.source:
            raise UserError(
                "name a network: RUN, RUN@EPOCH, a checkpoint file with --model, or random."
            )
        import_plugins(self.imports)
        if self.source == RANDOM:
            yield from self._random()
            return
        for name, value in (("sparsity", self.sparsity), ("density", self.density)):
            require(not value, f"--{name} is for random masks: name the source random.")
        yield self._of_file() if self.model else self._of_run()

    def _random(self) -> Iterator[Network]:
        if not self.model:
            raise UserError("random needs --model.")
        for sparsity in self.sparsity or (0.8, 0.9, 0.95):
            torch.manual_seed(0)
            network = self._fresh()
            weights = prunable_weights(network.model)
            shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
            with torch.no_grad():  # scaled, so that activations keep their size
                for name, mask in self._masks(shapes, sparsity).items():
                    weights[name].mul_(mask / mask.float().mean().clamp(min=1e-9).sqrt())
            yield network

    def _masks(self, shapes: Mapping[str, tuple[int, ...]], sparsity: float) -> dict[str, Tensor]:
        if self.density != NM:
            return random_masks(self.density or "uniform", dict(shapes), sparsity, seed=0)
        n, m = nm_pattern(sparsity)
        return {name: nm_mask(torch.rand(shape), n, m) for name, shape in shapes.items()}

    def _of_file(self) -> Network:
        network = self._fresh()
        own = network.model.state_dict()
        checkpoint = read_source(self.source, self.runs, like=own, say=print)
        network.model.load_state_dict(entries_of(checkpoint, own))
        return network

    def _fresh(self) -> Network:
        model = build_model(self.model, *self.shape)
        return Network(self.model, model.eval(), Inputs.image(*self.shape[1:]))

    def _of_run(self) -> Network:
        folder = run_folder_of(self.source, self.runs)
        if folder is None:
            raise UserError(f"{self.source} is a checkpoint file: give its --model.")
        run, snapshot = read_run(folder), read_source(self.source, self.runs)
        classes, inputs = network_shape(folder, run, snapshot)
        net = load_network(run, snapshot, classes, inputs, torch.device("cpu"))
        return Network(run.name, net.model, inputs)
