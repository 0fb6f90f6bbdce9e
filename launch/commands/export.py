"""`signbench export`: a run's network for use without this suite."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from analysis.folder import find_run, read_config, read_result
from baselines.checkpoint import Checkpoint
from baselines.errors import UserError
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
    runs: Path = Path("runs")
    """Folder of the run folders."""
    imports: Imports = ()
    """Import this Python module first, which defines methods of your own."""


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
    run, snapshot = read_run(folder), read_snapshot(folder, given.epoch)
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
        shape = network_shape(folder, run, snapshot)
        files.append(_onnx(run, snapshot, shape, given.output / "model.onnx"))
    text = model_card(run, snapshot, folder, given.epoch)
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
        facts |= {
            "test accuracy": f"{result['accuracy']:.2%}, after {result['epochs']} epochs",
            "device": result["device"],
        }
        if "flops" in result:
            facts["operations of a forward pass"] = (
                f"{result['flops']:.3g}, of {result['dense_flops']:.3g} with all weights"
            )
    assert config is not None  # `run` was read from it
    versions = ", ".join(f"{k} {v}" for k, v in config.get("versions", {}).items() if v)
    facts |= {"made with": f"{versions}; revision {config.get('git')}"}
    lines = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    code = building_code(run.settings.model, *network_shape(folder, run, snapshot))
    return CARD.format(name=run.name, facts=lines, command=run_command(run), code=code)


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


def _onnx(run: Run, snapshot: Checkpoint, shape: tuple[int, Inputs], path: Path) -> Path:
    """Export a network, and check its output on random inputs against the model's."""
    try:
        import onnxruntime  # type: ignore[import-untyped]
    except ImportError:
        raise UserError("--onnx needs: pip install -e '.[onnx]'.") from None
    classes, inputs = shape
    net = load_network(run, snapshot, classes, inputs, torch.device("cpu"))
    examples = inputs.random(2, torch.Generator().manual_seed(0))
    name = "images" if inputs.is_image else "inputs"
    write_file(path, lambda temporary: _export(net.model, examples, name, temporary))
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
