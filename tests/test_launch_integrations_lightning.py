"""Sparsify in a Lightning Trainer equals a hand-written loop, and resumes exactly."""

from __future__ import annotations

import warnings

import pytest
import torch
from literal import batches, loss_of, tiny_net
from trainer_cases import (
    CASES,
    PER_EPOCH,
    SIGN_IN,
    SPARSITY,
    assert_equal,
    trained_on_two_ranks,
)

from baselines import sparsify
from baselines.errors import UserError
from baselines.tools.schedules import triangular

pytest.importorskip("lightning", reason="no lightning (pip install signbench[lightning])")

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from launch.integrations.lightning import Sparsify


class Loader:
    """Batches in a fixed order, from the one where a checkpoint was saved."""

    def __init__(self, data):
        self.data, self.next = data, 0

    def __len__(self):
        return len(self.data)

    def __iter__(self):
        self.next %= len(self.data)  # the epoch before may have ended without asking for more
        while self.next < len(self.data):
            self.next += 1
            yield self.data[self.next - 1]

    def state_dict(self):
        return {"next": self.next}

    def load_state_dict(self, state):
        self.next = state["next"]


class Module(LightningModule):
    def __init__(self, manual=False):
        super().__init__()
        self.net, self.automatic_optimization = tiny_net(), not manual
        self.seen = []

    def configure_optimizers(self):
        optimizer = make_optimizer(self.net)
        return [optimizer], [{"scheduler": make_scheduler(optimizer), "interval": "step"}]

    def training_step(self, batch, _):
        x, y = batch
        loss = loss_of(self.net(x), y)
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.lr_schedulers().step()
        return loss

    def validation_step(self, batch, _):
        weights = [p for p in self.net.parameters() if p.ndim > 1]
        self.seen.append(float(sum((p == 0).sum() for p in weights)))


def make_optimizer(net):
    return torch.optim.SGD(net.parameters(), 0.1, 0.9, weight_decay=1e-3)


def make_scheduler(optimizer):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: triangular(step % 15, 15))


