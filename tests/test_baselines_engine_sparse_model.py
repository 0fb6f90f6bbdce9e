"""SparseModel compared with the literal formulation step by step, and its use from outside."""

from __future__ import annotations

import copy
import io

import pytest
import timm.optim
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from literal import batches, loss_of, tiny_net, train_literally
from needs import needs_compiler
from torch import nn

from baselines.engine.soft_threshold import SoftThreshold
from baselines.engine.sparse_model import SparseModel
from baselines.engine.storage import Plain
from baselines.errors import UserError
from baselines.methods.srste import Refined
from baselines.tools.masks import random_mask
from signin import Product

OPTIMIZERS = {
    "sgd": lambda ps: torch.optim.SGD(ps, 0.1, 0.9, weight_decay=5e-4, nesterov=True),
    "sgd-fused": lambda ps: torch.optim.SGD(ps, 0.1, 0.9, weight_decay=5e-4, fused=True),
    "adamw": lambda ps: torch.optim.AdamW(ps, 0.01, weight_decay=0.1),
    "adamw-fused": lambda ps: torch.optim.AdamW(ps, 0.01, weight_decay=0.1, fused=True),
    "rmsprop": lambda ps: torch.optim.RMSprop(ps, 0.01, eps=1e-2, momentum=0.9),
}
STORAGES = {"plain": Plain(), "product": Product(0.7), "frobenius": Product(1.0, frobenius=0.01)}


def masks_for(net, density=0.3, seed=0):
    return {
        name: random_mask(tuple(shape), round(density * shape.numel()), seed, name)
        for name, shape in net.shapes.items()
    }


def step(model, optimizer, x, y):
    optimizer.zero_grad()
    loss_of(model(x), y).backward()
    optimizer.step()


def make(storage=None, channels_last=False, density=0.3, optimizer="sgd", dtype=torch.float32):
    model = tiny_net(channels_last).to(dtype)
    net = SparseModel(model, storage)
    opt = OPTIMIZERS[optimizer](model.parameters())
    net.attach(opt)
    if density < 1:
        net.set_masks(masks_for(net, density))
    return net, opt


@pytest.mark.parametrize("density", [0.3, 1.0])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("storage", STORAGES)
def test_trajectory_equals_the_literal_formulation(storage, optimizer, density):
    data = batches(12, torch.float64)
    chosen = STORAGES[storage]
    model = tiny_net().double()
    masks = masks_for(SparseModel(copy.deepcopy(model)), density)
    beta = chosen.beta if isinstance(chosen, Product) else None
    frobenius = chosen.frobenius if isinstance(chosen, Product) else 0.0
    expected = train_literally(
        copy.deepcopy(model), masks, OPTIMIZERS[optimizer], data, beta, frobenius
    )

    net = SparseModel(model, chosen)
    net.set_masks(masks)
    opt = OPTIMIZERS[optimizer](model.parameters())
    net.attach(opt)
    for (x, y), theta in zip(data, expected, strict=True):
        step(model, opt, x, y)
        for name, weight in net.weights.items():
            torch.testing.assert_close(weight.detach(), theta[name], rtol=1e-6, atol=1e-8)
            assert not weight[~masks[name]].any()


@pytest.mark.parametrize("storage", STORAGES)
def test_channels_last_changes_nothing(storage):
    runs = []
    for channels_last in (False, True):
        net, opt = make(STORAGES[storage], channels_last, dtype=torch.float64)
        for i, (x, y) in enumerate(batches(6, torch.float64)):
            step(net.model, opt, x, y)
            if i == 2:
                net.set_masks(masks_for(net, 0.5, seed=3))
        runs.append(net)
    for a, b in zip(runs[0], runs[1], strict=True):
        torch.testing.assert_close(a.weight, b.weight, rtol=1e-6, atol=1e-8)
        for name, one in a.latents.items():  # the same order of entries
            other = b.latents[name]
            torch.testing.assert_close(one.flatten(), other.flatten(), rtol=1e-6, atol=1e-8)


