"""Train a sparse vision transformer in a Lightning Trainer.

Shows the callback `Sparsify` with RigL, Sign-In and gradient clipping. Needs the
extras "suite" and "lightning". Run it with

    python examples/lightning_vit.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import VisionTransformer

from launch.integrations.lightning import Sparsify
from signin import SignIn

EPOCHS = 12


def digits() -> tuple[TensorDataset, TensorDataset]:
    """Return 1,437 training and 360 test images with three equal channels."""
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1
    x, y = x.expand(-1, 3, -1, -1).contiguous(), torch.tensor(labels)
    return TensorDataset(x[:1437], y[:1437]), TensorDataset(x[1437:], y[1437:])


class Classifier(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = VisionTransformer(
            image_size=8,
            patch_size=2,
            num_layers=2,
            num_heads=2,
            hidden_dim=32,
            mlp_dim=64,
            num_classes=10,
        )

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        x, y = batch
        self.log("accuracy", (self.net(x).argmax(1) == y).float().mean())

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.AdamW(self.parameters(), lr=5e-3)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def main() -> None:
    seed_everything(0)
    train, test = digits()
    sparsify = Sparsify("rigl", sparsity=0.8, sign_in=SignIn(), update_every=20)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        gradient_clip_val=1.0,
        callbacks=[sparsify],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = Classifier()
    trainer.fit(module, DataLoader(train, 64, shuffle=True), DataLoader(test, 360))
    print(f"sparsity {trainer.callback_metrics['sparsity']:.3f}")
    print(f"accuracy {trainer.callback_metrics['accuracy']:.3f}")

    sparsify.sparsifier.finalize()
    torch.save(module.net.state_dict(), "sparse-vit.pt")


if __name__ == "__main__":
    main()
