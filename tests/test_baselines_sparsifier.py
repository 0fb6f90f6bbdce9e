"""sparsify: a bare loop equals the suite's own runs, resumes, and refuses what it cannot do."""

from __future__ import annotations

import copy
import itertools
import warnings
from dataclasses import fields, replace
from functools import cache
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from bare_loop import bare, digits, schedule, sparsified, take_steps
from literal import batches, loss_of, tiny_net
from test_contract import make
from torch import nn

from baselines import Method, Options, Plan, Samples, SignRule, SparseModel, Sparsifier, sparsify
from baselines.errors import UserError
from baselines.registry import find_method, methods
from baselines.tools.density import layer_counts
from signin import HAM, SignIn

# ---- resuming

ORDERS = list(itertools.permutations(("model", "optimizer", "sparsifier")))


def begin(run, data):
    model, optimizer = bare(run)
    sparsifier = sparsified(run, data, model, optimizer)
    scheduler = sparsifier.lr_scheduler(optimizer, schedule(run))
    parts = (model, optimizer, sparsifier, scheduler)
    return dict(zip(("model", "optimizer", "sparsifier", "scheduler"), parts, strict=True))


def train_on(parts, data, first, last):
    take_steps(parts["model"], parts["optimizer"], parts["scheduler"], data, first, last)


@cache
def stopped_and_whole(run, folder):
    """Return the data, saved states and their step, the total steps, and the final weights."""
    data = digits(run, folder)
    whole = begin(run, data)
    total = whole["sparsifier"].total_steps
    stop = total // 2 + 5
    train_on(whole, data, 0, stop)
    saved = {k: copy.deepcopy(part.state_dict()) for k, part in whole.items()}
    train_on(whole, data, stop, total)
    return data, saved, stop, total, whole["model"].state_dict()


def grouped(name, rule):
    """Return a case that one process tests in all orders, so that it is trained once."""
    group = pytest.mark.xdist_group(f"states of {name} {rule}")
    return pytest.param(name, rule, marks=group)


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
@pytest.mark.parametrize(
    "name, rule",
    [
        grouped(name, rule)
        for name in ("rigl", "acdc", "str-target", "wr", "spred")
        for rule in ("plain", "signin")
    ],
)
def test_states_are_loaded_in_any_order(references, name, rule, order):
    run = make(name, find_method(name).variants[0], rule, epochs=2)
    data, saved, stop, total, expected = stopped_and_whole(run, references)
    resumed = begin(run, data)
    train_on(resumed, data, 0, 3)  # leave something behind that must not matter
    resumed["scheduler"].load_state_dict(saved["scheduler"])
    for part in order:
        resumed[part].load_state_dict(copy.deepcopy(saved[part]))
    train_on(resumed, data, stop, total)
    for key, value in resumed["model"].state_dict().items():
        assert torch.equal(value, expected[key]), key


# ---- small nets


@pytest.mark.parametrize("name, sign_in", [("rigl", True), ("lrr", True), ("str-target", None)])
def test_a_copied_training_goes_on_as_the_original(name, sign_in):
    whole = small(name, sign_in=sign_in, steps_per_epoch=5)
    steps_of(*whole[:2], 7)
    model, optimizer, sparsifier = copy.deepcopy(whole)
    sparsifier.attach(optimizer)
    optimizer.load_state_dict(copy.deepcopy(whole[1].state_dict()))
    sparsifier.load_state_dict(copy.deepcopy(whole[2].state_dict()))
    steps_of(model, optimizer, 9)
    steps_of(*whole[:2], 9)
    for key, value in model.state_dict().items():
        assert torch.equal(value, whole[0].state_dict()[key]), key
    assert sparsifier.step == whole[2].step == 16


def small(method="rigl", steps=20, **choices):
    model = tiny_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    choices = {"sparsity": 0.8, "steps": steps, **choices}
    return model, optimizer, sparsify(model, optimizer, method, **choices)


