"""Masks and steps on every family of models of timm and torchvision.

Each model goes through what a training does: masks with an exact number of ones, one step with
Product and one with STR's soft threshold. The steps are compared with the literal formulation, in
which the masks and the re-parameterisation are part of the forward pass. The smallest model of
each family is taken.

    python tests/zoo.py                               # begins no model after a quarter of an hour
    python tests/zoo.py --only 'timm/res*' --out FILE # some of them, as a page
    python tests/zoo.py --known ROWS --minutes 60     # those that ROWS, a file, does not have yet
"""

from __future__ import annotations

import argparse
import copy
import fnmatch
import functools
import gc
import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves

from baselines.engine.soft_threshold import SoftThreshold
from baselines.engine.sparse_model import SparseModel
from baselines.engine.storage import Plain, Storage
from baselines.errors import UserError
from baselines.tools.density import keep_count
from baselines.tools.masks import random_masks
from signin import Product

SPARSITY, RATE, THRESHOLD = 0.9, 0.1, 0.01
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-3}  # batches are small: rounding grows
LARGE = 200e6  # parameters, whose ten copies in float64 would take 16 GB
SIZES = (64, 96, 128, 160, 224, 256, 299)
PARTS = {  # of torchvision.models, with the shape of an input for an image size
    "": lambda size: (2, 3, size, size),
    "segmentation": lambda size: (2, 3, size, size),
    "detection": lambda size: (2, 3, size, size),
    "video": lambda size: (1, 3, 16, size, size),
    "optical_flow": lambda size: (1, 3, size, size),
}


@dataclass(frozen=True)
class Entry:
    """One model of a family."""

    family: str  # "timm/resnet", "torchvision/resnet"
    name: str
    build: Callable[[], nn.Module]
    shape: Callable[[int], tuple[int, ...]]
    parameters: int = 0  # 0 if it is not known before it is built

    @property
    def key(self) -> tuple[str, str]:
        return self.family, self.name


@dataclass
class Row:
    """What came out for a model.

    Attributes:
        prunable: fraction of the parameters in tensors of two or more dimensions.
        moved: fraction of the layers that the steps change.
        errors: largest differences from the literal steps, relative to the largest weight.
        note: why it is refused, or what is not pruned.
    """

    entry: Entry
    parameters: int = 0
    prunable: float = 0.0
    sparsity: float = 0.0
    moved: float = 1.0
    errors: tuple[float, ...] = ()
    dtype: torch.dtype = torch.float64
    note: str = ""
    seconds: float = 0.0

    @property
    def is_exact(self) -> bool:
        equal = len(self.errors) == 2 and max(self.errors) < TOLERANCES[self.dtype]
        return equal and self.moved > 0.8


