"""The Trainer of transformers, with any network: `python examples/hf_trainer.py`."""

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainingArguments

import svdistill
from digits import BATCH, WEIGHT, accuracy, new_distiller, scans


class DistillingTrainer(Trainer):
    """A Trainer whose model is a Distiller."""

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any) -> Any:
        """Return a loss whose gradient is that of both losses, combined: the Trainer calls its backward() itself."""
        output = model(inputs["images"])
        main = cross_entropy(output.logits, inputs["labels"])
        if not model.training:
            return (main, output.logits) if return_outputs else main
        return svdistill.joint_loss(main, WEIGHT * output.transfer, self.optimizer)


train, test = scans()
distiller = new_distiller(train)
settings = TrainingArguments(
    "runs/hf-trainer",
    num_train_epochs=4,
    per_device_train_batch_size=BATCH,
    learning_rate=2e-3,
    use_cpu=True,
    bf16=False,  # or True; fp16 scales the loss after its gradients are taken, which is too late
    report_to=[],
    save_strategy="no",
    logging_steps=20,
    remove_unused_columns=False,
    disable_tqdm=True,
)
examples: Any = [{"images": images, "labels": labels} for images, labels in train]
DistillingTrainer(model=distiller, args=settings, train_dataset=examples).train()
print(f"accuracy {accuracy(distiller.student, test):.1f} %")