def steps_of(model, optimizer, n):
    for x, y in itertools.islice(itertools.cycle(batches(4)), n):
        loss_of(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()


def test_finalize_returns_the_plain_sparse_model_and_a_plain_optimizer():
    model, optimizer, sparsifier = small(sign_in=True, steps_per_epoch=5)
    steps_of(model, optimizer, 20)
    assert sparsifier.sparsity() == pytest.approx(0.8, abs=1e-3)
    masks = sparsifier.masks
    assert sparsifier.finalize() is model
    for name, mask in masks.items():
        assert not model.get_parameter(name)[~mask].any()
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in model.parameters()}
    steps_of(model, optimizer, 1)  # dense again: nothing is masked any more
    assert any(bool(model.get_parameter(name)[~mask].any()) for name, mask in masks.items())


def test_after_the_last_step_training_goes_on_under_the_last_masks():
    model, optimizer, sparsifier = small("gmp", events=3)
    steps_of(model, optimizer, 20)
    assert sparsifier.is_done
    masks = sparsifier.masks
    before = {k: v.detach().clone() for k, v in model.named_parameters()}
    with pytest.warns(UserWarning, match="goes on after the 20 planned steps") as caught:
        steps_of(model, optimizer, 5)
    assert len(caught) == 1
    assert all(torch.equal(mask, sparsifier.masks[name]) for name, mask in masks.items())
    assert any(not torch.equal(v, before[k]) for k, v in model.named_parameters())
    assert sparsifier.step == 20
    model, optimizer, sparsifier = small()
    sparsifier.may_go_on = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steps_of(model, optimizer, 21)


def test_a_training_that_ends_early_is_warned_of_once():
    model, optimizer, sparsifier = small("gmp")
    steps_of(model, optimizer, 5)
    with pytest.warns(UserWarning, match="ended after 5 of 20 planned steps") as caught:
        sparsifier.finalize()
        sparsifier.finalize()
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small("gmp")[2].finalize()  # no step was taken
        model, optimizer, sparsifier = small(steps=200)
        steps_of(model, optimizer, 198)  # a GradScaler has skipped two
        sparsifier.finalize()


@pytest.mark.parametrize("s_init, reached", [(-100.0, "0"), (-1e-4, "1")])
def test_a_training_that_ends_at_another_sparsity_is_warned_of(s_init, reached):
    """STR's sparsity is an outcome of its constants: these prune nothing, or everything."""
    model, optimizer, sparsifier = small("str", s_init=s_init, threshold_decay=5e-4)
    with pytest.warns(UserWarning) as caught:
        steps_of(model, optimizer, 21)
        sparsifier.finalize()
    goes_on, ended = [str(warning.message) for warning in caught]
    assert "goes on after" in goes_on
    assert ended == f"the training ended at sparsity {reached}, not 0.8."
    assert caught[1].filename == __file__


def test_a_finished_training_of_the_planned_sparsity_is_not_warned_of():
    model, optimizer, sparsifier = small("gmp")
    steps_of(model, optimizer, 20)
    with torch.no_grad():
        for weight in sparsifier.net.weights.values():
            weight.zero_()  # by a constraint, say: the masks are what the method has reached
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sparsifier.finalize()
    model, optimizer, sparsifier = small("gmp")
    steps_of(model, optimizer, 20)
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    with pytest.warns(UserWarning, match="weights have been replaced") as caught:
        sparsifier.finalize()
    assert len(caught) == 1 and caught[0].filename == __file__


