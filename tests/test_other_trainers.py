"""The recipes for accelerate and skorch equal a hand-written loop."""

from __future__ import annotations

import pytest
import torch
from literal import batches, loss_of, tiny_net
from torch.optim.lr_scheduler import LambdaLR
from trainer_cases import CASES, EACH_METHOD, PER_EPOCH, SPARSITY, assert_equal, level_of

from baselines import sparsify
from baselines.tools.schedules import triangular


def make_optimizer(net):
    return torch.optim.SGD(net.parameters(), 0.1, 0.9, weight_decay=1e-3)


def make_scheduler(optimizer, method):
    level = level_of(method)
    return LambdaLR(optimizer, lambda step: triangular(step % level, level))


def make_sparse(net, optimizer, method, sign_in):
    options, steps = CASES[method]
    choices = {"steps": steps, **options, "steps_per_epoch": PER_EPOCH}
    return sparsify(net, optimizer, method, sparsity=SPARSITY, sign_in=sign_in, **choices)


def by_hand(method, sign_in, clip=0.05):
    net = tiny_net()
    optimizer = make_optimizer(net)
    scheduler = make_scheduler(optimizer, method)
    sparsifier = make_sparse(net, optimizer, method, sign_in)
    for x, y in batches(PER_EPOCH) * (CASES[method][1] // PER_EPOCH):
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        sparsifier.mask_gradients()
        torch.nn.utils.clip_grad_norm_(net.parameters(), clip)
        optimizer.step()
        scheduler.step()
    assert sparsifier.is_done
    return net


class Accelerated:
    """Trains with accelerate, each epoch in a call."""

    def __init__(self, method, sign_in):
        from accelerate import Accelerator

        self.accelerator, net = Accelerator(cpu=True), tiny_net()
        optimizer = make_optimizer(net)
        scheduler = make_scheduler(optimizer, method)
        prepared = self.accelerator.prepare(net, optimizer, scheduler)
        self.net, self.optimizer, self.scheduler = prepared
        self.sparsifier = make_sparse(self.net, self.optimizer, method, sign_in)
        self.accelerator.register_for_checkpointing(self.sparsifier)

    def train_epoch(self):
        for x, y in batches(PER_EPOCH):
            with self.accelerator.accumulate(self.net):
                self.accelerator.backward(loss_of(self.net(x), y))
                self.accelerator.unscale_gradients()
                self.sparsifier.mask_gradients()
                torch.nn.utils.clip_grad_norm_(self.net.parameters(), 0.05)
                self.optimizer.step()
                self.scheduler.step()
                self.optimizer.zero_grad()


@EACH_METHOD
def test_accelerate_equals_a_loop_and_resumes(tmp_path, method, sign_in):
    pytest.importorskip("accelerate", reason="no accelerate")
    epochs = CASES[method][1] // PER_EPOCH
    first = Accelerated(method, sign_in)
    for _ in range(epochs - 1):
        first.train_epoch()
    first.accelerator.save_state(str(tmp_path))
    again = Accelerated(method, sign_in)
    again.accelerator.load_state(str(tmp_path))
    again.train_epoch()
    assert again.sparsifier.is_done
    assert_equal(again.net, by_hand(method, sign_in))


@EACH_METHOD
def test_skorch_equals_a_loop(method, sign_in):
    pytest.importorskip("skorch", reason="no skorch")
    from skorch import NeuralNetClassifier
    from skorch.callbacks import Callback, GradientNormClipping

    class Sparse(Callback):
        def on_train_begin(self, net, **_):
            net.optimizer_.param_groups[0].update(weight_decay=1e-3, momentum=0.9)
            self.scheduler = make_scheduler(net.optimizer_, method)
            self.sparsifier = make_sparse(net.module_, net.optimizer_, method, sign_in)

        def on_grad_computed(self, net, **_):
            self.sparsifier.mask_gradients()

        def on_batch_end(self, net, training=False, **_):
            self.scheduler.step()

    sparse, data = Sparse(), batches(PER_EPOCH)
    net = NeuralNetClassifier(
        tiny_net(),
        criterion=torch.nn.CrossEntropyLoss,
        lr=0.1,
        max_epochs=CASES[method][1] // PER_EPOCH,
        batch_size=len(data[0][0]),
        iterator_train__shuffle=False,
        train_split=None,
        callbacks=[("sparse", sparse), ("clip", GradientNormClipping(0.05))],
        verbose=0,
    )
    x, y = (torch.cat(part) for part in zip(*data, strict=True))
    net.fit(x, y.numpy())
    assert sparse.sparsifier.is_done
    assert_equal(net.module_, by_hand(method, sign_in))
