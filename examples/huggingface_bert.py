"""Train a sparse BERT in a Hugging Face Trainer, interrupt it, and resume.

Shows `SparseTrainer` with gradual pruning and Sign-In. The model is made from a configuration, and
reads an image of a digit as a sequence of eight tokens: one per row of black and white pixels.
Needs the extras "suite" and "huggingface". Run it with

    python examples/huggingface_bert.py
"""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    EvalPrediction,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from launch.integrations.huggingface import SparseTrainer, Sparsify
from signin import SignIn

EPOCHS = 10


def digits() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return 1,437 training and 360 test sequences."""
    images, labels = load_digits(return_X_y=True)
    tokens = (images.reshape(-1, 8, 8) > 7) @ 2 ** np.arange(8)  # 0 to 255
    rows = [
        {"input_ids": sequence, "labels": int(label)}
        for sequence, label in zip(tokens, labels, strict=True)
    ]
    return rows[:1437], rows[1437:]


class Interrupt(TrainerCallback):
    """Stops the training after some epochs, as a time limit would."""

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.epoch >= EPOCHS // 2


def make_trainer() -> SparseTrainer:
    set_seed(0)
    config = BertConfig(
        vocab_size=256,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=8,
        num_labels=10,
    )
    args = TrainingArguments(
        output_dir="bert",
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=64,
        per_device_eval_batch_size=360,
        learning_rate=5e-3,
        max_grad_norm=1.0,
        save_strategy="epoch",
        logging_strategy="epoch",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    train, test = digits()
    return SparseTrainer(
        BertForSequenceClassification(config),
        args,
        train_dataset=train,
        eval_dataset=test,
        compute_metrics=accuracy,
        callbacks=[Sparsify("gmp", sparsity=0.8, sign_in=SignIn(), exclude=["*embeddings*"])],
    )


def accuracy(found: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float((np.argmax(found.predictions, 1) == found.label_ids).mean())}


def main() -> None:
    shutil.rmtree("bert", ignore_errors=True)  # of an earlier start
    trainer = make_trainer()
    trainer.add_callback(Interrupt())
    trainer.train()
    print(f"interrupted at sparsity {trainer.sparsifier.sparsity():.3f}")

    trainer = make_trainer()
    trainer.train(resume_from_checkpoint=True)
    print(f"sparsity {trainer.sparsifier.sparsity():.3f}")
    print(f"accuracy {trainer.evaluate()['eval_accuracy']:.3f}")

    trainer.save_model("sparse-bert")
    BertForSequenceClassification.from_pretrained("sparse-bert")  # an ordinary model


if __name__ == "__main__":
    main()
