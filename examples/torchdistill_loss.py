"""KD-SVD as a loss of torchdistill 1.1.5: `python examples/torchdistill_loss.py`.

torchdistill adds all losses up and differentiates the sum. Registered here are a mid-level loss, which a configuration
can name; a high-level loss that keeps the main loss and the others apart; and a step that combines their gradients.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torchdistill.core.distillation import DistillationBox, get_distillation_box
from torchdistill.core.interfaces.registry import register_post_forward_proc_func
from torchdistill.losses.high_level import WeightedSumLoss
from torchdistill.losses.registry import register_high_level_loss, register_mid_level_loss
from torchdistill.models.wrapper import AuxiliaryModelWrapper

import svdistill
from digits import BATCH, WEIGHT, accuracy, new_distiller, scans

Outputs = dict[str, dict[str, Any]]


@register_mid_level_loss
class KDSVDLoss(nn.Module):
    """KD-SVD between what hooks have recorded of the student and of the teacher."""

    def __init__(self, student_taps: list[str], teacher_taps: list[str]) -> None:
        super().__init__()
        self.taps = student_taps, teacher_taps

    def forward(self, student: Outputs, teacher: Outputs, *_: Any) -> Tensor:
        """Return the transfer loss."""
        student_maps, teacher_maps = (
            [outputs[path]["output"] for path in paths]
            for outputs, paths in zip((student, teacher), self.taps, strict=True)
        )
        return svdistill.svd_loss(student_maps, teacher_maps, rank=8, basis="teacher")


@register_high_level_loss
class TwoTasksLoss(WeightedSumLoss):
    """The loss called `main`, and the weighted sum of all others."""

    def forward(self, io_dict: dict[str, Outputs], _: Any, targets: Any) -> Any:
        """Return both."""
        terms = {
            name: weight * loss(io_dict["student"], io_dict["teacher"], targets)
            for name, (loss, weight) in self.term_dict.items()
        }
        return terms.pop("main"), sum(terms.values())


@register_post_forward_proc_func
def step_with_both(box: DistillationBox, losses: tuple[Tensor, Tensor], **_: Any) -> None:
    """Do an optimizer step with both gradients."""
    svdistill.backward(*losses, box.optimizer)
    box.optimizer.step()
    box.optimizer.zero_grad()


class Adapted(AuxiliaryModelWrapper):
    """A student with adapters to the teacher's widths, which run after it; without such, the student alone does."""

    def __init__(self, student: nn.Module, adapters: nn.Module, taps: tuple[str, ...]) -> None:
        super().__init__()
        self.student, self.taps = student, taps
        self.lifted = nn.ModuleList(adapters.layers)

    def forward(self, images: Tensor) -> Tensor:
        """Return the student's logits."""
        return self.student(images)

    def secondary_forward(self, outputs: Outputs) -> None:
        """Run the adapters, whose outputs hooks record."""
        for tap, layer in zip(self.taps, self.lifted, strict=True):
            layer(outputs[f"student.{tap}"]["output"])


train, test = scans()
pair = new_distiller(train)
taps = ("block1", "block2", "block3", "block4", "classifier.relu1")
teacher_taps = [*taps[:-1], "classifier.relu2"]
lifted = [f"lifted.{number}" for number in range(len(taps))]
logits = {"is_from_teacher": False, "module_path": ".", "io": "output"}
config = {
    "num_epochs": 4,
    "train_data_loader": {
        "dataset_id": "digits",
        "sampler": {"class_or_func": torch.utils.data.RandomSampler},
        "kwargs": {"batch_size": BATCH},
    },
    "teacher": {"requires_grad": False, "forward_hook": {"output": teacher_taps}, "forward_proc": "forward_batch_only"},
    "student": {
        "forward_hook": {"output": [*(f"student.{tap}" for tap in taps), *lifted]},
        "forward_proc": "forward_batch_only",
    },
    "optimizer": {"key": "SGD", "kwargs": {"lr": 0.02, "momentum": 0.9}},
    "criterion": {
        "key": "TwoTasksLoss",
        "kwargs": {
            "sub_terms": {
                "main": {
                    "criterion": {"key": "CrossEntropyLoss", "kwargs": {}},
                    "criterion_wrapper": {
                        "key": "SimpleLossWrapper",
                        "kwargs": {"input": logits, "target": {"uses_label": True}},
                    },
                    "weight": 1.0,
                },
                "svd": {
                    "criterion": {
                        "key": "KDSVDLoss",
                        "kwargs": {"student_taps": lifted, "teacher_taps": teacher_taps},
                    },
                    "weight": WEIGHT,
                },
            }
        },
    },
    "post_forward_process": "step_with_both",
}
student = Adapted(pair.student, pair.adapters, taps)
box = get_distillation_box(pair.teacher, student, {"digits": train}, config, torch.device("cpu"), None, False, 1)
for epoch in range(box.num_epochs):
    box.pre_epoch_process(epoch=epoch)
    for images, targets, extra in box.train_data_loader:
        main, transfer = box.forward_process(images, targets, extra)
        box.post_forward_process((main, transfer))
    box.post_epoch_process()
    print(f"epoch {epoch}: main {main.detach():.3f}, transfer {transfer.detach() / WEIGHT:.4f}")
box.clean_modules()
print(f"accuracy {accuracy(pair.student, test):.1f} %")
