"""Checkpoint files as people have them: other objects, several networks, whole models."""

from __future__ import annotations

import argparse
import os
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from baselines.errors import UserError
from launch.runs.entries import find_state_dict
from launch.runs.stubs import Stub, load_with_stubs


@pytest.fixture
def library(monkeypatch):
    """Make a library that exists while a file is written, and whose code must never run again."""
    module = types.ModuleType("some_library.config")
    exec(
        """
class Config:
    def __init__(self, **values):
        self.__dict__.update(values)

    def __setstate__(self, state):
        raise AssertionError("code of the library was executed")


class Slotted:
    __slots__ = ("value",)


class Net(__import__("torch").nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = __import__("torch").nn.Linear(3, 2)
        self.register_buffer("scale", __import__("torch").ones(2))
        self.register_buffer("cache", __import__("torch").ones(5), persistent=False)


def function(*args):
    raise AssertionError("code of the library was executed")
""",
        module.__dict__,
    )
    for name in ("some_library", "some_library.config"):
        monkeypatch.setitem(sys.modules, name, module)
    for thing in (module.Config, module.Slotted, module.Net, module.function):
        thing.__module__ = "some_library.config"
    yield module


def forget():
    for name in ("some_library", "some_library.config"):
        del sys.modules[name]


def test_tensors_next_to_objects_are_read(tmp_path, library):
    slotted = library.Slotted()
    slotted.value = 3
    weights = {"fc.weight": torch.randn(2, 3)}
    others = {
        "args": argparse.Namespace(lr=0.1, data=Path("x"), nested=argparse.Namespace(a=1)),
        "config": library.Config(tensor=torch.ones(2)),
        "slotted": slotted,
        "best": np.float64(0.9),
        "array": np.arange(3),
        "function": library.function,
        "set": {1, 2},
    }
    path = tmp_path / "file.pt"
    torch.save({"model": weights, **others}, path)
    forget()
    found = load_with_stubs(path)
    assert torch.equal(found["model"]["fc.weight"], weights["fc.weight"])
    assert found["args"].lr == 0.1 and found["args"].nested.a == 1
    assert isinstance(found["config"], Stub) and torch.equal(found["config"].tensor, torch.ones(2))
    assert found["slotted"].value == 3
    tensors, note = find_state_dict(found, "file.pt")
    assert set(tensors) == {"fc.weight"} and note == ""


def test_a_whole_model_gives_its_state_dict(tmp_path, library):
    model = library.Net()
    state = model.state_dict()
    torch.save(model, tmp_path / "model.pt")
    torch.save({"epoch": 3, "net": nn.DataParallel(model)}, tmp_path / "wrapped.pt")
    forget()
    tensors, _ = find_state_dict(load_with_stubs(tmp_path / "model.pt"), "model.pt")
    assert set(tensors) == set(state) == {"fc.weight", "fc.bias", "scale"}
    assert all(torch.equal(tensors[name], state[name]) for name in state)
    tensors, _ = find_state_dict(load_with_stubs(tmp_path / "wrapped.pt"), "wrapped.pt")
    assert torch.equal(tensors["module.fc.bias"], state["fc.bias"])


class Malicious:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [os.system, exec, eval, os.remove, getattr, __import__])
def test_functions_of_python_are_refused_and_nothing_runs(tmp_path, function):
    victim = tmp_path / "victim"
    victim.touch()
    argument = {os.remove: str(victim), getattr: (os, "system")}.get(function, f"rm {victim}")
    arguments = argument if isinstance(argument, tuple) else (argument,)
    try:
        torch.save({"model": {"w": torch.ones(1)}, "x": Malicious(function, *arguments)},
                   tmp_path / "file.pt")  # fmt: skip
    except (pickle.PicklingError, TypeError):
        pytest.skip("cannot be pickled")
    with pytest.raises(UserError, match=r"calls \w+\.\w+, for which a checkpoint has no use"):
        load_with_stubs(tmp_path / "file.pt")
    assert victim.exists()


def test_the_old_format_says_how_to_convert(tmp_path):
    path = tmp_path / "old.pt"
    value = {"model": {"w": torch.ones(1)}, "args": argparse.Namespace()}
    torch.save(value, path, _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match=r"format of before torch 1.6. Where you trust it, convert"):
        load_with_stubs(path)


# ---- which state dict


def net(offset=0.0):
    return OrderedDict(a=torch.ones(2, 2) + offset, b=torch.zeros(2))


def optimizer():
    return {"state": {0: {"momentum_buffer": torch.ones(2, 2)}}, "param_groups": [{"lr": 0.1}]}


@pytest.mark.parametrize(
    "found, key, offset, note",
    [
        (net(), "", 0, ""),
        ({"state_dict": net(), "optimizer": optimizer(), "epoch": 3}, "", 0, ""),
        ({"model": net(), "model_ema": net(1)}, "", 0, "model is taken, not model_ema; see --key"),
        ({"model": net(), "model_ema": net(1)}, "model_ema", 1, ""),
        ({"model": net(), "model_ema": net(1)}, "model", 0, ""),
        ({"state_dict_ema": net(1), "state_dict": net()}, "", 0, "state_dict is taken"),
        ({"ema": {"module": net(1)}, "net": net()}, "", 0, "net is taken, not ema.module"),
        ({"ema": {"module": net(1)}, "net": net()}, "ema", 1, ""),
        ({"ema": {"module": net(1)}, "net": net()}, "ema.module", 1, ""),
        ({"model_ema": net(1), "optimizer": optimizer()}, "", 1, ""),
        ({"discriminator": net(1), "generator": net()}, "", 0, ""),
        ({"teacher": {"x": torch.ones(1)}, "student": {"model": net()}}, "", 0, ""),
    ],
)
def test_the_network_is_found_among_entries(found, key, offset, note):
    tensors, said = find_state_dict(found, "FILE", key)
    assert torch.equal(tensors["a"], net(offset)["a"])
    assert note in said and bool(note) == bool(said)


def test_what_has_no_network_is_named():
    with pytest.raises(UserError, match="FILE holds no state dict"):
        find_state_dict({"epoch": 3, "optimizer": optimizer()}, "FILE")
    with pytest.raises(UserError, match="FILE has no entry 'mdel'; its state dicts: model, x.ema"):
        find_state_dict({"model": net(), "x": {"ema": net()}}, "FILE", "mdel")
