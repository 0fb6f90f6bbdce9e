"""Which weights can be pruned, and which are refused."""

from __future__ import annotations

import warnings

import pytest
import timm
import torch
from torch import nn
from torch.nn import utils
from torch.nn.utils import parametrizations, prune

from baselines import sparsify
from baselines.engine.prunable import all_weights, prunable_weights, unwrap
from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from signin import Product


class Tied(nn.Module):
    def __init__(self, embedding: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight
        self.head = nn.Linear(4, 10, bias=False)
        if embedding:
            self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.b(self.a(self.embed(x))))


def test_tied_linear_layers_count_once_and_train_together():
    model = Tied(embedding=False)
    net = SparseModel(model, Product(), exclude=["embed"])
    assert list(net.layers) == ["a.weight", "head.weight"]
    net.set_masks({"a.weight": torch.eye(4, dtype=torch.bool)})
    opt = torch.optim.SGD(model.parameters(), 0.1)
    net.attach(opt)
    model(torch.arange(10)).square().sum().backward()
    opt.step()
    assert model.b.weight is model.a.weight
    assert int(model.b.weight.count_nonzero()) == 4


def test_a_weight_tied_to_an_embedding_is_refused_unless_excluded():
    model = Tied(embedding=True)
    with pytest.raises(UserError, match="shared with embed.weight of a Embedding"):
        prunable_weights(model)
    assert list(prunable_weights(model, ["head"])) == ["a.weight"]


def test_a_weight_tied_to_an_embedding_can_be_included_or_excluded_by_either_name():
    for name in ("head", "embed"):
        model = Tied(embedding=True)
        assert list(prunable_weights(model, exclude=[name])) == ["a.weight"]
        assert list(prunable_weights(model, include=[name])) == ["a.weight", "head.weight"]
        net = SparseModel(model, Product(), include=[name])
        net.set_masks({"head.weight": torch.eye(10, 4, dtype=torch.bool)})
        opt = torch.optim.SGD(model.parameters(), 0.1)
        net.attach(opt)
        model(torch.arange(10)).square().sum().backward()
        opt.step()
        assert model.embed.weight is model.head.weight
        assert int(model.embed.weight.count_nonzero()) == 4


