"""Run folders with made-up numbers, of any number of methods, to draw and tabulate."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from analysis.contents import Config, EpochRow, Result, SharpnessRow
from analysis.folder import CONFIG, EPOCHS, LAYERS, RESULT, SHARPNESS, list_runs
from analysis.frame import load_runs
from analysis.names import RULES

FEW = ("random", "rigl", "acdc")
SOME = (*FEW, "dense", "gmp", "str", "lrr (level_length=0.25)", "snip", "synflow")
MANY = (
    *SOME,
    *("woodfisher", "cap", "spred", "pilot", "imp (level_length=0.25)"),
    *("wr (level_length=0.25, rewind_to=0.2)", "set", "srigl", "mw", "grasp", "phew", "npb"),
    "random (uniform)",
)
LAYER_NAMES = (
    "conv1.weight",
    *(f"layer{i}.{j}.conv{k}.weight" for i in (1, 2, 3) for j in (0, 1, 2) for k in (1, 2)),
    "fc.weight",
)
N_EPOCHS, WARMUP = 20, 2


def write_runs(
    root: Path,
    labels: Sequence[str] = FEW,
    sparsities: Sequence[float] = (0.9,),
    seeds: Sequence[int] = (0, 1, 2),
    rules: Sequence[str] = ("", "Sign-In"),
    recipe: str = "digits",
    sharpness: bool = False,
    missed: Mapping[str, float] = MappingProxyType({}),
) -> Any:
    """Write run folders and return them as `load_runs` does.

    Args:
        missed: by label, by how much the realised sparsity differs from the requested one.
    """
    for place, label in enumerate(labels):
        for sparsity in (0.0,) if label == "dense" else sparsities:
            for rule in rules:
                for seed in seeds:
                    folder = root / f"{recipe}-{place}-{sparsity}-{rule}-{seed}"
                    at = [place, round(1000 * sparsity), RULES.index(rule), seed]
                    rng = np.random.default_rng(at)
                    _write(folder, recipe, label, sparsity, rule, seed, rng, missed.get(label, 0.0))
                    if sharpness:
                        _write_rows(folder / SHARPNESS, _sharpness_rows(rng))
    return load_runs(list_runs(root))


def _write(
    folder: Path,
    recipe: str,
    label: str,
    sparsity: float,
    rule: str,
    seed: int,
    rng: np.random.Generator,
    missed: float,
) -> None:
    folder.mkdir(parents=True)
    settings = {"model": "resnet20", "data": "cifar10", "epochs": N_EPOCHS, "lr": 0.2}
    settings |= {"batch_size": 512, "optimizer": "sgd", "weight_decay": 1e-4}
    config: Config = {
        "run": {
            "recipe": recipe,
            "method": label.split(" ")[0],
            "options": {},
            "settings": settings,
            "sparsity": sparsity,
            "sign_in": rule == "Sign-In",
            "ham": rule == "HAM",
            "seed": seed,
            "exclude": [],
        },
        "label": label,
        "epochs": N_EPOCHS,
    }
    (folder / CONFIG).write_text(json.dumps(config))
    epochs = _epoch_rows(label, sparsity, bool(rule), rng)
    _write_rows(folder / EPOCHS, epochs)
    _write_rows(folder / LAYERS, _layer_rows(sparsity, rng))
    result: Result = {
        "accuracy": epochs[-1]["test_accuracy"],
        "loss": epochs[-1]["test_loss"],
        "train_accuracy": 0.99,
        "sparsity": sparsity + missed,
        "sparsity_all": sparsity + missed,
        "active": round(1e5 * (1 - sparsity)),
        "prunable": 100_000,
        "parameters": 101_000,
        "flips": epochs[-1]["flips"],
        "flops": 4.1e7 * (1 - sparsity),
        "dense_flops": 4.1e7,
        "training_flops": 3.3e11 * (2 - sparsity),
        "dense_epochs": N_EPOCHS * (1.1 - sparsity),
        "mask_hash": "0" * 16,
        "epochs": N_EPOCHS,
        "ranks": 1,
        "device": "cpu, 1 threads",
        "seconds": 61.5,
        "seconds_per_epoch": 3.0,
    }
    (folder / RESULT).write_text(json.dumps(result))


def _epoch_rows(
    label: str, sparsity: float, flips: bool, rng: np.random.Generator
) -> list[EpochRow]:
    end = 0.97 - 0.05 * sparsity**4 + 0.004 * flips - 0.001 * (sum(map(ord, label)) % 13)
    noise = 0.004
    if label == "random (uniform)":  # a method that does far worse than the others
        end, noise = 0.4 + 0.08 * flips, 0.12
    end += noise * rng.standard_normal()
    rows: list[EpochRow] = []
    for epoch in range(N_EPOCHS):
        part = (epoch + 1) / N_EPOCHS
        rows.append(
            {
                "epoch": epoch,
                "train_loss": 2.0 * float(np.exp(-6 * part + 0.1 * rng.standard_normal())),
                "train_accuracy": end,
                "test_loss": 0.3,
                "test_accuracy": end * float(1 - np.exp(-8 * part)),
                "lr": 0.2 * (1 - part),
                "sparsity": sparsity,
                "sparsity_all": sparsity,
                "flips": float((0.3 + 0.1 * flips) * part**0.5 + 0.01 * rng.standard_normal()),
                "skipped": 0,
                "seconds": 3.0,
                "test_seconds": 0.1,
            }
        )
    return rows


def _layer_rows(sparsity: float, rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for epoch in (0, WARMUP - 1, WARMUP, N_EPOCHS - 1):
        for layer in LAYER_NAMES:
            density = min(1.0, (1 - sparsity) * float(np.exp(0.5 * rng.standard_normal())))
            row: dict[str, Any] = {"epoch": epoch, "layer": layer, "weights": 9000}
            row |= {"active": round(9000 * density), "density": density}
            row |= {"nonzero": round(9000 * density)}
            for moment, share in (("init", 0.3), ("previous", 0.02), ("warmup", 0.1)):
                if moment != "warmup" or epoch >= WARMUP:
                    flips = round(900 * share * (1 + 0.2 * float(rng.standard_normal())))
                    for prefix in ("", "final_"):
                        row |= {f"{prefix}flips_{moment}": flips, f"{prefix}compared_{moment}": 900}
            rows.append(row)
    return rows


def _sharpness_rows(rng: np.random.Generator) -> list[SharpnessRow]:
    return [
        {
            "epoch": epoch,
            "sharpness": float(np.exp(2 + epoch / 5 + 0.3 * rng.standard_normal())),
            "residual": 1e-3,
            "images": 1000,
            "seconds": 1.0,
        }
        for epoch in (0, 2, 6, 10, 16, 20)
    ]


def _write_rows(path: Path, rows: Sequence[Any]) -> None:
    fields = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fields)
        writer.writeheader()
        writer.writerows(rows)
