"""SNIP's and GraSP's sample: shuffled, and independent of batch sizes, ranks and samplers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from literal import tiny_net
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler
from two_ranks import Wide

from baselines import sparsify
from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.method import Plan
from baselines.methods.grasp import Grasp, grasp_scores
from baselines.methods.snip import SampleOptions, Snip, snip_scores
from baselines.samples import Samples, as_samples
from baselines.tools.scores import shuffled_batches
from launch.config.recipes import find_recipe
from launch.data import load_data
from launch.ranks import Share

SCORES = {Snip: snip_scores, Grasp: grasp_scores}
CPU = torch.device("cpu")


def splits(recipe, sizes, root):
    """Return the training split in float64 as each rank of 1 and 2 sees it, by batch size."""
    for size in sizes:
        for rank, world in ((0, 1), (0, 2), (1, 2)):
            own = replace(recipe, batch_size=size)
            yield Wide(load_data(own, root, CPU, 0, Share(rank, world), 0).train)


def assert_equal_up_to_rounding(method, model, sources):
    """Score all sources. The scores' largest value is the unit of rounding errors."""
    options = SampleOptions(samples_per_class=10, sample_batch_size=32)
    first = None
    for source in sources:
        net = SparseModel(model)
        scores = SCORES[method](net, options.batches(Samples(source)), nn.functional.cross_entropy)
        flat = torch.cat([s.flatten() for s in scores.values()])
        first = flat if first is None else first
        torch.testing.assert_close(flat, first, rtol=0, atol=1e-12 * float(first.abs().max()))
    return first


@pytest.mark.parametrize("method", SCORES)
def test_scores_do_not_depend_on_batch_size_and_ranks(method, machine):
    """With batch normalisation, on images that are held on the device."""
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(1, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3),
        nn.BatchNorm2d(6),
    ]
    model = nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(96, 10)).double()
    sizes = (6, 64, 500)
    assert_equal_up_to_rounding(
        method, model, (s.sample for s in splits(find_recipe("digits"), sizes, machine.data_dir))
    )


@pytest.mark.parametrize("method", SCORES)
def test_scores_of_streamed_images_do_not_either(method, machine, image_folder):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 4), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(3))
    model(torch.zeros(2, 3, 72, 72))
    recipe = replace(find_recipe("imagefolder"), data=str(image_folder), image_size=72)
    sources = (s.sample for s in splits(recipe, (2, 4, 24), machine.data_dir))
    assert_equal_up_to_rounding(method, model.double(), sources)


