"""Files of torch.save with objects of any classes: read without executing code of theirs."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import subprocess
import sys
import tracemalloc
import types
import zipfile
from collections import OrderedDict, defaultdict
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from baselines.errors import UserError
from launch.runs.archives import load_objects
from launch.runs.checkpoints import read_checkpoint
from launch.runs.stubs import MOST_NAMES, MOST_PICKLE_OBJECTS, Stub, contents

LIBRARY = """
from enum import Enum
import torch
from torch import nn

executed = []

class Config:
    def __init__(self, **values):
        self.__dict__.update(values)

    def __setstate__(self, state):
        executed.append(self)

class Settings(dict):
    def __setitem__(self, key, value):
        executed.append(self)
        super().__setitem__(key, value)

class Kind(Enum):
    ONE = 1

    def __reduce_ex__(self, protocol):  # as Python 3.11.7 does; 3.11.2 writes a call of getattr
        return type(self), (self.value,)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.shared = self.fc
        self.register_buffer("scale", torch.ones(2))
        self.register_buffer("cache", torch.ones(5), persistent=False)
        self.register_buffer("none", None)
        self.parent = [self]

    def __setstate__(self, state):
        executed.append(self)

def function(*args):
    executed.append(args)
"""


@pytest.fixture
def library(monkeypatch):
    """Make a library whose code must not run while a file is read."""
    module = types.ModuleType("some_library")
    monkeypatch.setitem(sys.modules, "some_library", module)
    exec(LIBRARY, module.__dict__)
    for name in ("Config", "Settings", "Kind", "Net", "function"):
        getattr(module, name).__module__ = "some_library"
    yield module
    assert not module.executed


def test_tensors_next_to_objects_are_read(tmp_path, library):
    weights = {"fc.weight": torch.randn(2, 3)}
    others = {
        "args": argparse.Namespace(lr=0.1, data=Path("x"), nested=argparse.Namespace(a=1)),
        "config": library.Config(tensor=torch.ones(2)),
        "settings": library.Settings(lr=0.1),
        "kind": library.Kind.ONE,
        "best": np.float64(0.9),
        "array": np.arange(3),
        "function": library.function,
        "set": {1, 2},
        "counts": defaultdict(list, a=[1]),
        "rng": torch.get_rng_state(),
    }
    path = tmp_path / "file.pt"
    torch.save({"model": weights, **others}, path)
    library.executed.clear()  # of writing
    found = load_objects(path)
    assert torch.equal(found["model"]["fc.weight"], weights["fc.weight"])
    assert found["args"].lr == 0.1 and found["args"].nested.a == 1
    assert isinstance(found["args"], Stub)
    assert torch.equal(contents(found["config"])["tensor"], torch.ones(2))
    assert contents(found["settings"]) == {"lr": 0.1} and found["counts"] == {"a": [1]}
    assert read_checkpoint(path).weights.keys() == {"fc.weight"}


def test_a_whole_model_gives_its_state_dict(tmp_path, library):
    model = library.Net()
    state = model.state_dict()
    torch.save(model, tmp_path / "model.pt")
    torch.save({"epoch": 3, "net": nn.DataParallel(model)}, tmp_path / "wrapped.pt")
    library.executed.clear()
    for name in ("model.pt", "wrapped.pt"):
        found = read_checkpoint(tmp_path / name, like=state).weights
        assert set(found) == set(state) and "cache" not in found
        assert all(torch.equal(found[key], state[key]) for key in state)


@pytest.mark.parametrize("others", [1, 300])
def test_a_network_within_itself_is_refused(tmp_path, others):
    model = nn.Module()
    for i in range(others):
        model.register_parameter(f"w{i}", nn.Parameter(torch.ones(1)))
    model._modules["a"] = model
    torch.save(model, tmp_path / "loop.pt")
    tracemalloc.start()
    with pytest.raises(UserError, match="loop.pt has a network with more than 20,000 modules"):
        read_checkpoint(tmp_path / "loop.pt")
    assert tracemalloc.get_traced_memory()[1] < 2**27
    tracemalloc.stop()


class Malicious:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "function", [os.system, exec, eval, os.remove, getattr, __import__, subprocess.Popen, open]
)
def test_functions_of_python_are_refused_and_nothing_runs(tmp_path, function):
    victim = tmp_path / "victim"
    victim.touch()
    argument = {os.remove: str(victim), subprocess.Popen: ["rm", str(victim)]}
    call = Malicious(function, argument.get(function, f"rm {victim}"))
    torch.save({"model": {"w": torch.ones(2, 2)}, "x": call}, tmp_path / "file.pt")
    with pytest.raises(UserError, match=r"file.pt has other contents .*: it names .*, which no ch"):
        read_checkpoint(tmp_path / "file.pt")
    assert victim.exists()


def test_functions_of_others_are_not_called(tmp_path, library):
    value = {"model": {"w": torch.ones(2, 2)}, "x": Malicious(library.function, 3)}
    torch.save(value, tmp_path / "file.pt")
    assert read_checkpoint(tmp_path / "file.pt").weights.keys() == {"w"}


def test_what_cannot_be_read_so_says_how_to_convert_it(tmp_path):
    value = {"model": {"w": torch.ones(1)}, "args": argparse.Namespace()}
    torch.save(value, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(value))
    for name in ("old.pt", "plain.pth"):
        with pytest.raises(UserError, match=rf"{name} has other contents than .* save its state d"):
            read_checkpoint(tmp_path / name)
    torch.save(torch.load(tmp_path / "old.pt", weights_only=False)["model"], tmp_path / "new.pt")
    assert read_checkpoint(tmp_path / "new.pt").weights.keys() == {"w"}


def archive(path, pickled):
    """Write an archive of torch.save with any description."""
    plain = io.BytesIO()
    torch.save({"w": torch.ones(2, 2)}, plain)
    with zipfile.ZipFile(plain) as there, zipfile.ZipFile(path, "w") as new:
        for entry in there.infolist():
            is_pickle = entry.filename.endswith(".pkl")
            new.writestr(entry.filename, pickled if is_pickle else there.read(entry))


@pytest.mark.parametrize(
    "pickled, message",
    [
        (b"]" + b"".join(b"clib\nC%d\na" % i for i in range(MOST_NAMES + 1)) + b".", "of 65 cla"),
        (b"]clib\nC\na" + b"Na" * (MOST_PICKLE_OBJECTS // 2) + b".", "description of 2,097,164 by"),
        (b"clib\nC\n(K\x01K\x02tb.", "other contents|cannot be read"),  # state of a class
        (b"clib\nC\n)\x81(K\x01K\x02tb.", "cannot be read"),  # state that is no dictionary
        (b"clib\nC\n)\x81(lK\x01a.", "other contents|cannot be read"),
        (b"clib\nC\n)R)R.", "other contents"),  # the object is called
        (b"csys\nC\n.", "names sys.C"),
        (b"clib\n__class__\n)R}X\x08\x00\x00\x00__dict__K\x01sb.", "holds no state dict"),
    ],
)
def test_odd_descriptions_are_refused(tmp_path, pickled, message):
    archive(tmp_path / "odd.pt", b"\x80\x02" + pickled)
    with pytest.raises(UserError, match=message):
        read_checkpoint(tmp_path / "odd.pt")


def test_odd_networks_are_read_or_refused():
    module = OrderedDict()
    module.__dict__.update(_modules={1: module}, _parameters=[], _buffers={1: torch.ones(1)})
    assert contents(module) == {}
    module.__dict__.update(_parameters={"w": torch.ones(1)}, _buffers=None)
    assert list(contents(module)) == ["w"]
    for within in ({"a": module}, {"a": module, "b": module}):
        module.__dict__.update(_modules=within)
        with pytest.raises(UserError, match="FILE has a network with more than 20,000 modules"):
            contents(module, "FILE")


def test_values_that_are_no_objects_have_no_contents():
    assert contents(3) is None and contents([torch.ones(1)]) is None
    assert contents(Kind.ONE) is None
    assert contents({"a": 1}) == {"a": 1}


class Kind(Enum):
    ONE = 1

    def __reduce_ex__(self, protocol):  # as Python 3.11.7 does; 3.11.2 writes a call of getattr
        return type(self), (self.value,)
