"""Types of the contents of a run folder's files. `analysis.folder` names and reads the files."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict


class RunFields(TypedDict):
    """The fields of `launch.config.run.Run`; tuples are lists."""

    recipe: str
    method: str
    options: dict[str, Any]
    settings: dict[str, Any]
    sparsity: float
    sign_in: bool
    seed: int
    exclude: list[str]
    keep_epochs: NotRequired[list[int]]


class Config(TypedDict):
    """config.json.

    `decays` has the weight decay of θ near zero, as "theta", and that of normalisation and biases,
    as "others". `label` is the method as tables name it, `epochs` the total number of epochs of
    the run, `new_defaults` the defaults of the method's options that earlier versions did not have.
    """

    run: RunFields
    label: str
    epochs: NotRequired[int]
    decays: NotRequired[dict[str, float]]
    new_defaults: NotRequired[dict[str, Any]]
    versions: NotRequired[dict[str, str | None]]
    git: NotRequired[str | None]
    git_dirty: NotRequired[bool]
    host: NotRequired[str]


class Validation(TypedDict):
    """Loss and accuracy on training images that are held out (`validation`), if there are any."""

    validation_loss: NotRequired[float]
    validation_accuracy: NotRequired[float]


class Result(Validation):
    """result.json. Accuracies and sparsities are fractions, measured after the last epoch.

    `tolerance` is by how much the method may miss the requested sparsity. `classes`, `input_shape`
    and `vocabulary` (0 if the inputs are no tokens) are those of the data. `flops` is the number of
    floating-point operations of a forward pass of one example, `training_flops` that of the
    training, `dense_epochs` the same in epochs of dense training.
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
    device: str
    seconds: float
    seconds_per_epoch: float


class Failure(TypedDict):
    """failure.json."""

    reason: str


class JobRecord(TypedDict):
    """slurm.json: the job's id, and the file of its standard error."""

    job: str
    log: str


class EpochRow(Validation):
    """One row of epochs.csv. Epochs count from 0; accuracies, sparsities and flips are fractions.

    `lr` is the learning rate of the epoch's last step, `flips` the fraction of sign flips since
    initialisation, `skipped` the number of images that could not be read.
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

    Further columns, if requested, are eigenvalue_2, eigenvalue_3, …
    """

    epoch: int
    sharpness: float
    residual: float
    trace: NotRequired[float]
    trace_error: NotRequired[float]
    images: int
    seconds: float
