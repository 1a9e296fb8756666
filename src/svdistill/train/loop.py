"""The training loop: an epoch is forward, loss, backward, step; everything else is around it."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svdistill.data import Batches, ImageSet
from svdistill.distiller import Distiller, DistillOutput
from svdistill.errors import CheckpointError, RecipeError, nearest
from svdistill.gradients import CLIPS, TransferHealth, combine
from svdistill.records import RunRecord
from svdistill.train.engine import Fabric
from svdistill.train.evaluate import evaluate
from svdistill.train.optimizers import add_main_decay, set_learning_rate, step_decay, trained
from svdistill.train.progress import Progress, Silent
from svdistill.train.state import RunState, Watch

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class StepResult(NamedTuple):
    """What one step gives, all on the device, without gradient.

    Attributes:
        main: the main loss, 0-dim, without its weight.
        transfer: the transfer loss, 0-dim, without its weight; None without a teacher.
        health: figures of the transfer loss.
        logits: of the student before the step, (B, classes).
    """

    main: Tensor
    transfer: Tensor | None
    health: dict[str, Tensor]
    logits: Tensor


def step(
    fabric: Fabric,
    distiller: Distiller,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    *,
    epoch: int,
    clip: str = "per_variable",
    weight: float = 1.0,
    main_weight: float = 1.0,
    health: TransferHealth | None = None,
) -> StepResult:
    """Do one step on one batch: main and transfer task together (METHOD, section 3); nothing waits for the device.

    Args:
        fabric: gives the precision.
        distiller: student and teacher, in train mode, on the device.
        optimizer: of the student's parameters; those that it holds learn, and its ``main_decay`` joins the main loss.
        images: (B, C, H, W), standardized, on the device.
        labels: (B,), int64.
        epoch: from 0; see :func:`svdistill.gradients.combine`.
        clip: how the gradients are combined; see :func:`svdistill.gradients.combine`.
        weight: what the transfer loss is multiplied by.
        main_weight: what the main loss is multiplied by.
        health: where to add what became of the transfer gradient.

    Returns:
        The losses and logits of this step.
    """
    parameters = trained(optimizer)
    with fabric.autocast():
        output: DistillOutput = distiller(images)
        main = F.cross_entropy(output.logits, labels)
    transfer = output.transfer

    g_main = add_main_decay(optimizer, _gradients(main * main_weight, parameters, keep_graph=transfer is not None))
    if transfer is None:
        gradients = g_main
    else:
        g_transfer = _gradients(transfer * weight, parameters)
        gradients = combine(g_main, g_transfer, epoch=epoch, clip=clip, health=health)

    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()
    optimizer.zero_grad()
    transfer = None if transfer is None else transfer.detach()
    return StepResult(main.detach(), transfer, output.health, output.logits.detach())


def fit(
    fabric: Fabric,
    distiller: Distiller,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    test: ImageSet,
    *,
    mean: Tensor,
    std: Tensor,
    record: RunRecord,
    epochs: int,
    milestones: Sequence[int] = (),
    gamma: float = 0.1,
    clip: str = "per_variable",
    weight: float = 1.0,
    main_weight: float = 1.0,
    checkpoint_minutes: float = 10.0,
    progress: Progress | None = None,
    compile: bool = False,
) -> None:
    """Train the student to the last epoch, or go on where an interrupted run stopped.

    After each epoch: evaluation, one line in ``metrics.jsonl`` and in TensorBoard, the checkpoint ``last.pt`` and,
    where the accuracy is the best so far, ``best.pt``. Where ``last.pt`` is there at the start, the run goes on from
    it; on a CPU bit for bit as if it had never stopped. At the end the student has the weights of the last epoch and
    the distiller is in eval mode.

    Args:
        fabric: device and precision, from :func:`svdistill.train.launch`.
        distiller: student, and teacher if there is one; moved to the device.
        optimizer: of the student's parameters, from :func:`svdistill.train.make_optimizer`.
        batches: the training batches.
        test: the images to evaluate on after each epoch.
        mean: (C,), of the training set, with which ``batches`` are standardized.
        std: (C,), likewise.
        record: the run's folder, made by :meth:`RunRecord.create`.
        epochs: the number of epochs of the whole run, ≥ 1.
        milestones: the epochs, counted from 0, from which on the learning rate is lower by another ``gamma``.
        gamma: the factor at each milestone.
        clip: how the gradients are combined; see :func:`svdistill.gradients.combine`.
        weight: what the transfer loss is multiplied by.
        main_weight: what the main loss is multiplied by.
        checkpoint_minutes: how often ``last.pt`` is also written inside an epoch; 0 after every step.
        progress: who is told how far the run is.
        compile: whether to compile the student; the first step of each mode then takes much longer.

    Raises:
        RecipeError: a setting is out of range, or the optimizer is not the student's.
        CheckpointError: ``last.pt`` is damaged or of another model, optimizer or data set, or cannot be written.
        TrainingError: the loss or a weight is no longer finite, or the transfer loss set most samples aside.
    """
    _check(distiller, optimizer, epochs=epochs, clip=clip, weights=(weight, main_weight))
    distiller.to(fabric.device)
    if compile:
        distiller.student.compile()
    progress = progress or Silent()
    state = RunState(distiller.student, optimizer, batches, device=fabric.device)
    _resume(state, record, epochs=epochs)
    one_step = partial(
        step,
        fabric,
        distiller,
        optimizer,
        clip=clip,
        weight=weight,
        main_weight=main_weight,
        health=state.health,
    )
    writer = _writer(record.tensorboard, first=state.epoch + 1)
    progress.start(epochs, len(batches), state.epoch)
    try:
        while state.epoch < epochs:
            lr = set_learning_rate(optimizer, step_decay(state.epoch, milestones=milestones, gamma=gamma))
            watch = Watch(state, record.last, progress, checkpoint_minutes=checkpoint_minutes)
            distiller.train()
            for batch in batches.epoch():
                images, labels = fabric.to_device(batch)
                result = one_step(images, labels, epoch=state.epoch)
                state.tally.add(labels=labels, **result._asdict())
                watch.step(images=len(labels))
            figures = watch.end()
            figures["accuracy"] = evaluate(fabric, distiller.student, test, mean=mean, std=std)["accuracy"]
            metrics = {"epoch": state.epoch + 1, "seconds": watch.seconds(), "lr": lr, **figures}
            _log(metrics, record, writer)
            best = state.next_epoch(figures["accuracy"])
            # last.pt comes last: what a kill before it leaves behind is written again, the same, when the run goes on.
            for path in [record.best, record.last] if best else [record.last]:
                state.save(path)
            progress.epoch(metrics)
    finally:
        writer.close()
        progress.finish()
    distiller.eval()


def _check(
    distiller: Distiller,
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int,
    clip: str,
    weights: Sequence[float],
) -> None:
    if epochs < 1:
        raise RecipeError(f"epochs is {epochs}, expected at least 1")
    if min(weights) < 0:
        raise RecipeError(f"the weights of transfer and main loss are {tuple(weights)}, expected none below 0")
    if clip not in CLIPS:
        raise RecipeError(f"unknown clipping rule {clip!r}{nearest(clip, CLIPS)}")
    students = {id(parameter) for parameter in distiller.student.parameters()}
    if not all(id(p) in students for group in optimizer.param_groups for p in group["params"]):
        raise RecipeError("the optimizer holds parameters that are not the student's; make it from distiller.student")


def _resume(state: RunState, record: RunRecord, *, epochs: int) -> None:
    if record.last.exists():
        state.load(record.last)
    if state.epoch > epochs:
        raise CheckpointError(
            f"the checkpoint {record.last} has {state.epoch} epochs behind it, but only {epochs} are asked for; "
            "raise epochs or train from the start"
        )
    record.rewind(state.epoch)


def _gradients(
    loss: Tensor, parameters: Sequence[nn.Parameter], *, keep_graph: bool = False
) -> tuple[Tensor | None, ...]:
    if not loss.requires_grad:  # the loss reaches nothing, for instance because every sample was set aside
        return (None,) * len(parameters)
    return torch.autograd.grad(loss, parameters, retain_graph=keep_graph, allow_unused=True)


def _writer(folder: Path, *, first: int) -> "SummaryWriter":
    from torch.utils.tensorboard import SummaryWriter  # late: it takes a second, and only training needs it

    return SummaryWriter(str(folder), purge_step=first)


def _log(metrics: Mapping[str, Any], record: RunRecord, writer: "SummaryWriter") -> None:
    record.append(metrics)
    for name, value in metrics.items():
        if name != "epoch":
            writer.add_scalar(name, value, metrics["epoch"])
    writer.flush()
