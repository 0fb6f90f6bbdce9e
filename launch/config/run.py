"""The description of a run: frozen dataclasses, and the name of its folder.

`Recipe` holds what all methods of a comparison share, `Run` one run's choices, `Machine` what has
no influence on its result. Every field is a command-line flag of the same name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import launch.plugins  # noqa: F401  # registers signin's methods
from baselines.errors import UserError, unknown
from baselines.fields import typed
from baselines.method import Options, Plan
from baselines.registry import find_method

Executor = Literal["local", "slurm"]


@dataclass(frozen=True)
class SignIn:
    """Settings of Sign-In (the paper's Table 7), and of methods that train factors m ⊙ w by nature;
    without effect on other runs."""

    beta: float = 1.0
    """Inner scaling β = m² − w² that a rescale sets."""
    rescale_period: int = 1
    """Rescale every p epochs; 0: never, which is plain m ⊙ w. The paper does not state its p."""
    rescale_until: float = 0.5
    """T₂ as a fraction of the epochs: no rescale from there on."""
    frobenius_decay: float = 1e-4
    """λ of the decay on θ = m ⊙ w, in the convention of weight decay (λθ joins the gradient)."""
    sign_in_weight_decay: float = 0.0
    """Weight decay of a Sign-In run, in place of the recipe's."""
    sign_in_decay_scope: Literal["all", "factors"] = "all"
    """What that replaces: the decay of all parameters, or of the factors m and w only."""
    rescale_after_masks: bool = True
    """Rescale whenever a method has changed masks, too (but not if rescale_period is 0)."""
    rescale_resets_state: bool = False
    """Clear the factors' momentum at a rescale. The paper's listing keeps it."""

    def __post_init__(self) -> None:
        _positive(beta=self.beta)
        _not_negative(
            rescale_period=self.rescale_period,
            frobenius_decay=self.frobenius_decay,
            sign_in_weight_decay=self.sign_in_weight_decay,
        )
        _in_unit(rescale_until=self.rescale_until)


@dataclass(frozen=True)
class Recipe:
    """What all methods of one comparison share. The defaults are those of the digits recipe."""

    data: str = "digits"
    """digits, cifar10, cifar100, or a folder with train/<class>/ and test/<class>/ (or val/)."""
    model: str = "digits-cnn"
    """One of the suite's models, or any model of timm by name."""
    image_size: int = 8
    """Side of the images in pixels. Sets of up to 64 pixels are held on the device."""
    crop_padding: int = 0
    """Random crops after padding by so many pixels (sets held on the device)."""
    flip: bool = False
    """Random horizontal flips."""
    bad_images: Literal["error", "skip"] = "error"
    """At a file that cannot be read: stop, or train on the next one instead, test without it, and
    count it in epochs.csv (sets that stream from files; smaller ones always stop)."""
    epochs: int = 20
    """Length of the training; every schedule scales with it."""
    batch_size: int = 64
    """Over all ranks together."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """What steps the weights, or the factors."""
    lr: float = 0.05
    """Peak learning rate."""
    momentum: float = 0.9
    """Of SGD."""
    nesterov: bool = False
    """Of SGD."""
    weight_decay: float = 1e-4
    """On what the optimizer steps."""
    decay_norm_and_bias: bool = True
    """Weight decay also on parameters of one dimension."""
    warmup: float = 0.2
    """Fraction of the steps in which the triangular learning rate rises."""
    lr_start: float = 0.2
    """Its first value, as a fraction of the peak."""
    label_smoothing: float = 0.0
    """Of the cross entropy."""
    clip_norm: float = 0.0
    """Clip the gradient to this norm, masked entries not counted; 0: do not."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: autocast."""
    channels_last: bool = False
    """Memory format of model and images."""
    sign_in: SignIn = field(default_factory=SignIn)

    def __post_init__(self) -> None:
        _positive(
            image_size=self.image_size, epochs=self.epochs, batch_size=self.batch_size, lr=self.lr
        )
        _not_negative(
            crop_padding=self.crop_padding,
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
        )
        _in_unit(warmup=self.warmup, lr_start=self.lr_start, label_smoothing=self.label_smoothing)
        if not 0 <= self.momentum < 1:
            raise UserError(f"momentum must be in [0, 1), not {self.momentum}.")
        if self.nesterov and self.momentum == 0:
            raise UserError("nesterov needs a momentum above 0.")


@dataclass(frozen=True)
class Run:
    """One run. Equal runs share a folder; a run that differs in any field has another one."""

    recipe: str
    method: str
    options: Options
    settings: Recipe
    sparsity: float = 0.9
    """Fraction of the prunable weights that end at zero, in [0, 1)."""
    sign_in: bool = False
    """Train with the re-parameterisation θ = m ⊙ w."""
    seed: int = 0
    """Of initialisation, masks, data order and augmentation."""
    exclude: tuple[str, ...] = ()
    """Glob patterns of parameter names that stay dense."""
    keep_epochs: tuple[int, ...] = ()
    """Snapshots after these epochs, besides 0, a tenth, three tenths and the last."""

    def __post_init__(self) -> None:
        _sparsity(self.sparsity)
        if self.sparsity and not find_method(self.method).is_sparse:
            raise UserError(f"{self.method} keeps every weight: sparsity must be 0.")
        if self.seed < 0:
            raise UserError(f"seed must not be negative, not {self.seed}.")
        beyond = [e for e in self.keep_epochs if not 0 <= e <= self.epochs]
        if beyond:
            raise UserError(f"keep_epochs: {beyond[0]} is not in 0 to {self.epochs}.")

    @classmethod
    def make(cls, recipe: str, method: str, **choices: Any) -> Run:
        """A run from names and any fields of Run, Recipe, SignIn and the method's options.

        Raises:
            UserError: an unknown name or field, or a value that is not allowed.
        """
        from launch.config.recipes import find_recipe

        settings, options = find_recipe(recipe), find_method(method).options_class()
        if not find_method(method).is_sparse:
            choices.setdefault("sparsity", 0.0)
        homes: list[Any] = [options, settings.sign_in, settings]
        for i, home in enumerate(homes):
            names = {f.name for f in dataclasses.fields(home)} - {"sign_in"}
            mine = typed(home, {key: choices.pop(key) for key in names & choices.keys()})
            homes[i] = dataclasses.replace(home, **mine)
        options, sign_in, settings = homes
        settings = dataclasses.replace(settings, sign_in=sign_in)
        own = {f.name for f in dataclasses.fields(cls)} - {"options", "settings"}
        for key in choices.keys() - own:
            known = own | {f.name for home in homes for f in dataclasses.fields(home)}
            raise unknown("field", key, known)
        return cls(recipe, method, options, settings, **typed(cls, choices))

    def differences(self) -> dict[str, Any]:
        """Every field that is not at its class default, by dotted name.

        What this leaves out may be added to the classes later without a change to any run's name.
        """
        found = {"recipe": self.recipe, "method": self.method}
        found |= _differences(self.options, "options.")
        found |= _differences(self.settings, "settings.", leave=("sign_in",))
        if self.factorised:
            found |= _differences(self.settings.sign_in, "settings.sign_in.")
        for spec in dataclasses.fields(self):
            if spec.default is not dataclasses.MISSING and getattr(self, spec.name) != spec.default:
                found[spec.name] = getattr(self, spec.name)
        return found

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the runs that must have finished before."""
        return self.options.needs

    @property
    def epochs(self) -> int:
        """Epochs that it trains in all."""
        plan = Plan(self.sparsity, self.settings.epochs, steps_per_epoch=1, seed=self.seed)
        return find_method(self.method)(plan, self.options).epochs

    @property
    def early_epochs(self) -> tuple[int, int]:
        """The paper's epochs 10, which it calls the end of warm-up, and 30 of 100, to be kept."""
        return max(1, round(0.1 * self.epochs)), max(1, round(0.3 * self.epochs))

    @property
    def factorised(self) -> bool:
        """Whether factors m ⊙ w are trained: with Sign-In, and by some methods anyway."""
        return self.sign_in or find_method(self.method).factorised

    @property
    def label(self) -> str:
        """The method as tables name it: with the options that are not at their defaults."""
        own = _differences(self.options, "")
        values = ", ".join(v if isinstance(v, str) else f"{k}={v}" for k, v in own.items())
        method = find_method(self.method).name
        return f"{method} ({values})" if own else method

    @cached_property  # a large grid asks often
    def name(self) -> str:
        """The folder's name: readable, and unique by a hash of `differences`."""
        text = json.dumps(self.differences(), sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        sign_in = "-signin" if self.sign_in else ""
        sparsity = f"-s{self.sparsity:g}" if self.sparsity else ""
        method = find_method(self.method).name  # self.method can be "package.module:Class"
        return f"{self.recipe}-{method}{sign_in}{sparsity}-seed{self.seed}-{digest}"


@dataclass(frozen=True)
class Machine:
    """Where a run happens; none of it is part of the run's identity."""

    runs: Path = Path("runs")
    """Folder of the run folders."""
    data_dir: Path = Path("data")
    """Where data sets are looked for and downloaded to."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N. auto is a GPU where there is one."""
    workers: int = min(4, os.cpu_count() or 1)
    """Processes (or threads) that read image files, a rank."""
    threads: int = 0
    """CPU threads of the computation; 0: as many as torch takes."""
    compile: bool = False
    """torch.compile the model."""

    def __post_init__(self) -> None:
        _not_negative(workers=self.workers, threads=self.threads)


@dataclass(frozen=True)
class Cluster:
    """What each job asks of Slurm; without effect with --executor local."""

    partition: str = ""
    """Partition, or several with commas; none: the cluster's default."""
    nodes: int = 1
    """Nodes of each run."""
    gpus: int = 0
    """GPUs of each run on each node, a process each; 0: one process a node, without GPU."""
    processes: int = 0
    """Processes on each node, where they are not the GPUs."""
    cpus: int = 4
    """CPU cores of each process."""
    memory: str = ""
    """Memory of each node, such as 64GB; none: the cluster's default."""
    timeout: str = "24h"
    """Time limit of each job: minutes, or such as 90m, 24h, 2d. Longer runs are requeued."""
    parallel: int = 256
    """Most jobs of an array at a time."""
    account: str = ""
    """Account to charge."""
    slurm: tuple[str, ...] = ()
    """Further sbatch parameters as key=value, such as constraint=a100 or qos=low."""
    setup: tuple[str, ...] = ()
    """Shell commands before the run, such as "module load cuda"."""

    def __post_init__(self) -> None:
        for name in ("nodes", "cpus", "parallel"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be positive, not {getattr(self, name)}.")
        if self.gpus < 0 or self.processes < 0:
            raise UserError("gpus and processes must not be negative.")
        if self.minutes < 5:
            raise UserError(f"timeout must be at least 5 minutes, not {self.timeout}.")
        for pair in self.slurm:
            if not re.fullmatch(r"[A-Za-z][\w-]*=.*", pair):
                raise UserError(f"--slurm takes key=value, not {pair!r}.")

    @property
    def minutes(self) -> int:
        found = re.fullmatch(r"(\d+)([mhd]?)", self.timeout)
        if not found:
            raise UserError(f"timeout must be such as 90m, 24h or 2d, not {self.timeout!r}.")
        return int(found[1]) * {"": 1, "m": 1, "h": 60, "d": 1440}[found[2]]


@dataclass(frozen=True)
class RunCommand:
    """Train one network. --recipe and --method choose the defaults of the other options."""

    run: Run
    machine: Machine = field(default_factory=Machine)
    executor: Executor = "local"
    """Run it here, or submit it to Slurm."""
    cluster: Cluster = field(default_factory=Cluster)


@dataclass(frozen=True)
class MethodsCommand:
    """List the methods, with the epochs that each trains at a recipe."""

    recipe: str = "digits"
    sparsity: float = 0.9

    def __post_init__(self) -> None:
        _sparsity(self.sparsity)


@dataclass(frozen=True)
class GridCommand:
    """Run a grid, print its table and write it as CSV and LaTeX. NAME is a named grid or a YAML
    file: lists of values for any fields of a run (recipe, method, sparsity, sign_in, seed, …)."""

    recipe: str | None = None
    """The recipe of all its runs, in place of the grid's."""
    seeds: tuple[int, ...] | None = None
    """A run a seed, in place of the grid's."""
    methods: tuple[str, ...] | None = None
    """In place of the grid's (of table1, table10 and figures: of the methods that learn masks)."""
    epochs: int | None = None
    """In place of the recipe's."""
    sparsity: float | None = None
    """In place of the grid's."""
    model: str | None = None
    """In place of the recipes'."""
    data: str | None = None
    """In place of the recipes'."""
    dry_run: bool = False
    """Only print the runs, their folders, what has finished, and the cost in epochs."""
    slots: int = 0
    """Runs at a time; 0: one a CPU core, or --slots-per-gpu on each GPU."""
    slots_per_gpu: int = 1
    """Runs at a time on each GPU; small nets leave room for several."""
    machine: Machine = field(default_factory=Machine)
    executor: Executor = "local"
    """Run it here, or submit it to Slurm, a job a run."""
    cluster: Cluster = field(default_factory=Cluster)

    def __post_init__(self) -> None:
        _not_negative(slots=self.slots)
        _positive(slots_per_gpu=self.slots_per_gpu)

    @property
    def choices(self) -> dict[str, Any]:
        """What the runs take over."""
        keys = ("recipe", "seeds", "methods", "epochs", "sparsity", "model", "data")
        return {key: getattr(self, key) for key in keys if getattr(self, key) is not None}


@dataclass(frozen=True)
class StatusCommand:
    """What has become of the runs in a folder, here and on Slurm."""

    runs: Path = Path("runs")
    """Folder of the run folders."""


@dataclass(frozen=True)
class CancelCommand:
    """Take the jobs of all runs in a folder that have not finished out of Slurm's queue."""

    runs: Path = Path("runs")
    """Folder of the run folders."""


@dataclass(frozen=True)
class TheoryCommand:
    """Run the paper's student-teacher experiments. NAME is table2, table8, figure2, figure3,
    figure4, figure6, figure7 or all. Prints the tables; writes CSV files and figures."""

    output: Path = Path("theory")
    """Folder of the files; also -o."""
    format: Literal["pdf", "png", "svg"] = "pdf"
    """Of the figures."""
    slots: int = 0
    """Measurements at a time; 0: one a CPU core. No result depends on it."""

    def __post_init__(self) -> None:
        _not_negative(slots=self.slots)


def _differences(value: Any, prefix: str, leave: tuple[str, ...] = ()) -> dict[str, Any]:
    default = type(value)()
    return {
        prefix + spec.name: getattr(value, spec.name)
        for spec in dataclasses.fields(value)
        if spec.name not in leave and getattr(value, spec.name) != getattr(default, spec.name)
    }


def _sparsity(value: float) -> None:
    if not 0 <= value < 1:
        raise UserError(f"sparsity must be in [0, 1), not {value}.")


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise UserError(f"{name} must be positive, not {value}.")


def _not_negative(**values: float) -> None:
    for name, value in values.items():
        if not value >= 0:
            raise UserError(f"{name} must not be negative, not {value}.")


def _in_unit(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise UserError(f"{name} must be in [0, 1], not {value}.")
