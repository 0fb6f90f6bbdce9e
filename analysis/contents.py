"""Types of the contents of a run folder's files. `analysis.folder` names and reads the files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import UnionType
from typing import Any, NotRequired, TypedDict, get_args, get_origin, get_type_hints


class RunFields(TypedDict):
    """The fields of `launch.config.run.Run`; tuples are lists."""

    recipe: str
    method: str
    options: dict[str, Any]
    settings: dict[str, Any]
    sparsity: float
    sign_in: bool
    ham: NotRequired[bool]
    seed: int
    exclude: list[str]
    keep_epochs: NotRequired[list[int]]


class Config(TypedDict):
    """config.json.

    `decays` has the weight decay of θ near zero, as "theta", and that of normalisation and biases,
    as "others". `label` is the method as tables name it, `epochs` the total number of epochs of
    the run, `early_epochs` those after about a tenth and three tenths of it, `factorised` whether
    it trains factors m ⊙ w, `new_defaults` the defaults of the method's options that earlier
    versions did not have. `classes`, `input_shape` and `vocabulary` are those of the data, `mean`
    and `std` what pixels in [0, 1] are normalised with, `resize` how images of files are brought to
    the inputs' size for evaluation. Versions and what follows are those at the start; `resumed` has
    the epoch of each resumption and what differed then, by dotted names.
    """

    run: RunFields
    label: str
    epochs: NotRequired[int]
    early_epochs: NotRequired[list[int]]
    factorised: NotRequired[bool]
    decays: NotRequired[dict[str, float]]
    new_defaults: NotRequired[dict[str, Any]]
    versions: NotRequired[dict[str, str | None]]
    git: NotRequired[str | None]
    git_dirty: NotRequired[bool | None]
    host: NotRequired[str]
    device: NotRequired[str]
    data_digest: NotRequired[str]
    classes: NotRequired[int]
    input_shape: NotRequired[list[int]]
    vocabulary: NotRequired[int]
    mean: NotRequired[list[float]]
    std: NotRequired[list[float]]
    resize: NotRequired[str]
    data_dir: NotRequired[str]
    sparse_kernels: NotRequired[str]
    resumed: NotRequired[list[dict[str, Any]]]


class Validation(TypedDict):
    """Loss and accuracy on training examples that are held out (`validation`), if there are any."""

    validation_loss: NotRequired[float]
    validation_accuracy: NotRequired[float]


class KernelSpeed(TypedDict):
    """Core torch's 2:4 kernels against dense ones, in bfloat16, on linear layers of a network.

    `layers` is the number of measured layers, `faster` how many of them are replaced by `signbench
    bench sparse`, `batch` the number of examples. Seconds are those of one call of each measured
    layer, with the fastest kernel; `speed` is their ratio. `reason` is why others were not
    measured.
    """

    layers: NotRequired[int]
    faster: NotRequired[int]
    batch: NotRequired[int]
    dense_seconds: NotRequired[float]
    sparse_seconds: NotRequired[float]
    speed: NotRequired[float]
    reason: NotRequired[str]


class Result(Validation):
    """result.json. Accuracies and sparsities are fractions, measured after the last epoch.

    `tolerance` is by how much the method may miss the requested sparsity. `classes`, `input_shape`
    and `vocabulary` (0 if the inputs are no tokens) are those of the data. `flops` is the number of
    floating-point operations of a forward pass of one example, `training_flops` that of the
    training, `dense_epochs` the same in epochs of dense training. `ranks` is the number of
    processes at the end, `all_ranks` those of the whole run in order. `kernel_speed` is there if
    the mask is 2:4 and the run ended on a GPU.
    """

    accuracy: float
    loss: float
    train_accuracy: float
    sparsity: float
    sparsity_all: float
    tolerance: NotRequired[float]
    active: int
    prunable: int
    parameters: int
    flips: float
    flops: NotRequired[float]
    dense_flops: NotRequired[float]
    training_flops: NotRequired[float]
    dense_epochs: NotRequired[float]
    classes: NotRequired[int]
    input_shape: NotRequired[list[int]]
    vocabulary: NotRequired[int]
    mask_hash: str
    epochs: int
    ranks: int
    all_ranks: NotRequired[list[int]]
    device: str
    seconds: float
    seconds_per_epoch: float
    kernel_speed: NotRequired[KernelSpeed]


class Failure(TypedDict):
    """failure.json."""

    reason: str


class JobRecord(TypedDict):
    """slurm.json: the last job of a run.

    `log` is the file of its standard error, `machine` and `cluster` the fields of the classes of
    these names, with which it was submitted, and `cwd` the folder from which it was.
    """

    job: str
    log: str
    cancelled: NotRequired[bool]
    machine: NotRequired[dict[str, Any]]
    cluster: NotRequired[dict[str, Any]]
    cwd: NotRequired[str]


class EpochRow(Validation):
    """One row of epochs.csv. Epochs count from 0; accuracies, sparsities and flips are fractions.

    `lr` is the learning rate of the epoch's last step, `flips` the fraction of sign flips since
    initialisation, `skipped` the number of images that could not be read, `ranks` the number of
    processes.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    lr: float
    sparsity: float
    sparsity_all: float
    flips: float
    skipped: NotRequired[int]
    ranks: NotRequired[int]
    seconds: float
    test_seconds: float


