"""Which weights can be pruned, and which are refused."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torch.nn import utils
from torch.nn.utils import parametrizations, prune

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
    net = SparseModel(model, Product())
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