class Custom(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(10, 9)
        self.table = nn.Parameter(torch.randn(7, 10))
        self.cube = nn.Parameter(torch.randn(2, 3, 5))
        self.scale = nn.Parameter(torch.ones(10))


def test_parameters_of_unknown_modules_are_pruned_if_included_and_named_if_not():
    with pytest.warns(UserWarning) as caught:
        assert list(prunable_weights(Custom())) == ["body.weight"]
    (warning,) = caught
    assert str(warning.message) == (
        "only 47.4% of the parameters in trained tensors of two or more dimensions are prunable; "
        "the largest others are table (70), cube (30). Name them in include or exclude."
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = Custom()
        assert list(prunable_weights(model, include=["*"])) == ["table", "cube", "body.weight"]
        assert list(prunable_weights(model, ["cube"], ["*"])) == ["table", "body.weight"]
        assert list(prunable_weights(model, ["t*", "cube"])) == ["body.weight"]
        model.table.requires_grad_(False)
        model.cube.data = model.cube.data[:, :1, :1].clone()  # 2 of 92
        assert list(prunable_weights(model)) == ["body.weight"]
    for pattern in ("scale", "body.bias", "nothing"):
        with pytest.raises(UserError, match=f"include: '{pattern}' matches none of table, cube"):
            prunable_weights(Custom(), include=[pattern])


def test_sparsify_passes_patterns_on():
    model = nn.Sequential(nn.Embedding(30, 8), nn.Flatten(), nn.Linear(16, 3))
    opt = torch.optim.SGD(model.parameters(), 0.1, 0.9)
    found = sparsify(model, opt, "gmp", sparsity=0.8, steps=10, include=["0"], exclude=["2"])
    assert list(found.masks) == ["0.weight"]
    for _ in range(10):
        opt.zero_grad()
        model(torch.randint(30, (64, 2))).square().mean().backward()
        opt.step()
    assert int(model[0].weight.count_nonzero()) == 48


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_one_pattern_without_a_list_is_refused(option):
    with pytest.raises(UserError, match=rf"{option} must be a list of patterns: \['0'\]"):
        SparseModel(nn.Linear(4, 4), **{option: "0"})


def test_a_weight_with_sparse_gradients_is_refused():
    with pytest.raises(UserError, match="0.weight has sparse gradients"):
        prunable_weights(nn.Sequential(nn.Embedding(5, 5, sparse=True)), include=["0"])


def test_parametrized_lazy_and_frozen_weights():
    with pytest.raises(UserError, match="parametrization"):
        prunable_weights(parametrizations.weight_norm(nn.Linear(3, 3)))
    with pytest.raises(UserError, match="not initialised"):
        prunable_weights(nn.LazyLinear(3))
    with pytest.raises(UserError, match="not dense in memory"):
        strided = nn.Linear(3, 3)
        strided.weight = nn.Parameter(torch.zeros(3, 6)[:, ::2])
        prunable_weights(strided)
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].weight.requires_grad_(False)
    assert list(prunable_weights(model)) == ["1.weight"]
    assert list(all_weights(model)) == ["0.weight", "1.weight"]


@pytest.mark.parametrize(
    "change",
    [
        utils.spectral_norm,
        utils.weight_norm,
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
        parametrizations.spectral_norm,
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
def test_computed_weights_are_never_silently_absent(change):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    change(model[1])
    with pytest.raises(UserError, match=r"1\.weight is computed by a parametrization"):
        prunable_weights(model)
    model(torch.zeros(2, 3))
    with pytest.raises(UserError, match=r"1\.weight is computed by a parametrization"):
        prunable_weights(model)
    assert list(prunable_weights(model, ["1"])) == ["0.weight"]


class FullyShardedDataParallel(nn.Module):
    """Named as PyTorch's wrapper, which takes a process group and a second to import."""

    def __init__(self, module):
        super().__init__()
        self.module = module


def test_a_model_sharded_by_fsdp_is_refused():
    with pytest.raises(UserError, match="1 is sharded by FSDP: use DDP"):
        prunable_weights(nn.Sequential(nn.Linear(2, 2), FullyShardedDataParallel(nn.Linear(2, 2))))


def test_attention_projections_are_linear_layers_too():
    names = prunable_weights(nn.TransformerEncoderLayer(8, 2, 16)).keys()
    assert names == {
        "self_attn.in_proj_weight",
        "self_attn.out_proj.weight",
        "linear1.weight",
        "linear2.weight",
    }


def test_normalisation_bias_and_position_embeddings_are_never_prunable():
    model = timm.create_model("test_vit", num_classes=7)
    names = prunable_weights(model)
    kinds = {type(model.get_submodule(name.rpartition(".")[0])) for name in names}
    assert kinds <= {nn.Conv2d, nn.Linear}
    assert not any("norm" in name or "pos_embed" in name or "bias" in name for name in names)
    net = SparseModel(model, Product())
    net.set_masks({n: torch.rand(s) < 0.2 for n, s in net.shapes.items()})
    before = {n: p.detach().clone() for n, p in model.named_parameters() if n not in names}
    opt = torch.optim.AdamW(model.parameters(), 1e-3)
    net.attach(opt)
    size = model.default_cfg["input_size"]
    model(torch.randn(2, *size)).square().sum().backward()
    opt.step()
    assert all(bool((p != 0).all()) for n, p in before.items() if "norm" in n and "weight" in n)


def test_unwrap_finds_the_users_module():
    model = nn.Linear(2, 2)
    assert unwrap(nn.DataParallel(torch.compile(model))) is model
