"""Lightning, with manual optimization: `python examples/lightning_manual.py`."""

from typing import Any

import lightning
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import svdistill
from digits import BATCH, WEIGHT, accuracy, new_distiller, scans


class Distilled(lightning.LightningModule):
    """A student that learns from labels and from its teacher."""

    def __init__(self, distiller: svdistill.Distiller) -> None:
        super().__init__()
        self.automatic_optimization = False  # Lightning's own way makes one gradient of one loss
        self.distiller = distiller

    def training_step(self, batch: list[Tensor], _: int) -> None:
        """Do one optimizer step; any precision but float16, any number of processes."""
        images, labels = batch
        output = self.distiller(images)
        main = cross_entropy(output.logits, labels)
        optimizer: Any = self.optimizers()
        svdistill.backward(main, WEIGHT * output.transfer, optimizer)  # in place of self.manual_backward
        optimizer.step()
        optimizer.zero_grad()
        self.log_dict({"main": main, "transfer": output.transfer})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer of the student and of the adapters."""
        return torch.optim.SGD(self.distiller.parameters(), lr=0.02, momentum=0.9)


train, test = scans()
module = Distilled(new_distiller(train))
trainer = lightning.Trainer(
    max_epochs=4, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
)
trainer.fit(module, DataLoader(train, batch_size=BATCH, shuffle=True))
print({name: f"{value:.4f}" for name, value in trainer.callback_metrics.items()})
print(f"accuracy {accuracy(module.distiller.student, test):.1f} %")
