"""Every kind of weight is found, and trained as the literal formulation trains it."""

from __future__ import annotations

import warnings

import pytest
import torch
import transformers
from literal import loss_of, train_literally
from timm.layers import CondConv2d
from torch import nn
from transformers.pytorch_utils import Conv1D

from baselines import SparseModel, sparsify
from baselines.engine.kinds import BatchShape
from baselines.engine.storage import Plain
from baselines.errors import UserError
from baselines.registry import methods
from baselines.tools.density import erk, layer_counts
from signin import Product


class Logits(nn.Module):
    """One module on vectors, images or sequences; five logits."""

    def __init__(self, layer, shape):
        super().__init__()
        self.layer, self.shape = layer, shape

    def forward(self, x):
        y = self.layer(x.view(-1, *self.shape))
        y = y[0] if isinstance(y, tuple) else y
        return y.flatten(1)[:, :5] * 3


class TwoInputs(nn.Bilinear):
    def forward(self, x):
        return super().forward(x, x.flip(1))


class Cells(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.gru, self.rnn = nn.LSTMCell(12, 6), nn.GRUCell(6, 6), nn.RNNCell(6, 6)

    def forward(self, x):
        return self.rnn(self.gru(self.lstm(x)[0]))


class Mixed(CondConv2d):
    def forward(self, x):
        return super().forward(x, x.mean((2, 3)).softmax(1))


class ParallelExperts(nn.Module):
    """Two linear maps, as in mixtures of experts."""

    def __init__(self):
        super().__init__()
        self.up = nn.Parameter(torch.randn(3, 7, 12) / 3)
        self.down = nn.Parameter(torch.randn(3, 7, 6) / 3)
        self.bias = nn.Parameter(torch.zeros(3, 7))

    def forward(self, x):
        h = torch.einsum("bi,eoi->beo", x, self.up) + self.bias
        return torch.einsum("beo,eoi->bi", h.relu(), self.down)


KINDS = {
    "conv1d-hf": (lambda: Conv1D(9, 12), (12,), ["weight"]),
    "transposed-1d": (lambda: nn.ConvTranspose1d(3, 2, 3), (3, 4), ["weight"]),
    "transposed-2d": (lambda: nn.ConvTranspose2d(4, 6, 2, groups=2), (4, 1, 3), ["weight"]),
    "transposed-3d": (lambda: nn.ConvTranspose3d(3, 2, 2), (3, 2, 1, 2), ["weight"]),
    "bilinear": (lambda: TwoInputs(12, 12, 6), (12,), ["weight"]),
    "rnn": (lambda: nn.RNN(4, 5), (3, 4), ["weight_ih_l0", "weight_hh_l0"]),
    "lstm": (
        lambda: nn.LSTM(4, 6, bidirectional=True, proj_size=3),
        (3, 4),
        [
            f"weight_{part}_l0{direction}"
            for direction in ("", "_reverse")
            for part in ("ih", "hh", "hr")
        ],
    ),
    "gru": (
        lambda: nn.GRU(4, 5, num_layers=2),
        (3, 4),
        [f"weight_{part}_l{layer}" for layer in (0, 1) for part in ("ih", "hh")],
    ),
    "cells": (
        Cells,
        (12,),
        [f"{cell}.weight_{part}" for cell in ("lstm", "gru", "rnn") for part in ("ih", "hh")],
    ),
    "experts": (ParallelExperts, (12,), ["up", "down"]),
    "condconv": (lambda: Mixed(3, 5, 2, num_experts=3), (3, 2, 2), ["weight"]),
}


def sgd(parameters):
    return torch.optim.SGD(parameters, 0.1, 0.9)


def net_of(name):
    torch.manual_seed(0)
    make, shape, names = KINDS[name]
    return Logits(make(), shape).double(), [f"layer.{name}" for name in names]


@pytest.mark.parametrize("beta", [None, 0.7])
@pytest.mark.parametrize("name", KINDS)
def test_a_kind_is_found_and_trained_as_literally(name, beta):
    model, names = net_of(name)
    twin, _ = net_of(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # everything is covered
        net = SparseModel(model, Plain() if beta is None else Product(beta, 0.01))
    assert list(net.layers) == names
    generator = torch.Generator().manual_seed(1)
    masks = {n: torch.rand(shape, generator=generator) < 0.5 for n, shape in net.shapes.items()}
    data = [
        (torch.randn(8, 12, generator=generator, dtype=torch.float64), torch.arange(8) % 5)
        for _ in range(4)
    ]
    optimizer = sgd(model.parameters())
    net.set_masks(masks)
    net.attach(optimizer)
    expected = train_literally(twin, masks, sgd, data, beta, 0.0 if beta is None else 0.01)
    for (x, y), weights in zip(data, expected, strict=True):
        optimizer.zero_grad()
        loss_of(model(x), y).backward()
        optimizer.step()
        for n, value in net.weights.items():
            torch.testing.assert_close(value, weights[n], rtol=1e-9, atol=1e-12)
            assert not value[~masks[n]].any()


class Several(nn.Module):
    """Weights of many kinds."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2)
        self.mix = Conv1D(12, 4)
        self.experts = ParallelExperts()
        self.lstm = nn.LSTM(6, 8, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        h = self.up(self.conv(x).relu()).relu().mean((2, 3))
        sequence = torch.stack([self.experts(self.mix(h + i)) for i in range(3)], 1)
        return self.head(self.lstm(sequence)[0][:, -1])


def images(n):
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(10, 1, 4, 4, generator=generator), torch.arange(10) % 5) for _ in range(n)]


REFUSE = {
    "srigl": "srigl needs weights of convolutions and Linear layers: exclude 'up.weight' of a "
    "ConvTranspose2d",
    "srste": "srste needs weights of convolutions and Linear layers",
    "rigl_nm": "rigl_nm needs weights of convolutions and Linear layers",
    "chts": "chts needs weights of convolutions and Linear layers",
    "wanda": "wanda supports Linear, Conv2d and Hugging Face's Conv1D: exclude",
    "sparsegpt": "sparsegpt supports Linear, Conv2d and Hugging Face's Conv1D: exclude",
    "phew": "cannot be followed through conv_transpose2d",
    "npb": "cannot be followed through conv_transpose2d",
}


@pytest.mark.parametrize("sign_in", [False, True], ids=["plain", "signin"])
@pytest.mark.parametrize("name", [n for n, m in methods().items() if m.variants and m.is_sparse])
def test_every_method_prunes_every_kind_or_refuses(name, sign_in):
    torch.manual_seed(0)
    model = Several()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    choices = {"sparsity": 0.7, "steps": 20, "sign_in": sign_in, "samples": lambda n: images(1)}
    if name == "str":
        choices |= {"s_init": -8.0, "threshold_decay": 0.05}
    if name in REFUSE:
        with pytest.raises(UserError, match=REFUSE[name]) as caught:
            sparsify(model, optimizer, name, **choices)
        assert "\n" not in str(caught.value)
        return
    sparsifier = sparsify(model, optimizer, name, **choices)
    scheduler = sparsifier.lr_scheduler(optimizer)
    for i in range(sparsifier.total_steps):
        x, y = images(4)[i % 4]
        optimizer.zero_grad()
        loss_of(model(x), y).backward()
        optimizer.step()
        scheduler.step()
    assert len(sparsifier.masks) == 8
    net = sparsifier.net
    if name != "str":  # whose sparsity is an outcome
        assert net.nnz == pytest.approx(0.3 * net.numel, abs=1)
    assert not any(layer.weight[~layer.mask].any() for layer in net if layer.index is not None)


def test_srigl_serves_the_ordinary_weights_of_a_mixed_model():
    model = Several()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    exclude = ("up", "mix", "experts*", "lstm*")
    found = sparsify(model, optimizer, "srigl", sparsity=0.5, steps=4, exclude=exclude)
    assert list(found.masks) == ["conv.weight", "head.weight"]


def test_a_mixtures_experts_get_the_density_of_single_layers():
    shapes = {"a": (6, 5), "experts": BatchShape((4, 6, 5), (6, 5)), "kernel": (7, 8, 3, 3)}
    densities = erk(shapes, 0.3)
    assert densities["experts"] == densities["a"]
    counts = layer_counts("erk", shapes, 0.7)
    assert counts["experts"] == pytest.approx(4 * counts["a"], abs=2)
    net = SparseModel(Logits(ParallelExperts(), (12,)))
    assert net.shapes["layer.up"] == (3, 7, 12) and net.shapes["layer.up"].one == (7, 12)
    net = SparseModel(net_of("condconv")[0])
    assert net.shapes["layer.weight"] == (3, 60) and net.shapes["layer.weight"].one == (5, 3, 2, 2)


def test_models_of_hugging_face_are_covered():
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": 40, "n_positions": 8}
    gpt2 = transformers.GPT2ForSequenceClassification(transformers.GPT2Config(**sizes))
    with pytest.warns(UserWarning, match=r"largest others are transformer.wte.weight \(640\)"):
        names = SparseModel(gpt2).layers
    layers = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    blocks = [f"transformer.h.{i}.{layer}.weight" for i in (0, 1) for layer in layers]
    assert list(names) == [*blocks, "score.weight"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SparseModel(gpt2, exclude=["*.wte", "*.wpe"])
        assert "transformer.wte.weight" in SparseModel(gpt2, include=["*.wte"]).layers
    sizes = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 24, "vocab_size": 9}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 4}
    mixtral = transformers.MixtralForCausalLM(transformers.MixtralConfig(**sizes, **heads))
    shapes = SparseModel(mixtral).shapes
    assert shapes["model.layers.0.mlp.experts.gate_up_proj"].one == (48, 16)
    assert shapes["model.layers.0.mlp.experts.down_proj"].one == (16, 24)
    assert not any("embed" in name or "mlp.gate" in name for name in shapes)