def trainer_of(folder, callback, steps, **choices):
    callbacks = [callback] if callback is not None else []
    return Trainer(
        accelerator="cpu",
        max_epochs=-(-steps // PER_EPOCH),
        callbacks=[*callbacks, *choices.pop("callbacks", ())],
        default_root_dir=folder,
        logger=choices.pop("logger", False),
        enable_checkpointing=choices.pop("enable_checkpointing", False),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **choices,
    )


def callback_of(method, sign_in, **choices):
    return Sparsify(method, sparsity=SPARSITY, sign_in=sign_in, **CASES[method][0], **choices)


def by_hand(method, sign_in, clip=None, accumulate=1, autocast=False):
    """Train by hand, with the loop that a user writes."""
    options, total = CASES[method]
    module = Module()  # random masks depend on the weights' names
    optimizer = make_optimizer(module)
    scheduler = make_scheduler(optimizer)
    choices = {"steps": total, **options, "steps_per_epoch": -(-PER_EPOCH // accumulate)}
    if accumulate > 1:
        choices["steps"] = total // PER_EPOCH * choices["steps_per_epoch"]
    sparsifier = sparsify(
        module, optimizer, method, sparsity=SPARSITY, sign_in=sign_in, manual_begin=True, **choices
    )
    assert sparsifier.total_steps == (choices["steps"] if method != "lrr" else total)
    for _ in range(total // PER_EPOCH):
        for i, (x, y) in enumerate(batches(PER_EPOCH)):
            sparsifier.begin_step()
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = loss_of(module.net(x), y)
            (loss / accumulate).backward()
            if (i + 1) % accumulate and i + 1 < PER_EPOCH:
                continue
            if clip:
                sparsifier.mask_gradients()
                torch.nn.utils.clip_grad_norm_(module.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
    assert sparsifier.is_done
    return module.net


@pytest.mark.parametrize("sign_in", SIGN_IN, ids=["plain", "signin"])
@pytest.mark.parametrize("method", CASES)
def test_a_trainer_equals_a_loop(tmp_path, method, sign_in):
    module, callback = Module(), callback_of(method, sign_in)
    trainer_of(tmp_path, callback, CASES[method][1]).fit(module, Loader(batches(PER_EPOCH)))
    assert callback.attached.is_done and callback.attached.step == CASES[method][1]
    assert_equal(module.net, by_hand(method, sign_in))
    assert callback.attached.finalize() is module


@pytest.mark.parametrize("sign_in", SIGN_IN, ids=["plain", "signin"])
@pytest.mark.parametrize("method", ["rigl", "acdc"])
@pytest.mark.parametrize(
    "lightning, loop",
    [
        ({"gradient_clip_val": 0.05}, {"clip": 0.05}),
        ({"accumulate_grad_batches": 2}, {"accumulate": 2}),
        ({"precision": "bf16-mixed"}, {"autocast": True}),
    ],
    ids=["clip", "accumulate", "bf16"],
)
def test_what_lightning_does_around_a_step_is_exact(tmp_path, method, sign_in, lightning, loop):
    module, callback = Module(), callback_of(method, sign_in)
    trainer = trainer_of(tmp_path, callback, CASES[method][1], **lightning)
    trainer.fit(module, Loader(batches(PER_EPOCH)))
    assert callback.attached.is_done
    assert_equal(module.net, by_hand(method, sign_in, **loop))


def test_clipping_by_the_norm_of_all_gradients_would_differ(tmp_path, monkeypatch):
    monkeypatch.setattr(Sparsify, "on_before_optimizer_step", Callback.on_before_optimizer_step)
    module, callback = Module(), callback_of("rigl", None)
    trainer = trainer_of(tmp_path, callback, 15, gradient_clip_val=0.05)
    trainer.fit(module, Loader(batches(PER_EPOCH)))
    expected = by_hand("rigl", None, clip=0.05)
    assert not torch.equal(module.net[0].weight, expected[0].weight)


@pytest.mark.parametrize("manual_begin", [True, False])
@pytest.mark.parametrize("sign_in", SIGN_IN, ids=["plain", "signin"])
def test_manual_optimization_is_served(tmp_path, sign_in, manual_begin):
    module = Module(manual=True)
    callback = callback_of("rigl", sign_in, manual_begin=manual_begin)
    trainer_of(tmp_path, callback, 15).fit(module, Loader(batches(PER_EPOCH)))
    assert_equal(module.net, by_hand("rigl", sign_in))


def test_a_batch_may_take_several_steps(tmp_path):
    class Twice(Module):
        def training_step(self, batch, i):
            super().training_step(batch, i)
            return super().training_step(batch, i)

    callback = callback_of("rigl", None, manual_begin=False, steps=30, steps_per_epoch=10)
    module = Twice(manual=True)
    trainer_of(tmp_path, callback, 15).fit(module, Loader(batches(PER_EPOCH)))
    assert callback.attached.step == 30 and callback.attached.sparsity() == pytest.approx(
        0.75, 1e-3
    )


# ---- resuming


@pytest.mark.parametrize("stop", [10, 7], ids=["epoch", "mid-epoch"])
@pytest.mark.parametrize("sign_in", SIGN_IN, ids=["plain", "signin"])
@pytest.mark.parametrize("method", CASES)
def test_a_resumed_training_is_bit_identical(tmp_path, method, sign_in, stop):
    whole, callback = Module(), callback_of(method, sign_in)
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=stop, save_top_k=-1)
    trainer = trainer_of(
        tmp_path, callback, CASES[method][1], callbacks=[keep], enable_checkpointing=True
    )
    trainer.fit(whole, Loader(batches(PER_EPOCH)))

    resumed, again = Module(), callback_of(method, sign_in)
    torch.nn.init.normal_(resumed.net[0].weight)  # nothing of the new module may matter
    trainer = trainer_of(tmp_path, again, CASES[method][1])
    trainer.fit(resumed, Loader(batches(PER_EPOCH)), ckpt_path=tmp_path / f"step={stop}.ckpt")
    assert again.attached.step == CASES[method][1]
    assert_equal(resumed.net, whole.net)
    for name, mask in callback.attached.masks.items():
        assert torch.equal(again.attached.masks[name], mask)


def test_a_checkpoint_saved_after_fit_resumes(tmp_path):
    class Stop(Callback):
        def on_train_epoch_end(self, trainer, *_):
            trainer.should_stop = trainer.current_epoch == 1

    trainer = trainer_of(tmp_path, callback_of("rigl", True), 15, callbacks=[Stop()])
    with pytest.warns(UserWarning, match="ended after 10 of 15 planned steps"):
        trainer.fit(Module(), Loader(batches(PER_EPOCH)))
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    module, again = Module(), callback_of("rigl", True)
    trainer = trainer_of(tmp_path, again, 15)
    trainer.fit(module, Loader(batches(PER_EPOCH)), ckpt_path=tmp_path / "after.ckpt")
    assert_equal(module.net, by_hand("rigl", True))


def test_a_dense_checkpoint_is_not_resumed(tmp_path):
    trainer = trainer_of(tmp_path, None, 5)
    trainer.fit(Module(), Loader(batches(PER_EPOCH)))
    trainer.save_checkpoint(tmp_path / "dense.ckpt")
    trainer = trainer_of(tmp_path, callback_of("rigl", None), 15)
    with pytest.raises(UserError, match="saved without Sparsify"):
        trainer.fit(Module(), Loader(batches(PER_EPOCH)), ckpt_path=tmp_path / "dense.ckpt")


def test_a_checkpoint_of_another_method_is_refused(tmp_path):
    trainer = trainer_of(tmp_path, callback_of("rigl", None), 15)
    trainer.fit(Module(), Loader(batches(PER_EPOCH)))
    trainer.save_checkpoint(tmp_path / "rigl.ckpt")
    trainer = trainer_of(tmp_path, callback_of("acdc", None), 15)
    with pytest.raises(UserError, match="saved with method='rigl', not 'acdc'"):
        trainer.fit(Module(), Loader(batches(PER_EPOCH)), ckpt_path=tmp_path / "rigl.ckpt")


def test_fit_may_be_called_again_and_states_of_tests_do_not_matter(tmp_path):
    module, callback = Module(), callback_of("rigl", None)
    trainer = trainer_of(tmp_path, callback, 15)
    trainer.fit(module, Loader(batches(PER_EPOCH)))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    trainer.validate(module, Loader(batches(1)), ckpt_path=tmp_path / "last.ckpt", verbose=False)
    fresh = Module()
    again = trainer_of(tmp_path, callback, 15)
    again.fit(fresh, Loader(batches(PER_EPOCH)))
    assert_equal(fresh.net, module.net)


# ---- what is seen, logged and refused


def test_validation_sees_the_network_of_the_last_step(tmp_path):
    module, callback = Module(), Sparsify("gmp", sparsity=SPARSITY)
    zeros = []

    class After(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            zeros.append(float(sum((p == 0).sum() for p in pl_module.parameters() if p.ndim > 1)))

    trainer = trainer_of(tmp_path, callback, 15, callbacks=[After()], val_check_interval=1)
    trainer.fit(module, Loader(batches(PER_EPOCH)), Loader(batches(1)))
    assert module.seen == zeros and len(set(zeros)) > 2


def test_sparsity_and_flips_are_logged(tmp_path):
    from signin.signs import count_flips, signs, total

    logged, expected, callback = [], [], callback_of("rigl", True)

    class Logs(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            self.before = signs(callback.attached.net.weights)

        def on_train_epoch_end(self, trainer, pl_module):
            net = callback.attached.net
            flips = count_flips(self.before, net.weights, net.masks)
            expected.append((net.sparsity(), total(flips.values()).share))
            got = trainer.callback_metrics
            logged.append((got["sparsity"].item(), got["sign_flips"].item()))

    trainer = trainer_of(tmp_path, callback, 15, callbacks=[Logs()])
    trainer.fit(Module(), Loader(batches(PER_EPOCH)))
    assert len(logged) == 3
    for got, wanted in zip(logged, expected, strict=True):
        assert got == pytest.approx(wanted)
    assert max(flips for _, flips in logged) > 0


def test_too_short_a_training_is_refused(tmp_path):
    trainer = trainer_of(tmp_path, callback_of("lrr", None), 15)
    with pytest.raises(UserError, match="needs 30 steps .* the trainer takes 15"):
        trainer.fit(Module(), Loader(batches(PER_EPOCH)))
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=-1,
        callbacks=[callback_of("rigl", None)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with pytest.raises(UserError, match=r"give Sparsify\(steps=…\)"):
        trainer.fit(Module(), Loader(batches(PER_EPOCH)))


def test_an_optimizer_that_is_not_there_is_refused(tmp_path):
    trainer = trainer_of(tmp_path, callback_of("rigl", None, optimizer=1), 15)
    with pytest.raises(UserError, match="optimizer=1: the module has 1"):
        trainer.fit(Module(), Loader(batches(PER_EPOCH)))


def test_the_network_is_not_sparse_before_the_training():
    callback = callback_of("rigl", None)
    assert callback.state_dict() == {}
    with pytest.raises(UserError, match="before the training begins"):
        callback.metrics()


def test_a_finished_training_does_not_warn(tmp_path):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="the training ended")
        trainer = trainer_of(tmp_path, callback_of("rigl", None), 15)
        trainer.fit(Module(), Loader(batches(PER_EPOCH)))


# ---- two ranks


def test_two_ranks_agree(tmp_path):
    held = trained_on_two_ranks("lightning", tmp_path)
    assert held["sparsity"].item() == pytest.approx(0.75, abs=1e-3)
