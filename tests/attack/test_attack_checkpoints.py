"""Checkpoints of others, damaged or made to harm: each is read or refused in one line."""

from __future__ import annotations

import copy
import io
import os
import pickle
import struct
import warnings
import zipfile
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from attack.child import signbench
from attack.mutate import alter_state, damage, odd, odd_tensor, replace
from attack.runs import SHORT
from safetensors.torch import save_file
from torch.nn.utils import prune

from launch.models import build_model
from launch.runs.checkpoints import write_checkpoint
from launch.runs.snapshots import read_snapshot

ZEROS = b"\0" * 2**20


def state_dict(rng: Random) -> dict[str, Any]:
    """Return the state dict of a small network, as several trainers wrap it."""
    state = wrapped(rng)
    if rng.random() < 0.3:  # with others, and objects beside it
        state = {"net": state, "ema": state} if rng.random() < 0.5 else {"state_dict": state}
        state |= {"args": Namespace(lr=0.1, path=Path("x")), "best": np.float64(0.9)}
    return state


def wrapped(rng: Random) -> dict[str, Any]:
    torch.manual_seed(rng.randrange(100))
    state: Any = build_model("digits-cnn", 10, 1, 8).state_dict()
    kind = rng.randrange(6)
    if kind == 1:
        state = {f"module.{k}": v for k, v in state.items()}
    elif kind == 2:
        state = {"state_dict": {f"model.{k}": v for k, v in state.items()}, "epoch": 3}
    elif kind == 3:
        state = {"model": {f"_orig_mod.{k}": v for k, v in state.items()}, "optimizer": {}}
    elif kind == 4:
        model = build_model("digits-cnn", 10, 1, 8)
        prune.l1_unstructured(model[0], "weight", 0.5)
        state = model.state_dict()
    elif kind == 5:
        state |= {f"mask:{k}": v.abs() > 0.05 for k, v in state.items() if v.ndim > 1}
    return dict(state)


def write(path: Path, state: Any, rng: Random) -> None:
    if path.suffix == ".safetensors":
        tensors = {str(k): v for k, v in state.items() if isinstance(v, torch.Tensor)}
        save_file({k: v.contiguous().clone() for k, v in tensors.items()}, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=rng.random() < 0.8)


# ---- files that are made to harm


def expanded(path: Path, rng: Random) -> None:
    n = rng.choice((10**9, 2 * 10**10))
    torch.save({"0.weight": torch.zeros(1).expand(n), "b.weight": torch.zeros(2, 2)}, path)


def many_views(path: Path, rng: Random) -> None:
    base = torch.zeros(2**20)
    torch.save({f"{i}.weight": base.view(1024, 1024) for i in range(3000)}, path)


def bomb(path: Path, rng: Random) -> None:
    """Write an archive whose entry expands to 4 GB."""
    plain = io.BytesIO()
    torch.save({"a.weight": torch.zeros(4, 4)}, plain)
    with zipfile.ZipFile(plain) as there, zipfile.ZipFile(path, "w") as archive:
        for entry in there.infolist():
            if entry.filename.endswith("/data/0"):
                with archive.open(zipfile.ZipInfo(entry.filename), "w", force_zip64=True) as stream:
                    stream._compressor = zipfile._get_compressor(zipfile.ZIP_DEFLATED)
                    stream._zinfo.compress_type = zipfile.ZIP_DEFLATED
                    for _ in range(rng.choice((16, 300))):
                        stream.write(ZEROS)
            else:
                archive.writestr(entry.filename, there.read(entry))


def claims_too_much(path: Path, rng: Random) -> None:
    """Write an archive whose tensor claims more numbers than are stored."""
    plain = io.BytesIO()
    torch.save({"a.weight": torch.zeros(1000, 1000)}, plain)
    with zipfile.ZipFile(plain) as there, zipfile.ZipFile(path, "w") as archive:
        for entry in there.infolist():
            data = there.read(entry)
            if entry.filename.endswith("/data/0"):
                data = data[: rng.choice((0, 4, 4096))]
            archive.writestr(entry.filename, data)