class Dense:
    """SGD with momentum on latents of full size, the reference for SparseModel."""

    def __init__(self, theta, storage, lr=0.1, momentum=0.9):
        self.storage, self.lr, self.momentum = storage, lr, momentum
        self.mask = torch.ones_like(theta, dtype=torch.bool)
        self.latents = [part[0].clone() for part in storage.split([theta])]
        self.buffers = [torch.zeros_like(t) for t in self.latents]

    def set_mask(self, mask):
        come = mask & ~self.mask
        zeros = self.storage.split([torch.zeros_like(self.latents[0])])
        for latent, buffer, (zero,) in zip(self.latents, self.buffers, zeros, strict=True):
            latent[come] = zero[come]
            buffer[come] = 0
        self.mask = mask

    def step(self, grad):
        parts = self.storage.pull_back([grad], tuple([t] for t in self.latents))
        for latent, buffer, (g,) in zip(self.latents, self.buffers, parts, strict=True):
            buffer[self.mask] = (self.momentum * buffer + g)[self.mask]
            latent[self.mask] -= self.lr * buffer[self.mask]

    def theta(self):
        return self.storage.merge(tuple([t] for t in self.latents))[0] * self.mask


@pytest.mark.parametrize("storage", ["plain", "product"])
@settings(max_examples=40, deadline=None)
@given(
    masks=st.lists(st.lists(st.booleans(), min_size=12, max_size=12), min_size=1, max_size=5),
    seed=st.integers(0, 1000),
)
def test_mask_changes_keep_what_stays_and_clear_what_comes(storage, masks, seed):
    torch.manual_seed(seed)
    layer = nn.Linear(4, 3, bias=False).double()
    expected = Dense(layer.weight.detach().clone(), STORAGES[storage])
    net = SparseModel(layer, STORAGES[storage])
    opt = torch.optim.SGD(layer.parameters(), 0.1, 0.9)
    net.attach(opt)
    for bits in masks:
        mask = torch.tensor(bits).view(3, 4)
        net.set_masks({"weight": mask})
        expected.set_mask(mask)
        torch.testing.assert_close(layer.weight.detach(), expected.theta())
        for _ in range(2):
            grad = torch.randn(3, 4, dtype=torch.float64)
            layer.weight.grad = grad.clone()
            opt.step()
            expected.step(grad)
            torch.testing.assert_close(layer.weight.detach(), expected.theta())
            torch.testing.assert_close(layer.weight.grad, grad)  # the dense gradient is unchanged
    assert net.nnz == int(mask.sum())


@pytest.mark.parametrize("dense_latents", [False, True])
@pytest.mark.parametrize(
    "make, key, first",
    [
        (lambda ps: torch.optim.Rprop(ps, 0.03), "step_size", 0.03),
        (lambda ps: torch.optim.Adagrad(ps, 0.01, initial_accumulator_value=0.5), "sum", 0.5),
        (lambda ps: torch.optim.SGD(ps, 0.1, 0.9), "momentum_buffer", 0.0),
        (lambda ps: timm.optim.RMSpropTF(ps, 0.01), "square_avg", 1.0),
    ],
)
def test_weights_that_grow_begin_with_the_optimizers_first_state(make, key, first, dense_latents):
    model = nn.Linear(6, 5)
    net = SparseModel(model, dense_latents=dense_latents)
    left = torch.zeros(5, 6, dtype=torch.bool)
    left[:, :3] = True
    net.set_masks({"weight": left})
    opt = make(model.parameters())
    net.attach(opt)
    for x in torch.randn(3, 8, 6, generator=torch.Generator().manual_seed(0)):
        model(x).square().sum().backward()
        opt.step()
        opt.zero_grad()
    before = opt.state[net.layers["weight"].latents["theta"]][key].clone()
    net.set_masks({"weight": torch.ones(5, 6, dtype=torch.bool)})
    after = opt.state[net.layers["weight"].latents["theta"]][key]
    assert torch.equal(after[:, :3].flatten(), before[left] if before.ndim == 2 else before)
    assert bool((after[:, 3:] == first).all()) and bool((after[:, :3] != first).any())
    model(torch.ones(1, 6)).sum().backward()
    opt.step()
    assert bool(model.weight[:, 3:].all())


@pytest.mark.parametrize("storage", STORAGES)
def test_latents_and_state_exist_at_active_positions_only(storage):
    net, opt = make(STORAGES[storage], density=0.1, optimizer="adamw")
    for x, y in batches(2):
        step(net.model, opt, x, y)
    per_weight = 2 * (1 if storage == "plain" else 2)  # Adam's two moments of each latent
    state = sum(
        value.numel()
        for layer in net
        for latent in layer.latents.values()
        for value in opt.state[latent].values()
        if value.ndim
    )
    assert state == per_weight * net.nnz
    assert all(latent.shape == (layer.nnz,) for layer in net for latent in layer.latents.values())