@pytest.mark.parametrize("late", [False, True])
def test_weights_that_are_unfrozen_later_are_warned_of(late):
    model = nn.Sequential(*[nn.Linear(8, 8) for _ in range(3)])
    model[0].requires_grad_(False)
    model[1].requires_grad_(False)
    optimizer = torch.optim.SGD(model[2].parameters(), 0.1)
    choices = {"sparsity": 0.5, "steps": 20, "exclude": iter(["1"])}
    sparsifier = sparsify(model, optimizer, "gmp", steps_per_epoch=10, **choices)

    def steps(n):
        for _ in range(n):
            model(torch.ones(4, 8)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steps(15 if late else 5)
        model.requires_grad_(True)  # no optimizer trains them yet
        steps(1)
    optimizer.add_param_group({"params": [*model[0].parameters(), *model[1].parameters()]})
    with pytest.warns(UserWarning, match="^0.weight: frozen when the model was made sp") as caught:
        steps(4 if late else 5)
        sparsifier.finalize()
    assert sum("frozen" in str(warning.message) for warning in caught) == 1


def test_levels_without_their_schedule_are_warned_of():
    model, optimizer, sparsifier = small("lrr", steps_per_epoch=5)
    with pytest.warns(UserWarning, match=r"lrr trains in levels, \d+ steps in all"):
        steps_of(model, optimizer, 1)
    model, optimizer, sparsifier = small("lrr", steps_per_epoch=5)
    assert sparsifier.total_steps == 20 * (1 + 8)  # 0.8 sparsity: 8 more levels of 0.8
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steps_of(model, optimizer, 1)
    assert sparsifier.lr_factor(20) == sparsifier.lr_factor(0)


def test_with_manual_begin_changes_wait_for_the_loop():
    model, optimizer, sparsifier = small("gmp", begin=0.5, end=0.5, events=1, manual_begin=True)
    with pytest.raises(UserError, match=r"call begin_step\(\) before"):
        steps_of(model, optimizer, 1)
    for _ in range(10):
        sparsifier.begin_step()
        steps_of(model, optimizer, 1)
    assert sparsifier.sparsity() == 0
    sparsifier.begin_step()
    sparsifier.begin_step()  # nothing more
    assert sparsifier.sparsity() == pytest.approx(0.8, abs=1e-3)


@pytest.mark.parametrize("manual_begin", [False, True])
def test_loaded_weights_stay_masked(manual_begin):
    model, optimizer, sparsifier = small("random", sign_in=True, manual_begin=manual_begin)
    model.load_state_dict(tiny_net().state_dict())
    for _ in range(3):
        sparsifier.begin_step()
        steps_of(model, optimizer, 1)
        assert sparsifier.sparsity() == pytest.approx(0.8, abs=1e-3)
    model.load_state_dict(tiny_net().state_dict())
    with pytest.warns(UserWarning, match=r"sparsity is 0\.000, that of the masks 0\.80"):
        sparsifier.finalize()
    assert sparsifier.net.sparsity() == 0  # a best checkpoint, say, stays as it is


@pytest.mark.parametrize("sign_in", [False, True])
def test_finalize_gives_the_optimizer_its_decays_back(sign_in):
    model = tiny_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, weight_decay=0.01)
    rules = []
    for _ in range(2):
        choices = {"sparsity": 0.8, "steps": 20, "sign_in": sign_in}
        sparsifier = sparsify(model, optimizer, "random", **choices)
        assert (optimizer.param_groups[0]["weight_decay"] == 0.01) == (not sign_in)
        rules.append(sparsifier.rule)
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "weight_decay": 0.5})
        sparsifier.finalize()
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.5]
        optimizer.param_groups[0]["weight_decay"] = 0.02
        sparsifier.finalize()  # gives back no more
        assert optimizer.param_groups[0]["weight_decay"] == 0.02
        optimizer.param_groups[0]["weight_decay"] = 0.01
        del optimizer.param_groups[1]
    assert rules[0] == rules[1] or not sign_in  # the second one follows the same decay


def test_numbers_of_numpy_become_plain():
    """Checkpoints that are read without executing anything have no others."""
    plan = Plan(np.float64(0.5), np.int64(20), np.int32(5), np.int64(3))
    values = plan.sparsity, plan.steps, plan.steps_per_epoch, plan.seed
    assert [type(value) for value in values] == [float, int, int, int]


def test_a_method_sees_loaded_weights():
    """Top-KAST restores what it has remembered before a step: not the weights before the load."""
    model, optimizer, sparsifier = small("topkast", exploration=0.0)
    torch.manual_seed(1)
    loaded = {name: torch.randn_like(w) for name, w in sparsifier.net.weights.items()}
    model.load_state_dict({**model.state_dict(), **loaded})
    optimizer.param_groups[0]["lr"] = 0.0
    steps_of(model, optimizer, 1)
    for layer in sparsifier.net:
        assert torch.equal(sparsifier.method.storage.values(layer), loaded[layer.name])


