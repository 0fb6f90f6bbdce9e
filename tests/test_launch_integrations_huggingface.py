"""Sparsify in a Hugging Face Trainer equals a hand-written loop, and resumes exactly."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
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
from signin.signs import count_flips, signs, total

pytest.importorskip("transformers", reason="no transformers (pip install signbench[huggingface])")
pytest.importorskip("accelerate", reason="no accelerate (pip install signbench[huggingface])")

from accelerate.state import AcceleratorState
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import IterableDataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    default_data_collator,
    get_scheduler,
)

from launch.integrations.huggingface import SparseTrainer, Sparsify

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
TEXT = {"vocab_size": 40, "max_position_embeddings": 16}


def tiny_bert(dropout=0.0):
    torch.manual_seed(0)
    config = BertConfig(
        **SMALL,
        **TEXT,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        num_labels=3,
    )
    return BertForSequenceClassification(config)


def tiny_llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SMALL, **TEXT))


def tiny_vit():
    torch.manual_seed(0)
    config = ViTConfig(
        **SMALL,
        image_size=8,
        patch_size=4,
        num_labels=3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return ViTForImageClassification(config)


def dataset(kind="text"):
    generator = torch.Generator().manual_seed(2)
    rows = []
    for _ in range(8 * PER_EPOCH):
        ids = torch.randint(40, (6,), generator=generator)
        label = torch.randint(3, (), generator=generator)
        pixels = torch.randn(3, 8, 8, generator=generator)
        rows.append(
            {
                "text": {"input_ids": ids, "labels": label},
                "causal": {"input_ids": ids, "labels": ids},
                "image": {"pixel_values": pixels, "labels": label},
            }[kind]
        )
    return rows


def arguments(folder, epochs=3, **choices):
    return TrainingArguments(
        **{
            "output_dir": str(folder),
            "use_cpu": True,
            "per_device_train_batch_size": 8,
            "num_train_epochs": epochs,
            "learning_rate": 5e-3,
            "weight_decay": 1e-2,
            "max_grad_norm": 0.0,
            "save_strategy": "no",
            "logging_strategy": "epoch",
            "report_to": "none",
            "disable_tqdm": True,
            **choices,
        }
    )


def arguments_of(method, folder, **choices):
    schedule = schedule_of(method)
    kwargs = schedule.get("scheduler_specific_kwargs", {})
    choices |= {"lr_scheduler_type": schedule["name"], "lr_scheduler_kwargs": kwargs}
    return arguments(folder, CASES[method][1] // PER_EPOCH, **choices)


class Recording(SparseTrainer):
    """Remembers the batches that it trains on."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.batches = []

    def training_step(self, model, inputs, num_items_in_batch=None):
        batch = {name: value.clone() for name, value in inputs.items()}
        self.batches.append({**batch, "num_items_in_batch": num_items_in_batch})
        return super().training_step(model, inputs, num_items_in_batch)


def callback_of(method, sign_in, **choices):
    return Sparsify(method, sparsity=SPARSITY, sign_in=sign_in, **CASES[method][0], **choices)


def trained(folder, model, method, sign_in, kind="text", **choices):
    args = arguments_of(method, folder, **choices)
    callback = callback_of(method, sign_in)
    trainer = Recording(model, args, train_dataset=dataset(kind), callbacks=[callback])
    trainer.train()
    assert callback.sparsifier.is_done
    assert callback.sparsifier.sparsity() == pytest.approx(SPARSITY, abs=2e-3)
    return trainer