def test_a_full_mask_with_plain_is_the_model_itself():
    net, _ = make(density=1.0)
    assert all(layer.latents == {"theta": layer.weight} for layer in net)
    assert not net.state_dict()["latents"]


@pytest.mark.parametrize("storage", STORAGES)
def test_between_steps_the_optimizer_holds_the_models_parameters(storage):
    net, opt = make(STORAGES[storage])
    before = [id(p) for group in opt.param_groups for p in group["params"]]
    for x, y in batches(2):
        step(net.model, opt, x, y)
        assert [id(p) for group in opt.param_groups for p in group["params"]] == before
        opt.zero_grad()
        assert all(p.grad is None for p in net.model.parameters())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("storage", STORAGES)
def test_saved_and_loaded_training_goes_on_bit_identically(storage, optimizer):
    data = batches(8)
    net, opt = make(STORAGES[storage], optimizer=optimizer)
    for x, y in data[:4]:
        step(net.model, opt, x, y)
    file = io.BytesIO()
    torch.save([net.model.state_dict(), net.state_dict(), opt.state_dict()], file)
    file.seek(0)
    model_state, net_state, opt_state = torch.load(file, weights_only=True)

    other, other_opt = make(STORAGES[storage], density=0.9, optimizer=optimizer)
    other.model.load_state_dict(model_state)
    other.load_state_dict(net_state)
    other_opt.load_state_dict(opt_state)
    for x, y in data[4:]:
        step(net.model, opt, x, y)
        step(other.model, other_opt, x, y)
    for a, b in zip(net.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_plain_takes_over_the_state_of_steps_before_it():
    model = tiny_net().double()
    data = batches(6, torch.float64)
    opts = []
    nets = [model, copy.deepcopy(model)]
    for net_model in nets:
        opt = torch.optim.SGD(net_model.parameters(), 0.1, 0.9)
        for x, y in data[:3]:
            step(net_model, opt, x, y)
        opts.append(opt)
    masks = masks_for(SparseModel(copy.deepcopy(model)))
    first = SparseModel(nets[0]).attach(opts[0])
    first.set_masks(masks)
    second = SparseModel(nets[1])
    second.set_masks(masks)
    second.attach(opts[1])
    for x, y in data[3:]:
        for net_model, opt in zip(nets, opts, strict=True):
            step(net_model, opt, x, y)
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_a_deep_copy_trains_alone():
    net, opt = make(Product())
    x, y = batches(1)[0]
    step(net.model, opt, x, y)
    kept = {k: v.clone() for k, v in net.model.state_dict().items()}
    twin = copy.deepcopy(net)
    assert twin.masks.keys() == net.masks.keys()
    twin_opt = OPTIMIZERS["sgd"](twin.model.parameters())
    twin.attach(twin_opt)
    step(twin.model, twin_opt, x, y)
    for name, value in net.model.state_dict().items():
        assert torch.equal(value, kept[name])
    assert not torch.equal(twin.model[0].weight, net.model[0].weight)
    plain = copy.deepcopy(net.model)
    assert torch.equal(plain(x), copy.deepcopy(net.model)(x))


def test_modules_of_a_copy_may_be_wrapped():
    twin = copy.deepcopy(SparseModel(tiny_net()))
    twin.model[0] = nn.Sequential(twin.model[0])
    assert twin.sparsity() == 0
    twin.model[0][0].weight = nn.Parameter(torch.zeros(8, 3, 3, 3))
    with pytest.raises(UserError, match="another parameter"):
        twin.sparsity()


@pytest.mark.parametrize("optimizer", ["sgd", "sgd-fused"])
@pytest.mark.parametrize("storage", STORAGES)
def test_autocast_and_gradient_scaler(storage, optimizer):
    losses = []
    for scaled in (False, True):
        net, opt = make(STORAGES[storage], optimizer=optimizer)
        scaler = torch.amp.GradScaler("cpu", enabled=scaled, init_scale=1024.0)
        for x, y in batches(5):
            opt.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_of(net.model(x), y)
            scaler.scale(loss).backward()
            scaler.unscale_(opt)
            net.mask_gradients()
            nn.utils.clip_grad_norm_(net.model.parameters(), 1.0)
            scaler.step(opt)
            scaler.update()
        losses.append(loss.item())
        assert all(not layer.weight[~layer.mask].any() for layer in net)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_scaled_gradients_are_refused():
    net, opt = make(Product(frobenius=0.1), optimizer="sgd-fused")
    scaler = torch.amp.GradScaler("cpu")
    x, y = batches(1)[0]
    scaler.scale(loss_of(net.model(x), y)).backward()
    with pytest.raises(UserError, match="unscale_"):
        scaler.step(opt)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=needs_compiler)])