@pytest.mark.parametrize("sign_in", [False, True])
@pytest.mark.parametrize("method", ["str-target", "topkast"])
def test_clipping_leaves_out_gradients_that_reach_no_weight(method, sign_in):
    ends = []
    for clip in (False, True):
        model, optimizer, sparsifier = small(method, sign_in=sign_in)
        for x, y in batches(8):
            loss_of(model(x), y).backward()
            if clip:
                sparsifier.mask_gradients()
                for layer in sparsifier.net:
                    reached = layer.weight.grad != 0
                    if method == "topkast":  # twice as many as compute
                        assert int(reached.sum()) <= 2 * int(layer.weight.count_nonzero())
                    else:
                        assert not (reached & (layer.weight == 0)).any()
                    assert reached.any()
            optimizer.step()
            optimizer.zero_grad()
        ends.append([p.detach() for p in model.parameters()])
    assert any(bool((p == 0).any()) for p in ends[0])
    assert all(torch.equal(p, q) for p, q in zip(*ends, strict=True))


def test_clipping_shows_dense_gradients_to_the_method_first():
    ends = []
    for clip in (False, True):
        model, optimizer, sparsifier = small("rigl", update_every=2)
        for x, y in batches(8):
            loss_of(model(x), y).backward()
            if clip:
                sparsifier.mask_gradients()
                nn.utils.clip_grad_norm_(model.parameters(), 1e6)
            optimizer.step()
            optimizer.zero_grad()
        ends.append(sparsifier.masks)
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_replaced_update_updates_nothing():
    model, optimizer, _ = small("rigl", steps=40, update_every=2)
    steps_of(model, optimizer, 2)
    bias = model[-1].bias.detach().clone()
    steps_of(model, optimizer, 1)  # the step at which RigL updates its masks
    assert torch.equal(model[-1].bias, bias)
    steps_of(model, optimizer, 1)
    assert not torch.equal(model[-1].bias, bias)


@pytest.mark.parametrize("name", ["snip", "grasp"])
def test_samples_come_from_a_loader_or_a_function(name):
    x, y = batches(1)[0]
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8)

    def function(per_class):
        keep = [i for i in range(len(y)) if int((y[: i + 1] == y[i]).sum()) <= per_class]
        halves = [i for i in keep if i < 8], [i for i in keep if i >= 8]
        return [(x[half], y[half]) for half in halves]

    (_, _, one), (_, _, other) = (
        small(name, samples=source, samples_per_class=2) for source in (loader, function)
    )
    assert all(torch.equal(one.masks[k], other.masks[k]) for k in one.masks)
    with pytest.raises(UserError, match="samples=DataLoader"):
        small(name)


def test_the_loss_of_the_samples_is_the_users():
    x, y = batches(1)[0]
    source = [(x, y)]
    losses = []

    def loss(output, target):
        losses.append(output.shape)
        return (output.sum(1) * target).mean()

    _, _, own = small("snip", samples=Samples(lambda n: source, loss))
    _, _, usual = small("snip", samples=lambda n: source)
    assert losses
    assert any(not torch.equal(own.masks[k], usual.masks[k]) for k in own.masks)


def test_batches_that_are_no_labelled_examples_are_refused():
    x = torch.randn(4, 3, 6, 6)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, x.mean((1, 2, 3))))
    with pytest.raises(UserError, match="integer labels"):
        small("snip", samples=loader)


def test_sign_in_sets_the_decay_of_the_optimizer():
    model = tiny_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9, weight_decay=0.3)
    sparsify(model, optimizer, "random", sparsity=0.5, steps=10, sign_in=True)
    assert optimizer.param_groups[0]["weight_decay"] == 0.0
    model = tiny_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9, weight_decay=0.3)
    with pytest.raises(UserError, match="parameter groups of their own"):
        rule = SignIn(sign_in_decay_scope="factors")
        sparsify(model, optimizer, "random", sparsity=0.5, steps=10, sign_in=rule)
    weights = SparseModel(model).weights.values()
    ids = {id(w) for w in weights}
    rest = [p for p in model.parameters() if id(p) not in ids]
    groups = [{"params": list(weights)}, {"params": rest}]
    optimizer = torch.optim.SGD(groups, 0.05, 0.9, weight_decay=0.3)
    sparsify(model, optimizer, "random", sparsity=0.5, steps=10, sign_in=rule)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.3]


