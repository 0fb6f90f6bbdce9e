"""Which optimizers are attached, and that a refused one is left as it was."""

from __future__ import annotations

import copy

import pytest
import schedulefree
import timm.optim
import torch
import torch.distributed as dist
from literal import batches, loss_of, tiny_net
from needs import needs_muon
from timm.optim.kron import Kron
from timm.optim.lookahead import Lookahead
from torch import nn
from torch.distributed.optim import ZeroRedundancyOptimizer

from baselines import SparseModel, sparsify
from baselines.engine.storage import Plain
from baselines.errors import UserError
from signin import Product

HOOKS = ("step_pre", "step_post", "state_dict_pre", "load_state_dict_pre")


@pytest.fixture(autouse=True)
def _eager():
    """Compile nothing: Kron compiles its steps, which takes longer than all tests here."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.fixture
def process_group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Wrapper(torch.optim.Optimizer):
    """Passes its steps on and has no hooks of its own, as accelerate's does."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    @property
    def param_groups(self):
        return self.optimizer.param_groups

    def step(self, closure=None):
        return self.optimizer.step(closure)

    def zero_grad(self, set_to_none=True):
        self.optimizer.zero_grad(set_to_none)


class Elsewhere(Wrapper):
    """Holds other parameters than the optimizer that it wraps."""

    @property
    def param_groups(self):
        return [{"params": [nn.Parameter(torch.zeros(1))]}]


class Bare(Wrapper):
    """Wraps an optimizer under an unknown name."""

    def __init__(self, optimizer):
        self.engine = optimizer


class Groupless:
    """Wraps an optimizer and shows no parameter groups, as fastai's OptimWrapper does."""

    def __init__(self, optimizer):
        self.opt = optimizer

    def step(self):
        self.opt.step()

    def zero_grad(self):
        self.opt.zero_grad()


class Averaged(torch.optim.SGD):
    """Can put other values into the weights between steps, as schedule-free optimizers do."""

    def eval(self):
        for group in self.param_groups:
            for p in group["params"]:
                if "momentum_buffer" in self.state[p]:
                    p.data.sub_(self.state[p]["momentum_buffer"])


class Fp16(torch.optim.SGD):
    _amp_stash = None


class Adam8bit(torch.optim.Adam):
    pass


def sgd(model):
    return torch.optim.SGD(model.parameters(), 0.05, 0.9, weight_decay=0.1)


def muon(model):
    return timm.optim.Muon(model.parameters(), lr=0.01)


REFUSED = {
    "zero": (
        lambda m: ZeroRedundancyOptimizer(m.parameters(), torch.optim.SGD, lr=0.1),
        "other ranks",
    ),
    "lookahead": (lambda m: Lookahead(sgd(m)), "outside of the step"),
    "lbfgs": (lambda m: torch.optim.LBFGS(m.parameters()), "closure several times"),
    "elsewhere": (lambda m: Elsewhere(sgd(m)), "other parameters"),
    "bare": (lambda m: Bare(sgd(m)), "give the torch optimizer that it wraps"),
    "foreign": (lambda m: object(), "no step hooks"),
    "other": (lambda m: sgd(tiny_net()), "does not hold"),
    "second-order": (lambda m: timm.optim.Adahessian(m.parameters()), "second derivatives"),
    "apex": (lambda m: Fp16(m.parameters(), 0.1), "Apex"),
    "8bit": (lambda m: Adam8bit(m.parameters(), 0.1), "8bit quantizes"),
    "averaged": (lambda m: Averaged(m.parameters(), 0.1), "dense_latents=True"),
    "muon": (muon, "Muon treats weights by the shape.*dense_latents=True"),
    "maximize": (lambda m: torch.optim.SGD(m.parameters(), 0.1, maximize=True), "negative loss"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_optimizer_and_its_model_are_left_as_they_were(name, process_group):
    make, message = REFUSED[name]
    model = tiny_net()
    optimizer = make(model)
    before = copy.deepcopy(model.state_dict())
    groups = copy.deepcopy(getattr(optimizer, "param_groups", None))
    with pytest.raises(UserError, match=message) as caught:
        sparsify(model, optimizer, "random", sparsity=0.5, steps=10, sign_in=True)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    for inner in (optimizer, getattr(optimizer, "optimizer", None)):
        assert not any(getattr(inner, f"_optimizer_{hook}_hooks", None) for hook in HOOKS)
        assert "step" not in getattr(inner, "__dict__", {})
    for group, old in zip(getattr(optimizer, "param_groups", ()), groups or (), strict=True):
        assert {k: v for k, v in group.items() if k != "params"} == {
            k: v for k, v in old.items() if k != "params"
        }
    right = sgd(model)
    sparsifier = sparsify(model, right, "random", sparsity=0.5, steps=10, sign_in=True)
    train(model, right, 2)
    assert sparsifier.sparsity() == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("first", [0.0, 1e-6])
def test_a_warm_up_does_not_hide_how_an_optimizer_treats_shapes(first):
    model = tiny_net()
    optimizer = muon(model)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, first + step / 10))
    with pytest.raises(UserError, match="Muon treats weights by the shape"):
        sparsify(model, optimizer, "random", sparsity=0.5, steps=10)