class Task(nn.Module):
    """A model with a loss: the mean squared distances of all its outputs from one.

    Parameters that start at zero, which would give others no gradient, are drawn.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        with torch.no_grad():
            for parameter in self.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.1)

    def forward(self, x: Tensor) -> Tensor:
        kind = type(self.model).__module__
        if ".detection." in kind and self.training:
            box = torch.tensor([[4.0, 4.0, 30.0, 40.0]]).to(x)
            target = {"boxes": box, "labels": torch.ones(1, dtype=torch.int64)}
            if "mask" in kind:
                target["masks"] = torch.ones(1, *x.shape[-2:], dtype=torch.uint8)
            if "keypoint" in kind:
                target["keypoints"] = torch.tensor([[[10.0, 10.0, 1.0]] * 17]).to(x)
            output = self.model(list(x), [target] * len(x))
        else:
            output = self.model(*([x, x.flip(3)] if ".optical_flow." in kind else [x]))
        leaves = [t for t in tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point()]
        return sum(((t - 1).square().mean() for t in leaves), x.new_zeros(()))


# ---- the literal step


def literal_step(
    task: nn.Module, masks: Mapping[str, Tensor], x: Tensor, is_product: bool
) -> dict[str, Tensor]:
    """Return the effective weights after one step of SGD on the literal formulation."""
    weights = {name: task.get_parameter(name).detach() for name in masks}
    if is_product:  # m² − w² = 1
        m = {k: (0.5 + (v**2 + 0.25).sqrt()).sqrt() for k, v in weights.items()}
        latents = [m, {k: v / m[k] for k, v in weights.items()}]
    else:
        s = next(iter(weights.values())).new_tensor(math.log(THRESHOLD))
        latents = [{k: v.clone() for k, v in weights.items()}, {k: s.clone() for k in weights}]
    latents = [{k: v.requires_grad_() for k, v in part.items()} for part in latents]

    def theta() -> dict[str, Tensor]:
        a, b = latents
        if is_product:
            return {k: mask * (a[k] * b[k]) for k, mask in masks.items()}
        return {
            k: mask * a[k].sign() * (a[k].abs() - b[k].exp()).relu() for k, mask in masks.items()
        }

    torch.manual_seed(0)
    functional_call(task, theta(), (x,)).backward()
    with torch.no_grad():
        for latent in (latent for part in latents for latent in part.values()):
            if latent.grad is not None:
                latent -= RATE * latent.grad
        return theta()


def engine_step(
    task: nn.Module, storage: Storage, masks: Mapping[str, Tensor], x: Tensor
) -> SparseModel:
    """Take the same step with the engine."""
    net = SparseModel(task, storage)
    net.set_masks(masks)
    optimizer = torch.optim.SGD(task.parameters(), RATE)
    net.attach(optimizer)
    torch.manual_seed(0)
    task(x).backward()
    optimizer.step()
    return net


# ---- one model


def examine(entry: Entry) -> Row:
    """Take a model through everything, in float32 if it is large or does not compute in float64.

    What is refused is noted; any other error is raised.
    """
    try:
        return examine_in(entry, torch.float64)
    except RuntimeError as error:
        if "dtype" not in str(error) and "type" not in str(error):
            raise
        return examine_in(entry, torch.float32)


def examine_in(entry: Entry, dtype: torch.dtype) -> Row:
    """Take a model through everything in a type of numbers, or in float32 if it is large."""
    torch.manual_seed(0)
    start, model = time.perf_counter(), entry.build()
    parameters = sum(p.numel() for p in model.parameters())
    row = Row(entry, parameters, dtype=torch.float32 if parameters > LARGE else dtype)
    task = Task(model.to(row.dtype))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            net = SparseModel(task)
        except UserError as error:
            row.note = f"refused: {error}".replace("model.", "")
            return row
        row.note = "; ".join(str(w.message) for w in caught if "prunable" in str(w.message))
        row.note = row.note.replace("model.", "").removesuffix(" Name them in include or exclude.")
        x = fitting_input(entry, task)
        matrices = sum(p.numel() for p in task.parameters() if p.ndim >= 2 and p.requires_grad)
        row.prunable = net.numel / matrices
        masks = random_masks("balanced", net.shapes, SPARSITY, 0)
        storages = [
            Product(1.0),
            SoftThreshold(Plain(), "exp", math.log(THRESHOLD)),
        ]
        for storage in storages:
            gc.collect()  # copies of the model that are in cycles
            is_product = isinstance(storage, Product)
            literal = literal_step(copy.deepcopy(task), masks, x, is_product)
            stepped = engine_step(copy.deepcopy(task), storage, masks, x)
            row.moved = min(row.moved, fraction_moved(task, stepped, masks))
            row.errors += (largest_error(stepped.weights, literal),)
            assert stepped.nnz == keep_count(net.numel, SPARSITY)
            assert not any(w[~masks[name]].any() for name, w in stepped.weights.items())
            if is_product:
                row.sparsity = stepped.sparsity()
        row.note += "".join(f"; {w.message}" for w in caught if "is transformed" in str(w.message))
    row.seconds = time.perf_counter() - start
    return row


def fraction_moved(task: Task, net: SparseModel, masks: Mapping[str, Tensor]) -> float:
    moved = [not torch.equal(w, task.get_parameter(n) * masks[n]) for n, w in net.weights.items()]
    return sum(moved) / len(moved)


def largest_error(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Return max |a − b| / max |b|."""
    with torch.no_grad():
        error = max(float((weights[name] - b).abs().max()) for name, b in expected.items())
        return error / max(float(b.abs().max()) for b in expected.values())