def test_a_method_may_be_a_class_or_an_instance():
    _, _, by_name = small("rigl")
    _, _, by_class = small(find_method("rigl"))
    _, _, by_instance = small(find_method("rigl")(replace(by_name.method.plan)))
    for other in (by_class, by_instance):
        assert isinstance(other, Sparsifier)
        assert all(torch.equal(by_name.masks[k], other.masks[k]) for k in by_name.masks)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"method": "rigll"}, "unknown method 'rigll', did you mean rigl"),
        ({"no_such_option": 1}, "no_such_option"),
        ({"update_every": "often"}, "update_every must be of type int"),
        ({"sparsity": 1.5}, r"sparsity must be in \[0, 1\)"),
        ({"sparsity": "0.9"}, "sparsity must be a number, not '0.9'"),
        ({"steps": "100"}, "steps must be a whole number, not '100'"),
        ({"steps": 0}, "must be positive"),
        ({"steps": 12.5}, "steps must be a whole number, not 12.5"),
        ({"seed": "1"}, "seed must be a whole number, not '1'"),
        ({"method": "dense"}, "keeps every weight: sparsity must be 0"),
        ({"exclude": ["nothing*"]}, "matches none"),
        ({"sign_in": "yes"}, "sign_in"),
    ],
)
def test_mistakes_are_named_at_once(change, message):
    with pytest.raises(UserError, match=message):
        small(**{"method": "rigl", **change})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"sparsity": 0.6}, "sparsity is 0.5 in the plan of the given method, not 0.6"),
        ({"steps": 11}, "steps is 10 in the plan"),
        ({"steps_per_epoch": 2}, "steps_per_epoch is 1 in the plan"),
        ({"seed": 1}, "seed is 0 in the plan of the given method, not 1"),
        ({"update_every": 3}, "give update_every to the constructor of the method"),
    ],
)
def test_an_instance_of_another_plan_is_refused(change, message):
    method, model = find_method("rigl")(Plan(0.5, 10, 1)), tiny_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(UserError, match=message):
        sparsify(model, optimizer, method, **{"sparsity": 0.5, "steps": 10, **change})


@pytest.mark.parametrize("name", ["spred", "pilot", "topkast"])
def test_what_a_begun_step_has_set_is_resumed(name):
    whole, resumed = small(name), small(name, resume=True)
    steps_of(*whole[:2], 3)
    for part, saved in zip(resumed, whole, strict=True):
        part.load_state_dict(copy.deepcopy(saved.state_dict()))
    for model, optimizer, _ in (whole, resumed):
        steps_of(model, optimizer, 1)
    for p, q in zip(whole[0].parameters(), resumed[0].parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_dense_latents_keep_the_state_that_the_optimizer_has_loaded(order):
    choices = {"dense_latents": True, "update_every": 2, "steps": 40}
    parts = ("model", "optimizer", "sparsifier")
    whole, resumed = (dict(zip(parts, small(**choices), strict=True)) for _ in range(2))
    first = whole["sparsifier"].masks
    steps_of(whole["model"], whole["optimizer"], 6)
    assert any(bool((whole["sparsifier"].masks[k] & ~first[k]).any()) for k in first)
    for part in order:
        resumed[part].load_state_dict(copy.deepcopy(whole[part].state_dict()))
    for training in (whole, resumed):
        steps_of(training["model"], training["optimizer"], 2)
    for p, q in zip(whole["model"].parameters(), resumed["model"].parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("change", [{"method": "set"}, {"sparsity": 0.9}])
def test_a_state_of_another_training_is_refused(change):
    _, _, saved = small("rigl")
    _, _, other = small(**{"method": "rigl", **change})
    with pytest.raises(UserError, match="the state is of a training with rigl to sparsity 0.8"):
        other.load_state_dict(saved.state_dict())
    old = {key: value for key, value in saved.state_dict().items() if key != "training"}
    small("rigl")[2].load_state_dict(old)


def test_a_state_of_a_training_of_another_length_is_refused():
    state = small("gmp")[2].state_dict()
    for change, message in (
        ({"steps": 8}, "steps=20, not steps=8: give the number of the whole training"),
        ({"steps_per_epoch": 5}, "steps_per_epoch=1, not steps_per_epoch=5"),
    ):
        with pytest.raises(UserError, match=f"the state is of a training with {message}."):
            small("gmp", resume=True, **change)[2].load_state_dict(state)
    old = {key: value for key, value in state.items() if not key.startswith("steps")}
    model, optimizer, sparsifier = small("gmp", steps=8, resume=True)
    sparsifier.load_state_dict({**old, "step": 10})
    with pytest.warns(UserWarning, match="goes on after the 8 planned steps"):
        steps_of(model, optimizer, 1)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"events": 4}, "events=3, not events=4"),
        ({"end": 0.5}, "end=0.75, not end=0.5"),
        ({"seed": 7}, "seed=0, not seed=7"),
        ({"sign_in": SignIn(beta=4.0)}, "beta=1, not beta=4"),
        ({"sign_in": SignIn(rescale_period=0)}, "rescale_period=1, not rescale_period=0"),
    ],
    ids=str,
)
def test_a_state_of_other_options_or_settings_is_refused(changed, message):
    own = {"events": 3, "sign_in": SignIn(), "end": 0.75}
    state = small("gmp", **own)[2].state_dict()
    other = small("gmp", resume=True, **{**own, **changed})[2]
    with pytest.raises(UserError, match=f"the state is of a training with {message}."):
        other.load_state_dict(state)
    same = {"events": np.int64(3), "sign_in": SignIn(beta=np.float64(1)), "end": np.float64(0.75)}
    small("gmp", resume=True, **same)[2].load_state_dict(state)
    words = changed.keys() | {"beta", "rescale_period"}
    old = {key: value for key, value in state.items() if words.isdisjoint(key.split())}
    assert len(old) < len(state)
    other.load_state_dict(old)  # of a version without the option


