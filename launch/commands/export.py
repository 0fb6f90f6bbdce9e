"""`signbench export`: a run's network for use without this suite."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from analysis.contents import Result
from analysis.folder import find_run, read_config, read_result
from baselines.checkpoint import Checkpoint
from baselines.errors import UserError, one_line
from launch.config.fields import check_positive
from launch.config.machine import Imports
from launch.config.run import Run
from launch.config.shell import run_command
from launch.flags import parse
from launch.inputs import Inputs
from launch.models import MODELS, timm_arguments
from launch.plugins import import_plugins
from launch.runs.checkpoints import write_checkpoint
from launch.runs.files import write_file, write_text
from launch.runs.network import load_network, network_shape, read_run
from launch.runs.snapshots import read_snapshot
from launch.sparse_inference.export import SparseNetwork, sparse_network


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
    batch: int = 1
    """Batch size of sparse.pt2."""
    runs: Path = Path("runs")
    """Folder of the run folders."""
    imports: Imports = ()
    """Import this Python module first, which defines methods of your own."""

    def __post_init__(self) -> None:
        check_positive(batch=self.batch)


def command(args: list[str]) -> int:
    """Export a run's network."""
    if args and args[0] in ("-h", "--help"):
        parse(ExportCommand, args, "signbench export RUN")
    if not args or args[0].startswith("-"):
        raise UserError("signbench export RUN -o DIR: name a run.")
    given = parse(ExportCommand, args[1:], "signbench export RUN")
    import_plugins(given.imports)
    folder = find_run(args[0], given.runs)
    for path in export_run(folder, given):
        print(f"written: {path}")
    return 0


def export_run(folder: Path, given: ExportCommand) -> list[Path]:
    """Write the files of an export. Return their paths.

    Raises:
        UserError: the run has no such snapshot, the folder cannot be written, or ONNX is asked
            for and not installed.
    """
    if given.onnx and find_spec("onnxruntime") is None:
        raise UserError("--onnx needs: pip install -e '.[onnx]'.")
    run, snapshot = read_run(folder), read_snapshot(folder, given.epoch)
    shape = network_shape(folder, run, snapshot)
    sparse = _sparse(run, snapshot, shape, given.batch) if given.sparse else None
    try:
        given.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {given.output}: {error.strerror}.") from None
    weights, masks = given.output / "model.safetensors", given.output / "masks.safetensors"
    card = given.output / "README.md"
    write_checkpoint(weights, Checkpoint(snapshot.weights, masks={}))
    write_checkpoint(masks, Checkpoint(snapshot.masks, masks={}))
    files = [weights, masks]
    if given.onnx:
        files.append(_onnx(run, snapshot, shape, given.output / "model.onnx"))
    text = model_card(run, snapshot, folder, given.epoch)
    if sparse:
        files.append(given.output / "sparse.pt2")
        write_file(files[-1], sparse.write)
        text += _sparse_card(sparse, files[-1].stat().st_size, weights.stat().st_size)
    write_text(card, text)
    return [*files, card]


def model_card(run: Run, snapshot: Checkpoint, folder: Path, epoch: str) -> str:
    """Return a description of the network, with how to build and load it, in Markdown."""
    config, result = read_config(folder), read_result(folder)
    kept = sum(int(mask.count_nonzero()) for mask in snapshot.masks.values())
    prunable = sum(mask.numel() for mask in snapshot.masks.values())
    facts = {
        "model": run.settings.model,
        "data": run.settings.data,
        "method": run.label + (" + Sign-In" if run.sign_in else ""),
        "snapshot": epoch,
        "sparsity": f"{1 - kept / prunable:.4f} of {prunable:,} prunable weights",
        "seed": run.seed,
    }
    if epoch == "final" and result:
        facts |= result_facts(result)
    assert config is not None  # `run` was read from it
    versions = ", ".join(f"{k} {v}" for k, v in config.get("versions", {}).items() if v)
    facts |= {"made with": f"{versions}; revision {config.get('git')}"}
    lines = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    code = building_code(run.settings.model, *network_shape(folder, run, snapshot))
    return CARD.format(name=run.name, facts=lines, command=run_command(run), code=code)


def result_facts(result: Result) -> dict[str, str]:
    """Return what a result says, without the fields that it lacks."""
    facts = {"test accuracy": f"{result['accuracy']:.2%}"}
    if "epochs" in result:
        facts["test accuracy"] += f", after {result['epochs']} epochs"
    if "device" in result:
        facts["device"] = result["device"]
    if "flops" in result and "dense_flops" in result:
        facts["operations of a forward pass"] = (
            f"{result['flops']:.3g}, of {result['dense_flops']:.3g} with all weights"
        )
    return facts


def building_code(model: str, classes: int, inputs: Inputs) -> str:
    """Return lines of Python that build a network of a name as `model`."""
    if model in MODELS or ":" in model:  # the suite's, or a user's own
        return (
            "from launch.inputs import Inputs\n"
            "from launch.models import make_model\n\n"
            f"model = make_model({model!r}, {classes}, {inputs!r})"
        )
    arguments = timm_arguments(model, classes, inputs)
    given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return f"import timm\n\nmodel = timm.create_model({model!r}, {given})"


CARD = """# {name}

| | |
|---|---|
{facts}

`model.safetensors` is a state dict of the plain model: pruned weights are zeros, and where factors
m ⊙ w were trained they are merged. `masks.safetensors` has the masks by the weights' names.

```python
from safetensors.torch import load_file
{code}
model.load_state_dict(load_file("model.safetensors"), strict=True)
model.eval()
```

Made by

```sh
{command}
```
"""


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


def _onnx(run: Run, snapshot: Checkpoint, shape: tuple[int, Inputs], path: Path) -> Path:
    """Export a network, and check its output on random inputs against the model's."""
    import onnxruntime  # type: ignore[import-untyped]

    classes, inputs = shape
    net = load_network(run, snapshot, classes, inputs, torch.device("cpu"))
    examples = inputs.random(2, torch.Generator().manual_seed(0))
    name = "images" if inputs.is_image else "inputs"
    try:
        write_file(path, lambda temporary: _export(net.model, examples, name, temporary))
    except UserError:
        raise
    except Exception as error:  # torch.onnx.export raises exceptions of many types
        raise UserError(f"torch.onnx cannot export the network: {one_line(error)}") from error
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {name: examples.numpy()})
    with torch.no_grad():
        expected = net.model(examples)
    worst = float((torch.from_numpy(found) - expected).abs().max())
    if worst > 1e-3 * max(1.0, float(expected.abs().max())):
        path.unlink()
        raise UserError(f"the ONNX file's output differs from the model's by {worst:.2g}.")
    return path


def _export(model: torch.nn.Module, examples: torch.Tensor, name: str, path: Path) -> None:
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
    program.save(path)
