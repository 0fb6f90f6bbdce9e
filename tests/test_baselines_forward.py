"""Models that take or return more than a tensor are scored as those that do not."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from literal import batches, tiny_net
from torch import Tensor, nn

from baselines import sparsify
from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.forward import at_temperature, mean_loss
from baselines.methods.grasp import grasp_scores
from baselines.samples import Samples
from baselines.tools.paths import trace

Named = namedtuple("Named", "logits, extra")


@dataclass
class Output:
    logits: Tensor
    loss: Tensor | None = None


OUTPUTS = {
    "tensor": lambda logits, loss: logits,
    "mapping": lambda logits, loss: {"logits": logits},
    "dataclass": lambda logits, loss: Output(logits, loss),
    "named-tuple": lambda logits, loss: Named(logits, 0),
}


class Wrapped(nn.Module):
    """Takes keyword arguments, and returns what `make` makes of logits and loss."""

    def __init__(self, make, net):
        super().__init__()
        self.net, self.make = net, make

    def forward(self, pixels, labels=None):
        logits = self.net(pixels)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return self.make(logits, loss)


def masks(method, model, source, **choices):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    options = {"iterations": 3} if method == "synflow" else {}
    sparsifier = sparsify(
        model, optimizer, method, sparsity=0.5, steps=2, samples=source, **options, **choices
    )
    assert sparsifier.sparsity() == pytest.approx(0.5, abs=2e-3)
    return sparsifier.masks


@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("method", ["snip", "grasp", "synflow", "phew", "npb"])
def test_a_model_of_mappings_has_the_masks_of_a_model_of_tensors(method, kind):
    model = Wrapped(OUTPUTS[kind], tiny_net())
    plain = Wrapped(OUTPUTS["tensor"], tiny_net())
    found = masks(method, model, lambda n: [({"pixels": x, "labels": y}, y) for x, y in batches(2)])
    expected = masks(method, plain, lambda n: [((x,), y) for x, y in batches(2)])
    assert all(torch.equal(mask, expected[name]) for name, mask in found.items())


def test_loaders_of_mappings_are_balanced():
    (x, y), *_ = batches(1)
    rows = [{"pixels": a, "labels": b, "name": "n"} for a, b in zip(x, y, strict=True)]
    loader = torch.utils.data.DataLoader(rows, batch_size=3)
    taken = list(Samples(loader)(1))
    assert sorted(torch.cat([labels for _, labels in taken]).tolist()) == sorted(set(y.tolist()))
    for inputs, labels in taken:
        assert torch.equal(inputs["labels"], labels) and len(inputs["pixels"]) == len(labels)


def test_a_loss_that_the_model_computes_is_used():
    logits, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    assert mean_loss(Output(logits, torch.tensor([1.0, 3.0])), y) == 2
    expected = nn.functional.cross_entropy(logits, y)
    assert mean_loss({"logits": logits, "loss": None}, y) == expected
    for output in (Output(logits, torch.tensor(5.0)), {"logits": logits, "loss": 5.0}, logits):
        cool = at_temperature(output, 200)  # the loss of the warm logits is not to be used
        torch.testing.assert_close(mean_loss(cool, y), nn.functional.cross_entropy(logits / 200, y))


def test_outputs_and_targets_that_do_not_fit_are_refused():
    logits = torch.randn(2, 5, 7)
    with pytest.raises(UserError, match=r"\(2, 5, 7\) .* \(2, 5\) .*Samples\(batches, loss\)"):
        mean_loss(logits, torch.zeros(2, 5, dtype=torch.long))
    with pytest.raises(UserError, match="returns a tuple, not a tensor"):
        mean_loss((logits, logits), torch.zeros(2))


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
@pytest.mark.parametrize("targets", [torch.zeros(4), torch.zeros(4, 1), torch.ones(4).long()])
def test_models_of_one_output_need_a_loss_of_their_own(shape, targets):
    with pytest.raises(UserError, match=r"give samples=Samples\(batches, loss\)"):
        mean_loss(torch.zeros(shape), targets)


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.last = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, ids):
        return self.last(self.embed(ids).mean(1))


def test_integer_inputs_are_scored_or_refused():
    x, y = torch.randint(9, (6, 5)), torch.arange(6) % 3
    for method in ("snip", "grasp"):
        masks(method, Tokens(), lambda n: [(x, y)])
    with pytest.raises(UserError, match=r"an input of type torch.int64 .* use snip or grasp"):
        masks("synflow", Tokens(), lambda n: [(x, y)])
    for method in ("phew", "npb"):
        with pytest.raises(UserError, match="through embedding"):
            masks(method, Tokens(), lambda n: [(x, y)])


@pytest.mark.parametrize("method", ["snip", "grasp", "synflow"])
def test_weights_that_the_output_does_not_depend_on_are_refused(method):
    model = Wrapped(OUTPUTS["tensor"], tiny_net())
    model.unused = nn.Linear(3, 3)
    with pytest.raises(UserError, match=r"does not depend on unused\.weight: exclude"):
        masks(method, model, lambda n: batches(1))
    masks(method, model, lambda n: batches(1), exclude=["unused"])


class Gate(nn.Module):
    """Hardsigmoid by the operation that PyTorch differentiates once, or by one of ours."""

    def __init__(self, literal):
        super().__init__()
        self.literal = literal

    def forward(self, x):
        return (x / 6 + 0.5).clamp(0, 1) if self.literal else nn.functional.hardsigmoid(x)


def test_grasp_differentiates_hardsigmoid_twice():
    def scores(literal):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(108, 9), Gate(literal), nn.Linear(9, 5))
        return grasp_scores(SparseModel(model.double()), batches(1, torch.float64), mean_loss)

    expected = scores(literal=True)
    for name, found in scores(literal=False).items():
        torch.testing.assert_close(found, expected[name], rtol=1e-9, atol=1e-12)


def test_grasp_refuses_what_has_no_second_derivative():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return torch.ops.aten.hardsigmoid_backward(grad, grad)

    class Layer(nn.Module):
        def forward(self, x):
            return Once.apply(x)

    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 9), Layer(), nn.Linear(9, 5))
    with pytest.raises(UserError, match=r"second derivatives, but the derivative for .*: use snip"):
        masks("grasp", model, lambda n: batches(1))


class Chunk(nn.Module):
    def forward(self, x):
        a, b = x.chunk(2, 1)
        return a * b.sigmoid()


class Standardised(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean()
        return nn.functional.conv2d(x, weight, self.bias)


@pytest.mark.parametrize(
    "layer, reason",
    [(Chunk(), r"through chunk"), (Standardised(8, 8, 1), r"through conv2d .* weight is computed")],
    ids=["chunk", "computed-weight"],
)
def test_paths_that_cannot_be_followed_are_refused(layer, reason):
    model = nn.Sequential(nn.Conv2d(3, 8, 1), layer, nn.LazyConv2d(5, 1))
    model(torch.zeros(1, 3, 6, 6))
    excluded = ["1.*"] if list(layer.parameters()) else []
    with pytest.raises(UserError, match=reason):
        trace(SparseModel(model, exclude=excluded), torch.zeros(1, 3, 6, 6))
