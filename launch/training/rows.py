"""Rows of epochs.csv and layers.csv, and the line that is printed after each epoch."""

from __future__ import annotations

import time
from typing import cast

import torch

from analysis.contents import EpochRow, LayerRow, Validation
from baselines.sparsifier import Sparsifier
from launch.measures.flips import Columns
from launch.training.loop import Loop


def epoch_row(
    loop: Loop, epoch: int, loss: float, accuracy: float, seconds: float, flips: float
) -> EpochRow:
    """Evaluate the network after an epoch. Return the epoch's row.

    Args:
        loss, accuracy, seconds: of the training.
        flips: fraction of sign flips since initialisation.
    """
    net, began = loop.sparsifier.net, time.perf_counter()
    test_loss, test_accuracy = loop.evaluate()
    held_out = _validate(loop)
    test_seconds = time.perf_counter() - began
    return {
        "epoch": epoch,
        "train_loss": loss,
        "train_accuracy": accuracy,
        "test_loss": test_loss,
        "test_accuracy": test_accuracy,
        **held_out,
        "lr": loop.learning_rate((epoch + 1) * loop.steps - 1),
        "sparsity": net.sparsity(),
        "sparsity_all": net.sparsity_all(),
        "flips": flips,
        "skipped": _count_skipped(loop),
        "ranks": loop.ranks.world,
        "seconds": seconds,
        "test_seconds": test_seconds,
    }


def _validate(loop: Loop) -> Validation:
    """Return loss and accuracy on the held-out training images, if there are any."""
    if loop.data.validation is None:
        return {}
    loss, accuracy = loop.evaluate(loop.data.validation)
    return {"validation_loss": loss, "validation_accuracy": accuracy}


def _count_skipped(loop: Loop) -> int:
    """Return the number of images not read since the last epoch, on all ranks."""
    splits = loop.data.splits
    found = torch.tensor(sum(s.skipped for s in splits), device=loop.ranks.device)
    for split in splits:
        split.skipped = 0
    return int(loop.ranks.sum(found))


def layer_rows(sparsifier: Sparsifier, epoch: int, flips: Columns) -> list[LayerRow]:
    """Return one row per layer: its size, mask, flips, and what the method measures."""
    net = sparsifier.net
    columns = sparsifier.method.columns(net)
    rows = [
        {
            "epoch": epoch,
            "layer": layer.name,
            "weights": layer.weight.numel(),
            "active": layer.nnz,
            "density": layer.nnz / layer.weight.numel(),
            "nonzero": int(layer.weight.count_nonzero()),
            **flips[layer.name],
            **{column: values[layer.name] for column, values in columns.items()},
        }
        for layer in net
    ]
    return cast("list[LayerRow]", rows)


def epoch_text(row: EpochRow, epochs: int) -> str:
    """Return what is printed of an epoch, of a run of so many."""
    known = "validation_accuracy" in row
    held_out = f"validation {row['validation_accuracy']:.2%}  " if known else ""
    return (
        f"epoch {row['epoch'] + 1:3}/{epochs}  "
        f"loss {row['train_loss']:.4f}  test {row['test_accuracy']:.2%}  {held_out}"
        f"sparsity {row['sparsity']:.4f}  flips {row['flips']:.1%}  {row['seconds']:.1f} s"
    )
