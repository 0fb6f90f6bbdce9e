"""Sparsify in a Lightning Trainer equals a hand-written loop, and resumes exactly."""

from __future__ import annotations

import sys
import warnings
from contextlib import nullcontext

import pytest
import torch
from literal import batches, loss_of, tiny_net
from trainer_cases import (
    CASES,
    EACH_METHOD,
    OF_TWO_METHODS,
    PER_EPOCH,
    RESUMED,
    SIGN_IN,
    SPARSITY,
    assert_equal,
    check_two_ranks,
    level_of,
)

from baselines import sparsify
from baselines.errors import UserError
from baselines.methods.set_rigl import RigL
from baselines.tools.schedules import triangular

pytest.importorskip("lightning", reason="no lightning (pip install signbench[lightning])")

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from lightning.pytorch.plugins import MixedPrecision
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR

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
    """A small network; `sparsify` masks its gradients before it clips in manual optimization."""

    def __init__(self, level=15, manual=False, sparsify=None):
        super().__init__()
        self.net, self.automatic_optimization = tiny_net(), not manual
        self.level, self.sparsify = level, sparsify
        self.seen, self.batches = [], []

    def configure_optimizers(self):
        optimizer = make_optimizer(self.net)
        scheduler = make_scheduler(optimizer, self.level)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def unscale(self):
        """Unscale the gradients, as a loop with a GradScaler may."""

    def training_step(self, batch, _):
        x, y = batch
        self.batches.append(batch)
        loss = loss_of(self.net(x), y)
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            self.unscale()
            if self.sparsify is not None:
                self.sparsify.sparsifier.mask_gradients()
                self.clip_gradients(optimizer, 0.05, "norm")
            optimizer.step()
            self.lr_schedulers().step()
        return loss

    def validation_step(self, batch, _):
        weights = [p for p in self.net.parameters() if p.ndim > 1]
        self.seen.append(float(sum((p == 0).sum() for p in weights)))


def make_optimizer(net):
    return torch.optim.SGD(net.parameters(), 0.1, 0.9, weight_decay=1e-3)


def make_scheduler(optimizer, level):
    """Return a schedule that begins again at every level."""
    return LambdaLR(optimizer, lambda step: triangular(step % level, level))


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


