"""KD-SVD in timm's own training script: `python examples/timm_task.py` trains a pair as that script does.

timm's train.py asks a task for the loss of each batch and calls its backward() itself. In a copy of train.py change two
places; mixup, EMA, accumulation and clipping stay what they are:

    model = with_teacher(model, teacher, images)    # before the optimizer is made
    task = KDSVDTask(model=model, criterion=train_loss_fn, device=device, …)    # in place of ClassificationTask
"""

import timm
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.task import ClassificationTask
from timm.utils import accuracy, dispatch_clip_grad
from torch import Tensor, nn
from torch.utils.data import DataLoader

import svdistill
from digits import BATCH, WEIGHT, scans

TAPS = ("layer1", "layer2", "layer3", "layer4", "global_pool")  # the stages, and what the output layer reads


def with_teacher(model: nn.Module, teacher: nn.Module, images: Tensor) -> nn.Module:
    """Return what is trained in place of the model; in eval mode its output begins with the model's."""
    loss = svdistill.SVDLoss(rank=8, basis="teacher")
    distiller = svdistill.Distiller(model, teacher, loss=loss, student_taps=TAPS, teacher_taps=TAPS)
    distiller.prepare(images)
    return distiller.train()


class KDSVDTask(ClassificationTask):
    """timm's classification with any of its losses, and KD-SVD beside it."""

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return a loss whose gradient is that of both losses, combined."""
        output = self.trainable_module(input)
        main = self.criterion(output.logits, target)
        loss = svdistill.joint_loss(main, WEIGHT * output.transfer, self.trainable_module.parameters())
        return {"loss": loss, "output": output.logits, "transfer": output.transfer.detach()}


def train_epoch(
    task: ClassificationTask, loader: DataLoader, optimizer: torch.optim.Optimizer
) -> list[dict[str, Tensor]]:
    """Train for an epoch as timm's script does, and return what each batch gave."""
    results = []
    for images, target in loader:
        results.append(task(images, target))
        results[-1]["loss"].backward()
        dispatch_clip_grad(task.get_clip_parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad()
    return results


train, test = scans()
torch.manual_seed(0)
teacher = timm.create_model("resnet18", num_classes=10, in_chans=1)
plain = ClassificationTask(teacher, nn.CrossEntropyLoss(), verbose=False)
optimizer = create_optimizer_v2(teacher, opt="momentum", lr=0.02)
train_epoch(plain, DataLoader(train, batch_size=BATCH, shuffle=True), optimizer)

model = timm.create_model("resnet10t", num_classes=10, in_chans=1)
model = with_teacher(model, teacher, train.tensors[0][:2])
optimizer = create_optimizer_v2(model, opt="momentum", lr=0.02)
scheduler, epochs = create_scheduler_v2(optimizer, sched="cosine", num_epochs=3, warmup_epochs=0)
task = KDSVDTask(model, criterion_kwargs={"smoothing": 0.1}, verbose=False)
for epoch in range(epochs):
    model.train()
    results = train_epoch(task, DataLoader(train, batch_size=BATCH, shuffle=True), optimizer)
    scheduler.step(epoch + 1)
    main, transfer = (torch.stack([one[name].detach() for one in results]).mean() for name in ("loss", "transfer"))
    print(f"epoch {epoch}: main {main:.3f}, transfer {transfer:.4f}")
model.eval()
with torch.no_grad():
    top1, _ = accuracy(model(test.tensors[0])[0], test.tensors[1], topk=(1, 5))
print(f"accuracy {top1:.1f} %")