def overlapping(path: Path, rng: Random) -> None:
    """Write an archive whose directory lists the same bytes a thousand times."""
    plain = io.BytesIO()
    with zipfile.ZipFile(plain, "w") as archive:
        archive.writestr("x/data/0", os.urandom(2**16))
    data = plain.getvalue()
    start = data.rindex(b"PK\x01\x02")
    end = data.rindex(b"PK\x05\x06")
    record, count = data[start:end], 1000
    tail = bytearray(data[end:])
    tail[8:12] = struct.pack("<HH", count, count)
    tail[12:16] = struct.pack("<I", len(record) * count)
    path.write_bytes(data[:start] + record * count + bytes(tail))


class Malicious:
    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/signbench-was-here",)


def malicious(path: Path, rng: Random) -> None:
    value = {"0.weight": Malicious()}
    if rng.random() < 0.5:
        path.write_bytes(pickle.dumps(value, protocol=rng.choice((0, 2, 4))))
    else:
        torch.save(value, path)


def deep(path: Path, rng: Random) -> None:
    """Write a state dict in many wrappings, or an archive of lists in lists."""
    n = rng.choice((10, 200, 100_000))
    if n > 200:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", b"\x80\x02" + b"]" * n + b"a" * (n - 1) + b".")
            archive.writestr("x/version", "3\n")
            archive.writestr("x/byteorder", "little")
        return
    value: Any = {"0.weight": torch.zeros(2, 2)}
    for _ in range(n):
        value = {"state_dict": value} if rng.random() < 0.9 else [value]
    torch.save(value, path)


def itself(path: Path, rng: Random) -> None:
    value: dict[str, Any] = {"0.weight": torch.zeros(2, 2)}
    value["state_dict"] = value
    torch.save(value, path)


def no_state(path: Path, rng: Random) -> None:
    values: list[Any] = [
        *(None, 3, "x", [], {}, [torch.zeros(2)], torch.zeros(2, 2), {"a": {"b": torch.ones(2)}}),
        *({3: torch.zeros(2, 2)}, {("a", 1): torch.zeros(2, 2)}, {"": torch.zeros(2, 2)}),
        *({"model": None}, {"state_dict": []}, OrderedDict(), {"mask:": torch.ones(2, 2)}),
        *({"mask:0.weight": torch.ones(2, 2)}, {"0.weight": torch.tensor(1.0)}),
        {"0.weight": torch.zeros(2, 2), "x_orig": torch.zeros(2), "x_mask": torch.zeros(3)},
        {"0.weight_orig": torch.zeros(2, 2), "0.weight_mask": torch.zeros(2, 3)},
        {"0.weight": torch.zeros(0, 4)},
    ]
    torch.save(rng.choice(values), path)


def header(path: Path, rng: Random) -> None:
    """Write a .safetensors file with an odd header."""
    texts = (
        '{"a":{"dtype":"F32","shape":[1000000000,1000],"data_offsets":[0,4]}}',
        '{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
        '{"a":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}}',
        '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4000000000000]}}',
        '{"__metadata__":{"sha256":"x"},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        "[" * 10_000,
        "{}",
        "",
    )
    text = rng.choice(texts).encode()
    size = rng.choice((len(text), len(text), 2**40, 0))
    path.write_bytes(struct.pack("<Q", size) + text + bytes(4))


def whole(path: Path, rng: Random) -> None:
    """Write a whole network, with a part that is damaged or within itself."""
    model: Any = build_model("digits-cnn", 10, 1, 8)
    kind = rng.randrange(5)
    if kind == 0:
        model._modules["x"] = model
    elif kind == 1:
        model.__dict__[rng.choice(("_parameters", "_buffers", "_modules"))] = odd(rng)
    elif kind == 2:
        model[0].__dict__["_parameters"] = {"weight": odd(rng), 3: torch.zeros(2)}
    elif kind == 3:
        model[0]._modules = {"y": rng.choice((3, None, [model], model))}
    torch.save({"model": model, "x": odd(rng)} if rng.random() < 0.5 else model, path)


