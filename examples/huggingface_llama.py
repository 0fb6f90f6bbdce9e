"""Train a sparse Llama on the characters of a text in a Hugging Face Trainer.

Shows RigL with Sign-In on a causal language model that is made from a configuration. Needs the
extra "huggingface". Run it with

    python examples/huggingface_llama.py
"""

from __future__ import annotations

import inspect
import math
import textwrap

import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

from launch.integrations.huggingface import SparseTrainer, Sparsify
from signin import SignIn

LENGTH = 48
STEPS = 150


def characters() -> tuple[list[dict[str, Tensor]], int]:
    """Return the source code of a module as sequences of characters, and their number of kinds."""
    text = inspect.getsource(textwrap)
    kinds = sorted(set(text))
    ids = torch.tensor([kinds.index(character) for character in text])
    rows = ids[: len(ids) // LENGTH * LENGTH].view(-1, LENGTH)
    return [{"input_ids": row, "labels": row} for row in rows], len(kinds)


def main() -> None:
    set_seed(0)
    data, kinds = characters()
    config = LlamaConfig(
        vocab_size=kinds,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=LENGTH,
    )
    args = TrainingArguments(
        output_dir="llama",
        max_steps=STEPS,
        per_device_train_batch_size=32,
        learning_rate=1e-2,
        lr_scheduler_type="cosine",
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    sparsify = Sparsify(
        "rigl", sparsity=0.8, sign_in=SignIn(), update_every=10, exclude=["lm_head"]
    )
    trainer = SparseTrainer(
        LlamaForCausalLM(config),
        args,
        train_dataset=data,
        eval_dataset=data,
        data_collator=default_data_collator,
        callbacks=[sparsify],
    )
    trainer.train()
    print(f"sparsity {trainer.sparsifier.sparsity():.3f}")
    bits = trainer.evaluate()["eval_loss"] / math.log(2)
    print(f"{bits:.2f} bits per character, of {math.log2(kinds):.2f}")

    trainer.save_model("sparse-llama")
    LlamaForCausalLM.from_pretrained("sparse-llama")  # an ordinary model


if __name__ == "__main__":
    main()
