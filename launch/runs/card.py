"""The model card of an exported network, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.contents import Config, Result
from analysis.folder import read_config, read_result
from analysis.names import HAM, PLAIN, SIGN_IN, with_rule
from baselines.checkpoint import Checkpoint
from launch.config.run import Run
from launch.config.shell import run_command
from launch.inputs import Inputs
from launch.models import MODELS, timm_arguments

SENTENCE = "`model.safetensors` is a state dict of the plain model"  # tells a card of this suite

CARD = """# {name}

| | |
|---|---|
{facts}

{sentence}: pruned weights are zeros, and where factors
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


def model_card(
    run: Run,
    snapshot: Checkpoint,
    shape: tuple[int, Inputs],
    folder: Path,
    epoch: str,
    imports: Sequence[str] = (),
) -> str:
    """Return a description of a run's network, with how to build and load it.

    Args:
        snapshot: the network, with masks of all prunable weights.
        shape: number of classes, and inputs.
        epoch: which snapshot it is.
        imports: names of modules that define methods, models or recipes.
    """
    config, result = read_config(folder), read_result(folder)
    assert config is not None  # `run` was read from it
    kept = sum(int(mask.count_nonzero()) for mask in snapshot.masks.values())
    prunable = sum(mask.numel() for mask in snapshot.masks.values())
    facts: dict[str, Any] = {
        "model": run.settings.model,
        "data": run.settings.data,
        **input_facts(config, shape[1]),
        "method": with_rule(run.label, SIGN_IN if run.sign_in else HAM if run.ham else PLAIN),
        "snapshot": epoch,
        "sparsity": f"{1 - kept / prunable:.4f} of {prunable:,} prunable weights",
        "seed": run.seed,
    }
    if epoch == "final" and result:
        facts |= result_facts(result)
    versions = ", ".join(f"{k} {v}" for k, v in config.get("versions", {}).items() if v)
    facts |= {"made with": f"{versions}; revision {config.get('git')}"}
    lines = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    code = "".join(f"import {module}\n" for module in imports)
    code += building_code(run.settings.model, *shape)
    command = run_command(run, imports)
    return CARD.format(name=run.name, facts=lines, sentence=SENTENCE, code=code, command=command)


def input_facts(config: Config, inputs: Inputs) -> dict[str, str]:
    """Return what the network's inputs are, and how images become them."""
    facts = {"inputs": f"{inputs}{' (channels × height × width)' if inputs.is_image else ''}"}
    if "classes" not in config:
        return facts | {"normalisation": "not recorded by the version that began the run"}
    if "mean" not in config:
        return facts | {"normalisation": "none: inputs are as the data give them"}
    if "resize" in config:
        facts["resizing"] = config["resize"]
    mean, std = (", ".join(f"{x:.7g}" for x in config[name]) for name in ("mean", "std"))
    return facts | {
        "pixels": "bytes / 255, so in [0, 1]; channels in the order of the data, of files RGB",
        "normalisation": f"(pixels − mean) / std, of each channel; mean {mean}; std {std}",
    }


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