@pytest.mark.parametrize("manual_begin", [False, True])
def test_a_training_that_is_resumed_needs_a_state(manual_begin):
    saved = small("random")[2].state_dict()
    model, optimizer, sparsifier = small("random", resume=True, manual_begin=manual_begin)
    with pytest.raises(UserError, match=r"load_state_dict\(\) first, or drop resume=True"):
        sparsifier.begin_step()
    with pytest.raises(UserError, match=r"load_state_dict|begin_step"):
        steps_of(model, optimizer, 1)
    sparsifier.load_state_dict(saved)
    sparsifier.begin_step()
    steps_of(model, optimizer, 1)
    assert sparsifier.step == 1 and sparsifier.sparsity() == pytest.approx(0.8, abs=1e-3)


@pytest.mark.parametrize("method", ["gmp", "random"])  # GMP begins dense: plain, without latents
@pytest.mark.parametrize(
    "saved, own",
    [(None, True), (True, None), (HAM(), None), (None, HAM()), (True, HAM())],
    ids=str,
)
def test_a_state_of_another_sign_rule_is_refused(method, saved, own):
    state = small(method, sign_in=saved)[2].state_dict()
    _, _, other = small(method, sign_in=own, resume=True)
    with pytest.raises(UserError, match=r"a training with sign_in=\w+, not sign_in"):
        other.load_state_dict(state)
    del state["sign_rule"]  # of an earlier version
    small(method, sign_in=saved, resume=True)[2].load_state_dict(state)


@pytest.mark.parametrize("sign_in", [None, True])
def test_a_state_of_other_layers_is_refused(sign_in):
    saved = small("random", exclude=["4"], sign_in=sign_in)[2].state_dict()
    other = small("random", resume=True, sign_in=sign_in)[2]
    with pytest.raises(UserError, match=r"other prunable layers: exclude or include 4\.weight"):
        other.load_state_dict(saved)
    every = small("random", sign_in=sign_in)[2].state_dict()
    other = small("random", resume=True, exclude=["4"], sign_in=sign_in)[2]
    with pytest.raises(UserError, match=r"other prunable layers: exclude or include 4\.weight"):
        other.load_state_dict(every)


def test_after_a_failed_attach_the_next_one_succeeds():
    model, other = tiny_net(), tiny_net()
    wrong = torch.optim.SGD(other.parameters(), 0.1)
    with pytest.raises(UserError, match="does not hold"):
        sparsify(model, wrong, "random", sparsity=0.5, steps=10)
    assert not wrong._optimizer_step_pre_hooks
    right = torch.optim.SGD(model.parameters(), 0.1)
    sparsify(model, right, "random", sparsity=0.5, steps=10)
    steps_of(model, right, 2)


class Failing(Method[Options]):
    """Is interrupted before its first step."""

    name = "failing"

    def before_step(self, net, step):
        raise KeyboardInterrupt