class LayerRow(TypedDict):
    """One row of layers.csv: a prunable layer after an epoch.

    Further columns are the sign flips of `launch.measures.flips` and the columns of the method.
    """

    epoch: int
    layer: str
    weights: int
    active: int
    density: float
    nonzero: int


class SharpnessRow(TypedDict):
    """One row of sharpness.csv: the Hessian's largest eigenvalue at a snapshot, and its residual.

    Further columns, if requested, are eigenvalue_2 and residual_2, eigenvalue_3, …
    """

    epoch: int
    sharpness: float
    residual: float
    relative_sharpness: NotRequired[float]
    relative_residual: NotRequired[float]
    trace: NotRequired[float]
    trace_error: NotRequired[float]
    probes: NotRequired[int]
    images: int
    per_class: NotRequired[int]
    seconds: float


FRACTIONS = {
    *("accuracy", "train_accuracy", "test_accuracy", "density"),
    *("sparsity", "sparsity_all", "flips"),
}
POSITIVE = {"prunable", "parameters", "dense_flops", "epochs", "weights"}


_hints = cache(get_type_hints)  # a table has many rows of one kind


def wrong_entry(value: Mapping[str, Any], kind: Any) -> str | None:
    """Return the name of an entry that does not fit a TypedDict; None if all fit.

    Its type differs, or its value is out of range. Entries may be missing, and there may be
    others.
    """
    hints = _hints(kind)
    known = (name for name in hints if name in value)
    return next((k for k in known if not _is_right(k, value[k], hints[k])), None)


def _is_right(name: str, value: Any, hint: Any) -> bool:
    if not _is_of(value, hint):
        return False
    if name in FRACTIONS:
        return bool(0 <= value <= 1)
    if name in POSITIVE:
        return bool(0 < value < float("inf"))
    if "seconds" in name or name == "epoch":
        return bool(0 <= value < float("inf"))
    return True


def _is_of(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    if isinstance(hint, UnionType):
        return any(_is_of(value, part) for part in get_args(hint))
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    if hint is int:
        return isinstance(value, int) and abs(value) < 2**63
    if hint is float:
        return isinstance(value, float) or _is_of(value, int)
    if get_origin(hint) in (list, dict):
        return isinstance(value, get_origin(hint))
    if isinstance(hint, type) and issubclass(hint, dict):
        return isinstance(value, dict) and wrong_entry(value, hint) is None
    return isinstance(value, hint)
