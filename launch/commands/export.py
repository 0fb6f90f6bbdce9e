"""`signbench export`: a run's network for use without this suite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import torch

from analysis.checked import read_text
from analysis.folder import find_run
from baselines.checkpoint import Checkpoint
from baselines.errors import UserError, check_positive, one_line, require
from launch.config.machine import Imports
from launch.config.run import Run
from launch.flags import parse, split_name
from launch.inputs import Inputs
from launch.plugins import import_plugins
from launch.runs.atomic import make_folder, remove_file, write_file, write_text
from launch.runs.card import SENTENCE, model_card
from launch.runs.checkpoints import write_checkpoint
from launch.runs.reading import load_network, network_shape, read_run
from launch.runs.snapshots import read_snapshot
from launch.sparse_inference.export import SparseNetwork, sparse_network
from signin.transplant import masks_of

CARD_FILE, ONNX_FILE, SPARSE_FILE = "README.md", "model.onnx", "sparse.pt2"
WEIGHTS_FILE, MASKS_FILE = "model.safetensors", "masks.safetensors"
#: The model card until all files are written: it tells that they are of an export.
INCOMPLETE = f"This export is not complete: run it again. {SENTENCE}.\n"


@dataclass(frozen=True)
class ExportCommand:
    """Write a run's network to a folder: weights (a state dict of the plain model, factors merged,
    masks applied), masks, and a model card. Name the run before the options."""

    output: Path
    """Folder to write."""
    epoch: str = "final"
    """Snapshot to export: an epoch, init or final."""
    onnx: bool = False
    """Write ONNX as well, checked by running it (needs the extra `onnx`)."""
    sparse: bool = False
    """Write sparse.pt2 as well: the network with sparse layers where they are faster on this CPU,
    which loads with torch alone. Checked by running it."""
    batch: int | None = None
    """Batch size of sparse.pt2; 1 if not given."""
    runs: Path = Path("runs")
    """Folder of the run folders."""
    imports: Imports = ()
    """Import this Python module first, which defines methods, models or data of your own."""

    def __post_init__(self) -> None:
        if self.batch is not None:
            require(self.sparse, "--batch is that of sparse.pt2: add --sparse.")
            check_positive(batch=self.batch)


def command(args: list[str]) -> int:
    """Export a run's network."""
    name, rest = split_name(args)
    if not name and rest[:1] not in (["-h"], ["--help"]):
        raise UserError("signbench export RUN -o DIR: name a run.")
    given = parse(ExportCommand, rest, "signbench export RUN")
    import_plugins(given.imports)
    folder = find_run(name, given.runs)
    for path in export_run(folder, given):
        print(f"written: {path}")
    return 0


def export_run(folder: Path, given: ExportCommand) -> list[Path]:
    """Write the files of an export. Return their paths.

    Raises:
        UserError: the run has no such snapshot, the folder cannot be written or has files of
            others, or ONNX is asked for and not installed.
    """
    if given.onnx and find_spec("onnxruntime") is None:
        raise UserError("--onnx needs: pip install -e '.[onnx]'.")
    run, snapshot = read_run(folder), read_snapshot(folder, given.epoch)
    shape = network_shape(folder, run, snapshot)
    # all ones in the training of methods whose weights are sparse, such as STR
    found = masks_of(snapshot, {name: snapshot.weights[name] for name in snapshot.masks})
    masked = replace(snapshot, masks=found)
    text = model_card(run, masked, shape, folder, given.epoch, given.imports)
    _check_files(given.output)
    with _made(given.output):
        sparse = _sparse(run, snapshot, shape, given.batch or 1) if given.sparse else None
        onnx = _onnx(run, snapshot, shape) if given.onnx else None
    write_text(given.output / CARD_FILE, INCOMPLETE)
    for file in (ONNX_FILE, SPARSE_FILE):  # of another network's export
        remove_file(given.output / file)
    weights, masks = given.output / WEIGHTS_FILE, given.output / MASKS_FILE
    write_checkpoint(weights, Checkpoint(snapshot.weights, masks={}))
    write_checkpoint(masks, Checkpoint(found, masks={}))
    files = [weights, masks]
    if onnx:
        files.append(given.output / ONNX_FILE)
        write_file(files[-1], lambda temporary: temporary.write_bytes(onnx))
    if sparse:
        files.append(given.output / SPARSE_FILE)
        write_file(files[-1], sparse.write)
        text += _sparse_card(sparse, files[-1].stat().st_size, weights.stat().st_size)
    files.append(given.output / CARD_FILE)
    write_text(files[-1], text)
    return files