def by_hand(model, trainer, method, sign_in, clip=0.0, accumulate=1, autocast=False, ranks=1):
    """Train by hand on the batches of a trainer, with an optimizer like its own."""
    call = DistributedDataParallel(model) if ranks > 1 else model
    optimizer = Trainer(model, trainer.args).create_optimizer()
    options, steps = CASES[method]
    epoch = -(-PER_EPOCH // accumulate)
    steps = steps // PER_EPOCH * epoch
    choices = {"steps": steps, **options, "steps_per_epoch": epoch, "manual_begin": True}
    sparsifier = sparsify(model, optimizer, method, sparsity=SPARSITY, sign_in=sign_in, **choices)
    scheduler = get_scheduler(optimizer=optimizer, **schedule_of(method), num_training_steps=steps)
    model.train()
    for i, batch in enumerate(trainer.batches):
        sparsifier.begin_step()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = call(**batch).loss  # over the number of examples of all batches and ranks
        (loss * ranks).backward()
        if (i % PER_EPOCH + 1) % accumulate and i % PER_EPOCH + 1 < PER_EPOCH:
            continue
        if clip:
            sparsifier.mask_gradients()
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        scheduler.step()
        model.zero_grad()
    assert sparsifier.is_done and sparsifier.step == sparsifier.total_steps == steps
    return model


def schedule_of(method):
    """Return the arguments of a schedule, which begins again at every level."""
    cycles = {"num_cycles": CASES[method][1] // level_of(method)}
    if cycles["num_cycles"] == 1:
        return {"name": "linear", "num_warmup_steps": 0}
    return {
        "name": "cosine_with_restarts",
        "num_warmup_steps": 0,
        "scheduler_specific_kwargs": cycles,
    }


@EACH_METHOD
def test_a_trainer_equals_a_loop(tmp_path, method, sign_in):
    trainer = trained(tmp_path, tiny_bert(), method, sign_in)
    assert_equal(trainer.model, by_hand(tiny_bert(), trainer, method, sign_in))


@pytest.mark.parametrize("sign_in", SIGN_IN, ids=["plain", "signin"])
@pytest.mark.parametrize(
    "make, kind", [(tiny_llama, "causal"), (tiny_vit, "image")], ids=["llama", "vit"]
)
def test_other_architectures_are_served(tmp_path, make, kind, sign_in):
    trainer = trained(tmp_path, make(), "rigl", sign_in, kind, max_grad_norm=0.05)
    assert_equal(trainer.model, by_hand(make(), trainer, "rigl", sign_in, clip=0.05))


@OF_TWO_METHODS
@pytest.mark.parametrize(
    "theirs, loop",
    [
        ({"max_grad_norm": 0.05}, {"clip": 0.05}),
        (
            {"gradient_accumulation_steps": 2, "max_grad_norm": 0.05},
            {"accumulate": 2, "clip": 0.05},
        ),
        ({"bf16": True}, {"autocast": True}),
    ],
    ids=["clip", "accumulate", "bf16"],
)
def test_what_the_trainer_does_around_a_step_is_exact(tmp_path, method, sign_in, theirs, loop):
    trainer = trained(tmp_path, tiny_bert(), method, sign_in, **theirs)
    assert_equal(trainer.model, by_hand(tiny_bert(), trainer, method, sign_in, **loop))


@pytest.mark.parametrize("kind", [SparseTrainer, Trainer])
def test_a_fused_optimizer_is_served_with_a_scaler(tmp_path, kind):
    """The scale is a power of two, and the model computes in float32: no bit changes."""
    model, data = tiny_bert(), dataset()
    plain = trained(tmp_path, tiny_bert(), "rigl", True, optim="adamw_torch_fused")
    args = arguments_of("rigl", tmp_path, optim="adamw_torch_fused")
    callback = callback_of("rigl", True)
    trainer = kind(model, args, train_dataset=data, callbacks=[callback])
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu")
    trainer.train()
    assert callback.sparsifier.is_done
    assert_equal(model, plain.model)


def test_clipping_by_the_norm_of_all_gradients_would_differ(tmp_path, monkeypatch):
    monkeypatch.setattr(SparseTrainer, "_clip_grad_norm", Trainer._clip_grad_norm)
    trainer = trained(tmp_path, tiny_bert(), "rigl", None, max_grad_norm=0.05)
    name = "classifier.weight"
    expected = by_hand(tiny_bert(), trainer, "rigl", None, clip=0.05).get_parameter(name)
    assert not torch.equal(trainer.model.get_parameter(name), expected)


@OF_TWO_METHODS
def test_any_trainer_is_served_without_clipping(tmp_path, method, sign_in):
    whole = trained(tmp_path, tiny_bert(), method, sign_in)
    callback, args = callback_of(method, sign_in), arguments(tmp_path)
    trainer = Trainer(tiny_bert(), args, train_dataset=dataset(), callbacks=[callback])
    trainer.train()
    assert_equal(trainer.model, whole.model)


def test_a_stream_has_a_length_in_steps_only(tmp_path):
    class Stream(IterableDataset):
        def __iter__(self):
            yield from dataset()

    callback = callback_of("rigl", None)
    args = arguments(tmp_path, max_steps=15)
    Trainer(tiny_bert(), args, train_dataset=Stream(), callbacks=[callback]).train()
    assert callback.sparsifier.is_done and callback.sparsifier.total_steps == 15
    callback = callback_of("random", True)
    args = arguments(tmp_path, max_steps=200)
    trainer = SparseTrainer(tiny_bert(), args, train_dataset=Stream(), callbacks=[callback])
    trainer.create_optimizer()
    trainer.set_initial_training_values(args, trainer.get_train_dataloader())
    trainer.create_scheduler(200)
    assert callback.sparsifier.method.plan.steps_per_epoch == 2  # a hundredth of all


# ---- resuming and saving


@RESUMED
def test_a_resumed_training_is_bit_identical(tmp_path, method, sign_in, stop):
    """A training is resumed in the middle of its second epoch, and at its end."""
    saving = {"save_strategy": "steps", "save_steps": stop, "max_grad_norm": 0.5}
    whole = trained(tmp_path, tiny_bert(dropout=0.1), method, sign_in, **saving)

    args = arguments_of(method, tmp_path, max_grad_norm=0.5)
    callback, model = callback_of(method, sign_in), tiny_bert(dropout=0.1)
    torch.nn.init.normal_(model.classifier.weight)  # nothing of the new model may matter
    trainer = SparseTrainer(model, args, train_dataset=dataset(), callbacks=[callback])
    trainer.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{stop}"))
    assert callback.sparsifier.step == CASES[method][1]
    assert_equal(trainer.model, whole.model)
    for name, mask in whole.sparsifier.masks.items():
        assert torch.equal(callback.sparsifier.masks[name], mask)


def test_save_model_writes_the_plain_sparse_model(tmp_path):
    trainer = trained(tmp_path, tiny_bert(), "rigl", True)
    trainer.save_model(str(tmp_path / "saved"))
    loaded = BertForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert_equal(loaded, trainer.model)
    for name, mask in trainer.sparsifier.masks.items():
        assert torch.equal(loaded.get_parameter(name) != 0, mask), name


def test_checkpoints_of_something_else_are_refused(tmp_path):
    saving = arguments(tmp_path, save_strategy="steps", save_steps=5)
    Trainer(tiny_bert(), saving, train_dataset=dataset()).train()
    checkpoint = str(tmp_path / "checkpoint-5")

    def resume(**choices):
        callback = callback_of("rigl", None)
        args = arguments(tmp_path, **choices)
        trainer = SparseTrainer(tiny_bert(), args, train_dataset=dataset(), callbacks=[callback])
        trainer.train(resume_from_checkpoint=checkpoint)

    with pytest.raises(UserError, match=r"saved without Sparsify: it has no sparsifier\.pt"):
        resume()
    trained(tmp_path, tiny_bert(), "rigl", None, save_strategy="steps", save_steps=5)
    with pytest.raises(UserError, match="of a training with steps=15, not steps=20"):
        resume(num_train_epochs=4)


def test_a_best_checkpoint_that_is_less_sparse_is_noticed(tmp_path):
    choices = {"save_strategy": "epoch", "eval_strategy": "epoch", "load_best_model_at_end": True}
    args = arguments(tmp_path, metric_for_best_model="sparsity", **choices)

    class Early(SparseTrainer):
        def evaluate(self, *args, **kwargs):
            metrics = {"eval_sparsity": -self.sparsifier.sparsity()}  # the least sparse is the best
            self.log(dict(metrics))
            return metrics

    callbacks, data = [Sparsify("gmp", sparsity=SPARSITY)], dataset()
    trainer = Early(
        tiny_bert(), args, train_dataset=data, eval_dataset=data[:8], callbacks=callbacks
    )
    with pytest.warns(UserWarning, match=r"weights have been replaced, .* of the masks 0\.750"):
        trainer.train()
    sparsifier = trainer.sparsifier
    sparsifier.net.set_masks(sparsifier.masks)  # as the warning says
    assert sparsifier.sparsity() == pytest.approx(SPARSITY, abs=2e-3)


def test_data_is_scored(tmp_path):
    data = torch.utils.data.DataLoader(dataset(), batch_size=8, collate_fn=default_data_collator)
    callback = Sparsify("snip", sparsity=SPARSITY, samples=data)
    args = arguments(tmp_path, epochs=1)
    SparseTrainer(tiny_bert(), args, train_dataset=dataset(), callbacks=[callback]).train()
    model = tiny_bert()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    expected = sparsify(model, optimizer, "snip", sparsity=SPARSITY, steps=5, samples=data)
    for name, mask in expected.masks.items():
        assert torch.equal(callback.sparsifier.masks[name], mask)


@pytest.mark.parametrize("sign_in", [None, True])
def test_a_second_training_begins_with_the_weights_that_were_loaded(sign_in):
    """Also where the masks of the first one would have removed them."""
    layers = torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
    model = torch.nn.Sequential(*layers)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    callback = Sparsify("gmp", sparsity=0.8, events=1, begin=0.5, end=0.5, sign_in=sign_in)
    for _ in range(2):
        model.load_state_dict(start)
        callback.attach(model, optimizer, 4, 4)
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value, start[name])
        for _ in range(4):
            callback.begin_step()
            model(torch.ones(2, 6)).square().sum().backward()
            optimizer.step()
        assert callback.sparsifier.sparsity() == pytest.approx(0.8, abs=0.01)


def test_steps_beyond_the_levels_are_warned_of():
    model = torch.nn.Linear(6, 8)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    callback = Sparsify("lrr", sparsity=0.75, keep=0.5, steps=20)
    callback.attach(model, optimizer, 60, 8)  # levels of 2 epochs, not of 2.5
    message = r"lrr takes 48 steps \(3 trainings of 16\) .* the trainer 60: let it take 48"
    with pytest.warns(UserWarning, match=message):
        callback.check_steps(60)
    with pytest.raises(UserError, match=r"\(3 trainings of 16\) .* the trainer 47: train longer"):
        callback.check_steps(47)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        callback.check_steps(48)
        callback.check_steps(float("inf"))


@pytest.mark.parametrize("name", ["model", "optimizer", "manual_begin", "resume"])
def test_what_comes_from_the_trainer_is_refused(name):
    with pytest.raises(UserError, match=f"{name} comes from the trainer: leave it out"):
        Sparsify("rigl", sparsity=0.5, **{name: False})
    with pytest.raises(UserError, match="unknown field 'options'"):
        Sparsify("rigl", sparsity=0.5, options={"update_every": 2})


def test_train_may_be_called_again(tmp_path):
    trainer = trained(tmp_path, tiny_bert(), "rigl", True)
    first = trainer.sparsifier
    trainer.train()
    assert trainer.sparsifier is not first and trainer.sparsifier.is_done


# ---- what is seen, logged and refused


def test_evaluation_sees_the_network_of_the_last_step(tmp_path):
    after, seen = [], []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model, **_):
            after.append({name: p.detach().clone() for name, p in model.named_parameters()})
            control.should_evaluate = True

        def on_evaluate(self, args, state, control, model, **_):
            seen.append({name: p.detach().clone() for name, p in model.named_parameters()})

    args = arguments(tmp_path)
    callbacks = [Sparsify("gmp", sparsity=SPARSITY), Watch()]
    data = dataset()
    SparseTrainer(
        tiny_bert(), args, train_dataset=data, eval_dataset=data[:8], callbacks=callbacks
    ).train()
    assert len(seen) == 15
    for one, other in zip(after, seen, strict=True):
        assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_sparsity_and_flips_are_logged(tmp_path):
    callback, expected = callback_of("rigl", True), []

    class Watch(TrainerCallback):
        def on_epoch_begin(self, *_, **__):
            self.before = signs(callback.sparsifier.net.weights)

        def on_epoch_end(self, *_, **__):
            net = callback.sparsifier.net
            flips = total(count_flips(self.before, net.weights, net.masks).values()).share
            expected.append((net.sparsity(), flips))

    args = arguments(tmp_path, save_strategy="epoch")
    trainer = SparseTrainer(
        tiny_bert(), args, train_dataset=dataset(), callbacks=[callback, Watch()]
    )
    trainer.train()
    rows = json.loads((tmp_path / "checkpoint-15" / "trainer_state.json").read_text())
    logged = [(r["sparsity"], r["sign_flips"]) for r in rows["log_history"] if "loss" in r]
    assert len(logged) == 3 and max(flips for _, flips in logged) > 0
    for got, wanted in zip(logged, expected, strict=True):
        assert got == pytest.approx(wanted)


