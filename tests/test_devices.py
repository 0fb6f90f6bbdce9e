"""Code that differs by device: a GPU's branches on a CPU, and on a GPU if there is one."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import partial

import pytest
import torch
from host_syncs import HostSyncs
from literal import batches, loss_of, tiny_net, train_literally
from needs import on_gpu
from small_digits import small_digits
from test_baselines_engine_sparse_model import OPTIMIZERS, STORAGES, masks_for
from test_contract import CASES, FIRST_VARIANTS, SHORT, STR, make
from test_launch_train import train
from torch import nn
from two_ranks import assert_same, default_dtype, train_loop

import baselines.engine.blocks
import baselines.engine.cpu_step
import baselines.engine.device
from baselines import sparsify
from baselines.engine.product import Product
from baselines.engine.soft_threshold import soft_threshold, soft_threshold_backward
from baselines.engine.sparse_model import SparseModel
from baselines.registry import find_method, methods
from baselines.tools.masks import top_k_mask
from launch.config.run import Run
from launch.data import load_data
from launch.ranks import Ranks, Share
from launch.training.build import build_loop, device_ids
from launch.training.meter import CHECK_EVERY, Meter
from signin import HAM
from signin.transplant import layer_means

ONE = Ranks(0, 1, torch.device("cpu"))
# HAM has no code that differs by device: a method with masks, with thresholds and with two masks
WITH_HAM = ("random", "str-target", "topkast")
EACH_METHOD = pytest.mark.parametrize(
    "name, variant, rule",
    [case for case in FIRST_VARIANTS if case.values[2] != "ham" or case.values[0] in WITH_HAM],
)
DEVICES = ["cpu", on_gpu("cuda")]


@pytest.fixture
def gpu_branches(monkeypatch):
    """Return a function that makes the engine treat all tensors as a GPU's."""
    return partial(monkeypatch.setattr, baselines.engine.device, "on_cpu", lambda tensor: False)


# ---- the branches of a GPU, on a CPU


@EACH_METHOD
def test_every_method_trains_the_same_network(monkeypatch, gpu_branches, name, variant, rule):
    for module in (baselines.engine.cpu_step, baselines.engine.blocks):
        monkeypatch.setattr(module, "PIECE", 3000)  # the CPU has several blocks and pieces
    run = make(name, variant, rule, **small_digits(epochs=2, batch_size=48))
    with default_dtype(torch.float64):
        on_cpu = train_loop(run, ONE).sparsifier.net
        gpu_branches()
        assert_same(name, train_loop(run, ONE).sparsifier.net, on_cpu)


