"""Train a GPT-2 with a mask of SNIP in a Hugging Face Trainer, and let it write.

Shows a method that scores weights on data of a language model, and layers whose weights are
transposed: GPT-2 has `Conv1D` (inputs × outputs) where others have `Linear`. The output layer
shares its weight with the embedding, which stays dense. Needs the extra "huggingface". Run it with

    python examples/huggingface_gpt2.py
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

from launch.integrations.huggingface import SparseTrainer, Sparsify
from signin import SignIn

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
ROWS, LENGTH = 512, 12
STEPS = 100


def counting() -> list[dict[str, Tensor]]:
    """Return sequences that count from a digit on in steps of one or two: 7 8 9 0 1 …"""
    generator = torch.Generator().manual_seed(0)
    start = torch.randint(10, (ROWS, 1), generator=generator)
    by = torch.randint(1, 3, (ROWS, 1), generator=generator)
    ids = (start + by * torch.arange(LENGTH)) % 10
    return [{"input_ids": row, "labels": row} for row in ids]


def main() -> None:
    set_seed(0)
    data = counting()
    batch = default_data_collator(data[:128])
    sparsify = Sparsify(
        "snip",
        sparsity=0.8,
        sign_in=SignIn(),
        samples=lambda n: [(batch, batch["labels"])],  # scored with the loss of the model
        exclude=["lm_head"],
    )
    config = GPT2Config(
        vocab_size=len(WORDS),
        n_embd=48,
        n_layer=2,
        n_head=4,
        n_positions=LENGTH,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    args = TrainingArguments(
        output_dir="gpt2",
        max_steps=STEPS,
        per_device_train_batch_size=64,
        learning_rate=1e-2,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = SparseTrainer(
        GPT2LMHeadModel(config),
        args,
        train_dataset=data,
        data_collator=default_data_collator,
        callbacks=[sparsify],
    )
    trainer.train()
    print(f"sparsity {trainer.sparsifier.sparsity():.3f}")

    trainer.save_model("sparse-gpt2")
    model = GPT2LMHeadModel.from_pretrained("sparse-gpt2").eval()  # an ordinary model
    weight = model.transformer.h[0].mlp.c_fc.weight
    print(f"{tuple(weight.shape)} inputs and outputs, {(weight == 0).float().mean():.0%} zeros")
    text = model.generate(torch.tensor([[1, 3]]), max_length=8, do_sample=False)
    print(" ".join(WORDS[i] for i in text[0]))


if __name__ == "__main__":
    main()