def test_what_is_not_exact_is_refused(tmp_path):
    def train(cls, method="rigl", **choices):
        args = arguments(tmp_path, **choices)
        cls(
            tiny_bert(), args, train_dataset=dataset(), callbacks=[callback_of(method, None)]
        ).train()

    with pytest.raises(UserError, match="only a SparseTrainer clips"):
        train(Trainer, max_grad_norm=1.0)
    for cls in (Trainer, SparseTrainer):
        with pytest.raises(UserError, match=r"lrr takes 30 steps \(3 trainings of 10\)"):
            train(cls, "lrr")


def test_a_plain_trainer_does_not_resume(tmp_path):
    trained(tmp_path, tiny_bert(), "rigl", None, save_strategy="steps", save_steps=5)
    callback = callback_of("rigl", None)
    args = arguments(tmp_path)
    trainer = Trainer(tiny_bert(), args, train_dataset=dataset(), callbacks=[callback])
    with pytest.raises(UserError, match="only a SparseTrainer can resume"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))


def test_a_sparse_trainer_without_the_callback_is_a_trainer(tmp_path):
    args = arguments(tmp_path, max_grad_norm=1.0, save_strategy="steps", save_steps=5)
    trainers = [cls(tiny_bert(), args, train_dataset=dataset()) for cls in (SparseTrainer, Trainer)]
    for trainer in trainers:
        trainer.train()
    assert_equal(trainers[0].model, trainers[1].model)
    trainers[0].train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))


# ---- two ranks


def train_on_two_ranks(folder):
    AcceleratorState._reset_state(reset_partial_state=True)  # that of one rank
    options = {"ddp_backend": "gloo", "per_device_train_batch_size": 4, "max_grad_norm": 0.05}
    trainer = trained(folder, tiny_bert(), "rigl", SIGN_IN[1], **options)
    model = by_hand(tiny_bert(), trainer, "rigl", SIGN_IN[1], clip=0.05, ranks=2)
    return {
        "trained": trainer.model.state_dict(),
        "by hand": model.state_dict(),
        "batch": trainer.batches[0]["input_ids"],
        "sparsity": trainer.sparsifier.sparsity(),
    }


def test_two_ranks_equal_a_loop(tmp_path):
    check_two_ranks(train_on_two_ranks, tmp_path)