def test_torch_compile_sees_an_ordinary_module(backend, tmp_path, monkeypatch):
    # what is cached elsewhere may have been made for other vector instructions
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    # without them: the compiler is not asked, in ten runs, which ones it knows
    monkeypatch.setattr("torch._inductor.config.cpp.vec_isa_ok", False)
    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()
        run = torch.compile(model, backend=backend) if compiled else model
        net = SparseModel(run, Product())
        assert list(net.layers) == ["0.weight", "2.weight"]
        net.set_masks(masks_for(net, 0.5))
        opt = torch.optim.SGD(model.parameters(), 0.1, 0.9)
        net.attach(opt)
        for _ in range(5):
            x = torch.linspace(-1, 1, 24, dtype=torch.float64).view(4, 6)
            opt.zero_grad()
            run(x).square().sum().backward()
            opt.step()
        results.append(model[0].weight.detach())
    torch.testing.assert_close(*results)


def test_rescale_keeps_the_outputs_and_restores_beta():
    net, opt = make(Product(1.3), dtype=torch.float64)
    for x, y in batches(10, torch.float64):
        step(net.model, opt, x, y)
    x = batches(1, torch.float64)[0][0]
    net.model.eval()
    before = net.model(x)
    drifted = [(layer.latents["m"] ** 2 - layer.latents["w"] ** 2).min().item() for layer in net]
    assert min(drifted) < 1.295
    net.rescale()
    torch.testing.assert_close(net.model(x), before, rtol=1e-12, atol=1e-13)
    for layer in net:
        m, w = layer.latents.values()
        assert bool((m > 0).all())
        torch.testing.assert_close(m**2 - w**2, torch.full_like(m, 1.3), rtol=1e-13, atol=0)
        assert opt.state[m]["momentum_buffer"].any()
    net.rescale(reset_state=True)
    assert all(latent not in opt.state for layer in net for latent in layer.latents.values())


@pytest.mark.parametrize("storage", STORAGES)
def test_set_weights_writes_what_is_trained(storage):
    net, _ = make(STORAGES[storage])
    values = {name: torch.randn(shape) for name, shape in net.shapes.items()}
    net.set_weights(values)
    for layer in net:
        torch.testing.assert_close(layer.weight.detach(), values[layer.name] * layer.mask)
        merged = net.storage.merge(tuple([t.detach()] for t in layer.latents.values()))[0]
        torch.testing.assert_close(merged, values[layer.name][layer.mask])