def test_after_a_first_step_that_cannot_begin_nothing_is_attached():
    model = tiny_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    with pytest.raises(KeyboardInterrupt):
        sparsify(model, optimizer, Failing, sparsity=0.5, steps=10)
    assert not model._forward_pre_hooks and not optimizer._optimizer_step_pre_hooks
    rule = SignIn(sign_in_decay_scope="factors")
    choices = {"steps": 10, "keep": 0.5, "interpolate_norms": True}
    optimizer.param_groups[0]["weight_decay"] = 0.1
    with pytest.raises(UserError, match="parameter groups of their own"):
        sparsify(model, optimizer, "lrr", sparsity=0.5, sign_in=rule, **choices)
    assert not model[1]._forward_pre_hooks
    sparsify(model, optimizer, "random", sparsity=0.5, steps=10)
    steps_of(model, optimizer, 2)


class Shrinking(SignRule):
    """A rule without factors that changes every step, as another way of flipping signs would."""

    def __init__(self):
        self.calls = []

    def begin_epoch(self, net, epoch, epochs):
        self.calls.append(("epoch", epoch, epochs))

    def after_mask_change(self, net, epoch, epochs):
        self.calls.append(("masks", epoch, epochs))

    def after_update(self, net, optimizer, before):
        for layer in net:
            layer.weight.mul_(1 - optimizer.param_groups[0]["lr"])

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = list(state["calls"])


@pytest.mark.parametrize("method", ["random", "gmp"])
def test_a_sibling_of_sign_in_changes_each_step(method):
    rule = Shrinking()
    own = {"begin": 0.5, "end": 0.5, "events": 1} if method == "gmp" else {}
    model, optimizer, sparsifier = small(method, steps_per_epoch=5, sign_in=rule, **own)
    other, plain, masked = small(method, steps_per_epoch=5, **own)
    for x, y in itertools.islice(itertools.cycle(batches(4)), 20):
        for net, opt in ((model, optimizer), (other, plain)):
            loss_of(net(x), y).backward()
            opt.step()
            opt.zero_grad()
        with torch.no_grad():  # by hand, what the rule does
            for name, mask in masked.masks.items():
                other.get_parameter(name).mul_(1 - 0.05)
                assert not other.get_parameter(name)[~mask].any()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[key])
    epochs = [("epoch", i, 4) for i in range(4)]
    changed = [("masks", 2, 4)] if method == "gmp" else []
    assert rule.calls == sorted(epochs + changed, key=lambda call: (call[1], call[0]))
    again = Shrinking()
    again.load_state_dict(sparsifier.state_dict()["rule"])
    assert again.calls == rule.calls


@pytest.mark.parametrize(
    "name",
    [
        *("random", "mw", "phew", "set", "rigl", "srigl", "rigl_nm"),
        *("chts", "mest", "granet", "svite"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*updates replace")
def test_masks_that_are_drawn_depend_on_the_seed(name):
    def masks(seed):
        model = tiny_net()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        choices = {"sparsity": 0.5, "steps": 100, "samples": lambda n: batches(1)}
        sparsifier = sparsify(model, optimizer, name, seed=seed, **choices)
        return torch.cat([mask.flatten() for mask in sparsifier.masks.values()])

    first = masks(0)
    assert torch.equal(first, masks(0)) and not torch.equal(first, masks(1))


def densities(name):
    """Return the kinds of layer-wise densities that a method offers."""
    found = [spec for spec in fields(methods()[name].options_class) if spec.name == "density"]
    return get_args(get_type_hints(methods()[name].options_class)["density"]) if found else ()


@pytest.mark.parametrize("name", [name for name in methods() if len(densities(name)) > 1])
@pytest.mark.filterwarnings("ignore:.*updates replace")
def test_first_masks_have_the_densities_that_are_asked_for(name):
    seen = {}
    for kind in densities(name):
        model = tiny_net()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        choices = {"sparsity": 0.3, "steps": 100, "samples": lambda n: batches(1)}
        sparsifier = sparsify(model, optimizer, name, density=kind, **choices)
        seen[kind] = {name: int(mask.sum()) for name, mask in sparsifier.masks.items()}
        if name not in ("npb", "srigl"):
            assert seen[kind] == layer_counts(kind, sparsifier.net.shapes, 0.3)
    if name in ("npb", "srigl"):  # these replace weights, or round to whole neurons
        assert len({tuple(counts.values()) for counts in seen.values()}) == len(seen)