@pytest.mark.parametrize("threshold", [0.0, 0.25, 5.0])
def test_soft_thresholds_are_equal(gpu_branches, threshold):
    x = torch.cat([torch.randn(1000, dtype=torch.float64), torch.tensor([0.25, -0.25, 0.0])])
    grad, t = torch.randn_like(x), torch.tensor(threshold, dtype=torch.float64)

    def results():
        out = torch.empty_like(x)
        soft_threshold(x, t, out=out)
        return [out, soft_threshold(x, t), *soft_threshold_backward(grad, x, t)]

    on_cpu = results()
    gpu_branches()
    for one, other in zip(on_cpu, results(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("k", [0, 1, 17, 499, 500])
def test_top_k_masks_are_equal_with_ties_too(gpu_branches, k):
    scores = torch.randint(20, (500,)).float()
    on_cpu = top_k_mask(scores, k)
    gpu_branches()
    assert torch.equal(top_k_mask(scores, k), on_cpu)


def test_losses_are_checked_seldom_on_a_gpu(gpu_branches):
    def due():
        meter = Meter(2 * CHECK_EVERY + 1, torch.device("cpu"))
        found = []
        for i in range(2 * CHECK_EVERY + 1):
            loss = torch.tensor(float("nan") if i == 3 else 1.0)
            meter.add(loss, torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64))
            found += [i] if meter.is_due else []
        assert meter.first_bad() == 3
        return found

    assert due() == list(range(2 * CHECK_EVERY + 1))
    gpu_branches()
    assert due() == [0, CHECK_EVERY, 2 * CHECK_EVERY]


@pytest.mark.parametrize("name", [name for name, method in methods().items() if method.variants])
@pytest.mark.filterwarnings("ignore")
def test_the_default_device_has_no_effect(name):
    """As the "cuda" of a user's program. A computation with tensors of "meta" would fail."""
    cls, data = find_method(name), batches(5)
    own = {"lrr": {"interpolate_norms": True}, "str": STR}.get(name, cls.variants[0])
    choices = {"sparsity": 0.5 * cls.is_sparse, "steps": 12, "samples": lambda n: data[:1], **own}

    def weights(device):
        model = tiny_net()
        optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
        with torch.device(device):  # as torch.set_default_device
            sparsify(model, optimizer, name, **choices)
            for x, y in data:
                loss_of(model(x), y).backward()
                optimizer.step()
                optimizer.zero_grad()
        return model.parameters()

    assert all(map(torch.equal, weights("meta"), weights("cpu")))


def test_a_rank_gives_ddp_its_gpu_alone():
    assert device_ids(torch.device("cuda", 3)) == [3]
    assert device_ids(torch.device("cpu")) is None


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true")
def test_batches_of_files_go_to_a_gpu_through_pinned_memory(image_folder, machine, monkeypatch):
    choices = {"data": str(image_folder), "image_size": 72, "batch_size": 8}
    recipe = Run.make("digits", "dense", model="resnet20", **choices).settings
    original, asked = torch.Tensor.to, []

    def to(tensor, *args, **options):
        if args and isinstance(args[0], torch.device) and args[0].type == "cuda":
            asked.append(options)
            return tensor
        return original(tensor, *args, **options)

    monkeypatch.setattr(torch.Tensor, "to", to)
    found = {}
    for kind in ("cpu", "cuda"):
        data = load_data(recipe, machine.data_dir, torch.device(kind), 0, Share(), 0)
        assert data.train._loader.pin_memory == (kind == "cuda")
        found[kind] = list(data.train.epoch(0))
    for (x, y), (other_x, other_y) in zip(*found.values(), strict=True):
        assert torch.equal(x, other_x) and torch.equal(y, other_y)
    assert asked.count({"non_blocking": True}) == 2 * len(found["cuda"])  # images and labels


# ---- waiting for the device


def steps(run, check_every=CHECK_EVERY):
    """Return for each step its number in the epoch, whether masks changed, and the host's waits."""
    data = load_data(run.settings, None, ONE.device, run.seed, Share(), 0)
    loop = build_loop(run, data, ONE, bar=False)
    loop.start()
    net, changes = loop.sparsifier.net, []
    change_latents = net.change_latents

    def counted(change):
        every_step = (HAM.__module__, "baselines.methods.topkast")  # which change latents then
        changes.append(change.__module__ not in every_step)
        change_latents(change)

    net.change_latents = counted
    for epoch in range(loop.epochs):
        loop.model.train()
        meter = Meter(loop.steps, ONE.device)
        meter.check_every = check_every
        for i, (x, y) in enumerate(data.train.epoch(epoch)):
            before = net.changes, sum(changes)
            with HostSyncs() as syncs:
                loop.step(x, y, meter)
            yield i, (net.changes, sum(changes)) != before, syncs.found


@EACH_METHOD
def test_a_step_between_mask_changes_waits_for_nothing(gpu_branches, name, variant, rule):
    gpu_branches()
    smaller = {"batch_size": 16} if name == "str-target" else {}  # few of its steps are quiet
    run = make(name, variant, rule, **small_digits(epochs=2, clip_norm=1.0, **smaller))
    quiet = [found for i, changed, found in steps(run) if not changed and i % CHECK_EVERY]
    assert quiet and not any(quiet)


def test_the_look_at_the_loss_is_all_that_waits(gpu_branches):
    gpu_branches()
    run = make("random", {}, "signin", epochs=1)
    look = "aten._local_scalar_dense.default"
    assert [found for _, _, found in steps(run)] == [[look], *[[]] * 17]
    assert [found for _, _, found in steps(run, check_every=1)] == [[look]] * 18


@pytest.mark.parametrize("hook", ["before_step", "after_backward", "after_step"])
def test_a_method_that_waits_is_found(gpu_branches, monkeypatch, hook):
    gpu_branches()
    run = make("random", {}, "signin", epochs=1)

    def looks(self, net, step):
        return bool(net.weights["0.weight"].isnan().any())

    monkeypatch.setattr(find_method("random"), hook, looks)
    quiet = [found for i, changed, found in steps(run) if not changed and i % CHECK_EVERY]
    assert quiet == [["aten._local_scalar_dense.default"]] * 17


# ---- on a GPU, and the same on a CPU


def on(device, data):
    return [(x.to(device), y.to(device)) for x, y in data]


@pytest.mark.parametrize("device", [on_gpu("cuda")])  # a CPU's is tested with the engine
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("storage", STORAGES)
def test_the_trajectory_on_a_device_is_the_literal_one(device, storage, optimizer):
    chosen = STORAGES[storage]
    data = batches(6, torch.float64)
    model = tiny_net().double()
    masks = masks_for(SparseModel(tiny_net()), 0.3)
    beta = chosen.beta if isinstance(chosen, Product) else None
    frobenius = chosen.frobenius if isinstance(chosen, Product) else 0.0
    expected = train_literally(
        tiny_net().double(), masks, OPTIMIZERS[optimizer], data, beta, frobenius
    )
    net = SparseModel(model.to(device), chosen)
    net.set_masks({name: mask.to(device) for name, mask in masks.items()})
    opt = OPTIMIZERS[optimizer](model.parameters())
    net.attach(opt)
    for (x, y), theta in zip(on(device, data), expected, strict=True):
        opt.zero_grad()
        loss_of(model(x), y).backward()
        opt.step()
        for name, weight in net.weights.items():
            torch.testing.assert_close(weight.detach().cpu(), theta[name], rtol=1e-6, atol=1e-8)
            assert not weight[~net.masks[name]].any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("storage", STORAGES)
def test_a_sparse_step_on_a_device_waits_for_nothing(device, storage):
    model = tiny_net().to(device)
    net = SparseModel(model, STORAGES[storage])
    net.set_masks({k: m.to(device) for k, m in masks_for(net, 0.3).items()})
    opt = torch.optim.SGD(model.parameters(), 0.1, 0.9, fused=True)
    net.attach(opt)
    for i, (x, y) in enumerate(on(device, batches(4))):
        if i and device == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        try:
            with HostSyncs() as syncs:
                loss_of(model(x), y).backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                opt.step()
                opt.zero_grad()
        finally:
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
        assert i == 0 or not syncs.found


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", ["woodfisher", "cap"])
def test_a_state_that_was_read_on_the_cpu_resumes_on_a_device(device, method):
    data, file = on(device, batches(8, torch.float64)), io.BytesIO()
    for resume in (False, True):
        model = tiny_net().double().to(device)
        opt = torch.optim.SGD(model.parameters(), 0.05)
        sparsifier = sparsify(model, opt, method, sparsity=0.5, steps=8, events=2, resume=resume)
        if resume:
            file.seek(0)
            saved = torch.load(file, map_location="cpu", weights_only=True)
            for part, state in zip((model, sparsifier), saved, strict=True):
                part.load_state_dict(state)
        for x, y in data[sparsifier.step :][:4]:
            loss_of(model(x), y).backward()
            opt.step()
            opt.zero_grad()
        torch.save([model.state_dict(), sparsifier.state_dict()], file)
    assert sparsifier.is_done and sparsifier.sparsity() == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("name, variant, rule", [on_gpu(*case.values) for case in CASES])
def test_every_method_ends_at_its_sparsity_on_a_gpu(machine, name, variant, rule):
    run = make(name, variant, rule, **SHORT)
    result = train(run, replace(machine, device="cuda"))
    assert abs(result["sparsity"] - run.sparsity) <= 1e-4 + find_method(name).tolerance


@pytest.mark.parametrize("device", DEVICES)
def test_masks_of_a_gpu_choose_magnitudes_of_a_file(device):
    magnitudes = {"a": torch.tensor([[1.0, -3.0], [5.0, 0.0]])}
    masks = {"a": torch.tensor([[True, True], [False, False]], device=device)}
    assert layer_means(magnitudes, masks)["a"].tolist() == [[2.0, 2.0], [2.0, 2.0]]


@pytest.mark.parametrize("device", [on_gpu("cuda")])
def test_masks_are_read_after_the_model_has_left_the_gpu(device):
    """Lightning moves the model to the CPU at the end of a training."""
    model = tiny_net().to(device)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    sparsifier = sparsify(model, optimizer, "random", sparsity=0.5, steps=8, sign_in=True)
    before = sparsifier.masks
    model.cpu()
    masks, state = sparsifier.masks, sparsifier.state_dict()["net"]["masks"]
    assert all(torch.equal(masks[name], mask.cpu()) for name, mask in before.items())
    assert all(torch.equal(masks[name], mask) for name, mask in state.items())