@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize("storage", STORAGES)
def test_weights_written_from_outside_are_followed(storage, rescaled):
    net, opt = make(STORAGES[storage], dtype=torch.float64)
    twin, twin_opt = make(STORAGES[storage], dtype=torch.float64)
    data = batches(4, torch.float64)
    for model, optimizer in ((net.model, opt), (twin.model, twin_opt)):
        step(model, optimizer, *data[0])
    torch.manual_seed(1)
    other = {k: torch.randn_like(v) for k, v in net.weights.items()}
    masked = {k: v * net.masks[k] for k, v in other.items()}
    net.model.load_state_dict({**net.model.state_dict(), **masked})
    twin.set_weights(other)
    for x, y in data[1:]:
        for one in (net, twin) if rescaled else ():
            one.rescale()
        step(net.model, opt, x, y)
        step(twin.model, twin_opt, x, y)
        assert all(not layer.weight[~layer.mask].any() for layer in net)
    for a, b in zip(net.model.parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    net.model.load_state_dict({**net.model.state_dict(), **other})
    if rescaled:
        net.rescale()
    step(net.model, opt, *data[0])
    assert all(not layer.weight[~layer.mask].any() for layer in net)


def test_weights_written_back_unchanged_leave_the_factors_alone():
    net, opt = make(Product())
    for x, y in batches(3):
        step(net.model, opt, x, y)
    before = [latent.detach().clone() for layer in net for latent in layer.latents.values()]
    net.model.load_state_dict({k: v.clone() for k, v in net.model.state_dict().items()})
    net.state_dict()
    after = [latent for layer in net for latent in layer.latents.values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


WRAPPED = {
    "product": lambda inner: inner,
    "soft threshold": lambda inner: SoftThreshold(inner, "exp", -3.0),
    "selected": lambda inner: Refined(inner, 2, 4, 1e-3),
}


@pytest.mark.parametrize("masked, full_size", [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("name", WRAPPED)
def test_only_weights_that_were_written_are_split_again(name, masked, full_size):
    model = tiny_net().double()
    net = SparseModel(model, WRAPPED[name](Product(0.7)), dense_latents=full_size)
    if masked:
        net.set_masks(masks_for(net))
    opt = OPTIMIZERS["sgd"](model.parameters())
    net.attach(opt)
    for x, y in batches(3, torch.float64):
        step(model, opt, x, y)
    layer = next(iter(net))
    before = [latent.detach().clone() for latent in layer.own_latents]
    wanted = layer.weight.detach().clone()
    written = torch.zeros_like(wanted, dtype=torch.bool)
    written.view(-1)[wanted.abs().argmax()] = True
    with torch.no_grad():
        layer.weight[written] *= 1.5
    net.follow()
    here = layer.take(written)
    for latent, old in zip(layer.own_latents, before, strict=True):
        assert torch.equal(latent[~here], old[~here])
    m, w = layer.own_latents
    assert (m[here].square() - w[here].square()).item() == pytest.approx(0.7)
    assert torch.equal(layer.weight[~written], wanted[~written])
    torch.testing.assert_close(layer.weight[written].detach(), 1.5 * wanted[written])
    net.set_weights({layer.name: wanted})  # splits the whole layer
    betas = (m.square() - w.square())[m != 0].tolist()
    assert betas == pytest.approx([0.7] * len(betas))


@pytest.mark.parametrize("storage", STORAGES)
def test_weights_loaded_between_masks_and_attach_are_masked(storage):
    model = tiny_net()
    net = SparseModel(model, STORAGES[storage])
    net.set_masks(masks_for(net))
    model.load_state_dict(tiny_net().state_dict())
    opt = OPTIMIZERS["sgd"](model.parameters())
    net.attach(opt)
    step(model, opt, *batches(1)[0])
    assert int(sum(w.count_nonzero() for w in net.weights.values())) == net.nnz


@pytest.mark.parametrize("storage", STORAGES)
def test_a_sparse_training_goes_back_to_a_dense_state(storage):
    net, opt = make(STORAGES[storage], density=1.0)
    data = batches(4)
    step(net.model, opt, *data[0])
    saved = copy.deepcopy((net.model.state_dict(), net.state_dict(), opt.state_dict()))
    net.set_masks(masks_for(net))
    step(net.model, opt, *data[1])
    net.model.load_state_dict(saved[0])
    net.load_state_dict(saved[1])
    opt.load_state_dict(saved[2])
    assert net.nnz == net.numel and net.sparsity() == 0
    for name, value in net.weights.items():
        torch.testing.assert_close(value.detach(), saved[0][name])


def test_states_saved_or_loaded_without_an_optimizer():
    net, _ = make(Product())
    alone = SparseModel(tiny_net(), Product())
    with pytest.raises(UserError, match="attach the optimizer before"):
        alone.load_state_dict(net.state_dict())
    alone.set_masks(masks_for(alone, 0.5))
    net.model.load_state_dict(alone.model.state_dict())
    net.load_state_dict(alone.state_dict())
    for layer in net:
        torch.testing.assert_close(layer.weight, alone.weights[layer.name])
        m, w = layer.latents.values()
        torch.testing.assert_close((m * w), layer.gather(layer.weight))


def test_the_users_gradients_are_left_alone():
    net, opt = make(Product(frobenius=0.5), density=1.0)
    x, y = batches(1)[0]
    loss_of(net.model(x), y).backward()
    before = [p.grad.clone() for p in net.model.parameters()]
    opt.step()
    after = [p.grad for p in net.model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_detach_gives_the_plain_network_back():
    net, opt = make(Product())
    x, y = batches(1)[0]
    step(net.model, opt, x, y)
    output = net.model.eval()(x)
    model = net.detach()
    assert set(model.state_dict()) == set(tiny_net().state_dict())
    assert torch.equal(model(x), output)
    step(model, opt, x, y)  # an ordinary dense step again
    assert net.layers["0.weight"].weight[~net.layers["0.weight"].mask].any()


@pytest.mark.parametrize("storage", STORAGES)
def test_detach_leaves_what_was_written_since_the_last_step(storage):
    """As a best checkpoint, whose masks can be others."""
    model = tiny_net()
    net = SparseModel(model, STORAGES[storage])
    net.set_masks(masks_for(net))
    opt = OPTIMIZERS["sgd"](model.parameters())
    net.attach(opt)
    step(model, opt, *batches(1)[0])
    written = {k: torch.randn_like(v) for k, v in net.weights.items()}
    model.load_state_dict({**model.state_dict(), **written})
    with pytest.warns(UserWarning, match="the weights have been replaced"):
        net.warn_if_denser()
    net.detach()
    for layer in net:
        assert torch.equal(layer.weight, written[layer.name])


def test_sparsity_is_counted_in_the_weights():
    net = SparseModel(tiny_net(), exclude=["7"])
    assert "7.weight" not in net.layers
    net.set_masks(
        {name: torch.zeros(shape, dtype=torch.bool) for name, shape in net.shapes.items()}
    )
    assert net.sparsity() == 1.0
    prunable, everything = net.numel, net.numel + 12 * 16 * 5
    assert net.sparsity_all() == pytest.approx(prunable / everything)


@pytest.mark.parametrize("kind", [1, 2, 3])
def test_convolutions_of_every_dimension(kind):
    conv = getattr(nn, f"Conv{kind}d")(2, 4, 3)
    net = SparseModel(conv, Product())
    net.set_masks(masks_for(net, 0.5))
    opt = torch.optim.SGD(conv.parameters(), 0.1)
    net.attach(opt)
    conv(torch.randn(2, 2, *[5] * kind)).square().sum().backward()
    opt.step()
    assert net.nnz == round(0.5 * conv.weight.numel())
    assert int(conv.weight.count_nonzero()) == net.nnz


def test_layers_without_a_gradient_are_not_stepped():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x):
            return self.used(x)

    model = Half()
    net = SparseModel(model, Product())
    opt = torch.optim.AdamW(model.parameters(), 0.1, weight_decay=0.5)
    net.attach(opt)
    before = model.unused.weight.detach().clone()
    model(torch.randn(4, 3)).sum().backward()
    opt.step()
    torch.testing.assert_close(model.unused.weight.detach(), before)


def test_an_empty_layer_trains_nothing_and_breaks_nothing():
    for optimizer in OPTIMIZERS:
        net, opt = make(Product(), optimizer=optimizer)
        net.set_masks({"0.weight": torch.zeros(8, 3, 3, 3, dtype=torch.bool)})
        for x, y in batches(2):
            step(net.model, opt, x, y)
        assert not net.weights["0.weight"].any()


def with_lbfgs():
    model = tiny_net()
    SparseModel(model).attach(torch.optim.LBFGS(model.parameters()))


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("storage", STORAGES)
def test_a_closure_is_called_once_and_its_value_returned(storage, named):
    trained, data = [], batches(3)
    for with_closure in (False, True):
        net, opt = make(STORAGES[storage])
        calls = []
        for x, y in data:

            def closure(net=net, opt=opt, x=x, y=y, calls=calls):
                opt.zero_grad()
                loss = loss_of(net.model(x), y)
                loss.backward()
                calls.append(loss.item())
                return loss

            if with_closure:
                value = opt.step(closure=closure) if named else opt.step(closure)
                assert value.item() == calls[-1]
            else:
                closure()
                opt.step()
        assert len(calls) == len(data)
        trained.append(net.model.state_dict())
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda net, opt: net.attach(opt), "attached already"),
        (lambda net, opt: with_lbfgs(), "LBFGS"),
        (lambda net, opt: net.set_masks({"9": torch.ones(1)}), "no prunable layer"),
        (lambda net, opt: net.set_masks({"0.weight": torch.ones(2)}), "shape"),
        (lambda net, opt: net.set_weights({"0.weight": torch.ones(2)}), "shape"),
        (lambda net, opt: copy.deepcopy(net).attach(opt), "does not hold"),
        (lambda net, opt: SparseModel(net.model, exclude=["nothing*"]), "matches none"),
        (lambda net, opt: SparseModel(nn.ReLU()), "nothing to prune"),
        (lambda net, opt: SparseModel(net.model, exclude=["*"]), "nothing to prune"),
    ],
)
def test_mistakes_are_named(change, message):
    net, opt = make(Product())
    with pytest.raises(UserError, match=message):
        change(net, opt)


def test_a_model_changed_after_it_was_taken_is_refused():
    net, opt = make(Product())
    net.model.to(memory_format=torch.channels_last)
    x, y = batches(1)[0]
    with pytest.raises(UserError, match="memory format"):
        step(net.model, opt, x, y)
    net, opt = make(Product())
    net.model.double()
    with pytest.raises(UserError, match="dtype or memory format"):
        step(net.model, opt, x.double(), y)
    model = tiny_net()
    net = SparseModel(model, dense_latents=True)
    net.set_masks(masks_for(net))
    opt = torch.optim.SGD(model.parameters(), 0.1)
    net.attach(opt)
    model.to(memory_format=torch.channels_last)
    with pytest.raises(UserError, match="memory format"):
        step(model, opt, x, y)


@pytest.mark.parametrize("density", [0.3, 1.0])
def test_latents_may_lose_their_momentum_under_fused_sgd(density):
    """The fused kernel needs momentum of all parameters of a group, or of none."""
    trained = []
    for fused in (False, True):
        model = tiny_net().double()
        optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9, fused=fused)
        data = batches(4, torch.float64)
        step(model, optimizer, *data[0])  # makes momentum before latents exist
        net = SparseModel(model, Product())
        net.set_masks(masks_for(net, density))
        net.attach(optimizer)
        for x, y in data[1:]:
            step(model, optimizer, x, y)
            net.rescale(reset_state=True)
        trained.append(model.state_dict())
    for name, value in trained[0].items():
        torch.testing.assert_close(value, trained[1][name])


