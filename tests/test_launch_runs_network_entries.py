"""Which tensors of a checkpoint file are the network's: prefixes of any depth, and entries."""

from __future__ import annotations

import time
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from baselines.errors import UserError
from launch.runs.entries import DEPTH, find_entries
from launch.runs.network_entries import choose


class Net(nn.Module):
    def __init__(self, classes=4):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 8, 3))
        self.head = nn.Linear(8, classes)


def state(model=None):
    return {k: v.clone() for k, v in (model or Net()).state_dict().items()}


def prefixed(prefix, named):
    return {prefix + name: tensor for name, tensor in named.items()}


def taken(found, key="", like=None):
    return choose(find_entries(found, "FILE"), "FILE", key, like)


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "net.", "student.module.backbone.", "a.b.c.d.e.", "model.module.net."],
)
def test_a_prefix_of_the_file_is_removed(prefix):
    ours, weights = state(), prefixed(prefix, state())
    mask = torch.ones(4, 8, dtype=torch.bool)
    others = {"epoch": torch.tensor(3), "teacher.head.bias": torch.zeros(4)}
    found, note = taken({**weights, **others, f"mask:{prefix}head.weight": mask}, like=ours)
    assert all(torch.equal(found.weights[name], weights[prefix + name]) for name in ours)
    assert found.masks.keys() == {"head.weight"}
    assert note == (f"FILE: reads {prefix}*" if prefix else "")


@pytest.mark.parametrize("inserted", ["_orig_mod", "_fsdp_wrapped_module"])
def test_what_wrappers_insert_is_removed_anywhere(inserted):
    weights = {
        f"module.{inserted}.{name}".replace("features.", f"features.{inserted}."): tensor
        for name, tensor in state().items()
    }
    found, _ = taken(weights, like=state())
    assert found.weights.keys() == state().keys()
    assert taken(weights)[0].weights.keys() == state().keys()


def test_of_two_networks_the_one_that_fits_is_taken():
    small, large = state(Net(3)), state(Net(4))
    both = {**prefixed("student.net.", small), **prefixed("teacher.", large)}
    for found in (both, {"epoch": 3, "state_dict": both}, {"networks": {"G": large, "D": small}}):
        assert torch.equal(taken(found, like=small)[0].weights["head.weight"], small["head.weight"])
        assert torch.equal(taken(found, like=large)[0].weights["head.weight"], large["head.weight"])


def test_a_network_over_several_entries_is_one():
    parts = {"features": {}, "head": {}}
    for name, tensor in state().items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    found, note = taken(parts, like=state())
    assert state().keys() <= found.weights.keys() and note == ""


def test_a_prefix_of_the_model_is_added():
    inner = state()
    found, note = taken(prefixed("module.", inner), like=prefixed("net.", inner))
    assert torch.equal(found.weights["net.head.bias"], inner["head.bias"])
    assert note == "FILE: reads module.* as net.*"
    found, note = taken(prefixed("net.", inner), like=prefixed("net.", inner))
    assert found.weights.keys() == prefixed("net.", inner).keys() and note == ""


def test_shapes_decide_between_equal_names():
    wanted, other = state(Net(3)), state(Net(5))
    found, _ = taken({"model": other, "model_ema": wanted}, like=state(Net(3)))
    assert torch.equal(found.weights["head.weight"], wanted["head.weight"])
    # names of other shapes are better than none
    found, note = taken({"model": prefixed("m.", {"head.weight": torch.zeros(9, 9)})}, like=wanted)
    assert found.weights["head.weight"].shape == (9, 9) and note == "FILE: reads model.m.*"


def test_what_fits_nowhere_is_as_without_a_model():
    found, note = taken({"state_dict": {"x": torch.zeros(2)}}, like=state())
    assert found.weights.keys() == {"x"} and note == "FILE: reads state_dict.*"


def test_pruned_weights_have_the_names_of_the_plain_ones():
    model = Net()
    prune.random_unstructured(model.head, "weight", 0.25)
    found, _ = taken(prefixed("module.", state(model)), like=state())
    assert found.pruned == {"head.weight"} and found.masks.keys() == {"head.weight"}
    assert found.weights.keys() == state().keys()


# ---- entries


def net(offset=0.0):
    return OrderedDict(a=torch.ones(2, 2) + offset, b=torch.zeros(2))


def optimizer():
    return {"state": {0: {"momentum_buffer": torch.ones(2, 2)}}, "param_groups": [{"lr": 0.1}]}


BOTH = {"model": net(), "model_ema": net(1), "optimizer": optimizer(), "epoch": 3}
NESTED = {"ema": {"module": net(1), "n": 3}, "net": net()}
FLAT = {"state_dict": {**prefixed("teacher.", net(1)), **prefixed("student.", net())}}