def train(model, optimizer, steps=4):
    for x, y in batches(steps):
        optimizer.zero_grad()
        loss_of(model(x), y).backward()
        optimizer.step()


def test_a_wrapper_that_passes_steps_on_is_looked_through():
    ends = []
    for wrap in (lambda opt: opt, Wrapper, Groupless, lambda opt: Wrapper(Wrapper(opt))):
        model = tiny_net()
        inner = sgd(model)
        optimizer = wrap(inner)
        sparsifier = sparsify(model, optimizer, "rigl", sparsity=0.5, steps=4, sign_in=True)
        train(model, optimizer)
        assert sparsifier.step == 4 and inner._optimizer_step_pre_hooks
        ends.append(sparsifier.finalize().state_dict())
        assert not inner._optimizer_step_pre_hooks
    for end in ends[1:]:
        assert all(torch.equal(value, ends[0][key]) for key, value in end.items())


def test_an_optimizer_is_attached_once():
    model = tiny_net()
    optimizer = sgd(model)
    first = sparsify(model, optimizer, "rigl", sparsity=0.5, steps=4, sign_in=True)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match=r"SGD is attached already: finalize\(\)"):
        sparsify(model, optimizer, "acdc", sparsity=0.8, steps=4)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    train(model, optimizer, 2)
    first.finalize()
    second = sparsify(model, optimizer, "random", sparsity=0.8, steps=4)
    train(model, optimizer, 2)
    assert (first.step, second.step) == (2, 2)


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimisation in two steps, as in widespread implementations."""

    def __init__(self, base):
        super().__init__([p for g in base.param_groups for p in g["params"]], {})
        self.base_optimizer, self.param_groups = base, base.param_groups

    @torch.no_grad()
    def first_step(self):
        (group,) = self.param_groups
        norm = torch.stack([p.grad.norm() for p in group["params"]]).norm()
        for p in group["params"]:
            self.state[p]["old"] = p.data.clone()
            p.add_(p.grad / norm)

    @torch.no_grad()
    def second_step(self):
        for p in self.param_groups[0]["params"]:
            p.data = self.state[p]["old"]
        self.base_optimizer.step()


def test_sam_on_masked_gradients_is_that_of_the_sparse_network():
    model, twin = tiny_net(), tiny_net()
    optimizer, other = SAM(sgd(model)), SAM(sgd(twin))
    with pytest.warns(UserWarning, match=r"SAM moves the weights.* call mask_gradients\(\)"):
        sparsifier = sparsify(model, optimizer, "random", sparsity=0.5, steps=4)

    def mask(tensor_of):
        with torch.no_grad():
            for name, mask in sparsifier.masks.items():
                tensor_of(twin.get_parameter(name)).mul_(mask)

    mask(lambda weight: weight)
    for x, y in batches(4):
        for step in ("first_step", "second_step"):
            for net, opt in ((model, optimizer), (twin, other)):
                opt.zero_grad()
                loss_of(net(x), y).backward()
            sparsifier.mask_gradients()
            mask(lambda weight: weight.grad)
            getattr(optimizer, step)()
            getattr(other, step)()
    assert all(map(torch.equal, model.parameters(), twin.parameters()))


class Interrupted(Product):
    """Is interrupted when it splits the third layer."""

    calls = 0

    def split(self, thetas, names=()):
        Interrupted.calls += 1
        if Interrupted.calls == 3:
            raise KeyboardInterrupt
        return super().split(thetas, names)


def test_an_attach_that_is_interrupted_leaves_nothing_behind():
    model = tiny_net()
    opt = sgd(model)
    train(model, opt, 1)
    state = {p: dict(s) for p, s in opt.state.items()}
    net = SparseModel(model, Interrupted())
    with pytest.raises(KeyboardInterrupt):
        net.attach(opt)
    assert {p: dict(s) for p, s in opt.state.items()} == state
    assert not net.stepped_parameters and not any(layer.latents for layer in net)
    net.storage = Product()
    net.attach(opt)
    train(model, opt, 2)


# ---- optimizers that treat weights by shape

BY_SHAPE = {
    "muon": muon,
    "adafactor": lambda m: timm.optim.Adafactor(m.parameters(), lr=0.01),
    "adafactor-bv": lambda m: timm.optim.AdafactorBigVision(m.parameters(), lr=0.01),
    "torch-adafactor": lambda m: torch.optim.Adafactor(m.parameters(), lr=0.01),
    "kron": lambda m: Kron(m.parameters(), lr=0.001),
    "mars": lambda m: timm.optim.Mars(m.parameters(), lr=0.003),
    "adamp": lambda m: timm.optim.AdamP(m.parameters(), lr=0.003),
    "sgdp": lambda m: timm.optim.SGDP(m.parameters(), lr=0.03, momentum=0.9),
}
BY_ENTRY = {
    "lion": lambda m: timm.optim.Lion(m.parameters(), lr=0.001),
    "rmsprop-tf": lambda m: timm.optim.RMSpropTF(m.parameters(), lr=0.001),
    "adopt": lambda m: timm.optim.Adopt(m.parameters(), lr=0.001),
    "lamb": lambda m: timm.optim.Lamb(m.parameters(), lr=0.001),
    "nadamw": lambda m: torch.optim.NAdam(m.parameters(), lr=0.001),
}


@pytest.mark.parametrize("name", BY_ENTRY)
def test_optimizers_of_entries_are_attached_without_a_trace(name):
    model = tiny_net()
    optimizer = BY_ENTRY[name](model)
    generator = torch.get_rng_state()
    net = SparseModel(model, Product())
    net.attach(optimizer)
    assert torch.equal(torch.get_rng_state(), generator)
    assert not optimizer.state
    train(model, optimizer, 2)


@pytest.mark.parametrize("storage", [Plain(), Product()], ids=["plain", "product"])
@pytest.mark.parametrize("name", BY_SHAPE)
def test_optimizers_by_shape_are_refused_or_given_dense_latents(name, storage):
    model = tiny_net()
    optimizer = BY_SHAPE[name](model)
    with pytest.raises(UserError, match="dense_latents=True"):
        SparseModel(model, storage).attach(optimizer)
    net = SparseModel(model, storage, dense_latents=True)
    masks = {name: torch.rand(shape) < 0.4 for name, shape in net.shapes.items()}
    net.set_masks(masks)
    net.attach(optimizer)
    for i, (x, y) in enumerate(batches(8)):
        before = copy.deepcopy(model.state_dict())
        optimizer.zero_grad()
        loss_of(model(x), y).backward()
        optimizer.step()
        for layer in net:
            assert not layer.weight[~layer.mask].any()
            assert not torch.equal(layer.weight, before[layer.name])
            for latent in layer.latents.values():
                assert latent.shape == layer.weight.shape and not latent[~layer.mask].any()
        if i == 3:
            net.set_masks({name: torch.rand(shape) < 0.5 for name, shape in net.shapes.items()})
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_the_check_draws_nothing_from_the_optimizers_generator():
    model = tiny_net()
    optimizer = BY_SHAPE["kron"](model)
    before = optimizer.rng.getstate()
    with pytest.raises(UserError, match="dense_latents"):
        SparseModel(model).attach(optimizer)
    assert optimizer.rng.getstate() == before


def test_muon_with_dense_latents_is_muon_on_masked_gradients():
    model, twin = tiny_net(), tiny_net()
    net = SparseModel(model, dense_latents=True)
    masks = {name: torch.rand(shape) < 0.4 for name, shape in net.shapes.items()}
    net.set_masks(masks)
    optimizer, other = muon(model), muon(twin)
    net.attach(optimizer)
    with torch.no_grad():
        for x, y in batches(4):
            train_masked(twin, other, masks, x, y)
            optimizer.zero_grad()
            with torch.enable_grad():
                loss_of(model(x), y).backward()
            optimizer.step()
            for a, b in zip(model.parameters(), twin.parameters(), strict=True):
                assert torch.equal(a, b)


@needs_muon
def test_torchs_muon_is_served_by_dense_latents_only():
    def build():
        torch.manual_seed(0)
        layers = nn.Linear(108, 20, bias=False), nn.ReLU(), nn.Linear(20, 5, bias=False)
        model = nn.Sequential(nn.Flatten(), *layers)
        return model, torch.optim.Muon(model.parameters(), lr=0.01)

    (model, optimizer), (twin, other) = build(), build()
    with pytest.raises(UserError, match="Muon treats weights by the shape.*dense_latents=True"):
        sparsify(model, optimizer, "gmp", sparsity=0.5, steps=9)
    net = SparseModel(model, dense_latents=True)
    masks = {name: torch.rand(shape) < 0.4 for name, shape in net.shapes.items()}
    net.set_masks(masks)
    net.attach(optimizer)
    for x, y in batches(4):
        with torch.no_grad():
            train_masked(twin, other, masks, x, y)
    train(model, optimizer)
    assert all(map(torch.equal, model.parameters(), twin.parameters()))


@needs_muon
def test_an_optimizer_of_matrices_is_refused_for_thresholds():
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 5, bias=False))
    optimizer = torch.optim.Muon(model.parameters(), lr=0.01)
    choices = {"sparsity": 0.5, "steps": 9, "dense_latents": True}
    for method, own in (("str", {"s_init": -5.0, "threshold_decay": 1e-3}), ("str-target", {})):
        with pytest.raises(UserError, match=r"Muon cannot step thresholds.*: use another"):
            sparsify(model, optimizer, method, **choices, **own)
    sparsify(model, optimizer, "topkast", **choices).finalize()
    model = tiny_net()
    optimizer = muon(model)
    sparsify(model, optimizer, "str-target", **choices)  # timm's steps them as Adam does
    train(model, optimizer)


def train_masked(model, optimizer, masks, x, y):
    for name, mask in masks.items():
        model.get_parameter(name).mul_(mask)
    optimizer.zero_grad()
    with torch.enable_grad():
        loss_of(model(x), y).backward()
    for name, mask in masks.items():
        model.get_parameter(name).grad.mul_(mask)
    optimizer.step()
    for name, mask in masks.items():
        model.get_parameter(name).mul_(mask)


@pytest.mark.parametrize("method", ["rigl", "gmp", "str-target", "acdc"])
@pytest.mark.parametrize("sign_in", [False, True], ids=["plain", "signin"])
def test_dense_latents_train_as_vectors_do(method, sign_in):
    """With an optimizer of entries, so that both can be had."""
    ends = []
    for dense in (False, True):
        model = tiny_net().double()
        opt = torch.optim.AdamW(model.parameters(), 0.003, weight_decay=0.1)
        choices = {"sparsity": 0.8, "steps": 12, "sign_in": sign_in, "dense_latents": dense}
        sparsifier = sparsify(model, opt, method, **choices)
        for x, y in batches(14, torch.float64):
            opt.zero_grad()
            loss_of(model(x), y).backward()
            opt.step()
        assert sparsifier.sparsity() == pytest.approx(0.8, abs=2e-3)
        ends.append(model.state_dict())
    for key, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][key], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("storage", [Plain(), Product()], ids=["plain", "product"])
@pytest.mark.parametrize("name", ["muon", "torch-adafactor", "adamp", "kron"])
def test_dense_latents_are_saved_and_loaded(name, storage):
    def build(seed):
        model = tiny_net()
        torch.manual_seed(seed)  # of the masks
        net = SparseModel(model, storage, dense_latents=True)
        net.set_masks({name: torch.rand(shape) < 0.4 for name, shape in net.shapes.items()})
        optimizer = BY_SHAPE[name](model)
        net.attach(optimizer)
        return model, net, optimizer

    parts, resumed = build(0), build(1)
    train(parts[0], parts[2], 3)
    for part, loaded in zip(parts, resumed, strict=True):
        loaded.load_state_dict(copy.deepcopy(part.state_dict()))
    for model, _, optimizer in (parts, resumed):
        torch.manual_seed(2)  # Kron draws
        train(model, optimizer, 3)
    for a, b in zip(parts[0].parameters(), resumed[0].parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_state_of_dense_latents_is_not_loaded_without_them():
    states = []
    for dense in (True, False):
        model = tiny_net()
        net = SparseModel(model, Product(), dense_latents=dense)
        net.set_masks({name: torch.ones(shape).tril() > 0 for name, shape in net.shapes.items()})
        net.attach(sgd(model))
        states.append((net, net.state_dict()))
    for (net, _), (_, state) in (states, states[::-1]):
        with pytest.raises(UserError, match="dense_latents"):
            net.load_state_dict(state)


def test_an_optimizer_that_writes_between_steps_sees_pruned_layers():
    model = tiny_net()
    net = SparseModel(model, dense_latents=True)
    masks = {name: torch.rand(shape) < 0.4 for name, shape in net.shapes.items()}
    net.set_masks(masks)
    optimizer = Averaged(model.parameters(), 0.1, 0.9)
    net.attach(optimizer)
    train(model, optimizer, 2)
    before = {name: weight.detach().clone() for name, weight in net.weights.items()}
    optimizer.eval()
    for name, weight in net.weights.items():
        assert not weight[~masks[name]].any()
        assert not torch.equal(weight, before[name])
    model, optimizer = tiny_net(), None
    net = SparseModel(model, Product(), dense_latents=True)
    with pytest.raises(UserError, match="without factors"):
        net.attach(Averaged(model.parameters(), 0.1))


# ---- schedule-free optimizers, whose eval() writes the weights

SCHEDULE_FREE = {
    "sgd": lambda m: schedulefree.SGDScheduleFree(m.parameters(), lr=0.1),
    "adamw": lambda m: schedulefree.AdamWScheduleFree(m.parameters(), lr=0.01, weight_decay=0.1),
    "radam": lambda m: schedulefree.RAdamScheduleFree(m.parameters(), lr=0.01),
}


@pytest.mark.parametrize("name", SCHEDULE_FREE)
def test_schedule_free_training_is_that_on_masked_gradients(name):
    model, twin = tiny_net(), tiny_net()
    net = SparseModel(model, dense_latents=True)
    masks = {name: torch.rand(shape) < 0.4 for name, shape in net.shapes.items()}
    net.set_masks(masks)
    optimizer, other = SCHEDULE_FREE[name](model), SCHEDULE_FREE[name](twin)
    net.attach(optimizer)
    optimizer.train()
    other.train()
    for x, y in batches(4):
        with torch.no_grad():
            train_masked(twin, other, masks, x, y)
        optimizer.zero_grad()
        loss_of(model(x), y).backward()
        optimizer.step()
    optimizer.eval()
    other.eval()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", SCHEDULE_FREE)
def test_schedule_free_evaluation_sees_changed_masks(name):
    model = tiny_net()
    optimizer = SCHEDULE_FREE[name](model)
    choices = {"sparsity": 0.8, "steps": 8}
    with pytest.raises(UserError, match="dense_latents=True, without factors or thresholds"):
        sparsify(model, optimizer, "rigl", **choices)
    with pytest.raises(UserError, match="dense_latents=True, without factors or thresholds"):
        sparsify(model, optimizer, "rigl", sign_in=True, dense_latents=True, **choices)
    sparsifier = sparsify(model, optimizer, "rigl", dense_latents=True, **choices)
    first = sparsifier.masks
    for x, y in batches(8):
        optimizer.train()
        optimizer.zero_grad()
        loss_of(model(x), y).backward()
        optimizer.step()
        optimizer.eval()
        for name, mask in sparsifier.masks.items():
            assert not sparsifier.net.weights[name][~mask].any()
    assert any(not torch.equal(mask, first[name]) for name, mask in sparsifier.masks.items())
    assert sparsifier.sparsity() == pytest.approx(0.8, abs=0.01)