def fitting_input(entry: Entry, task: Task) -> Tensor:
    """Return an input of the smallest size that the model takes.

    Raises:
        RuntimeError: it takes none.
    """
    dtype = next(task.parameters()).dtype
    cfg = getattr(task.model, "default_cfg", {})
    channels, own = cfg.get("input_size", (3, 224, 224))[0], cfg.get("input_size", (3, 0, 0))[-1]
    sizes = dict.fromkeys((*SIZES, own) if own else SIZES)
    for size in sizes:
        shape = list(entry.shape(size))
        shape[1] = channels
        x = torch.rand(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        try:
            with torch.no_grad():
                copy.deepcopy(task).train()(x)
        except Exception as error:  # of any kind: the size does not fit
            reason = error
            continue
        return x
    raise RuntimeError(f"{entry.name} takes none of the sizes {[*sizes]}: {reason}") from reason


# ---- all models


def timm_entries(only: str = "*") -> Iterator[Entry]:
    """Yield the smallest model of each module of timm whose family matches a pattern."""
    for family in fnmatch.filter(timm.list_modules(), only.removeprefix("timm/")):
        names = timm.list_models(module=family)
        if names:
            yield min((timm_entry(name, family) for name in names), key=_size)


def timm_entry(name: str, family: str = "") -> Entry:
    def build() -> nn.Module:
        return timm.create_model(name, num_classes=10)

    return Entry(f"timm/{family}", name, build, PARTS[""])


def torchvision_entries(only: str = "*") -> Iterator[Entry]:
    """Yield the smallest model of each file of torchvision's models."""
    for part, shape in PARTS.items():
        place = getattr(torchvision.models, part) if part else torchvision.models
        families: dict[str, list[str]] = {}
        for name in torchvision.models.list_models(place):
            file = torchvision.models.get_model_builder(name).__module__
            families.setdefault(file.removeprefix("torchvision.models."), []).append(name)
        for family in fnmatch.filter(families, only.removeprefix("torchvision/")):
            names = families[family]
            yield min((torchvision_entry(name, family, shape) for name in names), key=_size)


def torchvision_entry(
    name: str, family: str = "", shape: Callable[[int], tuple[int, ...]] = PARTS[""]
) -> Entry:
    def build() -> nn.Module:
        builder = torchvision.models.get_model_builder(name)
        detects = ".detection." in builder.__module__
        options: dict[str, Any] = {}
        if detects or ".segmentation." in builder.__module__:
            options["weights_backbone"] = None
        if detects and not name.startswith("ssd"):
            options["min_size"] = SIZES[1]  # to which it resizes images, in place of 800
        return builder(weights=None, **options)

    weights = torchvision.models.get_model_weights(name).DEFAULT
    return Entry(f"torchvision/{family}", name, build, shape, weights.meta["num_params"])


@functools.cache
def _size(entry: Entry) -> float:
    """Return a model's number of parameters, without making them."""
    if entry.parameters:
        return entry.parameters
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return sum(p.numel() for p in entry.build().parameters())
    except Exception:  # of any kind: it is not built without values
        return float("inf")


# ---- rows in a file


def read_rows(path: Path, entries: list[Entry]) -> list[Row]:
    """Return the rows of a file that are those of some entries."""
    if not path.exists():
        return []
    found = map(json.loads, path.read_text().splitlines())
    of = {entry.key: entry for entry in entries}
    return [
        Row(of[family, name], **{**values, "dtype": getattr(torch, values["dtype"])})
        for family, name, values in found
        if (family, name) in of
    ]


def add_row(path: Path, row: Row) -> None:
    values = {key: value for key, value in vars(row).items() if key != "entry"}
    values["dtype"] = str(row.dtype).removeprefix("torch.")
    with path.open("a") as file:
        file.write(json.dumps([*row.entry.key, values]) + "\n")


# ---- the page

PAGE = """# Models

Masks and steps on the smallest model of each family of timm and torchvision, from

```
python tests/zoo.py --minutes 300 --out docs/zoo.md
```

with torch {torch}, timm {timm} and torchvision {torchvision} on a CPU. Of {all} models, {exact} are
supported and {refused} are refused with a reason.{left}

Each model gets a mask of {sparsity:.0%} sparsity, with an exact number of ones. It takes one step
of SGD with Product (Sign-In's m ⊙ w) and one with STR's soft threshold.

- *prunable*: fraction of the trained parameters in tensors of two or more dimensions;
- *Product*, *STR*: largest difference of a weight from the literal formulation after the step,
  relative to the largest weight. In the literal formulation the mask and the re-parameterisation
  are part of the forward pass. Differences of 1e-9 and more are those of float32, in which some
  models compute, or of networks that amplify rounding.

{table}"""


def page(rows: list[Row], left: int = 0) -> str:
    """Return the page of the documentation.

    Args:
        left: number of families that were not examined.
    """
    refused = sum(row.note.startswith("refused") for row in rows)
    versions = {m.__name__: m.__version__.split("+")[0] for m in (torch, timm, torchvision)}
    exact, every = sum(row.is_exact for row in rows), len(rows)
    return PAGE.format(
        **versions,
        exact=exact,
        all=every,
        refused=refused,
        left=f" Larger ones that were not examined: {left}." if left else "",
        sparsity=SPARSITY,
        table=table(rows),
    )


def table(rows: list[Row]) -> str:
    """Return the rows as a table in Markdown, and their notes as a list."""
    lines = [
        "| family, model | parameters | prunable | Product | STR |",
        "|---|---:|---:|---:|---:|",
    ]
    rows = sorted(rows, key=lambda row: row.entry.family)
    for row in rows:
        errors = [f"{error:.0e}" for error in row.errors] or ["–", "–"]
        prunable = f"{row.prunable:.1%}" if row.errors else "refused"
        size = f"{row.parameters / 1e6:.1f} M"
        name = f"{row.entry.family}<br>`{row.entry.name}`"
        cells = [name, size, prunable, *errors]
        lines.append(f"| {' | '.join(cells)} |")
    notes = [f"- `{row.entry.name}`: {row.note}" for row in rows if row.note]
    return "\n".join([*lines, "", *notes]) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Examine models, print a line for each, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="*", help="pattern of FAMILY, such as 'timm/vision*'")
    parser.add_argument("--minutes", type=float, default=15, help="begin no model after this time")
    parser.add_argument("--out", type=Path, help="file for the page of the documentation")
    parser.add_argument("--known", type=Path, help="file of rows: read, and continued")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    failed, left, start = [], 0, time.monotonic()
    entries = [*torchvision_entries(given.only), *timm_entries(given.only)]
    rows = read_rows(given.known, entries) if given.known else []
    known = {row.entry.key for row in rows}
    for entry in sorted(entries, key=_size):  # as many as possible
        if entry.key in known:
            continue
        if time.monotonic() - start > 60 * given.minutes:
            left += 1
            continue
        try:
            row = examine(entry)
        except Exception as error:  # of any kind: the others are examined all the same
            failed.append(entry.name)
            print(f"FAILED {entry.family} {entry.name}: {type(error).__name__}: {error}"[:300])
            continue
        rows.append(row)
        if given.known:
            add_row(given.known, row)
        errors = " ".join(f"{error:.0e}" for error in row.errors)
        print(f"{entry.family} {entry.name} {row.prunable:.1%} {errors} {row.note}", flush=True)
        if row.errors and not row.is_exact:
            failed.append(entry.name)
    print(f"{len(rows)} models in {time.monotonic() - start:.0f} s; {left} not begun")
    print(f"not equal, or failed: {', '.join(failed) or 'none'}")
    if given.out:
        given.out.write_text(page(rows, left))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