@pytest.mark.parametrize("method", SCORES)
def test_scores_of_a_loader_do_not_either(method):
    """A DataLoader without shuffling, or with a DistributedSampler on one of two ranks."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(210, 3, 6, 6, generator=generator, dtype=torch.float64)
    data = TensorDataset(x, torch.arange(210) // 42)  # sorted by class
    model = tiny_net().double()
    loaders = [DataLoader(data, size) for size in (1, 16, 210)]
    assert_equal_up_to_rounding(method, model, loaders)
    ranks = [DistributedSampler(data, 2, rank, shuffle=True, seed=3) for rank in (0, 1)]
    loaders = [DataLoader(data, size, sampler=rank) for size in (16, 50) for rank in ranks]
    alone = DataLoader(data, 7, sampler=DistributedSampler(data, 1, 0, shuffle=True, seed=3))
    assert_equal_up_to_rounding(method, model, [alone, *loaders])


@pytest.mark.parametrize("method", ["snip", "synflow", "random"])
def test_the_training_draws_as_if_masks_had_not_been_chosen(method):
    data = TensorDataset(torch.rand(20, 3, 6, 6), torch.arange(20) % 5)
    loader = DataLoader(data, 10, shuffle=True)  # its order is drawn from the global generator
    model = tiny_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = torch.random.get_rng_state()
    sparsify(model, optimizer, method, sparsity=0.5, steps=10, samples=loader)
    assert torch.equal(torch.random.get_rng_state(), before)


class Own(Samples):
    """Samples of a user."""


def test_batches_of_a_loader_come_on_the_device_of_the_model():
    loader = DataLoader(TensorDataset(torch.rand(20, 3), torch.arange(20) % 5), 10)
    model = nn.Linear(3, 5, device="meta")
    for source, kind, device in (
        (loader, Samples, "meta"),
        (Own(loader, nn.functional.mse_loss), Own, "meta"),
        (Samples(loader, device=CPU), Samples, "cpu"),
    ):
        samples = as_samples(source, model)
        (inputs, labels), *_ = samples(1)
        assert {inputs.device.type, labels.device.type} == {device}
        assert type(samples) is kind and samples.loss is getattr(source, "loss", samples.loss)


@pytest.mark.parametrize("method", ["snip", "rigl"])
@pytest.mark.filterwarnings("ignore:.*updates replace")
def test_samples_of_another_kind_are_refused(method):
    model = tiny_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    pairs = [(torch.rand(4, 3, 6, 6), torch.arange(4))]
    with pytest.raises(UserError, match=r"samples must be a DataLoader .*, not list\."):
        sparsify(model, optimizer, method, sparsity=0.5, steps=10, samples=pairs)
    assert not optimizer._optimizer_step_pre_hooks


def test_batches_are_shuffled_whole_and_of_equal_size():
    x = torch.arange(50.0)[:, None]
    y = torch.arange(5).repeat_interleave(10)
    found = shuffled_batches(Samples(lambda n: [(x[:33], y[:33]), (x[33:], y[33:])]), 10, 20)
    assert [len(part) for _, part in found] == [17, 17, 16]
    assert all(torch.equal(y[part.flatten().long()], labels) for part, labels in found)
    assert sorted(int(i) for part, _ in found for i in part) == list(range(50))
    # sorted by class, no batch of 17 has more than two classes
    assert all(len(Counter(labels.tolist())) == 5 for _, labels in found)


def test_mappings_and_tuples_are_joined_too():
    """As Hugging Face's models take them."""
    parts = [torch.arange(i, i + 4.0)[:, None] for i in (0, 4)]
    batches = [(({"x": part}, [part + 10]), part.flatten().long()) for part in parts]
    found = shuffled_batches(Samples(lambda n: batches), 1, 5)
    assert [len(y) for _, y in found] == [4, 4]
    for (mapping, (other,)), y in found:
        x = mapping["x"]
        assert torch.equal(x.flatten(), y) and torch.equal(other, x + 10)
    assert sorted(int(i) for _, y in found for i in y) == list(range(8))


def test_what_cannot_be_joined_is_used_as_it_comes():
    for batches in (
        [(["a", "b"], torch.ones(2)), (["c"], torch.ones(1))],
        [(torch.ones(2, 3), torch.ones(2)), (torch.ones(2, 4), torch.ones(2))],
    ):
        assert shuffled_batches(Samples(lambda n, b=batches: b), 1, 1) == batches
    with pytest.raises(UserError, match="no examples"):
        shuffled_batches(Samples(lambda n: []), 1, 1)


def test_the_batch_size_of_the_sample_is_an_option():
    with pytest.raises(UserError, match="sample_batch_size must not be negative, not -1"):
        SampleOptions(sample_batch_size=-1)
    batches = [(torch.ones(2, 3), torch.ones(2)), (torch.ones(1, 3), torch.ones(1))]
    assert shuffled_batches(Samples(lambda n: batches), 1, most=0) == batches
    data = TensorDataset(torch.randn(40, 3, 6, 6), torch.arange(40) % 5)
    masks = []
    for size in (40, 8):
        net = SparseModel(tiny_net())
        Snip(Plan(0.5, 1, 1), SampleOptions(8, size)).prepare(net, Samples(DataLoader(data, 40)))
        masks.append(torch.cat([mask.flatten() for mask in net.masks.values()]))
    assert not torch.equal(*masks)  # batch statistics of 40 or of 8 images