@pytest.mark.parametrize("like", [None, net(5)], ids=["without model", "with model"])
@pytest.mark.parametrize(
    "found, key, offset, note",
    [
        (net(), "", 0, ""),
        ({"state_dict": net(), "optimizer": optimizer(), "epoch": 3}, "", 0, "state_dict.*"),
        (BOTH, "", 0, "model.*; FILE@KEY chooses another one: model_ema"),
        (BOTH, "model_ema", 1, "model_ema.*"),
        (BOTH, "model", 0, "model.*"),
        ({"state_dict_ema": net(1), "state_dict": net()}, "", 0, "state_dict.*; FILE@KEY"),
        ({"model": net(), "ema": net(1), "swa": net(2)}, "", 0, "another one: ema, swa"),
        (NESTED, "", 0, "net.*; FILE@KEY chooses another one: ema.module"),
        (NESTED, "ema", 1, "ema.module.*"),
        (NESTED, "ema.module", 1, "ema.module.*"),
        (NESTED, "module", 1, "ema.module.*"),
        ({"model_ema": net(1), "optimizer": optimizer()}, "", 1, "model_ema.*"),
        ({"optimizer": {"x": torch.ones(2, 2), "y": torch.ones(2, 2)}, "z": net()}, "", 0, "z.*"),
        ({"teacher": {"x": torch.ones(1)}, "student": {"model": net()}}, "", 0, "student.model.*"),
        (FLAT, "state_dict.student", 0, "state_dict.student.*"),
        (FLAT, "teacher", 1, "state_dict.teacher.*"),
    ],
)
def test_the_network_is_found_among_entries(found, key, offset, note, like):
    entry, said = taken(found, key, like)
    assert torch.equal(entry.weights["a"], net(offset)["a"])
    assert note in said and bool(note) == bool(said)
    assert entry.weights.keys() == {"a", "b"} or like is not None


def test_student_and_teacher_of_one_state_dict_are_told_apart_with_a_model():
    entry, note = taken(FLAT, like=net())
    assert torch.equal(entry.weights["a"], net()["a"])
    assert note == (
        "FILE: reads state_dict.student.*; FILE@KEY chooses another one: state_dict.teacher"
    )


def test_what_has_no_network_is_named():
    for found in ({"epoch": 3, "optimizer": optimizer()}, [net()], 3, {3: torch.ones(2)}):
        with pytest.raises(UserError, match="FILE holds no state dict"):
            taken(found)
    with pytest.raises(UserError, match="FILE has no entry 'mdel'; there are model, x.ema"):
        taken({"model": net(), "x": {"ema": net()}}, "mdel")
    with pytest.raises(UserError, match="FILE has no entry 'model'; it is one state dict"):
        taken(net(), "model")


def test_the_search_ends(monkeypatch):
    loop = net()
    loop["itself"] = loop["again"] = loop
    assert len(find_entries(loop, "FILE")) == 1
    deep = net()
    for _ in range(DEPTH):
        deep = {"x": deep}
    assert find_entries(deep, "FILE") == []
    assert len(find_entries(deep["x"], "FILE")) == 1
    assert find_entries({str(i): 0 for i in range(100_001)}, "FILE") == []
    with pytest.raises(UserError, match="FILE has too many nested entries"):
        find_entries({str(i): {} for i in range(100_001)}, "FILE")
    long = {"x" * 1_000_000: {str(i): torch.ones(1) for i in range(40)}}
    with pytest.raises(UserError, match="FILE has .*too long names"):
        find_entries(long, "FILE")


def test_the_rule_between_equal_entries_is_told():
    other = {"c": torch.zeros(3, 3), "d": torch.zeros(2)}
    entry, note = taken({"generator": net(), "critic": other})
    assert entry.weights.keys() == other.keys()
    assert note == (
        "FILE: reads critic.*, the shortest key of equal ones; "
        "FILE@KEY chooses another one: generator"
    )
    both = {"critic": net(1), "generator": net()}
    entry, note = taken(both, like=net())
    assert torch.equal(entry.weights["a"], net(1)["a"])
    assert "critic.*, the shortest key of equal ones; FILE@KEY" in note
    _, note = taken({"state_dict": both}, "generator", like=net())
    assert note == "FILE: reads state_dict.generator.*"


def test_a_key_in_many_prefixes_is_found_in_time():
    one, count = torch.zeros(2, 2), 20_000  # names times prefixes would be minutes
    begin = time.process_time()
    entry, note = taken({f"part{i}.net.weight": one for i in range(count)}, "net")
    assert time.process_time() - begin < 10
    assert entry.weights.keys() == {"weight"} and note.startswith("FILE: reads part0.net.*")


def test_a_key_within_names_keeps_masks_and_pruning():
    model = Net()
    prune.random_unstructured(model.head, "weight", 0.25)
    found, note = taken({"state": prefixed("a.net.", state(model))}, "net")
    assert note == "FILE: reads state.a.net.*"
    assert found.pruned == {"head.weight"} and found.masks.keys() == {"head.weight"}
    assert found.weights.keys() == state().keys()