def test_masks_are_made_where_the_weights_are():
    """A trainer may move the model to the CPU; the positions stay where they were."""
    layer = next(iter(SparseModel(tiny_net())))
    mask = random_mask(tuple(layer.weight.shape), 20, 0, layer.name)
    layer, asked = layer.with_mask(mask), []
    index = layer.index

    class Elsewhere:
        def to(self, device):
            asked.append(device)
            return index

    layer.index = Elsewhere()
    assert torch.equal(layer.mask, mask) and asked == [layer.weight.device]


def test_a_gradient_that_is_not_finite_is_found_in_weights_that_stay_dense_too():
    model = nn.Linear(3, 2)
    net = SparseModel(model).attach(torch.optim.SGD(model.parameters(), 0.1))
    model(torch.ones(1, 3)).sum().backward()
    assert net.has_finite_gradients()
    model.bias.grad[1] = float("inf")
    assert not net.has_finite_gradients()


def test_masked_entries_of_latents_of_full_size_stay_zero_when_they_are_split_again():
    model = nn.Linear(6, 4)
    net = SparseModel(model, Product(), dense_latents=True)
    mask = random_mask((4, 6), 10, 0, "a")
    net.set_masks({"weight": mask})
    net.attach(torch.optim.SGD(model.parameters(), 0.1))
    net.rescale()
    for latent in net.layers["weight"].latents.values():
        assert not latent[~mask].any() and latent[mask].all()


def test_momentum_that_does_not_fit_a_loaded_mask_is_dropped():
    def attached(count):
        model = nn.Linear(6, 4)
        net = SparseModel(model)
        net.set_masks({"weight": random_mask((4, 6), count, 0, "a")})
        optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
        return model, net.attach(optimizer), optimizer

    (model, net, optimizer), (_, other, _) = attached(10), attached(15)
    for state in (None, other.state_dict()):
        if state is not None:
            net.load_state_dict(state)
        model(torch.ones(1, 6)).sum().backward()
        optimizer.step()
    (latent,) = net.layers["weight"].latents.values()
    assert optimizer.state[latent]["momentum_buffer"].shape == (15,)