def by_hand(method, sign_in, data=None, clip=None, accumulate=1, autocast=False, ddp=False):
    """Train by hand; return the network.

    Args:
        data: all batches of the training; by default the same ones in each epoch.
    """
    options, total = CASES[method]
    data = batches(PER_EPOCH) * (total // PER_EPOCH) if data is None else data
    module = Module()  # random masks depend on the weights' names
    call = DistributedDataParallel(module.net) if ddp else module.net
    optimizer = make_optimizer(module.net)
    scheduler = make_scheduler(optimizer, level_of(method))
    epoch = -(-PER_EPOCH // accumulate)
    choices = {"steps": total // PER_EPOCH * epoch, **options, "steps_per_epoch": epoch}
    sparsifier = sparsify(
        module, optimizer, method, sparsity=SPARSITY, sign_in=sign_in, manual_begin=True, **choices
    )
    for i, (x, y) in enumerate(data):
        sparsifier.begin_step()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = loss_of(call(x), y)
        (loss / accumulate).backward()
        if (i % PER_EPOCH + 1) % accumulate and i % PER_EPOCH + 1 < PER_EPOCH:
            continue
        if clip:
            sparsifier.mask_gradients()
            torch.nn.utils.clip_grad_norm_(module.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    assert sparsifier.is_done and sparsifier.step == sparsifier.total_steps
    return module.net


@EACH_METHOD
def test_a_trainer_equals_a_loop(tmp_path, method, sign_in):
    module, callback = Module(level_of(method)), callback_of(method, sign_in)
    trainer_of(tmp_path, callback, CASES[method][1]).fit(module, Loader(batches(PER_EPOCH)))
    assert callback.sparsifier.is_done and callback.sparsifier.step == CASES[method][1]
    assert not module._forward_pre_hooks and not module._forward_hooks
    assert_equal(module.net, by_hand(method, sign_in))
    assert callback.sparsifier.finalize() is module


@OF_TWO_METHODS
@pytest.mark.parametrize(
    "lightning, loop",
    [
        ({"gradient_clip_val": 0.05}, {"clip": 0.05}),
        (
            {"accumulate_grad_batches": 2, "gradient_clip_val": 0.05},
            {"accumulate": 2, "clip": 0.05},
        ),
        ({"precision": "bf16-mixed"}, {"autocast": True}),
    ],
    ids=["clip", "accumulate", "bf16"],
)
def test_what_lightning_does_around_a_step_is_exact(tmp_path, method, sign_in, lightning, loop):
    module, callback = Module(), callback_of(method, sign_in)
    trainer = trainer_of(tmp_path, callback, CASES[method][1], **lightning)
    trainer.fit(module, Loader(batches(PER_EPOCH)))
    assert callback.sparsifier.is_done
    assert_equal(module.net, by_hand(method, sign_in, **loop))


class Scaled(MixedPrecision):
    """Scales the loss by a power of two; computes in float32, so that nothing else changes."""

    def __init__(self):
        super().__init__("16-mixed", "cpu", torch.amp.GradScaler("cpu"))

    def autocast_context_manager(self):
        return nullcontext()


def make_fused_optimizer(net):
    return torch.optim.SGD(net.parameters(), 0.1, 0.9, weight_decay=1e-3, fused=True)


@pytest.mark.parametrize("manual, unscaled", [(False, False), (True, False), (True, True)])
def test_a_fused_optimizer_is_served_with_a_scaler(tmp_path, monkeypatch, manual, unscaled):
    monkeypatch.setattr(sys.modules[__name__], "make_optimizer", make_fused_optimizer)
    module, callback = Module(manual=manual), callback_of("rigl", True, manual_begin=True)
    plugin, largest = Scaled(), []
    if unscaled:
        module.unscale = lambda: plugin.scaler.unscale_(module.optimizers().optimizer)

    def seen(self, net, step):
        largest.append(max(float(layer.weight.grad.abs().max()) for layer in net))
        return original(self, net, step)

    with monkeypatch.context() as patch:
        original = RigL.after_backward
        patch.setattr(RigL, "after_backward", seen)
        trainer_of(tmp_path, callback, 15, plugins=[plugin]).fit(module, Loader(batches(PER_EPOCH)))
    assert len(largest) == 15 and max(largest) < 100  # of 65536 times as much if scaled
    assert_equal(module.net, by_hand("rigl", True))


def test_a_batch_without_a_loss_is_left_out_with_a_scaler(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "make_optimizer", make_fused_optimizer)

    class Lacking(Module):
        def training_step(self, batch, i):
            loss = super().training_step(batch, i)
            return None if len(self.batches) == 2 else loss

    module, callback = Lacking(), callback_of("rigl", True)
    trainer = trainer_of(tmp_path, callback, 15, accumulate_grad_batches=2, plugins=[Scaled()])
    trainer.fit(module, Loader(batches(PER_EPOCH)))
    assert callback.sparsifier.step == callback.sparsifier.total_steps - 1


def test_clipping_by_the_norm_of_all_gradients_would_differ(tmp_path, monkeypatch):
    monkeypatch.setattr(Sparsify, "on_before_optimizer_step", Callback.on_before_optimizer_step)
    module, callback = Module(), callback_of("rigl", None)
    trainer = trainer_of(tmp_path, callback, 15, gradient_clip_val=0.05)
    trainer.fit(module, Loader(batches(PER_EPOCH)))
    expected = by_hand("rigl", None, clip=0.05)
    assert not torch.equal(module.net[0].weight, expected[0].weight)


@pytest.mark.parametrize("manual_begin", [None, True])
@pytest.mark.parametrize("sign_in", SIGN_IN, ids=["plain", "signin"])
def test_manual_optimization_is_served(tmp_path, sign_in, manual_begin):
    callback = callback_of("rigl", sign_in, manual_begin=manual_begin)
    module = Module(manual=True, sparsify=callback)
    trainer_of(tmp_path, callback, 15).fit(module, Loader(batches(PER_EPOCH)))
    assert_equal(module.net, by_hand("rigl", sign_in, clip=0.05))


def test_a_batch_may_take_several_steps_in_manual_optimization(tmp_path):
    class Twice(Module):
        def training_step(self, batch, i):
            super().training_step(batch, i)
            return super().training_step(batch, i)

    callback = callback_of("rigl", None, steps=30, steps_per_epoch=10)
    trainer_of(tmp_path, callback, 15).fit(Twice(manual=True), Loader(batches(PER_EPOCH)))
    assert callback.sparsifier.step == 30
    assert callback.sparsifier.sparsity() == pytest.approx(0.75, abs=1e-3)


def test_data_is_scored(tmp_path):
    class Callable(Module):
        def forward(self, x):
            return self.net(x)

    data = batches(PER_EPOCH)
    callback, expected = Sparsify("snip", sparsity=SPARSITY, samples=lambda n: data), Callable()
    trainer_of(tmp_path, callback, 5).fit(Callable(), Loader(data))
    optimizer = make_optimizer(expected)
    choices = {"sparsity": SPARSITY, "steps": 5, "samples": lambda n: data}
    sparsifier = sparsify(expected, optimizer, "snip", **choices)
    for name, mask in sparsifier.masks.items():
        assert torch.equal(callback.sparsifier.masks[name], mask)
    without = Module()
    with pytest.raises(UserError, match="Module has no forward pass"):
        sparsify(without, make_optimizer(without), "snip", **choices)


# ---- resuming


@RESUMED
def test_a_resumed_training_is_bit_identical(tmp_path, method, sign_in, stop):
    """A training is resumed in the middle of its second epoch, and at its end."""
    whole, callback = Module(level_of(method)), callback_of(method, sign_in)
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=stop, save_top_k=-1)
    trainer = trainer_of(
        tmp_path, callback, CASES[method][1], callbacks=[keep], enable_checkpointing=True
    )
    trainer.fit(whole, Loader(batches(PER_EPOCH)))

    resumed, again = Module(level_of(method)), callback_of(method, sign_in)
    torch.nn.init.normal_(resumed.net[0].weight)  # nothing of the new module may matter
    trainer = trainer_of(tmp_path, again, CASES[method][1])
    trainer.fit(resumed, Loader(batches(PER_EPOCH)), ckpt_path=tmp_path / f"step={stop}.ckpt")
    assert again.sparsifier.step == CASES[method][1]
    assert_equal(resumed.net, whole.net)
    for name, mask in callback.sparsifier.masks.items():
        assert torch.equal(again.sparsifier.masks[name], mask)


def test_a_checkpoint_holds_the_plain_sparse_model(tmp_path):
    callback = callback_of("rigl", True)
    trainer = trainer_of(tmp_path, callback, 15)
    trainer.fit(Module(), Loader(batches(PER_EPOCH)))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    loaded = Module.load_from_checkpoint(tmp_path / "last.ckpt")
    for name, mask in callback.sparsifier.masks.items():
        assert torch.equal(loaded.get_parameter(name) != 0, mask), name


class Stop(Callback):
    """Stops the training after an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_epoch_end(self, trainer, *_):
        trainer.should_stop = trainer.current_epoch == self.epoch


def test_fit_goes_on_where_the_one_before_ended(tmp_path):
    module, callback = Module(), Sparsify("gmp", sparsity=SPARSITY, sign_in=True)
    trainer = trainer_of(tmp_path, callback, 15, callbacks=[Stop(0)])
    with pytest.warns(UserWarning, match="ended after 5 of 15"):
        trainer.fit(module, Loader(batches(PER_EPOCH)))
    between = {name: mask.clone() for name, mask in callback.sparsifier.masks.items()}
    trainer.fit(module, Loader(batches(PER_EPOCH)))
    assert callback.sparsifier.step == 15
    assert callback.sparsifier.sparsity() == pytest.approx(SPARSITY, abs=1e-3)
    for name, mask in callback.sparsifier.masks.items():
        assert not (mask & ~between[name]).any()  # gradual pruning has gone on


class Failing(Module):
    """Raises an error once, at the beginning of the second epoch."""

    def training_step(self, batch, i):
        if len(self.batches) == PER_EPOCH:
            self.batches.append(None)
            raise RuntimeError("boom")
        return super().training_step(batch, i)


def test_fit_goes_on_after_an_error(tmp_path):
    module, callback = Failing(), Sparsify("gmp", sparsity=SPARSITY, sign_in=True)
    trainer = trainer_of(tmp_path, callback, 15)
    with pytest.raises(RuntimeError, match="boom"):
        trainer.fit(module, Loader(batches(PER_EPOCH)))
    assert trainer.global_step == callback.sparsifier.step == PER_EPOCH
    between = {name: mask.clone() for name, mask in callback.sparsifier.masks.items()}
    trainer.fit(module, Loader(batches(PER_EPOCH)))
    assert callback.sparsifier.step == trainer.global_step == 15
    assert callback.sparsifier.sparsity() == pytest.approx(SPARSITY, abs=1e-3)
    for name, mask in callback.sparsifier.masks.items():
        assert not (mask & ~between[name]).any()


def test_a_checkpoint_saved_after_fit_resumes(tmp_path):
    trainer = trainer_of(tmp_path, callback_of("rigl", True), 15, callbacks=[Stop(1)])
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
    with pytest.raises(UserError, match=r"of a training with rigl to sparsity 0\.\d+, not acdc"):
        trainer.fit(Module(), Loader(batches(PER_EPOCH)), ckpt_path=tmp_path / "rigl.ckpt")


@pytest.mark.parametrize("steps", [10, 20])
def test_a_checkpoint_of_another_length_is_refused(tmp_path, steps):
    trainer = trainer_of(tmp_path, callback_of("rigl", None), 15, callbacks=[Stop(0)])
    with pytest.warns(UserWarning, match="ended after 5 of 15"):
        trainer.fit(Module(), Loader(batches(PER_EPOCH)))
    trainer.save_checkpoint(tmp_path / "rigl.ckpt")
    trainer = trainer_of(tmp_path, callback_of("rigl", None), steps)
    with pytest.raises(UserError, match=f"training of 15 steps, this one has {steps}"):
        trainer.fit(Module(), Loader(batches(PER_EPOCH)), ckpt_path=tmp_path / "rigl.ckpt")


def test_callbacks_that_change_the_number_of_steps(tmp_path):
    accumulation = GradientAccumulationScheduler({0: 2})
    trainer = trainer_of(tmp_path, callback_of("rigl", None), 15, callbacks=[accumulation])
    with pytest.raises(UserError, match="changes the number of steps: give Sparsify"):
        trainer.fit(Module(), Loader(batches(PER_EPOCH)))
    callback = callback_of("rigl", None)  # an average adds an epoch for batch statistics
    average = StochasticWeightAveraging(0.01, swa_epoch_start=2)
    trainer = trainer_of(tmp_path, None, 15, callbacks=[average, callback])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="the training ended")
        trainer.fit(Module(), Loader(batches(PER_EPOCH)))
    assert callback.sparsifier.total_steps == 15 and callback.sparsifier.is_done


def test_a_learning_rate_finder_may_come_before(tmp_path):
    class Found(Module):
        lr = 0.1

    callback = callback_of("rigl", None)
    finder = LearningRateFinder(num_training_steps=5, update_attr=False)
    trainer = trainer_of(tmp_path, callback, 15, callbacks=[finder])
    trainer.fit(Found(), Loader(batches(PER_EPOCH)))
    assert callback.sparsifier.is_done
    assert callback.sparsifier.sparsity() == pytest.approx(SPARSITY, abs=1e-3)


class Two(Module):
    """Two networks with an optimizer each, in manual optimization."""

    def __init__(self):
        super().__init__(manual=True)
        self.other = tiny_net()

    def configure_optimizers(self):
        return [make_optimizer(self.net), make_optimizer(self.other)]

    def training_step(self, batch, _):
        x, y = batch
        for net, optimizer in zip((self.net, self.other), self.optimizers(), strict=True):
            optimizer.zero_grad()
            self.manual_backward(loss_of(net(x), y))
            optimizer.step()


def callbacks_of_two(**choices):
    return [
        Sparsify("rigl", sparsity=SPARSITY, optimizer=i, exclude=[f"{other}.*"], **choices)
        for i, other in enumerate(("other", "net"))
    ]


@pytest.mark.filterwarnings("ignore:.*Name them in include or exclude")
def test_two_networks_are_sparse_and_resume(tmp_path):
    whole, stopped, resumed = Two(), Two(), Two()
    trainer_of(tmp_path, None, 15, callbacks=callbacks_of_two()).fit(
        whole, Loader(batches(PER_EPOCH))
    )
    trainer = trainer_of(tmp_path, None, 15, callbacks=[*callbacks_of_two(), Stop(1)])
    with pytest.warns(UserWarning, match="ended after 10 of 15 planned steps"):
        trainer.fit(stopped, Loader(batches(PER_EPOCH)))
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    trainer = trainer_of(tmp_path, None, 15, callbacks=callbacks_of_two())
    trainer.fit(resumed, Loader(batches(PER_EPOCH)), ckpt_path=tmp_path / "two.ckpt")
    assert {"sparsity", "sparsity_1"} <= set(trainer.callback_metrics)
    for name in ("net", "other"):
        assert_equal(getattr(resumed, name), getattr(whole, name))
        weights = [p for p in getattr(whole, name).parameters() if p.ndim > 1]
        zeros = sum(int((p == 0).sum()) for p in weights) / sum(p.numel() for p in weights)
        assert zeros == pytest.approx(SPARSITY, abs=1e-3)


def test_a_number_of_steps_of_two_optimizers_is_not_that_of_one(tmp_path):
    trainer = trainer_of(tmp_path, None, 15, max_steps=30, callbacks=callbacks_of_two()[:1])
    with pytest.raises(UserError, match="counts the steps of all optimizers: give Sparsify"):
        trainer.fit(Two(), Loader(batches(PER_EPOCH)))


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
            self.before = signs(callback.sparsifier.net.weights)

        def on_train_epoch_end(self, trainer, pl_module):
            net = callback.sparsifier.net
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
    with pytest.raises(UserError, match=r"lrr takes 30 steps \(3 trainings of 10\) .* trainer 15:"):
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
    with pytest.raises(UserError, match="no sparsifier before the training begins"):
        _ = callback.sparsifier


def test_a_finished_training_does_not_warn(tmp_path):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="the training ended")
        trainer = trainer_of(tmp_path, callback_of("rigl", None), 15)
        trainer.fit(Module(), Loader(batches(PER_EPOCH)))


def test_an_average_that_is_less_sparse_is_noticed(tmp_path):
    class Average(Callback):
        def on_train_end(self, _, module):
            torch.nn.init.ones_(module.net[0].weight)

    trainer = trainer_of(tmp_path, callback_of("rigl", None), 15, callbacks=[Average()])
    with pytest.warns(UserWarning, match=r"replaced, .* of the masks 0\.750"):
        trainer.fit(Module(), Loader(batches(PER_EPOCH)))


def test_unknown_methods_and_options_are_refused_at_once():
    with pytest.raises(UserError, match="unknown method 'riggl', did you mean rigl"):
        Sparsify("riggl", sparsity=0.5)
    with pytest.raises(UserError, match="unknown field 'evry'"):
        Sparsify("rigl", sparsity=0.5, seed=1, exclude=["7.weight"], evry=3)


class Shifted(Module):
    """Uses its last weight in another form."""

    fails = False

    def training_step(self, batch, _):
        if self.fails:
            raise ValueError("no")
        x, y = batch
        *first, last = self.net
        loss = loss_of(F.linear(torch.nn.Sequential(*first)(x), last.weight + 0.1, last.bias), y)
        if not self.automatic_optimization:
            self.manual_backward(loss)
            self.optimizers().step()
        return loss


@pytest.mark.parametrize("manual", [False, True])
def test_the_first_step_names_weights_that_the_module_transforms(tmp_path, manual):
    module, data = Shifted(manual=manual), Loader(batches(PER_EPOCH))
    with pytest.warns(UserWarning, match=r"^net\.7\.weight is transformed") as caught:
        trainer_of(tmp_path, callback_of("random", None), PER_EPOCH).fit(module, data)
    assert sum("is transformed" in str(warning.message) for warning in caught) == 1
    assert not module._forward_pre_hooks and not module._forward_hooks


def test_a_first_step_that_fails_is_no_longer_watched(tmp_path):
    module, data = Shifted(), Loader(batches(PER_EPOCH))
    module.fails = True
    with pytest.raises(ValueError, match="no"):
        trainer_of(tmp_path, callback_of("random", None), PER_EPOCH).fit(module, data)
    assert not torch.overrides._get_current_function_mode_stack()


# ---- two ranks


def train_on_two_ranks(folder):
    data = [(x, y) for xs, ys in batches(PER_EPOCH) for x, y in zip(xs, ys, strict=True)]
    loader = torch.utils.data.DataLoader(data, batch_size=8)
    callback, module = callback_of("rigl", SIGN_IN[1]), Module()
    options = {"devices": 2, "strategy": "ddp", "gradient_clip_val": 0.05}
    trainer_of(folder, callback, CASES["rigl"][1], **options).fit(module, loader)
    net = by_hand("rigl", SIGN_IN[1], module.batches, clip=0.05, ddp=True)
    return {
        "trained": module.net.state_dict(),
        "by hand": net.state_dict(),
        "batch": module.batches[0][0],
        "sparsity": callback.sparsifier.sparsity(),
    }


def test_two_ranks_equal_a_loop(tmp_path):
    check_two_ranks(train_on_two_ranks, tmp_path)