def _check_files(folder: Path) -> None:
    """Raise UserError if a file that an export replaces is not from an earlier export."""
    card = folder / CARD_FILE
    if card.is_file() and SENTENCE in read_text(card):
        return
    for file in (CARD_FILE, WEIGHTS_FILE, MASKS_FILE, ONNX_FILE, SPARSE_FILE):
        require(
            not (folder / file).exists(),
            f"{folder} has a {file} that is not from an earlier export: remove it, or name another "
            "folder.",
        )


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make a folder. If the block fails, remove it again unless it was there before."""
    is_new = not folder.exists()
    make_folder(folder)
    try:
        yield
    except BaseException:
        if is_new:
            folder.rmdir()
        raise


SPARSE_CARD = """
`sparse.pt2` is the network with weights in a sparse format in the layers where that was faster on
the CPU that it was written on: {count}, and it takes {time:.2f} of the dense network's time there.
It has {size:,} bytes; `model.safetensors` has {dense:,}.
It takes inputs of shape {shape} and type {dtype}, and needs torch {version} or newer, but neither
signbench nor the model's code:

```python
import torch

model = torch.export.load("sparse.pt2").module()
logits = model(torch.zeros({shape}, dtype={dtype}))
```
"""


def _sparse_card(network: SparseNetwork, size: int, dense: int) -> str:
    """Return the part of the model card on the sparse network."""
    x = network.x
    return SPARSE_CARD.format(
        count=network.count,
        time=network.time,
        size=size,
        dense=dense,
        shape=tuple(x.shape),
        dtype=x.dtype,
        version=torch.__version__.partition("+")[0],
    )


def _sparse(run: Run, snapshot: Checkpoint, shape: tuple[int, Inputs], batch: int) -> SparseNetwork:
    classes, inputs = shape
    net = load_network(run, snapshot, classes, inputs, torch.device("cpu"))
    examples = inputs.random(batch, torch.Generator().manual_seed(0))
    return sparse_network(net.model.requires_grad_(False), examples)


def _onnx(run: Run, snapshot: Checkpoint, shape: tuple[int, Inputs]) -> bytes:
    """Return a network as ONNX.

    Raises:
        UserError: it cannot be exported or run, or its output on random inputs is not the model's.
    """
    classes, inputs = shape
    net = load_network(run, snapshot, classes, inputs, torch.device("cpu"))
    examples = inputs.random(2, torch.Generator().manual_seed(0))
    name = "images" if inputs.is_image else "inputs"
    try:
        exported = _export(net.model, examples, name)
    except Exception as error:  # torch.onnx.export raises exceptions of many types
        raise UserError(f"torch.onnx cannot export the network: {one_line(error)}") from error
    try:
        found = _output(exported, examples, name)
    except Exception as error:  # as does onnxruntime
        raise UserError(f"onnxruntime cannot run the ONNX file: {one_line(error)}") from error
    with torch.no_grad():
        expected = net.model(examples)
    worst = float((found - expected).abs().max())
    if not worst <= 1e-3 * max(1.0, float(expected.abs().max())):  # also if it is no number
        raise UserError(f"the ONNX file's output differs from the model's by {worst:.2g}.")
    return exported


def _export(model: torch.nn.Module, examples: torch.Tensor, name: str) -> bytes:
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        model,
        (examples,),
        input_names=[name],
        output_names=["logits"],
        dynamic_shapes=({0: batch},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    exported: bytes = program.model_proto.SerializeToString()
    return exported


def _output(exported: bytes, examples: torch.Tensor, name: str) -> torch.Tensor:
    import onnxruntime  # type: ignore[import-untyped]

    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {name: examples.numpy()})
    return torch.from_numpy(found)
