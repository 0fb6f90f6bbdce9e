"""Run by torchrun: trains on two ranks in a trainer and by hand, and writes both results.

Arguments: "lightning" or "huggingface", and the folder to write to.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch_settings


def with_lightning(out: Path) -> dict[str, Any]:
    import test_launch_integrations_lightning as case
    from literal import batches

    data = [(x, y) for xs, ys in batches(case.PER_EPOCH) for x, y in zip(xs, ys, strict=True)]
    loader = torch.utils.data.DataLoader(data, batch_size=8)
    callback, module = case.callback_of("rigl", case.SIGN_IN[1]), case.Module()
    options = {"devices": 2, "strategy": "ddp", "gradient_clip_val": 0.05}
    case.trainer_of(out, callback, case.CASES["rigl"][1], **options).fit(module, loader)
    net = case.by_hand("rigl", case.SIGN_IN[1], module.batches, clip=0.05, ddp=True)
    return {
        "trained": module.net.state_dict(),
        "by hand": net.state_dict(),
        "batch": module.batches[0][0],
        "sparsity": callback.sparsifier.sparsity(),
    }


def with_huggingface(out: Path) -> dict[str, Any]:
    import test_launch_integrations_huggingface as case

    options = {"ddp_backend": "gloo", "per_device_train_batch_size": 4, "max_grad_norm": 0.05}
    trainer = case.trained(out, case.tiny_bert(), "rigl", case.SIGN_IN[1], **options)
    model = case.by_hand(case.tiny_bert(), trainer, "rigl", case.SIGN_IN[1], clip=0.05, ranks=2)
    return {
        "trained": trainer.model.state_dict(),
        "by hand": model.state_dict(),
        "batch": trainer.batches[0]["input_ids"],
        "sparsity": trainer.sparsifier.sparsity(),
    }


if __name__ == "__main__":
    torch_settings.apply()
    torch.manual_seed(0)
    kind, folder = sys.argv[1], Path(sys.argv[2])
    found = with_lightning(folder) if kind == "lightning" else with_huggingface(folder)
    torch.save(found, folder / f"{torch.distributed.get_rank()}.pt")
    torch.distributed.barrier()  # a rank that leaves early breaks the connections of the other
    torch.distributed.destroy_process_group()
