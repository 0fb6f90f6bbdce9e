"""Run by torchrun: trains in a trainer on two ranks, writes what each of them holds at the end.

Arguments: "lightning" or "huggingface", and the folder to write to.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch_settings
from torch import Tensor

from baselines import Sparsifier


def with_lightning(out: Path) -> Sparsifier:
    from lightning.pytorch import Trainer
    from literal import batches
    from test_launch_integrations_lightning import Module

    from launch.integrations.lightning import Sparsify

    data = [(x, y) for xs, ys in batches(4) for x, y in zip(xs, ys, strict=True)]
    callback = Sparsify("rigl", sparsity=0.75, sign_in=True, update_every=2)
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=3,
        gradient_clip_val=0.05,
        callbacks=[callback],
        default_root_dir=out,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), torch.utils.data.DataLoader(data, batch_size=8, shuffle=True))
    return callback.attached


def with_huggingface(out: Path) -> Sparsifier:
    from test_launch_integrations_huggingface import arguments, dataset, tiny_bert

    from launch.integrations.huggingface import SparseTrainer, Sparsify

    callback = Sparsify("rigl", sparsity=0.75, sign_in=True, update_every=2)
    args = arguments(out, ddp_backend="gloo")
    trainer = SparseTrainer(tiny_bert(), args, train_dataset=dataset(), callbacks=[callback])
    trainer.train()
    return callback.attached


def held(sparsifier: Sparsifier) -> dict[str, Tensor]:
    """Return weights and masks by name, and the sparsity."""
    net = sparsifier.net
    masks = {f"mask of {name}": mask for name, mask in net.masks.items()}
    weights = {name: value.detach().clone() for name, value in net.model.named_parameters()}
    return {**weights, **masks, "sparsity": torch.tensor(net.sparsity())}


if __name__ == "__main__":
    torch_settings.apply()
    torch.manual_seed(0)
    kind, folder = sys.argv[1], Path(sys.argv[2])
    found = held(with_lightning(folder) if kind == "lightning" else with_huggingface(folder))
    torch.save(found, folder / f"{torch.distributed.get_rank()}.pt")