def many_entries(path: Path, rng: Random) -> None:
    """Write entries within each other, of which many are the same."""
    value: dict[str, Any] = {"0.weight": torch.zeros(2, 2)}
    for _ in range(rng.choice((1, 4, 6))):
        value = {f"{'x.' * rng.choice((1, 3000))}{i}": value for i in range(rng.choice((3, 300)))}
    torch.save(value, path)


def many_objects(path: Path, rng: Random) -> None:
    """Write objects of many classes, or many objects of classes that are not there."""
    names = b"".join(b"clib\nC%d\na" % i for i in range(rng.choice((1, 60, 3000))))
    step = rng.choice((b"h\x00)\x81a", b"h\x00)Ra", b"h\x00)\x81}ba", b"h\x00h\x00\x86a"))
    pickled = b"\x80\x02]" + names + b"clib\nC0\nq\x00a" + step * rng.choice((9, 10**5)) + b"."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickled)
        archive.writestr("x/version", "3\n")
        archive.writestr("x/byteorder", "little")


HARMFUL = {
    f.__name__: f
    for f in (
        *(expanded, many_views, bomb, claims_too_much, overlapping, malicious),
        *(deep, itself, no_state, header, whole, many_entries, many_objects),
    )
}


def make(path: Path, rng: Random) -> str:
    """Write a checkpoint that is odd in some way. Return in which."""
    kind = rng.random()
    if kind < 0.4:
        name = rng.choice(list(HARMFUL))
        HARMFUL[name](path, rng)
        return name
    state = state_dict(rng)
    if kind < 0.75:
        home = next((v for v in state.values() if isinstance(v, dict)), state)
        for _ in range(rng.choice((1, 1, 3))):
            key = rng.choice(list(home))
            if isinstance(home[key], torch.Tensor):
                home[key] = odd_tensor(home[key], rng)
        if rng.random() < 0.3:
            alter_state(state, rng)
        if rng.random() < 0.2:
            state[rng.choice((3, "x", ("a",)))] = odd(rng)
        try:
            write(path, state, rng)
            return "altered"
        except Exception:  # not to be written in this form
            state = state_dict(rng)
    write(path, copy.deepcopy(state), rng)
    return replace(path, rng) if rng.random() < 0.1 else damage(path, rng)


def test_checkpoints(attack, world, tmp_path):
    warnings.simplefilter("ignore")  # of quantised tensors
    (finished,) = world.finished.iterdir()
    write_checkpoint(tmp_path / "good.safetensors", read_snapshot(finished, "final"))
    for rng in attack.cases(few=8, share=0.2):
        path = tmp_path / f"odd{rng.choice(('.pt', '.pth', '.ckpt', '.safetensors'))}"
        what = make(path, rng)
        roles = dict.fromkeys(("mask", "signs", "magnitudes", "others"), path.name)
        for part in rng.sample(list(roles), rng.choice((0, 1, 3))):
            roles[part] = "good.safetensors"
        if roles["mask"] == roles["signs"] == "good.safetensors":
            roles["signs"] = path.name
        flags = [f"--{part}={source}" for part, source in roles.items()]
        if rng.random() < 0.15:
            flags = [flag for flag in flags if not flag.startswith("--others")]
            args = ["run", "--method", "fixed", *flags, *SHORT, "--epochs", "1", "--runs", "runs"]
        else:
            args = ["transplant", *flags, "--output", "out.safetensors"]
            args += rng.choice(([], ["--magnitude-kind", "layer"], ["--flip-signs", "0.5"]))
        args += rng.choice(([], [], ["--key", rng.choice(("ema", "net", "x", ".", "0"))]))
        outcome = signbench(*args)
        attack.note(outcome.problem([path.name, "good.safetensors"]), f"{what} {args}")
        assert not Path("/tmp/signbench-was-here").exists(), what
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
