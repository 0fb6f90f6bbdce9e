"""Rows of layers.csv, and the line that is printed after each epoch."""

from __future__ import annotations

from typing import cast

from analysis.contents import EpochRow, LayerRow
from baselines.sparsifier import Sparsifier
from launch.measures.flips import Columns


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
